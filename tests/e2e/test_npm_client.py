"""OpenAI's client for JavaScript, installed by npm, against a real front."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.server.saying import front_that_says

SCRIPTS = Path(__file__).parent / "clients"
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "北京"}}\n</tool_call>'


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts, with what they need installed beside them."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("npm")
    shutil.copytree(SCRIPTS, folder, dirs_exist_ok=True)
    install = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
    try:
        done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=240)
    except subprocess.TimeoutExpired as e:
        pytest.skip(f"npm cannot install the openai package: {e}")
    if done.returncode != 0:
        pytest.skip(f"npm cannot install the openai package: {done.stderr.strip()[-300:]}")
    return folder


def test_chat_tools_and_responses(tmp_path: Path, scripts: Path) -> None:
    with front_that_says(f"ipc://{tmp_path}/front.sock", f"I look.\n{CALL}") as front:
        command = ["node", "talk.mjs", f"{front.url}/v1"]
        done = subprocess.run(command, cwd=scripts, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    chat = ["I look.", [["weather", '{"city": "北京"}']], "tool_calls"]
    assert json.loads(done.stdout) == {
        "whole": chat,
        "put": chat,
        "deltas": "I look.",
        "response": ["I look.", ["message", '{"city": "北京"}'], "completed"],
        "kinds": ["response.created", "response.completed"],
        "errors": [
            ["BadRequestError", 400, "tool_choice", None],
            ["NotFoundError", 404, "model", "model_not_found"],
        ],
    }
