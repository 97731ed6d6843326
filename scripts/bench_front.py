"""How many separately streamed tokens a second the front formats on one core, and how late its event loop gets.

    llmserve build demo -o /tmp/demo
    python scripts/bench_front.py /tmp/demo

Of the engine folder only the tokenizer and the manifest are used. The front is the real one (`llmserve.server.main`),
in a process on a core of its own; an engine that computes nothing sends tokens over the real ZeroMQ wire at each of
--rates, a message a step with one token for each of --streams streams, and clients read chat completions over
loopback, both on the other cores. The loop's lag is how much later than due a task in it wakes that sleeps 2 ms at a
time, from the first text to the last byte. Every stream's text is compared with what its tokens decode to.

At a rate that the front keeps up with, a chunk is a token. Beyond it, chunks have several: tokens that come for a
stream while others are written leave together. At `inf` the engine sends as fast as it can.

Prints Markdown; --json FILE writes all figures. Exit code 1 if a claim fails.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from cpu_bench.machine import ForeignLoad, describe
from front_bench.clients import Run, run_clients
from front_bench.cores import shared_out
from front_bench.engine import run_engine
from front_bench.front import Look, run_front
from serving_bench.tables import Check, check_table, markdown_table, ms

from llmserve.bench.stats import percentile
from llmserve.config import Manifest
from llmserve.errors import LlmserveError

CHUNKS = 10_000
"""Chunks a second that the front has to reach at some rate."""

LAG_S = 0.020
"""What 99 of 100 looks at the loop have to be within, at every rate."""

UNPACED_TOKENS = 2000
"""Of each stream, where the engine sends as fast as it can."""

PATIENCE_S = 120.0


@dataclass(frozen=True)
class Figures:
    """Of one run."""

    rate: float
    tokens: float  # a second
    chunks: float  # a second
    tokens_per_chunk: float
    lag_p50: float  # seconds
    lag_p99: float
    lag_max: float
    cpu: float  # of the front's core
    problems: list[str]


def measure(folder: Path, model: str, streams: int, rates: Sequence[float], seconds: float) -> list[Figures]:
    lengths = [UNPACED_TOKENS if math.isinf(rate) else round(rate * seconds / streams) for rate in rates]
    of_front, of_others = shared_out()
    context = multiprocessing.get_context("spawn")
    from_front, to_front = context.Pipe(duplex=False)
    from_clients, to_clients = context.Pipe(duplex=False)
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
    with tempfile.TemporaryDirectory() as private:
        endpoint = f"ipc://{private}/front.sock"
        front = context.Process(target=run_front, args=(folder, endpoint, port, of_front, to_front), daemon=True)
        engine = context.Process(target=run_engine, args=(folder, endpoint, streams, rates, of_others), daemon=True)
        processes = [front, engine]
        try:
            front.start()
            engine.start()
            _wait_ready(port)
            arguments = (folder, model, port, streams, lengths, of_others, to_clients)
            processes.append(context.Process(target=run_clients, args=arguments, daemon=True))
            processes[-1].start()
            runs = [_received(from_clients, seconds) for _ in rates]
            engine.terminate()
            looks = _received(from_front, seconds)
        finally:
            for process in processes:
                process.kill()
                process.join()
    return [_figures(rate, run, looks) for rate, run in zip(rates, runs, strict=True)]


def _received(results: Connection, seconds: float) -> Any:
    if not results.poll(seconds + PATIENCE_S):
        raise LlmserveError("a run did not come to its end in time; look at what the front logged.")
    return results.recv()


def _figures(rate: float, run: Run, looks: list[Look]) -> Figures:
    seen = [look for look in looks if run.began <= look.at <= run.ended]
    if len(seen) < 2:
        raise LlmserveError(f"the run at {rate:g} tokens/s was over too soon to see anything; raise --seconds.")
    seconds = run.ended - run.began
    late = [look.late for look in seen]
    return Figures(
        rate=rate,
        tokens=run.tokens / seconds,
        chunks=run.chunks / seconds,
        tokens_per_chunk=run.tokens / max(1, run.chunks),
        lag_p50=percentile(late, 50),
        lag_p99=percentile(late, 99),
        lag_max=max(late),
        cpu=(seen[-1].cpu - seen[0].cpu) / (seen[-1].at - seen[0].at),
        problems=run.problems,
    )


def checks_of(figures: list[Figures]) -> list[Check]:
    fastest = max(figures, key=lambda f: f.chunks)
    latest = max(figures, key=lambda f: f.lag_p99)
    problems = [problem for f in figures for problem in f.problems]
    return [
        Check(
            "tokens are streamed one by one fast enough",
            f"{fastest.chunks:,.0f} chunks/s",
            f"{CHUNKS:,} at some rate",
            fastest.chunks >= CHUNKS,
        ),
        Check(
            "the loop is never late", f"{ms(latest.lag_p99)} at p99", f"{ms(LAG_S)} at any rate", latest.lag_p99 < LAG_S
        ),
        Check(
            "nothing is lost or reordered",
            f"{len(problems)} streams differ from their tokens' text" + "".join(f"; {p}" for p in problems[:1]),
            "none",
            not problems,
        ),
    ]


def table_of(figures: list[Figures]) -> str:
    head = ["engine, tokens/s", "streamed, tokens/s", "chunks/s", "tokens in a chunk", "loop lag p50", "p99", "max",
            "of its core"]  # fmt: skip
    rows = [
        [
            "as fast as it can" if math.isinf(f.rate) else f"{f.rate:,.0f}",
            f"{f.tokens:,.0f}",
            f"{f.chunks:,.0f}",
            f"{f.tokens_per_chunk:.2f}",
            ms(f.lag_p50),
            ms(f.lag_p99),
            ms(f.lag_max),
            f"{f.cpu:.0%}",
        ]
        for f in figures
    ]
    return markdown_table(head, rows)


def _wait_ready(port: int) -> None:
    """LlmserveError where no front comes up."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise LlmserveError("the front did not come up; look at what it logged.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", type=Path)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--rates", default="1000,5000,10000,12000,15000,20000,50000,inf", help="tokens/s, with commas")
    parser.add_argument("--seconds", type=float, default=5, help="of each run, at its rate")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    try:
        model = Manifest.read(args.engine).model_name
        rates = [float(rate) for rate in args.rates.split(",")]
        foreign = ForeignLoad()
        figures = measure(args.engine, model, args.streams, rates, args.seconds)
    except LlmserveError as e:
        sys.exit(f"bench_front: {e}")
    others, machine, checks = foreign.cores(), describe(), checks_of(figures)
    where = f"{machine['cores']} cores of {machine['cpu']}, {machine['date']}"
    print(f"{args.streams} streams, {where}; other processes took {others:.2f} cores\n")
    print(f"{table_of(figures)}\n\n{check_table(checks)}")
    if args.json is not None:
        result = {"machine": machine, "streams": args.streams, "seconds": args.seconds, "foreign_cores": others}
        result |= {"runs": [asdict(f) for f in figures], "checks": [asdict(check) for check in checks]}
        args.json.write_text(json.dumps(result, indent=1))
    sys.exit(not all(check.holds for check in checks))


if __name__ == "__main__":
    main()
