"""An image as a folder and its settings, made from a stage's instructions."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from docker.utils.build import exclude_paths

from scripts.container.recipe import Instruction, RecipeError, Stage, substitute
from scripts.container.sandbox import Sandbox

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEBIAN = "debian:"


@dataclass(frozen=True)
class Image:
    root: Path
    env: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    user: str = "0:0"
    workdir: str = "/"
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    health: tuple[str, ...] = ()


@dataclass(frozen=True)
class Builder:
    """`help_env`, `help_binds`: what RUN steps need on this machine to reach its package indexes; not of the image.
    `reuse`: take the folders that an earlier run has left as they are, and only read their settings."""

    context: Path
    work: Path
    build_args: Mapping[str, str]
    help_env: Mapping[str, str]
    help_binds: tuple[Path, ...]
    say: Callable[[str], None]
    reuse: bool = False

    def build(self, stages: list[Stage]) -> Image:
        """The last one's image. The folders of all are under `work`, and replaced."""
        images: dict[str, Image] = {}
        for stage in stages:
            root = self.work / stage.name
            self.say(f"FROM {stage.base} AS {stage.name}")
            image = replace(images[stage.base], root=root) if stage.base in images else Image(root)
            if not self.reuse:
                shutil.rmtree(root, ignore_errors=True)
                self._first_layer(stage.base, root, images)
            images[stage.name] = self._carry_out(stage, image, images)
        return images[stages[-1].name]

    def _first_layer(self, base: str, root: Path, images: Mapping[str, Image]) -> None:
        if base in images:
            _copy_tree(images[base].root, root)
        else:
            self._debian(base, root)

    def _debian(self, base: str, root: Path) -> None:
        """What the official image is made of: the suite's essential packages. It is made here, once, and kept."""
        if not base.startswith(DEBIAN):
            raise RecipeError(f"{base} cannot be had here; only Debian's images can be made without a registry.")
        suite = base.removeprefix(DEBIAN).split("-")[0]
        kept = self.work / f"{suite}.tar"
        if not kept.exists():
            # Without a mirror given it takes Debian's, with security and updates, as the image's sources have them.
            _check(["mmdebstrap", "--variant=minbase", "--mode=root", suite, str(kept)])
        root.mkdir(parents=True)
        _check(["tar", "-xf", str(kept), "-C", str(root)])

    def _carry_out(self, stage: Stage, image: Image, images: Mapping[str, Image]) -> Image:
        args: dict[str, str] = {}
        for instruction in stage.instructions:
            begin = time.monotonic()
            known = {**args, **image.env}
            match instruction.name:
                case "ARG":
                    name, _, default = instruction.text.partition("=")
                    args[name] = self.build_args.get(name, default)
                case "ENV":
                    pairs = (word.partition("=") for word in shlex.split(substitute(instruction.text, known)))
                    image = replace(image, env=image.env | {name: value for name, _, value in pairs})
                case "RUN" | "COPY" if self.reuse:
                    pass
                case "RUN":
                    self._run(instruction, image, args)
                case "COPY":
                    self._copy(instruction, image, images)
                case "USER":
                    image = replace(image, user=instruction.text)
                case "WORKDIR":
                    image = replace(image, workdir=instruction.text)
                    (image.root / instruction.text.lstrip("/")).mkdir(parents=True, exist_ok=True)
                case "ENTRYPOINT":
                    image = replace(image, entrypoint=tuple(instruction.words()))
                case "CMD":
                    image = replace(image, command=tuple(instruction.words()))
                case "HEALTHCHECK":
                    image = replace(image, health=_health(instruction))
                case "EXPOSE" | "STOPSIGNAL":
                    pass  # said to people and to Docker; nothing to do
                case other:
                    raise RecipeError(f"line {instruction.line}: {other} is not carried out here.")
            self.say(f"  {time.monotonic() - begin:6.1f} s  {instruction.name} {instruction.text[:90]}")
        return image

    def _run(self, instruction: Instruction, image: Image, args: Mapping[str, str]) -> None:
        env = {**self.help_env, **{k: v for k, v in args.items() if v}, **image.env}
        sandbox = Sandbox(image.root, env, image.user, image.workdir, binds=self.help_binds)
        process = subprocess.run(sandbox.command(["/bin/sh", "-c", instruction.text], name="build"))
        if process.returncode:
            raise RecipeError(f"line {instruction.line} ended with exit code {process.returncode}.")

    def _copy(self, instruction: Instruction, image: Image, images: Mapping[str, Image]) -> None:
        flags, words = instruction.flags()
        if flags.keys() - {"from"}:
            raise RecipeError(f"line {instruction.line}: of COPY's flags only --from is carried out here.")
        *sources, target = words
        to = image.root / str(Path(image.workdir, target)).lstrip("/")
        into = target.endswith("/") or len(sources) > 1
        if "from" in flags:
            for source in sources:
                _copy_tree(images[flags["from"]].root / source.lstrip("/"), to)
            return
        allowed = [Path(path) for path in allowed_paths(self.context)]
        for source in sources:
            found = [path for path in allowed if path == Path(source) or Path(source) in path.parents]
            found = [path for path in found if (self.context / path).is_file()]
            if not found:
                raise RecipeError(f"line {instruction.line}: {source} is not there, or .dockerignore leaves it out.")
            for path in found:
                inside = path.relative_to(source)
                end = to / path.name if into and inside == Path(".") else to / inside
                end.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.context / path, end)


def allowed_paths(context: Path) -> set[str]:
    """Files of a build context, read as Docker reads its .dockerignore."""
    lines = (context / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    return set(exclude_paths(str(context), patterns))


def _health(instruction: Instruction) -> tuple[str, ...]:
    _, _, command = instruction.text.partition("CMD ")
    return tuple(Instruction("CMD", command, instruction.line).words())


def _copy_tree(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    _check(["cp", "-a", "--reflink=auto", str(source), str(target)])


def _check(command: list[str]) -> None:
    if subprocess.run(command).returncode:
        raise RecipeError(f"`{shlex.join(command)}` failed.")
