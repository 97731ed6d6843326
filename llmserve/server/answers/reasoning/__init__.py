"""The forms in which models write their reasoning, and which of them one has."""

from __future__ import annotations

from llmserve.server.answers.reasoning.form import ReasoningForm
from llmserve.server.answers.reasoning.think import Think

FORMS: tuple[ReasoningForm, ...] = (Think(),)
"""The first that is a model's is taken."""
