"""How long streams wait while a long prompt is computed among them.

    python scripts/random_checkpoint.py qwen2.5-0.5b /tmp/half
    llmserve build /tmp/half -o /tmp/half-int8 --quant int8
    python scripts/bench_stall.py /tmp/half-int8 --out /tmp/stall

The claim: a long prompt that arrives among running streams lengthens no gap between two tokens of any of them by more
than one chunk's time. The engine's context has to hold the prompt.

`llmserve run` computes at most --max-num-batched-tokens B a step. With S streams decoding, a step has S tokens of
theirs and a chunk of C = B - S of the prompt's, which is N chunks long (at least --prompt-len tokens, rounded up to
whole chunks). One chunk's time is that of C tokens at the same depth, computed alone, and is measured in the same run,
on the idle server: a prompt of that length is sent, which fills the prefix cache; then, --repeats times at each of
--depths depths, prompts that begin with so many of its chunks and end in C other tokens. All but these are found in the
cache, so the time to the first token is one step with one chunk, and the request's way through HTTP. A straight line is
laid through these times, as attention's cost grows by depth. As a check, its values at all N depths are added up, and
should be about the time of the whole prompt alone.

Then S streams run. After --settle seconds the long prompt arrives (other random ids), and they go on for as long after
it was answered. Gaps are sorted by the moment it was sent and that of its answer; the k-th of the last N gaps of each
stream until the answer is that of chunk k. The verdict: every such gap, less its chunk's time by the line, is at most
the longest gap of any stream without the prompt (before it or after), and so much more as the medians of the chunks
alone are above the line at most. So the noise that is allowed for is what the same run shows of the two things that are
added, each by itself, and nothing else; what other processes took of the machine is told.

Flags after `--` go to the server. Prints Markdown; writes stall.json, stall.png and the server's log to the folder
--out. Exit code 1 if the claim fails.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Coroutine
from dataclasses import asdict, dataclass
from typing import Any

import httpx
from cpu_bench.machine import ForeignLoad, describe
from serving_bench.arguments import parse, parser_of
from serving_bench.figures import plot_stall
from serving_bench.gaps import ChunkTime, Phases, Spread, above_line, beyond_chunk, chunk_time, split
from serving_bench.server import Server, metrics_of, serving
from serving_bench.tables import Check, check_table, markdown_table, ms

from llmserve.bench.client import Client
from llmserve.bench.load import Asked, random_prompt
from llmserve.bench.serve import EXTRA
from llmserve.errors import LlmserveError

BLOCK = 16
"""Tokens of a KV block, the server's default: chunks end where blocks do, so that the cache holds whole ones."""


WARM = 3.0
"""Seconds until streams that have begun run evenly."""


@dataclass(frozen=True)
class Plan:
    streams: int
    budget: int
    chunks: int
    depths: int
    repeats: int
    settle: float
    seed: int

    @property
    def chunk_tokens(self) -> int:
        return self.budget - self.streams

    @property
    def prompt_len(self) -> int:
        return self.chunks * self.chunk_tokens

    def depths_alone(self) -> list[int]:
        """Tokens: from the first chunk to the last, evenly."""
        count = min(self.depths, self.chunks)
        chunks = [round(i * (self.chunks - 1) / (count - 1)) for i in range(count)]
        return [k * self.chunk_tokens for k in chunks]


@dataclass(frozen=True)
class Measured:
    alone: list[tuple[int, float]]  # the depth of a chunk, and its seconds
    whole: float  # seconds of the whole prompt, alone
    among: float  # seconds of the whole prompt, among streams
    phases: Phases
    foreign_cores: float  # of processes that have nothing to do with this


