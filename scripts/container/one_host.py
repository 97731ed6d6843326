"""Serve the demo model with an image as compose.yaml does, and see that what the image promises holds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from scripts.container.image import Image
from scripts.container.sandbox import Container, Sandbox

NETWORK = "llmserve-try"
PATIENCE = 120.0
ENGINE = "engine"  # of the image's CMD
DEMO = "/opt/llmserve/build_configs/demo.yaml"  # two ranks

ASK = """
import json, sys, urllib.request
body = {"model": "demo", "messages": [{"role": "user", "content": "What is 12 + 7?"}], "stream": True,
        "temperature": 0, "max_tokens": int(sys.argv[2]), "ignore_eos": sys.argv[3] == "on"}
request = urllib.request.Request(sys.argv[1] + "/v1/chat/completions", json.dumps(body).encode(),
                                 {"Content-Type": "application/json"})
for line in urllib.request.urlopen(request, timeout=60):
    print(line.decode().strip(), flush=True)
"""

SETS = "from llmserve.ops.cpu import instruction_sets; print(*(found.name for found in instruction_sets()))"


def ask_command(url: str, max_tokens: int = 40, *, on_and_on: bool = False) -> list[str]:
    """Streams a chat from within a container, line by line as it comes."""
    return ["python", "-c", ASK, url, str(max_tokens), "on" if on_and_on else "off"]


def answer(lines: str) -> str:
    """The text of a whole stream; AssertionError if it is not whole or has an error."""
    events = [line.removeprefix("data: ") for line in lines.splitlines() if line.startswith("data: ")]
    assert events, f"there is no event in {lines!r}."
    assert events[-1] == "[DONE]", f"the stream ends with {events[-1]!r}."
    chunks = [json.loads(event) for event in events[:-1]]
    assert not any("error" in chunk for chunk in chunks), f"there is an error in {events!r}."
    return "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk["choices"])


def build_demo(image: Image, engines: Path, work: Path) -> None:
    shutil.rmtree(engines, ignore_errors=True)
    engines.mkdir(parents=True)
    user, _, group = image.user.partition(":")
    os.chown(engines, int(user), int(group))
    sandbox = Sandbox(image.root, image.env, image.user, image.workdir, volumes={engines: "/engines"}, confined=True)
    command = ["llmserve", "build", "demo", "-o", ENGINE, "--config", DEMO]
    with Container(sandbox, command, "build", work / "build.log") as building:
        code = building.wait(PATIENCE)
        assert code == 0, f"the build ended with {code}: {building.tail()}"


def serve_and_ask(image: Image, work: Path) -> None:
    engines = work / "engines"
    build_demo(image, engines, work)
    print("built the demo engine for two ranks", flush=True)
    subprocess.run(["ip", "netns", "add", NETWORK], check=True)
    try:
        subprocess.run(["ip", "-n", NETWORK, "link", "set", "lo", "up"], check=True)
        volumes = {engines: "/engines"}
        sandbox = Sandbox(
            image.root, image.env, image.user, image.workdir, volumes=volumes, confined=True, netns=NETWORK
        )  # fmt: skip
        command = [*image.entrypoint, *image.command]
        with Container(sandbox, command, "server", work / "server.log") as server:
            _hold(server, image)
    finally:
        subprocess.run(["ip", "netns", "del", NETWORK], check=False)


def _hold(server: Container, image: Image) -> None:
    early = server.enter(list(image.health))
    assert early.returncode != 0, "the HEALTHCHECK succeeds before the server can be ready."
    print(f"HEALTHCHECK fails at first, succeeds after {server.wait_until(list(image.health), PATIENCE):.1f} s")

    who = server.enter(["sh", "-c", "id -u; grep -E 'CapEff|NoNewPrivs' /proc/1/status; ls /proc | grep -c '^[0-9]'"])
    print("  its PID 1:", " ".join(who.stdout.split()))
    assert who.stdout.split()[0] == image.user.partition(":")[0], f"it runs as {who.stdout!r}, not as {image.user}."
    written = server.enter(["sh", "-c", "touch /opt/llmserve/x"])
    assert written.returncode != 0, "the root is not read-only."

    sets = server.enter(["python", "-c", SETS])
    assert sets.returncode == 0, sets.stderr
    print("  instruction sets of its kernels that this processor has:", sets.stdout.strip())

    asked = server.enter(ask_command("http://127.0.0.1:8000"))
    assert asked.returncode == 0, asked.stderr
    text = answer(asked.stdout)
    assert "19" in text, f"12 + 7 is {text!r}."
    print(f"  asked for 12 + 7: {text!r}")

    with server.begin(ask_command("http://127.0.0.1:8000", 900, on_and_on=True)) as stream:
        assert stream.stdout is not None
        begun = stream.stdout.readline()
        server.signal("TERM")
        rest = stream.stdout.read()
    code = server.wait(PATIENCE)
    assert code == 0, f"after SIGTERM it exits with {code}: {server.tail()}"
    assert rest.count("data: ") > 10, f"the stream ended before the signal: {rest!r}."
    answer(begun + rest)
    print("  SIGTERM during a stream: the stream is whole, exit code 0")
