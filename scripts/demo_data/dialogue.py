"""What a training example is: a dialogue, how it is split into training and held-out, and surface variation.

Knows nothing of any task. A dialogue's split follows from its wording alone: the questions are normalised
(case, spaces and punctuation removed) and hashed, so every variant of a held-out question is held out too.
"""

import hashlib
import random
import re
from collections.abc import Callable
from dataclasses import dataclass

HELD_OUT_ONE_IN = 12
_IGNORED = re.compile(r"[^\w+\-]|_")


@dataclass(frozen=True)
class Dialogue:
    """One or more (question, answer) turns of one task; only the last answer is scored."""

    task: str
    turns: tuple[tuple[str, str], ...]

    @property
    def key(self) -> str:
        """The questions without case, spaces and punctuation: what the split is decided on."""
        return "|".join(_IGNORED.sub("", question.lower()) for question, _ in self.turns)

    @property
    def drawn(self) -> bool:
        """Whether the hash draws these questions for the held-out set."""
        digest = hashlib.sha256(self.key.encode()).digest()
        return int.from_bytes(digest[:4], "big") % HELD_OUT_ONE_IN == 0


Generator = Callable[[random.Random], Dialogue]


def single(task: str, question: str, answer: str) -> Dialogue:
    return Dialogue(task, ((question, answer),))


def is_chinese(text: str) -> bool:
    return any("\u4e00" <= char <= "\u9fff" for char in text)


_OPENERS_EN = ("Please tell me: ", "Hi, ", "One question: ", "Quick question: ", "Hello! ", "OK, ", "So, ")
_OPENERS_ZH = ("请问", "请问，", "你好，", "我想问一下，", "问个问题：", "那么，")


def with_opener(rng: random.Random, question: str, chance: float = 0.25) -> str:
    """Now and then begin the question the way people do."""
    if rng.random() >= chance:
        return question
    if is_chinese(question):
        return rng.choice(_OPENERS_ZH) + question
    opener = rng.choice(_OPENERS_EN)
    keeps_capital = question.split()[0].rstrip("?,.") in ("I", "I'd", "TTFT", "TPOT", "AWQ", "NCCL", "MPI")
    return opener + (question if keeps_capital else question[:1].lower() + question[1:])


def vary(rng: random.Random, question: str) -> str:
    """Write the same question as users do: lower case, no final punctuation, other spacing, full-width marks."""
    if rng.random() < 0.25:
        question = question[:1].lower() + question[1:]
    if rng.random() < 0.1:
        question = question.lower()
    draw = rng.random()
    if draw < 0.2:
        question = question.rstrip(".?!。？！ ")
    elif draw < 0.25:
        question = question.rstrip(".?!。？！ ") + ("？" if is_chinese(question) else "?")
    elif draw < 0.3 and question.endswith("？"):
        question = question[:-1] + "?"
    return question
