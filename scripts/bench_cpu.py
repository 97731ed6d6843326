"""llmserve beside llama.cpp and OpenVINO GenAI on this machine's CPU, in turns, with the machine's ceilings.

    python scripts/bench_cpu.py --work FOLDER [--rounds 5] [--shapes qwen2.5-0.5b …] [--sections decode,prefill,…]

Prepares what is missing under FOLDER (random checkpoints, engines, the peers in environments of their own: several
minutes and some 8 GB the first time), measures, and writes results.json, results.md and a figure per section there.
A peer that cannot be prepared is left out and named. Needs matplotlib (`pip install matplotlib`), a C++ compiler
for llama.cpp, and an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from cpu_bench import machine
from cpu_bench.cast import PEERS, Cast, Options
from cpu_bench.measure import Ceilings, Turns
from cpu_bench.plots import write_figures
from cpu_bench.report import write_markdown
from cpu_bench.sections import SECTIONS
from cpu_bench.shapes import FORMATS, SHAPES
from cpu_bench.workplace import Workplace
from key_value import key_value


def names(known: tuple[str, ...]) -> Any:
    """An argument type: names out of `known`, separated by commas; `none` for none of them."""

    def parse(text: str) -> list[str]:
        chosen = [] if text == "none" else text.split(",")
        if wrong := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(f"{wrong[0]!r} is not among {', '.join(known)}")
        return chosen

    return parse


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--work", type=Path, required=True, help="everything is kept here and used again")
    add("--rounds", type=int, default=5)
    add("--shapes", nargs="+", choices=SHAPES, default=["qwen2.5-0.5b"], metavar="SHAPE", help=", ".join(SHAPES))
    add("--sections", type=names(tuple(SECTIONS)), default=list(SECTIONS), help=f"of {','.join(SECTIONS)}")
    add("--peers", type=names(PEERS), default=list(PEERS), help=f"of {','.join(PEERS)}, or none")
    add("--peers-only", action="store_true", help="leave llmserve out")
    add("--formats", type=names(tuple(FORMATS)), default=["int8", "int4", "int4-pure"], help=f"of {','.join(FORMATS)}")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of every engine; default: all cores")
    add("--build-flag", action="append", default=[], help="a further flag of `llmserve build`, e.g. --build-flag=--x=y")
    add("--run-option", action="append", default=[], type=key_value, metavar="KEY=VALUE", help="a key of EngineConfig")
    add("--rebuild", action="store_true", help="build our engines again")
    add("--prepare-only", action="store_true")
    add("--report-only", action="store_true", help="tables and figures of the results.json that is there")
    add("--results", type=Path, help="folder for the results; default: the working folder")
    add("--lock", type=Path, action="append", default=[], help="a file to lock during each measurement")
    return parser.parse_args()


def prepare_all(cast: Cast, args: argparse.Namespace) -> None:
    for shape in args.shapes:
        for name in args.sections:
            cast.subjects(SECTIONS[name], shape)


def measure_all(place: Workplace, cast: Cast, args: argparse.Namespace, results: dict[str, Any], folder: Path) -> None:
    """Results are written after each section."""
    ceilings = Ceilings(place, args.threads)
    turns = Turns(place, args.rounds, ceilings, args.lock)
    results |= {"samples": turns.samples, "failures": turns.failures}
    try:
        for shape in args.shapes:
            for name in args.sections:
                turns.run(SECTIONS[name], shape, cast.subjects(SECTIONS[name], shape))
                if ceilings.problem:
                    results["absent"]["ceilings"] = ceilings.problem
                (folder / "results.json").write_text(json.dumps(results, indent=1))
    finally:
        ceilings.close()


def write_report(place: Workplace, folder: Path) -> None:
    results = json.loads((folder / "results.json").read_text())
    figures = {}
    try:
        figures = write_figures(results, folder)
    except ImportError as e:
        place.say(f"no figures: {e}")
    write_markdown(results, figures, folder / "results.md")
    place.say(f"wrote {folder / 'results.md'}")


def end(number: int, frame: FrameType | None) -> None:
    """Leave, and end every worker on the way; a second signal would interrupt that."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + number)


def main() -> None:
    args = arguments()
    signal.signal(signal.SIGTERM, end)
    place = Workplace(args.work)
    folder = args.results or place.folder
    folder.mkdir(parents=True, exist_ok=True)
    if not args.report_only:
        absent: dict[str, str] = {}
        run_options = dict(args.run_option)
        options = Options(
            peers=args.peers,
            ours=not args.peers_only,
            formats=args.formats,
            threads=args.threads,
            build=args.build_flag,
            run=run_options,
            rebuild=args.rebuild,
        )
        cast = Cast(place, options, absent)
        prepare_all(cast, args)
        if args.prepare_only:
            return
        results = {
            "machine": machine.describe(),
            "versions": cast.versions,
            "settings": {
                "threads": args.threads,
                "rounds": args.rounds,
                "build flags": " ".join(args.build_flag),
                "run options": json.dumps(run_options),
            },
            "absent": absent,
        }
        measure_all(place, cast, args, results, folder)
    write_report(place, folder)


if __name__ == "__main__":
    main()
