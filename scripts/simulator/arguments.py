"""The command line of `simulate.py`: flags to checked values."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from key_value import key_value

from simulator.imaginary import GPUS, MODELS
from simulator.workload import Lengths, Prefixes

T = TypeVar("T")

POLICIES = ("static", "continuous", "chunked", "cached")


def parser(description: str | None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument_group("what is done").add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="results go here")
    add("--calibrate", type=Path, metavar="ENGINE", help="measure this engine and write DIR/machine.json")
    add(
        "--validate", type=Path, metavar="ENGINE", help="compare with this engine (of --machine, else calibrated first)"
    )
    add("--rounds", type=positive, default=3, help="of --validate (3)")
    add("--engine-option", action="append", default=[], type=key_value, metavar="KEY=VALUE", help="of EngineConfig")
    add = made.add_argument_group("the machine").add_argument
    add("--machine", type=Path, metavar="FILE", help="a machine.json; else an imaginary one:")
    add("--gpu", choices=GPUS, default="l4-like")
    add("--model", choices=MODELS, default="7b-like")
    add("--max-num-seqs", type=positive, default=256, help="of an imaginary machine (256)")
    add = made.add_argument_group("batching").add_argument
    add("--policies", type=names, default=list(POLICIES), help=f"of {','.join(POLICIES)}; all")
    add("--chunk", type=positive, default=512, help="tokens in a step with chunked prefill (512)")
    add = made.add_argument_group("requests").add_argument
    add("--requests", type=positive, help="100000; with --validate 200")
    add("--seed", type=int, default=0)
    add("--arrivals", choices=("poisson", "bursts"), default="poisson")
    add("--rate", type=positive_float, help="requests per second; default: 85 %% of continuous batching's capacity")
    add(
        "--bursts", type=numbers(lambda burst, lull, peak: (burst, lull, peak)), default=(10.0, 30.0, 3.0),
        metavar="BURST,LULL,PEAK",
        help="mean seconds of a burst and of a lull, and a burst's rate over the mean rate (10,30,3)",
    )  # fmt: skip
    add(
        "--prompts", type=numbers(lambda m, s, most: Lengths(m, s, int(most))), default=Lengths(75, 1.0, 4096),
        metavar="MEDIAN,SIGMA,LONGEST", help="log-normal lengths, after the system prompt (75,1,4096)",
    )  # fmt: skip
    add(
        "--outputs", type=numbers(lambda m, s, most: Lengths(m, s, int(most))), default=Lengths(122, 1.0, 2048),
        metavar="MEDIAN,SIGMA,LONGEST", help="of new tokens (122,1,2048)",
    )  # fmt: skip
    add(
        "--prefixes", type=numbers(lambda c, t, e: Prefixes(int(c), int(t), e)), default=Prefixes(32, 128, 1.0),
        metavar="COUNT,TOKENS,EXPONENT", help="system prompts, chosen by Zipf's law (32,128,1)",
    )  # fmt: skip
    add = made.add_argument_group("throughput against latency").add_argument
    add("--sweep-requests", type=int, default=5000, help="at each rate and policy; 0: no sweep (5000)")
    add("--sweep-rates", type=positive, default=12, help="how many (12)")
    add("--tpot-bound", type=positive_float, action="append", default=[], metavar="MS", help="compare at this, too")
    add("--ttft-bound", type=positive_float, default=2000.0, metavar="MS", help="compare at this p99 (2000)")
    return made


def positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive count")
    return value


def positive_float(text: str) -> float:
    if not 0 < (value := float(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def names(text: str) -> list[str]:
    chosen = text.split(",")
    if wrong := [name for name in chosen if name not in POLICIES]:
        raise argparse.ArgumentTypeError(f"{wrong[0]!r} is not among {', '.join(POLICIES)}")
    return [name for name in POLICIES if name in chosen]


def numbers(make: Callable[[float, float, float], T]) -> Callable[[str], T]:
    """An argument type: three numbers, separated by commas."""

    def parse(text: str) -> T:
        try:
            first, second, third = map(float, text.split(","))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not three numbers with commas between them") from None
        return make(first, second, third)

    return parse
