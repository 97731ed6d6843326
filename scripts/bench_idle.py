"""What an idle server costs, and what the first request after idling pays.

    python scripts/bench_idle.py ENGINE [--seconds 60]

Starts `llmserve run` on the engine, warms it up, measures the CPU time of all its processes over an idle stretch, then
the time to first token right after it, beside the same request's on the busy server. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
from openai import OpenAI


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


def time_to_first_token(client: OpenAI, model: str) -> float:
    started = time.perf_counter()
    stream = client.completions.create(model=model, prompt=[7, 8, 9], max_tokens=2, stream=True, temperature=0)
    next(iter(stream))
    elapsed = time.perf_counter() - started
    stream.close()
    return elapsed


def cpu_seconds(root: psutil.Process) -> float:
    times = [p.cpu_times() for p in (root, *root.children(recursive=True))]
    return sum(t.user + t.system for t in times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    args = parser.parse_args()
    base = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "llmserve", "run", str(args.engine), "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command)
    try:
        while process.poll() is None:
            try:
                if httpx.get(f"{base}/health").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        client = OpenAI(base_url=f"{base}/v1", api_key="none")
        model = client.models.list().data[0].id
        busy = [time_to_first_token(client, model) for _ in range(50)][10:]
        root = psutil.Process(process.pid)
        time.sleep(1)
        before = cpu_seconds(root)
        time.sleep(args.seconds)
        used = cpu_seconds(root) - before
        first = time_to_first_token(client, model)
    finally:
        process.terminate()
        process.wait()
    print(f"| CPU while idle, all processes | {used / args.seconds:.2%} of a core over {args.seconds:.0f} s |")
    print(f"| time to first token, busy server | {statistics.median(busy) * 1e3:.1f} ms (median of {len(busy)}) |")
    print(f"| the first after idling | {first * 1e3:.1f} ms |")


if __name__ == "__main__":
    main()
