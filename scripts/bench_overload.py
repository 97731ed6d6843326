"""What a server does with several times the load it can bear.

    llmserve build demo -o /tmp/demo --quant int8
    python scripts/bench_overload.py /tmp/demo --out /tmp/overload

The claims: the queue stays within --max-queue, whoever is sent away gets a 429 with a Retry-After, the others are
served as fast as ever, memory does not grow, and after the load every KV block is idle (or cached, so idle, too).

`llmserve run` is started with --max-num-seqs and --max-queue. First its peak is measured: so many clients that all rows
are taken and half of the queue is full, each with one request open at any time, for --warm seconds uncounted and then
for --window seconds; the peak is what was completed a second. Then requests come as a Poisson process at --overload
times that rate, for --ramp seconds uncounted and --seconds more, whatever becomes of them; none is sent again. They all
have random prompts, and lengths drawn evenly from --prompt-len and --output-len. Then the peak is measured once more,
and the greater of the two counts: where they differ much, so did the machine.

Every second /metrics and the resident memory of all the server's processes are read. Throughput is compared with the
peak in windows of --window seconds. Memory's growth is the slope of the straight line through all readings after the
ramp times --seconds. The KV cache's pages count when they are first used, so the cache has to be small enough to have
been filled before (flags after `--` go to the server, e.g. `-- --kv-cache-memory 64MiB`). The client shares the
machine: what it and all other processes took of it is told, and whether it could send at the rate it was to.

Prints Markdown; writes overload.json, overload.png and the server's log to the folder --out. Exit code 1 if a claim
fails.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass

import httpx
import psutil
from cpu_bench.machine import ForeignLoad, describe
from serving_bench.arguments import parse, parser_of
from serving_bench.figures import plot_overload
from serving_bench.load import Loader, Outcome, Range
from serving_bench.server import Server, serving
from serving_bench.tables import Check, check_table, markdown_table, ms
from serving_bench.watch import Sample, Watch

from llmserve.bench.settings import parse_range
from llmserve.bench.stats import percentile
from llmserve.errors import LlmserveError

WITHIN = 0.10
"""How far a window's throughput may be below the peak."""

MAX_GROWTH = 0.01
"""How much memory may have grown at the end, of its mean."""


@dataclass(frozen=True)
class Plan:
    max_num_seqs: int
    max_queue: int
    overload: float
    warm: float
    ramp: float
    seconds: float
    window: float
    prompt_len: Range
    output_len: Range
    seed: int


@dataclass(frozen=True)
class Measured:
    peaks: tuple[float, float]  # completed requests a second, before the overload and after it
    began: float  # when the ramp was over
    outcomes: list[Outcome]  # of the overload
    samples: list[Sample]
    afterwards: Sample
    client_cores: float
    foreign_cores: float  # of processes that have nothing to do with this

    @property
    def peak(self) -> float:
        return max(self.peaks)


async def measure(server: Server, plan: Plan) -> Measured:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=server.base, timeout=120, limits=limits) as http:
        loader = Loader(http, server, plan.prompt_len, plan.output_len, random.Random(plan.seed))
        before = await peak_of(loader, plan)
        print(f"peak: {before:.2f} requests/s; now {plan.overload * before:.2f}/s", file=sys.stderr)
        watch = Watch(http, server)
        watching = asyncio.create_task(watch.run())
        me, foreign, begin = psutil.Process(), ForeignLoad(), time.perf_counter()
        cpu = sum(me.cpu_times()[:2])
        outcomes = await loader.open(plan.overload * before, plan.ramp + plan.seconds)
        client_cores = (sum(me.cpu_times()[:2]) - cpu) / (time.perf_counter() - begin)
        foreign_cores = foreign.cores()
        await asyncio.sleep(2)
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching  # it would raise here what went wrong with it
        afterwards = await watch.look()
        peaks = before, await peak_of(loader, plan)
        return Measured(peaks, begin + plan.ramp, outcomes, watch.samples, afterwards, client_cores, foreign_cores)


