"""What came out, as Markdown tables and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simulator.agreement import Pair
from simulator.cost import Machine
from simulator.fit import Fit
from simulator.outcome import Outcome
from simulator.policy import Policy
from simulator.sweep import Curves, at_full_load, median_tpot, p99_ttft, throughput_within

STATIC = "static"
COLUMNS = (
    "policy", "tokens/s", "of those asked for", "TTFT p50 / p99, s", "TPOT p50 / p99, ms", "ITL p99, ms",
    "KV mean / most", "running", "preempted", "found in the cache", "simulated in (CPU)",
)  # fmt: skip


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first row is the head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], f"|{'---|' * len(rows[0])}", *lines[1:], ""]


def number(value: float) -> str:
    """Three or four digits that mean something."""
    if not np.isfinite(value):
        return "–"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def machine_table(machine: Machine) -> list[str]:
    cost = machine.cost
    return table(
        [
            ["machine", machine.name],
            ["a step", f"{1e3 * cost.fixed:.3f} ms"],
            ["+ each token through the matrices", f"{1e6 * cost.token:.3f} µs, and as of {cost.knee:.0f} at least"],
            ["+ each pair of query and key", f"{1e9 * cost.pair:.4f} ns"],
            ["+ each position of KV cache read", f"{1e9 * cost.context:.3f} ns"],
            ["+ each sequence that gets a token", f"{1e6 * cost.sequence:.2f} µs"],
            ["KV cache", f"{machine.kv_tokens:,} tokens in blocks of {machine.block_size}"],
            ["sequences at a time", str(machine.max_num_seqs)],
        ]
    )


def workload_table(described: dict[str, str]) -> list[str]:
    return table([["requests", ""], *([name, text] for name, text in described.items())])


def outcome_table(outcomes: Sequence[tuple[Policy, Outcome]]) -> list[str]:
    def cells(policy: Policy, o: Outcome) -> list[str]:
        share = "" if np.isinf(o.offered) else f"{min(1.0, o.throughput / o.offered):.0%}"
        return [
            policy.label,
            number(o.throughput),
            share,
            f"{number(o.ttft.p50)} / {number(o.ttft.p99)}",
            f"{number(1e3 * o.tpot.p50)} / {number(1e3 * o.tpot.p99)}",
            number(1e3 * o.itl.p99),
            f"{o.kv_mean:.0%} / {o.kv_max:.0%}",
            f"{o.running:.0f}",
            str(o.preemptions),
            f"{o.prefix_share:.0%}" if policy.prefix_caching else "",
            f"{o.cpu_seconds:.0f} s",
        ]

    return table([COLUMNS, *(cells(policy, outcome) for policy, outcome in outcomes)])


@dataclass(frozen=True, slots=True)
class Comparison:
    """Throughput of each policy where one thing is equal."""

    equal: str
    throughput: dict[str, float]  # by the policy's name; 0: it never is there

    def ratio(self, name: str) -> float | None:
        """Over static batching's."""
        static = self.throughput.get(STATIC, 0.0)
        return self.throughput[name] / static if static else None

    def as_json(self) -> dict[str, Any]:
        ratios = {name: self.ratio(name) for name in self.throughput}
        return {"equal": self.equal, "throughput_tokens_per_s": self.throughput, "over_static": ratios}


def comparisons(curves: Curves, tpot_bounds: Sequence[float], ttft_bound: float) -> Iterator[Comparison]:
    """Bounds in seconds. Static batching's own TPOT at its full load is one, where it is among the policies."""

    def within(latency: Callable[[Outcome], float], bound: float) -> dict[str, float]:
        return {name: throughput_within(points, latency, bound) for name, points in curves.items()}

    yield Comparison("full load", {name: at_full_load(points).throughput for name, points in curves.items()})
    if STATIC in curves:
        own = median_tpot(at_full_load(curves[STATIC]))
        told = f"median TPOT of {1e3 * own:.1f} ms, static batching's at full load"
        yield Comparison(told, within(median_tpot, own))
    for bound in tpot_bounds:
        yield Comparison(f"median TPOT within {1e3 * bound:g} ms", within(median_tpot, bound))
    yield Comparison(f"p99 TTFT within {ttft_bound:g} s", within(p99_ttft, ttft_bound))


def comparison_table(chosen: Sequence[Policy], found: Sequence[Comparison]) -> list[str]:
    def cell(comparison: Comparison, name: str) -> str:
        tokens, ratio = comparison.throughput[name], comparison.ratio(name)
        if not tokens:
            return "–"
        return number(tokens) + (f" ({ratio:.2f} ×)" if ratio and name != STATIC else "")

    rows = [[c.equal, *(cell(c, policy.name) for policy in chosen)] for c in found]
    return table([["tokens/s at equal …", *(policy.label for policy in chosen)], *rows])


def fit_table(fit: Fit) -> list[str]:
    errors = np.abs(fit.errors)
    rows = [["step", "tokens", "context", "measured, ms", "model, ms", "off by"]]
    for measured, error in zip(fit.measured, fit.errors, strict=True):
        model = 1e3 * fit.cost.seconds(measured.work)
        sizes = [str(measured.work.tokens), str(measured.work.contexts)]
        rows.append([measured.what, *sizes, f"{1e3 * measured.seconds:.3f}", f"{model:.3f}", f"{error:+.1%}"])
    told = f"{len(errors)} steps, off by {np.median(errors):.1%} in the median and {errors.max():.1%} at most."
    return [*table(rows), told, ""]


def validation_table(pairs: Sequence[Pair]) -> list[str]:
    """Rounds of the same load are together; their median ratio is what is claimed."""
    head = ["arrivals", "tokens/s, real", "simulated", "ratio", "median TTFT, ms, real", "simulated", "ratio"]
    rows = [head]
    for arrivals in dict.fromkeys(pair.arrivals for pair in pairs):
        same = [pair for pair in pairs if pair.arrivals == arrivals]
        for pair in same:
            rates = [number(seen.throughput) for seen in (pair.real, pair.simulated)]
            times = [number(1e3 * seen.median_ttft) for seen in (pair.real, pair.simulated)]
            ratios = (f"{pair.throughput_ratio:.2f}", f"{pair.ttft_ratio:.2f}")
            rows.append([str(arrivals), *rates, ratios[0], *times, ratios[1]])
        medians = (np.median([p.throughput_ratio for p in same]), np.median([p.ttft_ratio for p in same]))
        rows.append(["median of the rounds", "", "", f"**{medians[0]:.2f}**", "", "", f"**{medians[1]:.2f}**"])
    return table(rows)


def curves_json(curves: Curves) -> dict[str, Any]:
    return {
        name: [{"rate_requests_per_s": point.rate, **point.outcome.as_json()} for point in points]
        for name, points in curves.items()
    }
