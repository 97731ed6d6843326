"""A Dockerfile as values: stages, and their instructions with variables replaced. Knows nothing of files or processes.

What llmserve's Dockerfiles do not use is an error here, not left out.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile_parse import DockerfileParser

VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


class RecipeError(Exception):
    """One sentence."""


@dataclass(frozen=True)
class Instruction:
    name: str  # upper case
    text: str  # its arguments, continuation lines joined
    line: int

    def words(self) -> list[str]:
        """Of the exec form the list; of any other the text's words."""
        if self.text.startswith("["):
            return [str(word) for word in json.loads(self.text)]
        return shlex.split(self.text)

    def flags(self) -> tuple[dict[str, str], list[str]]:
        """Leading --name=value flags, and the words after them."""
        words = self.words()
        flags: dict[str, str] = {}
        while words and words[0].startswith("--"):
            name, _, value = words.pop(0)[2:].partition("=")
            flags[name] = value
        return flags, words


@dataclass
class Stage:
    base: str  # an image, or another stage's name
    name: str
    instructions: list[Instruction] = field(default_factory=list)


def substitute(text: str, variables: Mapping[str, str]) -> str:
    """Replace $NAME and ${NAME} as Docker does outside RUN; what is not set becomes nothing."""
    return VARIABLE.sub(lambda match: variables.get(match[1] or match[2], ""), text)


def read_stages(dockerfile: Path, build_args: Mapping[str, str]) -> list[Stage]:
    """In the order of the file. ARG before the first FROM is for FROM alone, as Docker has it."""
    variables: dict[str, str] = {}
    stages: list[Stage] = []
    for instruction in _instructions(dockerfile):
        if instruction.name == "FROM":
            words = shlex.split(substitute(instruction.text, variables))
            named = len(words) == 3 and words[1].upper() == "AS"
            if not named and len(words) != 1:
                raise RecipeError(f"{dockerfile}:{instruction.line}: FROM {instruction.text} is not understood.")
            stages.append(Stage(words[0], words[2] if named else str(len(stages))))
        elif stages:
            stages[-1].instructions.append(instruction)
        elif instruction.name == "ARG":
            name, _, default = instruction.text.partition("=")
            variables[name] = build_args.get(name, default)
        else:
            raise RecipeError(f"{dockerfile}:{instruction.line}: {instruction.name} before the first FROM.")
    return stages


def needed(stages: list[Stage], target: str) -> list[Stage]:
    """The stage called `target`, or the last, and those it is made from, in order."""
    by_name = {stage.name: stage for stage in stages}
    if target and target not in by_name:
        raise RecipeError(f"there is no stage {target!r}; there are {', '.join(by_name)}.")
    wanted: set[str] = set()
    left = [target or stages[-1].name]
    while left:
        stage = by_name[left.pop()]
        if stage.name not in wanted:
            wanted.add(stage.name)
            copied = (i.flags()[0].get("from") for i in stage.instructions if i.name == "COPY")
            left += [name for name in (stage.base, *copied) if name in by_name]
    return [stage for stage in stages if stage.name in wanted]


def _instructions(dockerfile: Path) -> Iterator[Instruction]:
    with dockerfile.open("rb") as file:
        for entry in DockerfileParser(fileobj=file).structure:
            if entry["instruction"] != "COMMENT":
                yield Instruction(entry["instruction"], entry["value"], entry["startline"] + 1)