class Bench:
    """Asks one server."""

    def __init__(self, server: Server, http: httpx.AsyncClient, plan: Plan) -> None:
        self._server = server
        self._http = http
        self._plan = plan
        self._random = random.Random(plan.seed)

    async def run(self) -> Measured:
        foreign = ForeignLoad()
        await self._answer(self._prompt(BLOCK))  # the first request of all pays for more than itself
        prompt = self._prompt(self._plan.prompt_len)
        whole = await self._answer(prompt)
        alone = []
        for depth in self._plan.depths_alone() * self._plan.repeats:
            chunk = self._prompt(self._plan.chunk_tokens)
            alone.append((depth, await self._answer(prompt[:depth] + chunk, cached=depth)))
        among, phases = await self._among_streams()
        return Measured(alone, whole, among, phases, foreign.cores())

    async def _among_streams(self) -> tuple[float, Phases]:
        longest = metrics_of((await self._http.get("/metrics")).text)["max_model_len"]
        times: list[list[float]] = [[] for _ in range(self._plan.streams)]
        streams = [asyncio.create_task(self._stream(each, int(longest) - BLOCK)) for each in times]
        try:
            await self._while_all_run(streams, asyncio.sleep(WARM + self._plan.settle))
            sent = time.perf_counter()
            among = await self._while_all_run(streams, self._answer(self._prompt(self._plan.prompt_len)))
            await self._while_all_run(streams, asyncio.sleep(self._plan.settle))
        finally:
            for stream in streams:
                stream.cancel()
            await asyncio.gather(*streams, return_exceptions=True)
        return among, split(times, sent - self._plan.settle, sent, sent + among, self._plan.chunks)

    async def _while_all_run(self, streams: list[asyncio.Task[None]], done: Coroutine[Any, Any, Any]) -> Any:
        task = asyncio.create_task(done)
        await asyncio.wait([task, *streams], return_when=asyncio.FIRST_COMPLETED)
        for stream in streams:
            if stream.done():
                task.cancel()
                raise LlmserveError(f"a stream did not last as long as the measurement: {stream.exception()}")
        return await task

    async def _stream(self, times: list[float], length: int) -> None:
        def note(count: int) -> None:
            times.extend([time.perf_counter()] * count)

        client = Client(self._http, self._server.model, EXTRA, time.perf_counter, note)
        sample = await client.complete(Asked(self._prompt(BLOCK), length, 0))
        raise LlmserveError(sample.error or f"all its {length} tokens came")

    async def _answer(self, prompt: tuple[int, ...], cached: int = 0) -> float:
        """Seconds to the first token. The prefix cache has to hold just so many tokens of the prompt."""
        client = Client(self._http, self._server.model, EXTRA, time.perf_counter)
        sample = await client.complete(Asked(prompt, 1, 0))
        if sample.error is not None or sample.ttft is None:
            raise LlmserveError(f"a prompt of {len(prompt)} tokens was not answered: {sample.error}")
        if sample.cached_tokens != cached:
            raise LlmserveError(
                f"the prefix cache held {sample.cached_tokens} tokens of a prompt, and {cached} were meant; "
                "raise --kv-cache-memory, or leave --no-prefix-caching out."
            )
        return sample.ttft

    def _prompt(self, length: int) -> tuple[int, ...]:
        return random_prompt(self._random, length, self._server.vocab_size)


async def measure(server: Server, plan: Plan) -> Measured:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.base, timeout=600, limits=limits) as http:
        return await Bench(server, http, plan).run()


