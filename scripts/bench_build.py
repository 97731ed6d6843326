"""What a build costs: peak memory and time, beside copying the same bytes; and what a killed build leaves behind.

    python scripts/bench_build.py [--shape qwen2.5-1.5b] [--quant int4] [--tp-size 2] [--keep FOLDER]

Prints one Markdown table. Peak memory is the kernel's high-water mark of the build process (VmHWM), torch included.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from random_checkpoint import SHAPES, write_checkpoint


def high_water_mark(pid: int) -> int:
    """Bytes; 0 once the process is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmHWM")), 0)


def build_command(source: Path, target: Path, args: argparse.Namespace) -> list[str]:
    flags = ["--quant", args.quant, "--tp-size", str(args.tp_size)]
    return [sys.executable, "-m", "llmserve", "build", str(source), "-o", str(target), *flags]


def children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run_build(source: Path, target: Path, args: argparse.Namespace) -> tuple[float, float, int]:
    """(seconds, seconds of CPU time over all cores, peak bytes)"""
    started, cpu, peak = time.monotonic(), children_cpu(), 0
    process = subprocess.Popen(build_command(source, target, args))
    while process.poll() is None:
        peak = max(peak, high_water_mark(process.pid))
        time.sleep(0.05)
    if process.returncode:
        sys.exit(f"bench_build: the build ended with code {process.returncode}.")
    return time.monotonic() - started, children_cpu() - cpu, peak


def copy_time(source: Path, target: Path) -> float:
    started = time.monotonic()
    shutil.copyfile(source, target)
    elapsed = time.monotonic() - started
    target.unlink()
    return elapsed


def killed_build_leaves_no_engine(source: Path, target: Path, args: argparse.Namespace) -> bool:
    """kill -9 two seconds after the build began to write."""
    process = subprocess.Popen(build_command(source, target, args), stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(target.parent.glob(f".{target.name}.building-*")):
        time.sleep(0.05)
    time.sleep(2)
    if process.poll() is not None:
        sys.exit("bench_build: the build was over before it could be killed; use a larger shape.")
    process.send_signal(signal.SIGKILL)
    process.wait()
    return not target.exists()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-1.5b")
    parser.add_argument("--quant", default="int4")
    parser.add_argument("--tp-size", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="keep (and reuse) the checkpoint and the engine here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llmserve-bench-") as temporary:
        folder = args.keep or Path(temporary)
        source, target = folder / args.shape, folder / f"{args.shape}-{args.quant}-tp{args.tp_size}"
        if not (source / "model.safetensors").exists():
            print(f"writing a random checkpoint of {args.shape}'s shape", file=sys.stderr)
            write_checkpoint(SHAPES[args.shape], source)
        weights = source / "model.safetensors"
        copied = copy_time(weights, folder / "copy")
        shutil.rmtree(target, ignore_errors=True)
        seconds, cpu, peak = run_build(source, target, args)
        shards = sum(f.stat().st_size for f in target.glob("rank*.safetensors"))
        shutil.rmtree(target)
        clean = killed_build_leaves_no_engine(source, target, args)
        again, _, _ = run_build(source, target, args)
        leftovers = [p.name for p in folder.iterdir() if ".building-" in p.name]
        for row in (
            ("checkpoint", f"{args.shape} shape, {weights.stat().st_size / 1e9:.2f} GB"),
            ("engine", f"{args.quant}, tp_size {args.tp_size}: {shards / 1e9:.2f} GB"),
            ("peak memory of the build", f"{peak / 1e6:.0f} MB"),
            ("time", f"{seconds:.1f} s, {cpu:.1f} s of CPU time (copying the file: {copied:.1f} s)"),
            ("killed while writing: no engine at the target", "yes" if clean else "NO"),
            ("built again after that", f"{again:.1f} s, left over: {', '.join(leftovers) or 'nothing'}"),
        ):
            print(f"| {row[0]} | {row[1]} |")


if __name__ == "__main__":
    main()
