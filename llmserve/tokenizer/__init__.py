"""Text to token ids and back: tokenisers, chat prompts, the incremental detokeniser, stop strings.

Built on the `tokenizers` and `sentencepiece` libraries and jinja2; it knows neither HTTP nor the engine, and never runs
a checkpoint's code.
"""

from llmserve.tokenizer.chat_prompt import ChatPrompt, Conversation, Part, Text
from llmserve.tokenizer.detokenizer import Detokenizer
from llmserve.tokenizer.stop_strings import StopSearch, StopStrings
from llmserve.tokenizer.tokenizer import Tokenizer, vocabulary_files

__all__ = [
    "ChatPrompt",
    "Conversation",
    "Detokenizer",
    "Part",
    "StopSearch",
    "StopStrings",
    "Text",
    "Tokenizer",
    "vocabulary_files",
]