def report(measured: Measured, plan: Plan, alone: ChunkTime) -> tuple[str, list[Check]]:
    """The tables, and what the verdict is made of."""
    phases, last = measured.phases, plan.prompt_len - plan.chunk_tokens
    spreads = {name: Spread.of([gap.seconds for gap in gaps]) for name, gaps in vars(phases).items()}
    without = max(spreads["before"].max, spreads["after"].max)
    scatter = above_line(measured.alone, alone)
    beyond = Spread.of([beyond_chunk(gap, plan.chunk_tokens, alone) for gap in phases.during])
    rows = [
        [f"gaps {name}", f"{s.count:,}", ms(s.median), ms(s.p99), ms(s.max)]
        for name, s in (*spreads.items(), ("during, less one chunk's time at the same depth", beyond))
    ]
    table = markdown_table([f"{plan.streams} streams", "gaps", "median", "p99", "max"], rows)
    steps = len(phases.during) / plan.streams
    added_up = sum(alone.at(k * plan.chunk_tokens) for k in range(plan.chunks))
    facts = markdown_table(
        ["the long prompt", ""],
        [
            ["tokens", f"{plan.prompt_len:,} in {plan.chunks} chunks of {plan.chunk_tokens}"],
            ["a chunk alone: at the start, in the middle, at the end", " / ".join(
                ms(alone.at(depth)) for depth in (0, last / 2, last)
            )],
            ["the whole prompt alone", f"{measured.whole:.2f} s; its chunks added up: {added_up:.2f} s"],
            ["the whole prompt among the streams", f"{measured.among:.2f} s, {steps:.1f} tokens of each stream"],
            ["processes that have nothing to do with it", f"took {measured.foreign_cores:.2f} cores"],
        ],
    )  # fmt: skip
    checks = [
        Check(
            "no gap grew by more than one chunk's time",
            f"at most {ms(beyond.max)} beyond it",
            f"{ms(without)}, the longest gap without it, and {ms(scatter)}, by which chunks alone were slower",
            beyond.max <= without + scatter,
        ),
        Check(
            "every stream advanced with every chunk",
            f"{steps:.1f} tokens of each",
            f"at least {plan.chunks}",
            steps >= plan.chunks,
        ),
    ]
    return "\n\n".join([table, facts, check_table(checks)]), checks


def plan_of(args: argparse.Namespace) -> Plan:
    chunk = args.max_num_batched_tokens - args.streams
    if chunk < BLOCK or chunk % BLOCK:
        raise LlmserveError(
            f"--max-num-batched-tokens {args.max_num_batched_tokens} less --streams {args.streams} is {chunk}, and has "
            f"to be a multiple of {BLOCK}."
        )
    chunks = -(-args.prompt_len // chunk)
    if min(chunks, args.depths) < 2:
        raise LlmserveError(f"{chunks} chunks, measured at {args.depths} depths: there have to be 2 at least.")
    return Plan(
        streams=args.streams,
        budget=args.max_num_batched_tokens,
        chunks=chunks,
        depths=args.depths,
        repeats=args.repeats,
        settle=args.settle,
        seed=args.seed,
    )


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--prompt-len", type=int, default=16384)
    parser.add_argument("--max-num-batched-tokens", type=int, default=256)
    parser.add_argument("--depths", type=int, default=12, help="at which a chunk alone is measured")
    parser.add_argument("--repeats", type=int, default=3, help="how often, at each")
    parser.add_argument("--settle", type=float, default=10, help="seconds of streams before and after the prompt")
    args, further = parse(parser)
    try:
        plan = plan_of(args)
        flags = ["--max-num-batched-tokens", str(plan.budget), *further]
        with serving(args.engine, args.out / "server.log", flags) as server:
            measured = asyncio.run(measure(server, plan))
    except LlmserveError as e:
        sys.exit(f"bench_stall: {e}")
    alone = chunk_time(measured.alone)
    text, checks = report(measured, plan, alone)
    machine = describe()
    phases = measured.phases
    result = {
        "machine": machine,
        "engine": args.engine.name,
        "flags": flags,
        "plan": asdict(plan),
        "chunks_alone": measured.alone,
        "chunk_time": asdict(alone),
        "foreign_cores": measured.foreign_cores,
        "prompt_alone_s": measured.whole,
        "prompt_among_streams_s": measured.among,
        "gaps_ms": {name: [round(gap.seconds * 1e3, 2) for gap in gaps] for name, gaps in vars(phases).items()},
        "chunks_during": [gap.chunk for gap in phases.during],
        "checks": [asdict(check) for check in checks],
    }
    (args.out / "stall.json").write_text(json.dumps(result))
    plot_stall(phases, plan.chunk_tokens, alone, f"{args.engine.name}, {machine['cpu']}", args.out / "stall.png")
    print(f"{args.engine.name}, {machine['cores']} cores of {machine['cpu']}, {machine['date']}\n\n{text}")
    sys.exit(not all(check.holds for check in checks))


if __name__ == "__main__":
    main()
