"""Prepares what a section needs and hands out its subjects. What cannot be prepared is noted, and the rest goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from cpu_bench import prepare, prepare_llamacpp, prepare_openvino
from cpu_bench.lines import Worker
from cpu_bench.sections import Section
from cpu_bench.shapes import FORMATS, SHAPES, vocabulary
from cpu_bench.subjects import PATIENCE, LlamaCppSubject, Subject, WorkerSubject
from cpu_bench.workplace import Workplace

PEERS = ("llama.cpp", "openvino")
Peer = TypeVar("Peer")
Maker = Callable[[str, str], Subject | None]
"""From a shape and a format."""


@dataclass
class Options:
    """How ours is built and run, and beside whom."""

    peers: list[str]
    ours: bool
    formats: list[str]
    threads: int
    build: list[str] = field(default_factory=list)  # further flags of `llmserve build`
    run: dict[str, Any] = field(default_factory=dict)  # further keys of EngineConfig
    rebuild: bool = False


class Cast:
    def __init__(self, place: Workplace, options: Options, absent: dict[str, str]) -> None:
        self._place = place
        self._options = options
        self._absent = absent
        self._built: set[Path] = set()
        self.versions: dict[str, str] = {}
        self._llama = self._attempt("llama.cpp", lambda: prepare_llamacpp.prepare(place))
        self._openvino = self._attempt("openvino", lambda: prepare_openvino.prepare(place))
        self.versions["llmserve"] = ours_version()
        if self._llama:
            self.versions["llama.cpp"] = self._llama.version
        if self._openvino:
            self.versions["openvino"] = self._openvino.version

    def _attempt(self, peer: str, prepare: Callable[[], Peer]) -> Peer | None:
        if peer not in self._options.peers:
            return None
        try:
            return prepare()
        except Exception as e:
            self._note(peer, e)
            return None

    def _note(self, what: str, error: Exception) -> None:
        self._absent[what] = str(error)
        self._place.say(f"absent: {what}: {error}")

    def subjects(self, section: Section, shape: str) -> list[Subject]:
        """Ours first in each format, then the peers with the same format."""
        subjects: list[Subject] = []
        for name in (f for f in section.formats if f in self._options.formats):
            for who, maker in self._makers(section).items():
                what = f"{who}, {name}, {shape}"
                if what in self._absent:
                    continue
                try:
                    subject = maker(shape, name)
                except Exception as e:
                    self._note(what, e)
                    continue
                if subject:
                    subjects.append(subject)
        return subjects

    def _makers(self, section: Section) -> dict[str, Maker]:
        """By whom each makes."""
        if section.peers:
            ours: dict[str, Maker] = {"llmserve": lambda shape, name: self._ours(shape, name, "llmserve", 1)}
            peers = {"llama.cpp": self._llama_cpp, "openvino": self._open_vino}
        else:
            ours, peers = dict(map(self._ours_by_ranks, (1, 2))), {}
        return (ours if self._options.ours else {}) | peers

    def _ours_by_ranks(self, ranks: int) -> tuple[str, Maker]:
        threads = max(1, self._options.threads // ranks)
        label = f"llmserve, {ranks} × {threads} thread{'s' if threads > 1 else ''}"
        return label, lambda shape, name: self._ours(shape, name, label, ranks)

    def _ours(self, shape: str, format_name: str, label: str, ranks: int) -> Subject | None:
        if FORMATS[format_name].build is None:
            return None
        target = self._place.model(shape, f"llmserve-{format_name}-tp{ranks}")
        rebuild = self._options.rebuild and target not in self._built
        engine = prepare.engine(self._place, shape, format_name, ranks, self._options.build, rebuild)
        self._built.add(engine)
        threads = max(1, self._options.threads // ranks)
        config = {"prefix_caching": False, "threads": threads, **self._options.run}
        size = str(vocabulary(SHAPES[shape]))
        command = [sys.executable, "-m", "cpu_bench.ours", str(engine), size, json.dumps(config)]
        start = self._starter(ranks_command(ranks) + command, f"llmserve-{shape}-{format_name}-tp{ranks}")
        return WorkerSubject("llmserve", label, format_name, start)

    def _llama_cpp(self, shape: str, format_name: str) -> Subject | None:
        kind = FORMATS[format_name].gguf
        if self._llama is None or kind is None:
            return None
        source = prepare.checkpoint(self._place, shape)
        file = prepare_llamacpp.gguf(self._place, self._llama, shape, kind, source)
        return LlamaCppSubject(f"llama.cpp {kind}", format_name, self._llama.tool, file, self._options.threads)

    def _open_vino(self, shape: str, format_name: str) -> Subject | None:
        kind = FORMATS[format_name].openvino
        if self._openvino is None or kind is None:
            return None
        source = prepare.checkpoint(self._place, shape)
        model = prepare_openvino.export(self._place, self._openvino, shape, kind, source)
        arguments = [str(model), str(vocabulary(SHAPES[shape])), str(self._options.threads)]
        command = [str(self._openvino.programs / "python"), "-m", "cpu_bench.openvino_worker", *arguments]
        start = self._starter(command, f"openvino-{shape}-{format_name}")
        return WorkerSubject("openvino", f"OpenVINO GenAI {kind}", format_name, start)

    def _starter(self, command: list[str], log: str) -> Callable[[], Worker]:
        environment = self._place.environment()
        return lambda: Worker(command, self._place.logs / f"{log}.log", environment, PATIENCE)


def ranks_command(ranks: int) -> list[str]:
    if ranks == 1:
        return []
    from llmserve.engine.launch import find_mpirun

    command = [find_mpirun(), "-n", str(ranks), "--bind-to", "none", "--map-by", ":OVERSUBSCRIBE"]
    return [*command, "--allow-run-as-root"] if os.geteuid() == 0 else command


def ours_version() -> str:
    """The package's version, and the commit where it is a checkout."""
    import llmserve

    folder = str(Path(llmserve.__file__).parent)
    try:
        done = subprocess.run(["git", "-C", folder, "describe", "--always", "--dirty"], capture_output=True, text=True)
    except OSError:
        return llmserve.__version__
    return f"{llmserve.__version__} {done.stdout.strip()}".strip()
