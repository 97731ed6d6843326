"""Run docker/k8s/hosts.yaml's containers on two hosts, which are network namespaces, and see that they serve together.

What LeaderWorkerSet and Kubernetes would do is done here by hand: names and addresses, the secret with its mode and
owner, the environment of the leader. The commands, and what mpirun and ssh make of them, are the real ones.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from scripts.container.image import Image
from scripts.container.one_host import PATIENCE, answer, ask_command, build_demo
from scripts.container.sandbox import Container, Sandbox

MANIFEST = Path(__file__).resolve().parents[2] / "docker" / "k8s" / "hosts.yaml"
DOMAIN = "llmserve-hosts.default"
NAMES = ("llmserve-hosts-0", "llmserve-hosts-0-1")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
NETWORKS = ("llmserve-try-0", "llmserve-try-1")
KEYS = "/etc/llmserve/ssh"


def serve_over_hosts(image: Image, work: Path) -> None:
    engines = work / "engines"
    build_demo(image, engines, work)
    keys, hosts_file = _secret(work / "keys"), _hosts_file(work / "hosts")
    leader, worker = _commands()
    volumes = {engines: "/engines", keys: KEYS}
    with _network():

        def start(which: int, command: list[str], env: dict[str, str]) -> Container:
            sandbox = Sandbox(
                image.root, image.env | env, image.user, image.workdir, volumes=volumes,
                files={hosts_file: "/etc/hosts"}, confined=True, netns=NETWORKS[which],
            )  # fmt: skip
            return Container(sandbox, command, NAMES[which], work / f"{NAMES[which]}.log")

        told = {"LWS_LEADER_ADDRESS": f"{NAMES[0]}.{DOMAIN}", "LWS_GROUP_SIZE": "2"}
        with start(0, leader, told) as first, start(1, worker, {}) as second:
            print(f"ready after {first.wait_until(list(image.health), PATIENCE):.1f} s", flush=True)
            ranks = second.enter(["sh", "-c", "grep -lz llmserve /proc/[0-9]*/cmdline | wc -l"])
            assert int(ranks.stdout) > 0, f"no rank runs on the second host: {second.tail()}"
            asked = first.enter(ask_command("http://127.0.0.1:8000"))
            assert asked.returncode == 0, asked.stderr
            assert "19" in answer(asked.stdout), f"12 + 7 is {answer(asked.stdout)!r}."
            print(f"  asked for 12 + 7: {answer(asked.stdout)!r}")
            first.signal("TERM")
            code = first.wait(PATIENCE)
            assert code == 0, f"after SIGTERM the leader exits with {code}: {first.tail()}"
            print("  SIGTERM to the leader: exit code 0")
            with start(0, leader, told) as again:
                again.wait_until(list(image.health), PATIENCE)
                second.signal("KILL")
                code = again.wait(PATIENCE)
                assert code != 0, f"without its second host the leader exits with {code}: {again.tail()}"
                print(f"  the second host killed: the leader exits with {code}")


def _commands() -> tuple[list[str], list[str]]:
    """Of the manifest's two containers, with what the downward API would put in."""
    documents: list[dict[str, Any]] = list(yaml.safe_load_all(MANIFEST.read_text()))
    (group,) = (d["spec"]["leaderWorkerTemplate"] for d in documents if d["kind"] == "LeaderWorkerSet")
    cpus = str(max(1, (os.cpu_count() or 1) // 2))
    found = []
    for template in ("leaderTemplate", "workerTemplate"):
        (container,) = group[template]["spec"]["containers"]
        found.append([arg.replace("$(CPUS)", cpus) for arg in container["args"]])
    return found[0], found[1]


def _secret(folder: Path) -> Path:
    """As the manifest's comment makes it, and as Kubernetes mounts it: root's, for the group to read."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    key = folder / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "llmserve", "-f", str(key)], check=True)
    (folder / "known_hosts").write_text(f"* {key.with_suffix('.pub').read_text().strip()}\n")
    for file in folder.iterdir():
        os.chown(file, 0, 10001)
        file.chmod(0o440)
    folder.chmod(0o1777)
    return folder


def _hosts_file(file: Path) -> Path:
    lines = [f"{address} {name}.{DOMAIN} {name}" for address, name in zip(ADDRESSES, NAMES, strict=True)]
    file.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
    return file


@contextlib.contextmanager
def _network() -> Iterator[None]:
    """Two hosts and a cable between them."""

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    with contextlib.ExitStack() as stack:
        for name in NETWORKS:
            ip("netns", "add", name)
            stack.callback(ip, "netns", "del", name)
        ip("-n", NETWORKS[0], "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", NETWORKS[1])
        for name, address in zip(NETWORKS, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield
