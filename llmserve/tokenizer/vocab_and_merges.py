"""GPT-2's vocabulary files: vocab.json, tokens by name, and merges.txt, a pair a line, the first merged first."""

from __future__ import annotations

from llmserve.errors import EngineDirError
from llmserve.tokenizer.byte_level import Merges
from llmserve.tokenizer.files import MERGES, VOCAB_JSON, TokenizerFiles, read_json, read_text


def read_vocabulary(files: TokenizerFiles) -> dict[str, int]:
    """Raises EngineDirError."""
    path = files.path(VOCAB_JSON)
    vocabulary = read_json(path)
    if wrong := [id for id in vocabulary.values() if type(id) is not int or not 0 <= id < 2**31]:
        raise EngineDirError(f"{path} gives a token the id {wrong[0]!r:.50}; copy or download it again.")
    return vocabulary


def read_merges(files: TokenizerFiles) -> Merges:
    """Raises EngineDirError."""
    path = files.path(MERGES)
    lines = read_text(path).split("\n")  # not splitlines: U+0085 is a letter of the alphabet of bytes
    if lines and lines[0].startswith("#version"):
        lines = lines[1:]
    merges = []
    for line in lines:
        pair = tuple(line.rstrip("\r").split(" "))
        if pair == ("",):
            continue
        if len(pair) != 2:
            raise EngineDirError(
                f"{path} has a line that is no pair of tokens: {line!r:.50}; copy or download it again."
            )
        merges.append((pair[0], pair[1]))
    return merges
