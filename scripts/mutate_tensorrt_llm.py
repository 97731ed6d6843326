"""Would the tests notice? `python scripts/mutate_tensorrt_llm.py [--only WORD] [--jobs N]`.

Takes one line of behaviour after the other out of the TensorRT-LLM executor, in a copy of the project, as its ranks are
processes of their own; runs the tests that should mind there, against the stand-in, and prints which were caught, by
which test, and caught/total. That a fault's source is in its module, once, is checked first. Exit code 1 where a fault
was not caught.
"""

from __future__ import annotations

import importlib.util
import shutil
import sysconfig
import tempfile
import venv
from pathlib import Path

from mutation import ROOT, Fault, check, noticed_by, parser


def _fault(title: str, module: str, before: str, after: str, tests: str) -> Fault:
    return Fault(title, f"tensorrt_llm/{module}", before, after, f"tests/tensorrt_llm/{tests}")


FAULTS = [
    _fault(
        "a client that leaves cancels nothing", "engine",
        "            self._executor.cancel_request(self._ids[request_id])\n", "            pass\n", "test_engine.py",
    ),
    _fault(
        "further stop tokens are forgotten", "requests",
        "stop_words=[[token] for token in sorted(sampling.stop_token_ids) if token != end_id] or None",
        "stop_words=None", "test_engine.py",
    ),
    _fault(
        "plain sampling is left to TensorRT-LLM's defaults", "requests",
        "top_p=None if greedy else sampling.top_p", "top_p=None", "test_engine.py",
    ),
    _fault(
        "tenants share their prefixes", "requests",
        "        cache_salt_id=_salt(request.cache_salt),\n", "", "test_engine.py",
    ),
    _fault(
        "the model's end is not put back", "answers",
        "                tokens.append(self._end_id)\n", "                pass\n", "test_engine_alone.py",
    ),
    _fault(
        "log-probabilities are taken for those of new tokens alone", "answers",
        "        at = self._count + i\n", "        at = i\n", "test_engine.py",
    ),
    _fault(
        "what it cannot do is not refused", "engine",
        "        CAPABILITIES.check(request.sampling, request.priority)\n", "", "test_engine.py",
    ),
    _fault(
        "work that stands still is not noticed", "guard",
        "        if self._stalled_for() < self._stall_timeout:\n            return None\n", "        return None\n",
        "test_engine_alone.py",
    ),
    _fault(
        "statistics are not added up", "pump",
        "                        self.totals.add(stats)\n", "", "test_engine_alone.py",
    ),
    _fault(
        "another GPU is not noticed", "facts",
        "        if gpu.sm != engine.sm:\n", "        if False:\n", "test_facts.py",
    ),
    _fault(
        "memory is not looked at", "facts", "        if gpu.free < size:\n", "        if False:\n", "test_facts.py",
    ),
    _fault(
        "a rank that does not answer is waited for", "ranks",
        "            if pending and time.monotonic() > deadline:\n", "            if False:\n", "test_ranks.py",
    ),
    _fault(
        "engine directories are not compared", "facts",
        "        if place.manifest_sha256 != places[0].manifest_sha256:\n", "        if False:\n", "test_ranks.py",
    ),
    _fault(
        "a lost rank is not noticed", "guard",
        "        elif self._speaker.lost_one(INTERVAL):\n", "        elif time.sleep(INTERVAL):\n", "test_serving.py",
    ),
    _fault(
        "ranks are not compared before TensorRT-LLM starts", "rank",
        "            raise EngineStartError(problem)\n\n    def _verify", "            pass\n\n    def _verify",
        "test_serving.py",
    ),
    _fault(
        "the other ranks are not sent home", "rank",
        "                send_home(speaker)\n", "                pass\n", "test_serving.py",
    ),
]  # fmt: skip


def environment(root: Path) -> str:
    """A Python that finds what this one does, but the project in `root`: an editable install would be of this one."""
    venv.create(root / ".venv", with_pip=False)
    [folder] = (root / ".venv" / "lib").glob("python*/site-packages")
    (folder / "mutant.pth").write_text(f"{root}\n{sysconfig.get_path('purelib')}\n")
    kernels = importlib.util.find_spec("llmserve.ops.cpu.kernels")
    if kernels is not None and kernels.origin is not None:
        shutil.copy(kernels.origin, root / "llmserve" / "ops" / "cpu")
    return str(root / ".venv" / "bin" / "python")


def judge(fault: Fault) -> str:
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        root = Path(folder)
        for name in ("llmserve", "tests"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", root)
        source = fault.source(root)
        source.write_text(fault.changed(source.read_text("utf-8")), "utf-8")
        command = [environment(root), "-m", "pytest", fault.tests, "-q", "-x", "-p", "no:cacheprovider"]
        return noticed_by(fault, command, root)


def main() -> None:
    check(FAULTS, judge, parser(__doc__).parse_args())


if __name__ == "__main__":
    main()
