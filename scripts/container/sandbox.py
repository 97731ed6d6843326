"""Processes with a folder for their root, as a container's are: in namespaces of their own, the first of them PID 1."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

NODES = ("null", "zero", "full", "random", "urandom", "tty")


@dataclass(frozen=True)
class Sandbox:
    """How processes are run in `root`.

    `confined`: as `read_only`, `cap_drop: ALL` and `no-new-privileges` make a container. `netns`: the name of a network
    namespace, "" for the host's. `binds`: read only, where they are on the host. `volumes`: a folder of the host →
    where it is to be written; `files`: a file of the host → where it is to be read.
    """

    root: Path
    env: dict[str, str]
    user: str = "0:0"
    workdir: str = "/"
    binds: tuple[Path, ...] = ()
    volumes: dict[Path, str] = field(default_factory=dict)
    files: dict[Path, str] = field(default_factory=dict)
    confined: bool = False
    netns: str = ""

    def command(self, args: list[str], name: str) -> list[str]:
        """The command that runs `args` as PID 1 of a new container that believes its host is called `name`."""
        setup = "\n".join([*self._mounts(), f"hostname {shlex.quote(name)}", f"exec {shlex.join(self._inside(args))}"])
        unshare = ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "sh", "-euc", setup]
        return ["ip", "netns", "exec", self.netns, *unshare] if self.netns else unshare

    def _mounts(self) -> list[str]:
        root = shlex.quote(str(self.root))
        lines = [f"mount --bind {root} {root}"]
        for path in self.binds:
            lines.append(f"mkdir -p {root}{path} && mount --bind -o ro {path} {root}{path}")
        lines += [f"mkdir -p {root}{path}" for path in (*self.volumes.values(), "/proc", "/sys", "/dev", "/tmp")]
        lines += [f"mkdir -p $(dirname {root}{path}) && touch {root}{path}" for path in self.files.values()]
        if not self.confined:
            lines.append(f"cp -L /etc/resolv.conf {root}/etc/resolv.conf")
        else:
            lines.append(f"mount -o remount,bind,ro {root}")
            lines.append(f"mount -t tmpfs -o mode=1777 tmpfs {root}/tmp")
        lines += [f"mount --bind {shlex.quote(str(a))} {root}{b}" for a, b in self.volumes.items()]
        lines += [f"mount --bind -o ro {shlex.quote(str(a))} {root}{b}" for a, b in self.files.items()]
        lines += [
            f"mount -t proc proc {root}/proc",
            f"mount --rbind -o ro /sys {root}/sys",
            f"mount -t tmpfs -o mode=755 tmpfs {root}/dev",
            f"mkdir -m 1777 {root}/dev/shm",
            *(f"touch {root}/dev/{node} && mount --bind /dev/{node} {root}/dev/{node}" for node in NODES),
            f"ln -s /proc/self/fd {root}/dev/fd",
        ]
        return lines

    def _inside(self, args: list[str]) -> list[str]:
        """The command from within the namespaces."""
        return ["chroot", str(self.root), *self._as_user(args)]

    def _as_user(self, args: list[str]) -> list[str]:
        user, _, group = self.user.partition(":")
        become = ["setpriv", f"--reuid={user}", f"--regid={group or user}", "--clear-groups"]
        if self.confined:
            become += ["--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"]
        home = [] if user == "0" else ["HOME=/home/llmserve"]
        env = ["env", "-i", f"--chdir={self.workdir}", *home, *(f"{k}={v}" for k, v in self.env.items())]
        return [*become, *env, *args]


class Container:
    """A running sandbox. Use as a context manager: on leaving, nothing of it is left."""

    def __init__(self, sandbox: Sandbox, args: list[str], name: str, log: Path) -> None:
        self._sandbox = sandbox
        self.log = log
        with log.open("wb") as out:
            command = sandbox.command(args, name)
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        self._first = self._wait_for_first()

    def _wait_for_first(self) -> int:
        """Its PID 1 as the host counts, once it has its root. 0: it has ended already."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        while self.running():
            with contextlib.suppress(OSError):  # it ends just now
                for pid in children.read_text().split():
                    if os.path.samefile(f"/proc/{pid}/root", self._sandbox.root):
                        return int(pid)
            time.sleep(0.01)
        return 0

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()  # --kill-child: the kernel ends PID 1 with it, and with PID 1 all others
        self._process.wait()

    def enter(self, args: list[str], patience: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command beside it, as `docker exec` does."""
        return subprocess.run(self._beside(args), capture_output=True, text=True, timeout=patience)

    def begin(self, args: list[str]) -> subprocess.Popen[str]:
        """The same, to be read while it runs."""
        return subprocess.Popen(self._beside(args), stdout=subprocess.PIPE, text=True)

    def _beside(self, args: list[str]) -> list[str]:
        target = ["nsenter", f"--target={self._first}", "--mount", "--pid", "--uts", "--ipc", "--net", "--root"]
        return [*target, *self._sandbox._as_user(args)]

    def running(self) -> bool:
        return self._process.poll() is None

    def signal(self, name: str) -> None:
        subprocess.run(["kill", f"-{name}", str(self._first)], check=True)

    def wait(self, patience: float) -> int:
        return self._process.wait(patience)

    def wait_until(self, args: list[str], patience: float) -> float:
        """Run a command beside it until it exits 0; the seconds that took."""
        begin = time.monotonic()
        while time.monotonic() - begin < patience:
            if not self.running():
                raise TimeoutError(f"it ended by itself: {self.tail()}")
            if self.enter(args).returncode == 0:
                return time.monotonic() - begin
            time.sleep(0.3)
        raise TimeoutError(f"no success within {patience:.0f} s: {self.tail()}")

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]
