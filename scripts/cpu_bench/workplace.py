"""The folder a benchmark works in: what stands where, and steps that are done once and said aloud."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[1]
"""On the PYTHONPATH of every worker. Which llmserve is measured is for the environment to say, as always."""


class PrepareError(Exception):
    """What could not be prepared, in one sentence."""


class Workplace:
    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.logs = self.folder / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self._started = time.monotonic()

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._started:7.1f} s] {text}", flush=True)

    def model(self, shape: str, name: str) -> Path:
        folder = self.folder / "models" / shape
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name

    def environment(self, **extra: str) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(SCRIPTS), **extra}

    def run(
        self, command: list[str | Path], environment: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        """PrepareError with the command's last words where it fails."""
        words = [str(word) for word in command]
        log = self.logs / "prepare.log"
        with log.open("ab") as output:
            output.write(f"\n$ {' '.join(words)}\n".encode())
            output.flush()
            try:
                done = subprocess.run(
                    words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, cwd=cwd
                )
            except OSError as e:
                raise PrepareError(f"{words[0]}: {e.strerror}") from None
        if done.returncode:
            last = log.read_text(errors="replace").strip().splitlines()[-1]
            raise PrepareError(f"`{Path(words[0]).name} {' '.join(words[1:4])} …` failed: {last}"[:400])

    def make(self, target: Path, what: str, write: Callable[[Path], None]) -> Path:
        """Have `write` make a file or folder under another name, which then becomes `target`; once."""
        if target.exists():
            return target
        self.say(f"preparing {what}")
        partial = target.with_name(f".{target.name}.partial")
        if partial.is_dir():
            shutil.rmtree(partial)
        write(partial)
        partial.rename(target)
        return target

    def venv(self, name: str, *installs: list[str]) -> Path:
        """A virtual environment with these packages, each list by its own `pip install` → its `bin`."""
        folder = self.folder / name
        programs, stamp, wanted = folder / "bin", folder / "installed", repr(installs)
        if stamp.exists() and stamp.read_text() == wanted:
            return programs
        self.say(f"preparing {name}: {', '.join(dict.fromkeys(chain(*installs)))}")
        self.run([sys.executable, "-m", "venv", "--clear", folder])
        for packages in installs:
            self.run([programs / "python", "-m", "pip", "install", "-q", *packages])
        stamp.write_text(wanted)
        return programs
