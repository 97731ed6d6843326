"""Text to token ids and back: tokenisers, chat templates, the incremental detokeniser, stop strings.

Built on the `tokenizers` library and jinja2 alone; it knows neither HTTP nor the engine.
"""

from llmserve.tokenizer.chat_template import ChatTemplate
from llmserve.tokenizer.detokenizer import Detokenizer
from llmserve.tokenizer.stop_strings import StopSearch, StopStrings
from llmserve.tokenizer.tokenizer import Tokenizer

__all__ = ["ChatTemplate", "Detokenizer", "StopSearch", "StopStrings", "Tokenizer"]
