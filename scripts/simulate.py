"""How llmserve's scheduler would do under loads and on machines that are not at hand.

    python scripts/simulate.py --out DIR [--gpu l4-like --model 7b-like] [--requests 100000] [--arrivals bursts]
    python scripts/simulate.py --out DIR --calibrate ENGINE          # writes DIR/machine.json
    python scripts/simulate.py --out DIR --machine DIR/machine.json --prompts 60,0.8,448 --outputs 50,0.8,448
    python scripts/simulate.py --out DIR --validate ENGINE           # against the real engine

The scheduler and the block pool are the real ones; only the model's arithmetic is replaced, by its time: of an
imaginary GPU, or as measured of an engine here. The same requests go through static batching, continuous batching,
the same with chunked prefill, and with the prefix cache, on one core. Writes results.md, results.json and figures.
Needs matplotlib (`pip install matplotlib`).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from simulator import report
from simulator.arguments import parser
from simulator.cost import Machine
from simulator.imaginary import imagine
from simulator.outcome import Outcome
from simulator.policy import policies
from simulator.simulate import Run, simulate
from simulator.sweep import capacity, rates_below, sweep
from simulator.workload import Arrivals, Bursts, Poisson, Together, Workload

from llmserve.bench.environment import machine as this_machine
from llmserve.bench.environment import versions
from llmserve.bench.output import need_package, write_json
from llmserve.bench.progress import BenchProgress
from llmserve.config import EngineConfig, first_problem
from llmserve.errors import ConfigError, LlmserveError

LOAD = 0.85
"""Of continuous batching's capacity, where no rate is given."""
SIMULATED, VALIDATED = 100_000, 200
"""Requests, where no number is given."""
PROBE = 4000
"""Requests that show a capacity."""


def main() -> None:
    try:
        args = parser(__doc__).parse_args()
        need_package("matplotlib", "simulate.py")
        args.out.mkdir(parents=True, exist_ok=True)
        if args.calibrate or args.validate:
            measure(args)
        else:
            compare(args)
    except LlmserveError as e:
        sys.exit(f"simulate: {e}")


def compare(args: argparse.Namespace) -> None:
    """The four policies on one machine: one load at length, then a sweep over rates."""
    from simulator.plots import plot_latencies, plot_sweep, plot_timeline, plot_workload

    count = args.requests or SIMULATED
    workload = Workload(args.prompts, args.outputs, args.prefixes, Together())
    machine = machine_of(args, workload)
    every = policies(machine.max_num_seqs, workload.longest_prompt, args.chunk)
    chosen = [policy for policy in every if policy.name in args.policies]
    most = capacity(workload, every[1], machine, min(PROBE, count), args.seed)
    rate = args.rate or LOAD * most
    workload = workload.at(arrivals_of(args, rate))
    trace = workload.draw(count, args.seed)
    plot_workload(trace, args.out / "workload.png")

    runs: list[Run] = []
    began = time.perf_counter()
    with BenchProgress(len(chosen) * int(trace.outputs.sum()), "simulate") as progress:
        for policy in chosen:
            progress.begin(policy.label)
            runs.append(simulate(trace, policy, machine, progress.advance))
    wall, cpu = time.perf_counter() - began, sum(run.cpu_seconds for run in runs)
    outcomes = [(run.policy, Outcome.of(run)) for run in runs]
    title = f"{machine.name}; {count:,} requests, {workload.arrivals}"
    plot_latencies(runs, title, args.out / "latencies.png")
    plot_timeline(runs, title, args.out / "timeline.png")
    means = {"tokens": f"mean {trace.prompts.mean():.0f} of a prompt, {trace.outputs.mean():.0f} new ones"}
    lines = [
        "# Simulated batching",
        "",
        *report.machine_table(machine),
        *report.workload_table(workload.described() | means),
        f"## {count:,} requests, {workload.arrivals}: {wall:.0f} s, of which {cpu:.0f} s on one core",
        "",
        *report.outcome_table(outcomes),
    ]
    results = header(args, machine) | {"outcomes": [o.as_json() for _, o in outcomes], "wall_s": wall}

    if args.sweep_requests:
        rates = rates_below(most, args.sweep_rates)
        tokens = int(workload.draw(args.sweep_requests, args.seed).outputs.sum())
        with BenchProgress(len(chosen) * len(rates) * tokens, "simulate") as progress:
            curves = sweep(workload, chosen, machine, rates, args.sweep_requests, args.seed, progress)
        found = list(report.comparisons(curves, [b / 1e3 for b in args.tpot_bound], args.ttft_bound / 1e3))
        lines += [
            f"## Throughput at equal latency: {args.sweep_requests:,} requests at each of up to {len(rates)} rates",
            "",
            *report.comparison_table(chosen, found),
            "",
        ]
        results |= {"sweep": report.curves_json(curves), "comparisons": [c.as_json() for c in found]}
        plot_sweep(curves, chosen, f"{machine.name}; a point is a request rate", args.out / "sweep.png")
    finish(args.out, "results", lines, results)


