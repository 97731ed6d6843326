"""Requests on engine rank 0 whose grammars are being read, in a thread, while all others run."""

from __future__ import annotations

import logging
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import NamedTuple

from llmserve.config import Manifest
from llmserve.errors import LlmserveError, RequestError
from llmserve.grammar import Grammar, Library, Matcher, Vocabulary
from llmserve.request import Request
from llmserve.tokenizer import Tokenizer

log = logging.getLogger("llmserve.engine")


def library_of(folder: Path, manifest: Manifest) -> Library:
    """Of an engine directory."""
    return Library(lambda: _read_vocabulary(folder, manifest))


def _read_vocabulary(folder: Path, manifest: Manifest) -> Vocabulary:
    """RequestError where the engine has no tokenizer; then no front asks for a grammar either."""
    try:
        return Vocabulary.of(Tokenizer.load(folder, listed=manifest.files), manifest.model.vocab_size)
    except LlmserveError as e:
        raise RequestError(f"the model's tokenizer cannot be read ({e})") from None


class Prepared(NamedTuple):
    """A request whose grammar has been read, or `error` says why it cannot be."""

    request: Request
    arrived: float
    matcher: Matcher | None
    error: str | None


class Waiting:
    """Requests whose grammars are being read, in the order in which they came."""

    def __init__(self, library: Library | None) -> None:
        self._library = library
        self._waiting: dict[int, tuple[Request, float, Future[Grammar]]] = {}  # by request id

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, request_id: int) -> bool:
        return request_id in self._waiting

    def matcher(self, grammar: str) -> Matcher | None:
        """For an answer that needs not wait, as its grammar is there."""
        kept = self._library.kept(grammar) if self._library is not None else None
        return None if kept is None else kept.matcher()

    def add(self, request: Request, arrived: float) -> None:
        """RequestError where there are no grammars here."""
        assert request.sampling.grammar is not None
        if self._library is None:
            raise RequestError("This engine was started without grammars.", param="grammar")
        future = self._library.thread.submit(self._library.grammar, request.sampling.grammar)
        self._waiting[request.id] = request, arrived, future

    def drop(self, request_id: int) -> None:
        _, _, future = self._waiting.pop(request_id)
        future.cancel()

    def expire(self, now: float) -> list[int]:
        """Those whose own time is up, dropped; a grammar that is being read is read to its end."""
        late = [
            id
            for id, (request, arrived, _) in self._waiting.items()
            if request.timeout is not None and arrived + request.timeout <= now
        ]
        for request_id in late:
            self.drop(request_id)
        return late

    def drop_all(self) -> list[int]:
        """Their ids."""
        dropped = list(self._waiting)
        for request_id in dropped:
            self.drop(request_id)
        return dropped

    def take(self) -> list[Prepared]:
        """Those that are done."""
        done = [id for id, (_, _, future) in self._waiting.items() if future.done()]
        return [_prepared(*self._waiting.pop(id)) for id in done]

    def pause(self, seconds: float) -> None:
        """Until one is done, or for so long."""
        wait([future for _, _, future in self._waiting.values()], seconds, FIRST_COMPLETED)


def _prepared(request: Request, arrived: float, future: Future[Grammar]) -> Prepared:
    try:
        return Prepared(request, arrived, future.result().matcher(), None)
    except RequestError as e:
        return Prepared(request, arrived, None, f"The answer's grammar cannot be used: {e}")
    except Exception:  # a mistake of ours, or the library's, that is no other request's business
        log.exception("reading a grammar failed")
        return Prepared(request, arrived, None, "The answer's grammar cannot be used: reading it failed.")
