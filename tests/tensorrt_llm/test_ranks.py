"""Exchanges between ranks, under the real mpirun."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from llmserve.engine.launch import find_mpirun
from tests.mpi import mpirun
from tests.tensorrt_llm.conftest import Built
from tests.tensorrt_llm.standin import StandIn


def test_a_rank_that_does_not_answer_is_named_and_nobody_waits_for_it() -> None:
    told = mpirun(2, "tests.tensorrt_llm.late_rank").splitlines()
    assert "rank 0: rank 1 did not answer in time; its own messages may say why." in told
    assert "0 ['here', 'here']" in told
    assert "1 ['here', 'here']" in told


def test_engines_that_differ_between_hosts_are_a_sentence(built: Built, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(built.path, other / "engine")
    manifest = json.loads((other / "engine" / "engine.json").read_text())
    (other / "engine" / "engine.json").write_text(json.dumps({**manifest, "model_name": "another"}))
    stand_in = StandIn(tmp_path / "standin")
    run = [sys.executable, "-m", "llmserve", "run", "engine", "--host", "127.0.0.1", "--port", "0"]
    command = [find_mpirun(), "--map-by", ":OVERSUBSCRIBE", "-n", "1", "--wdir", str(built.path.parent), *run]
    command += [":", "-n", "1", "--wdir", str(other), *run]
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    environment = {**os.environ, **stand_in.environment(), **allowed}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert (done.stdout + done.stderr).count("rank 1 (on ") == 1, done.stderr
    assert "has another engine.json than rank 0" in done.stdout + done.stderr
    assert not [call for rank in (0, 1) for call in stand_in.calls("Executor", rank)]
