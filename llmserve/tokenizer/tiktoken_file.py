"""tiktoken's vocabulary files: a line for each token, its bytes in base64 and its rank, which is its id.

tiktoken merges the two neighbours whose *joined* bytes have the lowest rank; the `tokenizers` library wants pairs.
Every pair of tokens that joined is a token is given to it, ranked by that token. The result is the same, because of two
tokens that ever stand side by side, the merges inside their bytes were those that the bytes alone would have undergone:
for one token there is one pair that can ever make it, so which of several pairs goes first never matters.
"""

from __future__ import annotations

import binascii
import string
from pathlib import Path

from llmserve.errors import EngineDirError
from llmserve.tokenizer.byte_level import Merges
from llmserve.tokenizer.pieces import byte_alphabet

BASE64 = (string.ascii_letters + string.digits + "+/=").encode()
MAX_TOKEN_BYTES = 4096
"""Of a token; the longest of real vocabularies has 256. Every way to cut a token in two is looked at."""


def is_tiktoken(path: Path) -> bool:
    """Whether the file is one, by its first line; the other format of this name is binary from its first byte on."""
    try:
        with path.open("rb") as file:
            first = file.readline(2 * MAX_TOKEN_BYTES)
        _parse(first)
    except OSError as e:
        raise EngineDirError(f"{path} cannot be read: {e.strerror or e}.") from None
    except ValueError:
        return False
    return True


def read_tiktoken(path: Path) -> tuple[dict[str, int], Merges]:
    """The vocabulary and its merges, in GPT-2's alphabet of bytes. Raises EngineDirError."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as e:
        raise EngineDirError(f"{path} cannot be read: {e.strerror or e}.") from None
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            token, rank = _parse(line)
        except ValueError:
            raise EngineDirError(f"{path} has no token and rank in line {number}; copy or download it again.") from None
        ranks[token] = rank
    if len(set(ranks.values())) != len(ranks):
        raise EngineDirError(f"{path} gives two tokens the same rank; copy or download it again.")
    return _in_alphabet(ranks)


def _parse(line: bytes) -> tuple[bytes, int]:
    """ValueError where the line is none of this format."""
    token, rank = line.split()
    if not rank.isdigit() or token.translate(None, BASE64):  # what is no base64 would be skipped
        raise ValueError
    data = binascii.a2b_base64(token)  # its errors are ValueErrors
    if not 0 < len(data) <= MAX_TOKEN_BYTES:
        raise ValueError
    return data, int(rank)


def _in_alphabet(ranks: dict[bytes, int]) -> tuple[dict[str, int], Merges]:
    letters = str.maketrans({byte: letter for letter, byte in byte_alphabet().items()})
    names = {token.decode("latin-1").translate(letters): rank for token, rank in ranks.items()}
    merges = [
        (left, right)
        for name in sorted((n for n in names if len(n) > 1), key=names.__getitem__)
        for cut in range(1, len(name))
        if (left := name[:cut]) in names and (right := name[cut:]) in names
    ]
    return names, merges
