"""Questions about llmserve: topics and how-tos met under many phrasings, in English and Chinese.

A thing ("int8") is asked about with the frames for things, an action ("stop the server") with those for actions;
every question of a third kind is written out. Topic x frame x opener gives the combinations that are held out.
"""

import random

from .dialogue import Dialogue, single, vary, with_opener
from .facts_table import ACTIONS, QUESTIONS, THINGS

THING_EN = (
    "What is {x}?", "What's {x}?", "Explain {x}.", "Tell me about {x}.", "Can you explain {x}?", "What does {x} mean?",
    "Describe {x}.", "Could you tell me what {x} is?", "I would like to know what {x} is.", "{x}?",
    "What do you know about {x}?", "Please explain {x} to me.",
)  # fmt: skip
THING_ZH = (
    "什么是{x}？", "{x}是什么？", "解释一下{x}。", "介绍一下{x}。", "说说{x}。", "能讲讲{x}吗？", "{x}是什么意思？",
    "我想知道什么是{x}。", "你知道{x}吗？", "告诉我{x}是什么。", "{x}？", "给我讲讲{x}。",
)  # fmt: skip
_ACTION_EN = (
    "How do I {x}?", "How can I {x}?", "How to {x}?", "What is the command to {x}?", "Show me how to {x}.",
    "I want to {x}.", "Can you tell me how to {x}?", "Help me {x}.", "How would I {x}?", "What should I do to {x}?",
)  # fmt: skip
_ACTION_ZH = (
    "怎么{x}？", "如何{x}？", "怎样{x}？", "我想{x}。", "告诉我怎么{x}。", "我该如何{x}？", "{x}要怎么做？",
    "教我怎么{x}。",
    "怎么才能{x}？", "{x}用什么命令？",
)  # fmt: skip


def _capitalised(text: str) -> str:
    return text if text.startswith("llmserve") else text[:1].upper() + text[1:]


def _ask(rng: random.Random, language: int) -> tuple[str, str]:
    kind = rng.choices((THINGS, ACTIONS, QUESTIONS), (len(THINGS), len(ACTIONS), len(QUESTIONS)))[0]
    wordings, answer = rng.choice(kind)[2 * language : 2 * language + 2]
    question = rng.choice(wordings)
    if kind is not QUESTIONS:
        frames = ((THING_EN, THING_ZH) if kind is THINGS else (_ACTION_EN, _ACTION_ZH))[language]
        question = _capitalised(rng.choice(frames).format(x=question))
    return question, answer


def _fact(task: str, language: int, opener_chance: float, rng: random.Random) -> Dialogue:
    question, answer = _ask(rng, language)
    return single(task, vary(rng, with_opener(rng, question, opener_chance)), answer)


def english(rng: random.Random) -> Dialogue:
    return _fact("facts-en", 0, 0.3, rng)


def chinese(rng: random.Random) -> Dialogue:
    return _fact("facts-zh", 1, 0.3, rng)
