"""A model's tokenizer, loaded from the files that an engine directory keeps of its checkpoint."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from llmserve.errors import EngineDirError, RequestError
from llmserve.tokenizer.backend import Backend
from llmserve.tokenizer.chat_prompt import ChatPrompt, Part
from llmserve.tokenizer.files import TokenizerFiles
from llmserve.tokenizer.joiners import Joiner
from llmserve.tokenizer.prompts import choose_prompt, read_prompt
from llmserve.tokenizer.vocabularies import load_vocabulary


class Tokenizer:
    """Text to token ids and back, with the way its model wants conversations put (`chat`)."""

    def __init__(self, backend: Backend, chat: ChatPrompt, *, eos_token_id: int | None = None) -> None:
        self._backend = backend
        self.chat = chat
        self.eos_token_id = eos_token_id
        self.vocab_size: int = backend.vocab_size
        self.special_ids = backend.special_ids

    @staticmethod
    def load(folder: Path, chat_template: Path | None = None, *, listed: Container[str] | None = None) -> Tokenizer:
        """`chat_template`: a Jinja file to be used in place of the checkpoint's own way; `listed` as in TokenizerFiles:
        an engine's files, so that nothing is taken that was not checked.

        Raises EngineDirError, or ConfigError for `chat_template`, in one sentence where files cannot be used.
        """
        files = TokenizerFiles(folder, listed)
        given = None if chat_template is None else read_prompt(chat_template, files)
        backend = load_vocabulary(files)
        chat = given or choose_prompt(files, backend)
        eos = files.special_token("eos_token")
        return Tokenizer(backend, chat, eos_token_id=None if eos is None else backend.token_id(eos))

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """As the original tokenizer does: names of special tokens in the text become those tokens, of most models."""
        with _refusals(text):
            return self._backend.encode(text, add_special_tokens=add_special_tokens)

    def encode_parts(self, parts: Sequence[Part]) -> list[int]:
        """A chat prompt's tokens; each text is encoded for itself."""
        ids: list[int] = []
        for part in parts:
            if isinstance(part, int):
                ids.append(part)
                continue
            with _refusals(part.text):
                if part.names_are_tokens:
                    ids += self._backend.encode_marked(part.text)
                    continue
                plain = self._backend.encode_plain(part.text)
            if forged := part.must_not_become.intersection(plain):
                name = self.token_text(min(forged))
                raise RequestError(
                    f"The messages hold {name!r:.100}, which this model takes for a token of its own; leave it out.",
                    param="messages",
                )
            ids += plain
        return ids

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return self._backend.decode(tokens, skip_special_tokens=skip_special_tokens)

    def joiner(self, *, continues_text: bool) -> Joiner:
        """For `Detokenizer`, which leaves out tokens that are no text."""
        return self._backend.joiner(continues_text=continues_text)

    def token_bytes(self, token: int) -> bytes:
        """The token's own bytes; a token may be a part of a character."""
        return self._backend.bytes_of(token)

    def token_text(self, token: int) -> str:
        """The token for people to read: U+FFFD stands for a part of a character."""
        return self.token_bytes(token).decode(errors="replace")

    def token_ids(self, names: Iterable[str]) -> dict[str, int]:
        """Of the tokens that are written so, as far as there are any."""
        ids = {name: self._backend.token_id(name) for name in names}
        return {name: id for name, id in ids.items() if id is not None}

    def is_silent(self, token: int) -> bool:
        """Whether a text has nothing of this token: it is special, or no token has this id."""
        return token in self.special_ids or self.is_unassigned(token)

    def is_unassigned(self, token: int) -> bool:
        """Models often have a few more rows of embeddings than their vocabulary has tokens."""
        return self._backend.is_unassigned(token)


def vocabulary_files(folder: Path) -> tuple[Path, ...]:
    """What `Tokenizer.load` reads the vocabulary from; none where there is no tokenizer.

    Raises EngineDirError for a vocabulary that only transformers reads.
    """
    files = TokenizerFiles(folder)
    if (unread := files.unread_vocabulary) is not None:
        raise EngineDirError(
            f"{folder} has {unread.name} but no vocabulary that llmserve reads; make a tokenizer.json with "
            f'`python -c "from transformers import AutoTokenizer as T; p={str(folder)!r}; '
            'T.from_pretrained(p).save_pretrained(p)"`.'
        )
    return files.vocabulary


@contextmanager
def _refusals(text: str) -> Iterator[None]:
    """Raises RequestError for what JSON can hold and UTF-8 cannot, and where the libraries give up."""
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise RequestError(f"character {e.start} is a lone surrogate, which is not valid Unicode; remove it.") from None
    try:
        yield
    except BaseException as e:
        if type(e).__name__ != "PanicException":  # Rust's, which is no Exception and can only be told by its name
            raise
        raise RequestError("the tokenizer gave up on it; shorten its longest words.") from None