def measure(args: argparse.Namespace) -> None:
    """Calibrate, validate, or both."""
    # Only now: loading torch takes seconds.
    from simulator.calibrate import REPEATS, Calibration
    from simulator.engine import WatchedEngine
    from simulator.fit import fit
    from simulator.plots import plot_validation
    from simulator.validate import LOADS, validate

    try:
        config = EngineConfig(**dict(args.engine_option))
    except ValidationError as e:
        raise ConfigError(f"--engine-option: {first_problem(e)}.") from None
    engine = WatchedEngine(args.validate or args.calibrate, config)
    if args.machine:
        machine = Machine.read(args.machine)
    else:
        calibration = Calibration(engine, args.seed)
        with BenchProgress(REPEATS * len(calibration.cases), "calibrate") as progress:
            fitted = fit(calibration.measure(progress.advance))
        machine = engine.machine(fitted.cost)
        machine.write(args.out / "machine.json")
        lines = ["# Calibration", "", *report.machine_table(machine), *report.fit_table(fitted)]
        errors = [{"step": m.what, "seconds": m.seconds, **m.work._asdict()} for m in fitted.measured]
        finish(args.out, "calibration", lines, header(args, machine) | {"measured": errors})
    if args.validate:
        requests = args.requests or VALIDATED
        with BenchProgress(args.rounds * (len(LOADS) + 1) * requests, "validate") as progress:
            pairs = validate(engine, machine, requests, args.rounds, args.seed, progress.advance)
        plot_validation(pairs, f"{machine.name}, {requests} requests", args.out / "validation.png")
        lines = ["# The simulator and the engine", "", *report.validation_table(pairs)]
        finish(args.out, "validation", lines, header(args, machine) | {"rounds": [p.as_json() for p in pairs]})


def machine_of(args: argparse.Namespace, workload: Workload) -> Machine:
    """ConfigError where it cannot hold the workload's longest request."""
    longest = workload.longest_prompt + workload.outputs.longest
    if args.machine is None:
        return imagine(args.gpu, args.model, max_num_seqs=args.max_num_seqs, max_model_len=longest)
    machine = Machine.read(args.machine)
    if longest > min(machine.max_model_len, machine.kv_tokens):
        raise ConfigError(
            f"a request may have {longest} tokens and {machine.name} takes {machine.max_model_len}; give shorter "
            "--prompts, --outputs and --prefixes."
        )
    return machine


def arrivals_of(args: argparse.Namespace, rate: float) -> Arrivals:
    return Poisson(rate) if args.arrivals == "poisson" else Bursts(rate, *args.bursts)


def header(args: argparse.Namespace, machine: Machine) -> dict[str, Any]:
    return {
        "versions": versions(("numpy",)),
        "on": this_machine(),
        "settings": {name: str(value) for name, value in vars(args).items()},
        "machine": machine.model_dump(),
    }


def finish(folder: Path, name: str, lines: list[str], data: dict[str, Any]) -> None:
    text = "\n".join(lines).rstrip() + "\n"
    (folder / f"{name}.md").write_text(text, "utf-8")
    write_json(folder / f"{name}.json", data)
    print(text)


if __name__ == "__main__":
    main()
