"""What real shapes cost at tp_size 2: building them, loading them, and their ranks' memory.

    python scripts/bench_shapes.py --work DIR [chatglm2-6b:int8 chatglm2-6b:int4 qwen-7b:int4 …]

For each shape and scheme a checkpoint with random weights is written (and removed after the last scheme of its shape,
unless --keep), built, served twice by `llmserve run`, and asked for a few tokens. Prints one Markdown table:

* build: time, and the kernel's high-water mark of the process (VmHWM);
* load: what the log of the second start says, checksums and the rest, and the time from the command to "ready";
* a rank's memory after the answers: what is its own (Anonymous), and what it has mapped of its shard, which is page
  cache (the rest of Rss);
* an answer, so that it is known to work: tokens a second of one stream, whose values mean nothing.

The disk has to hold the checkpoint and the engine: up to 20 GB.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
from bench_build import run_build
from random_checkpoint import SHAPES, write_checkpoint
from serving_bench.server import Server, serving
from serving_bench.tables import markdown_table

from llmserve.errors import LlmserveError

DEFAULT = [
    "chatglm2-6b:int8",
    "chatglm2-6b:int4",
    "qwen-7b:int4",
    "qwen3-30b-a3b-8-layers:int8",
    "qwen3-30b-a3b-8-layers:int4",
]
LOADED = re.compile(r"checksums took ([\d.]+) s, loading ([\d.]+) s")
PROMPT, ANSWER = 32, 16
HEAD = [
    "shape", "to", "checkpoint", "engine", "build", "peak memory",
    "second load: checksums, the rest", "command to ready", "each rank's own", "mapped", "tokens/s",
]  # fmt: skip


def ranks(server: Server) -> list[psutil.Process]:
    """The processes that compute."""
    found = []
    for process in server.processes():
        with suppress(psutil.NoSuchProcess):
            if process.name().startswith("python") and "llmserve.engine.rank" in " ".join(process.cmdline()):
                found.append(process)
    return found


def memory(process: psutil.Process) -> tuple[int, int]:
    """(its own, mapped from files or shared), bytes."""
    text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    fields = {name: int(kilobytes) * 1024 for name, kilobytes in re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE)}
    return fields["Anonymous"], fields["Rss"] - fields["Anonymous"]


def answer(server: Server) -> float:
    """Tokens a second of one stream, after a prompt that is not counted."""
    body = {"prompt": list(range(100, 100 + PROMPT)), "temperature": 0, "ignore_eos": True}
    times = []
    for tokens in (1, 1 + ANSWER):
        started = time.monotonic()
        httpx.post(f"{server.base}/v1/completions", json=body | {"max_tokens": tokens}, timeout=600).raise_for_status()
        times.append(time.monotonic() - started)
    return ANSWER / (times[1] - times[0])


def measure(source: Path, shape: str, quant: str, work: Path) -> list[str]:
    target, log = work / f"{shape}-{quant}", work / f"{shape}-{quant}.log"
    options = argparse.Namespace(quant=quant, tp_size=2)
    seconds, _, peak = run_build(source, target, options)
    ready = speed = 0.0
    told: list[tuple[int, int]] = []
    for _ in range(2):
        started = time.monotonic()
        with serving(target, log, []) as server:
            ready = time.monotonic() - started
            speed = answer(server)
            told = [memory(process) for process in ranks(server)]
    loaded = LOADED.search(log.read_text("utf-8", "replace"))
    if loaded is None or len(told) != 2:
        raise LlmserveError(f"{log} does not say how long loading took, or there are {len(told)} ranks and not 2.")
    engine = sum(file.stat().st_size for file in target.glob("rank*.safetensors"))
    checkpoint = (source / "model.safetensors").stat().st_size
    shutil.rmtree(target)
    own = " / ".join(f"{each / 1e6:.0f} MB" for each, _ in told)
    mapped = " / ".join(gb(each) for _, each in told)
    built, load = f"{seconds:.1f} s", f"{loaded[1]} s, {loaded[2]} s"
    return [
        shape, quant, gb(checkpoint), gb(engine), built, f"{peak / 1e6:.0f} MB", load, f"{ready:.1f} s", own, mapped,
        f"{speed:.1f}",
    ]  # fmt: skip


def gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=DEFAULT, metavar="SHAPE:QUANT")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and engines")
    parser.add_argument("--keep", action="store_true", help="leave the checkpoints there")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    pairs = [pair.partition(":")[::2] for pair in args.what]
    rows = []
    for shape in dict.fromkeys(shape for shape, _ in pairs):
        source = args.work / shape
        if not (source / "model.safetensors").exists():
            print(f"writing a random checkpoint of {shape}'s shape", file=sys.stderr)
            write_checkpoint(SHAPES[shape], source)
        for quant in (quant for name, quant in pairs if name == shape):
            rows.append(measure(source, shape, quant, args.work))
            print(markdown_table(HEAD, rows[-1:]), file=sys.stderr)
        if not args.keep:
            shutil.rmtree(source)
    print(markdown_table(HEAD, rows))


if __name__ == "__main__":
    main()
