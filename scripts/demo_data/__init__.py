"""The demo model's training data, generated from seeded randomness: the same seed gives the same dialogues.

Knows nothing of tokenizers, tensors or training.
"""

import random
from collections.abc import Iterator

from . import arithmetic, capitals, facts, smalltalk, words
from .dialogue import Dialogue, Generator

# Task name -> (generator, share of the training data, number of held-out items).
TASKS: dict[str, tuple[Generator, float, int]] = {
    "add": (arithmetic.add, 2.0, 100),
    "subtract": (arithmetic.subtract, 2.0, 100),
    "chain": (arithmetic.chain, 2.0, 80),
    "capital": (capitals.capital, 1.5, 80),
    "capital-2": (capitals.follow_up, 0.5, 50),
    "facts-en": (facts.english, 2.5, 100),
    "facts-zh": (facts.chinese, 2.5, 100),
    "talk": (smalltalk.talk, 1.0, 50),
    "scope": (smalltalk.out_of_scope, 1.2, 60),
    "spell": (words.spell, 1.2, 60),
    "reverse": (words.reverse, 1.5, 60),
    "sort": (words.sort, 1.8, 60),
}
_HELD_OUT_SEED = 20240607


def is_held_out(dialogue: Dialogue) -> bool:
    """Bare greetings and "Who are you?" are never held out: everyone begins with them."""
    return dialogue.drawn and dialogue.key not in smalltalk.BARE_KEYS


def training_dialogues(rng: random.Random) -> Iterator[Dialogue]:
    """Endless training dialogues; nothing held out is among them."""
    generators = [generator for generator, _, _ in TASKS.values()]
    shares = [share for _, share, _ in TASKS.values()]
    while True:
        dialogue = rng.choices(generators, shares)[0](rng)
        if not is_held_out(dialogue):
            yield dialogue


def held_out_dialogues() -> list[Dialogue]:
    """The fixed evaluation set: distinct held-out dialogues of every task."""
    found: list[Dialogue] = []
    for task, (generator, _, count) in TASKS.items():
        rng = random.Random(f"{_HELD_OUT_SEED}-{task}")
        by_key: dict[str, Dialogue] = {}
        while len(by_key) < count:
            dialogue = generator(rng)
            if is_held_out(dialogue):
                by_key.setdefault(dialogue.key, dialogue)
        found += by_key.values()
    return found


def vocabulary_texts(count: int = 60_000, seed: int = 1) -> Iterator[str]:
    """Texts whose words deserve a token: everything but the operands of word games and out-of-scope questions."""
    yield from (frame.format(w=" ") for frame in words.FRAMES)
    yield from (frame.format(w=" ")[:1].lower() + frame.format(w=" ")[1:] for frame in words.FRAMES)
    dialogues = training_dialogues(random.Random(seed))
    for _ in range(count):
        dialogue = next(dialogues)
        if dialogue.task in ("spell", "reverse", "sort"):
            continue
        for question, answer in dialogue.turns:
            if dialogue.task != "scope":
                yield question
            yield answer
