"""Would the tests notice? `python scripts/mutate_tensorrt_llm.py [--only WORD] [--jobs N]`.

Takes one line of behaviour after the other out of the TensorRT-LLM executor, in a copy of the project, as its ranks are
processes of their own; runs the tests that should mind there, against the stand-in, and prints which were caught, by
which test, and caught/total. That a fault's source is in its module, once, is checked first. Exit code 1 where a fault
was not caught.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TIME_LIMIT = 300.0


@dataclass(frozen=True)
class Fault:
    title: str
    module: str  # of llmserve.tensorrt_llm
    before: str
    after: str
    tests: str  # a file of tests/tensorrt_llm


FAULTS = [
    Fault(
        "a client that leaves cancels nothing", "engine",
        "            self._executor.cancel_request(self._ids[request_id])\n", "            pass\n", "test_engine.py",
    ),
    Fault(
        "further stop tokens are forgotten", "requests",
        "stop_words=[[token] for token in sorted(sampling.stop_token_ids) if token != end_id] or None",
        "stop_words=None", "test_engine.py",
    ),
    Fault(
        "plain sampling is left to TensorRT-LLM's defaults", "requests",
        "top_p=None if greedy else sampling.top_p", "top_p=None", "test_engine.py",
    ),
    Fault(
        "tenants share their prefixes", "requests",
        "        cache_salt_id=_salt(request.cache_salt),\n", "", "test_engine.py",
    ),
    Fault(
        "the model's end is not put back", "answers",
        "                tokens.append(self._end_id)\n", "                pass\n", "test_engine_alone.py",
    ),
    Fault(
        "log-probabilities are taken for those of new tokens alone", "answers",
        "        at = self._count + i\n", "        at = i\n", "test_engine.py",
    ),
    Fault(
        "what it cannot do is not refused", "engine",
        "        CAPABILITIES.check(request.sampling, request.priority)\n", "", "test_engine.py",
    ),
    Fault(
        "work that stands still is not noticed", "guard",
        "        if self._stalled_for() < self._stall_timeout:\n            return None\n", "        return None\n",
        "test_engine_alone.py",
    ),
    Fault(
        "statistics are not added up", "pump",
        "                        self.totals.add(stats)\n", "", "test_engine_alone.py",
    ),
    Fault(
        "another GPU is not noticed", "facts",
        "        if gpu.sm != engine.sm:\n", "        if False:\n", "test_facts.py",
    ),
    Fault(
        "memory is not looked at", "facts", "        if gpu.free < size:\n", "        if False:\n", "test_facts.py",
    ),
    Fault(
        "a rank that does not answer is waited for", "ranks",
        "            if pending and time.monotonic() > deadline:\n", "            if False:\n", "test_ranks.py",
    ),
    Fault(
        "engine directories are not compared", "facts",
        "        if place.manifest_sha256 != places[0].manifest_sha256:\n", "        if False:\n", "test_ranks.py",
    ),
    Fault(
        "a lost rank is not noticed", "guard",
        "        elif self._speaker.lost_one(INTERVAL):\n", "        elif time.sleep(INTERVAL):\n", "test_serving.py",
    ),
    Fault(
        "ranks are not compared before TensorRT-LLM starts", "rank",
        "            raise EngineStartError(problem)\n\n    def _verify", "            pass\n\n    def _verify",
        "test_serving.py",
    ),
    Fault(
        "the other ranks are not sent home", "rank",
        "                send_home(speaker)\n", "                pass\n", "test_serving.py",
    ),
]  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    fault: Fault
    caught: bool
    how: str
    seconds: float


def source_of(fault: Fault, root: Path = ROOT) -> Path:
    return root / "llmserve" / "tensorrt_llm" / f"{fault.module}.py"


def environment(root: Path) -> str:
    """A Python that finds what this one does, but the project in `root`: an editable install would be of this one."""
    venv.create(root / ".venv", with_pip=False)
    [folder] = (root / ".venv" / "lib").glob("python*/site-packages")
    (folder / "mutant.pth").write_text(f"{root}\n{sysconfig.get_path('purelib')}\n")
    kernels = importlib.util.find_spec("llmserve.ops.cpu.kernels")
    if kernels is not None and kernels.origin is not None:
        shutil.copy(kernels.origin, root / "llmserve" / "ops" / "cpu")
    return str(root / ".venv" / "bin" / "python")


def judge(fault: Fault) -> Outcome:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        root = Path(folder)
        for name in ("llmserve", "tests"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", root)
        source = source_of(fault, root)
        source.write_text(source.read_text("utf-8").replace(fault.before, fault.after), "utf-8")
        command = [environment(root), "-m", "pytest", f"tests/tensorrt_llm/{fault.tests}", "-q", "-x"]
        command += ["-p", "no:cacheprovider"]
        try:
            done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=TIME_LIMIT)
        except subprocess.TimeoutExpired:
            return Outcome(fault, True, "the tests hang", time.monotonic() - started)
    failed = re.search(r"^(?:FAILED|ERROR) \S*?::(\w+)", done.stdout, re.M)
    if done.returncode not in (0, 1) and not failed:
        raise SystemExit(f"{fault.title}: the tests did not run (exit code {done.returncode}):\n{done.stdout[-2000:]}")
    return Outcome(fault, done.returncode != 0, failed[1] if failed else "", time.monotonic() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="faults with this word in their title")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    for fault in FAULTS:
        if (count := source_of(fault).read_text("utf-8").count(fault.before)) != 1:
            raise SystemExit(f"{fault.title}: {fault.before!r} is {count} times in {fault.module}.py, not once.")
    print("| fault | caught by | s |\n|---|---|---|")
    outcomes = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for outcome in pool.map(judge, [fault for fault in FAULTS if options.only in fault.title]):
            outcomes.append(outcome)
            told = outcome.how if outcome.caught else "**nothing**"
            print(f"| {outcome.fault.title} | {told} | {outcome.seconds:.0f} |", flush=True)
    caught = sum(outcome.caught for outcome in outcomes)
    print(f"\ncaught {caught}/{len(outcomes)}")
    sys.exit(caught != len(outcomes))


if __name__ == "__main__":
    main()