async def peak_of(loader: Loader, plan: Plan) -> float:
    """Completed requests a second."""
    begin = time.perf_counter() + plan.warm
    outcomes = await loader.closed(plan.max_num_seqs + plan.max_queue // 2, plan.warm + plan.window)
    completed = [o for o in outcomes if o.completed and begin <= o.ended < begin + plan.window]
    if not completed:
        raise LlmserveError(f"nothing was completed within {plan.window:.0f} s; raise --window, or ask for less.")
    return len(completed) / plan.window


def windows(measured: Measured, plan: Plan) -> list[float]:
    """Completed requests a second in each whole window of the load."""
    count = int(plan.seconds // plan.window)
    completed = [0] * count
    for outcome in measured.outcomes:
        place = int((outcome.ended - measured.began) // plan.window)
        if outcome.completed and 0 <= place < count:
            completed[place] += 1
    return [number / plan.window for number in completed]


def growth(samples: list[Sample], seconds: float) -> float:
    """Bytes."""
    return statistics.linear_regression([s.at for s in samples], [s.rss for s in samples]).slope * seconds


def checks_of(measured: Measured, plan: Plan) -> list[Check]:
    end = measured.began + plan.seconds
    sent_away = [o for o in measured.outcomes if o.status == 429]
    hinted = [o for o in sent_away if o.retry_after and o.retry_after.isdecimal() and int(o.retry_after) > 0]
    lost = [o for o in measured.outcomes if not o.completed and o.status != 429]
    waiting = max(s.waiting for s in measured.samples)
    rates = [rate / measured.peak for rate in windows(measured, plan)]
    steady = [s for s in measured.samples if measured.began <= s.at < end]
    mean, grown = statistics.fmean(s.rss for s in steady), growth(steady, plan.seconds)
    sent = sum(measured.began <= o.sent < end for o in measured.outcomes) / plan.seconds / measured.peak
    after = measured.afterwards
    whole = after.running == after.waiting == after.kv_usage == 0
    return [
        Check(
            "the load was an overload",
            f"{sent:.2f} × the peak",
            f"{plan.overload:g} × the peak, less 5 %",
            sent >= 0.95 * plan.overload,
        ),
        Check("the queue is bounded", f"at most {waiting:.0f} waited", f"{plan.max_queue}", waiting <= plan.max_queue),
        Check(
            "whoever is sent away is told when to come back",
            f"{len(hinted):,} of {len(sent_away):,} answers 429 have a Retry-After",
            "all, and there are some",
            len(hinted) == len(sent_away) > 0,
        ),
        Check("there is no other outcome", f"{len(lost)} requests failed", "0", not lost),
        Check(
            "the others are served as fast as ever",
            f"{min(rates):.1%} … {max(rates):.1%} of the peak in {len(rates)} windows of {plan.window:g} s",
            f"at least {1 - WITHIN:.0%}",
            min(rates) >= 1 - WITHIN,
        ),
        Check(
            "memory is flat",
            f"{grown / 2**20:+.2f} MiB in {plan.seconds:g} s, at {mean / 2**20:,.0f} MiB",
            f"{MAX_GROWTH:.0%} more",
            grown <= MAX_GROWTH * mean,
        ),
        Check(
            "after the load the pool is whole",
            f"{after.kv_usage:.1%} in use, {after.running:.0f} running, {after.waiting:.0f} waiting",
            "0, 0, 0",
            whole,
        ),
    ]


def fact_table(measured: Measured, plan: Plan) -> str:
    completed = [o.seconds for o in measured.outcomes if o.completed]
    sent_away = [o.seconds for o in measured.outcomes if o.status == 429]
    late = [o.sent - o.due for o in measured.outcomes]
    rows = [
        ["peak, before and after", f"{measured.peaks[0]:.2f} and {measured.peaks[1]:.2f} requests/s"],
        ["completed", f"{len(completed):,}, {timing(completed)}"],
        ["sent away", f"{len(sent_away):,}, {timing(sent_away)}"],
        ["the client", f"took {measured.client_cores:.2f} cores, and sent {timing(late)} late"],
        ["processes that have nothing to do with it", f"took {measured.foreign_cores:.2f} cores"],
    ]
    setting = f"{plan.max_num_seqs} rows, queue of {plan.max_queue}, prompts of {plan.prompt_len[0]} to "
    setting += f"{plan.prompt_len[1]} tokens, answers of {plan.output_len[0]} to {plan.output_len[1]}"
    return markdown_table([setting, ""], rows)


def timing(seconds: list[float]) -> str:
    return f"median {ms(statistics.median(seconds))}, p99 {ms(percentile(seconds, 99))}" if seconds else "none"


def plan_of(args: argparse.Namespace) -> Plan:
    values = {name: getattr(args, name) for name in Plan.__dataclass_fields__}
    values |= {"prompt_len": parse_range(args.prompt_len, "--prompt-len")}
    values |= {"output_len": parse_range(args.output_len, "--output-len")}
    if args.seconds < args.window:
        raise LlmserveError(f"--seconds {args.seconds:g} is less than one --window, {args.window:g}; raise it.")
    return Plan(**values)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--max-num-seqs", type=int, default=32)
    parser.add_argument("--max-queue", type=int, default=64)
    parser.add_argument("--overload", type=float, default=4, help="times the peak")
    parser.add_argument("--warm", type=float, default=10, help="seconds before the peak is measured")
    parser.add_argument("--ramp", type=float, default=15, help="seconds of overload before it counts")
    parser.add_argument("--seconds", type=float, default=300, help="of overload")
    parser.add_argument("--window", type=float, default=30, help="seconds over which throughput is taken")
    parser.add_argument("--prompt-len", default="16-64")
    parser.add_argument("--output-len", default="64-192")
    args, further = parse(parser)
    try:
        plan = plan_of(args)
        flags = ["--max-num-seqs", str(plan.max_num_seqs), "--max-queue", str(plan.max_queue), *further]
        with serving(args.engine, args.out / "server.log", flags) as server:
            measured = asyncio.run(measure(server, plan))
    except (LlmserveError, httpx.HTTPError) as e:
        sys.exit(f"bench_overload: {e!r}" if isinstance(e, httpx.HTTPError) else f"bench_overload: {e}")
    checks, machine = checks_of(measured, plan), describe()
    result = {"machine": machine, "engine": args.engine.name, "flags": flags, "plan": asdict(plan)}
    result |= {"peaks": measured.peaks, "windows": windows(measured, plan)}
    result |= {"client_cores": measured.client_cores, "foreign_cores": measured.foreign_cores}
    result |= {"samples": [asdict(sample) for sample in measured.samples]}
    result |= {"checks": [asdict(check) for check in checks]}
    (args.out / "overload.json").write_text(json.dumps(result))
    title = f"{plan.overload:g} times its peak: {args.engine.name}, {machine['cpu']}"
    file = args.out / "overload.png"
    plot_overload(measured.outcomes, measured.samples, plan.max_queue, measured.peak, title, file)
    print(f"{args.engine.name}, {machine['cores']} cores of {machine['cpu']}, {machine['date']}\n")
    print(f"{fact_table(measured, plan)}\n\n{check_table(checks)}")
    sys.exit(not all(check.holds for check in checks))


if __name__ == "__main__":
    main()
