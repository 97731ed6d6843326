"""The forms in which models write tool calls, and which of them one has."""

from __future__ import annotations

from llmserve.server.answers.tools.chatglm3 import ChatGLM3
from llmserve.server.answers.tools.form import ToolForm
from llmserve.server.answers.tools.glm4 import Glm4
from llmserve.server.answers.tools.glm45 import GLM45
from llmserve.server.answers.tools.hermes import Hermes
from llmserve.server.answers.tools.llama3 import Llama3
from llmserve.server.answers.tools.mistral import Mistral
from llmserve.server.answers.tools.qwen3_coder import QWEN3_CODER

FORMS: tuple[ToolForm, ...] = (Hermes(), Glm4(), GLM45, ChatGLM3(), Llama3(), Mistral(), QWEN3_CODER)
"""The first that is a model's is taken."""
