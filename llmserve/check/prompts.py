"""What engines are asked when they are checked: the same of every engine, so that figures can be compared."""

from __future__ import annotations

import random

from llmserve.checkpoint.source import Checkpoint
from llmserve.config import ModelConfig
from llmserve.tokenizer.tokenizer import Tokenizer, vocabulary_files

RANDOM = (16, 48)
"""Lengths of the prompts of random tokens."""

MOST = 64
"""Tokens of a prompt."""

TEXTS = (
    "The water cycle describes how water moves between the ground, the sky and the sea: it evaporates, forms clouds, "
    "and comes back as rain.",
    "Question: A train leaves at 9:40 and arrives at 11:15. How long does the journey take?\nAnswer: The journey takes",
    "def median(values):\n    ordered = sorted(values)\n    middle = len(ordered) // 2\n    if len(ordered) % 2:\n",
    "春天来了，院子里的桃花都开了，孩子们在树下跑来跑去，笑声传得很远。",
)


def prompts(checkpoint: Checkpoint, config: ModelConfig) -> list[tuple[int, ...]]:
    """Random tokens, and where there is a tokenizer some texts."""
    most = min(MOST, config.max_position)
    rng = random.Random(0)
    chosen = [tuple(rng.randrange(config.vocab_size) for _ in range(length)) for length in RANDOM]
    if vocabulary_files(checkpoint.path):
        tokenizer = Tokenizer.load(checkpoint.path)
        chosen += [tuple(tokenizer.encode(text, add_special_tokens=True)) for text in TEXTS]
    return [prompt[:most] for prompt in chosen if prompt]
