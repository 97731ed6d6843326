"""tokenizer.json: the whole pipeline in one file."""

from __future__ import annotations

import tokenizers

from llmserve.errors import EngineDirError
from llmserve.tokenizer.files import TOKENIZER_JSON, TokenizerFiles
from llmserve.tokenizer.library_backend import LibraryBackend


def load(files: TokenizerFiles) -> LibraryBackend:
    path = files.path(TOKENIZER_JSON)
    try:
        return LibraryBackend(tokenizers.Tokenizer.from_file(str(path)))
    except EngineDirError:
        raise
    except Exception as e:  # the library raises nothing more specific
        reason = " ".join(str(e).split())
        raise EngineDirError(f"{path} is not a usable tokenizer ({reason}); build the engine again.") from None
