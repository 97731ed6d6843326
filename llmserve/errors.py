"""Errors that a user reads: one sentence each, saying what is wrong, with the value, and what to do.

Anything that is not one of these is a bug of ours and keeps its traceback.
"""

from __future__ import annotations


class LlmserveError(Exception):
    """Base of every error meant for a user; `str(error)` is the whole message.

    What it quotes may come from anywhere: characters that would move a terminal's cursor are shown escaped.
    """

    def __str__(self) -> str:
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in super().__str__())


class ConfigError(LlmserveError):
    """A flag, a YAML key or a combination of them cannot be used."""


class CheckpointError(LlmserveError):
    """A Hugging Face checkpoint is missing something, damaged, or of a kind we cannot compute."""


class BuildError(LlmserveError):
    """An engine cannot be made from this checkpoint with these settings."""


class EngineDirError(LlmserveError):
    """An engine directory is not one, is damaged, or does not fit how it is being run."""


class EngineStartError(LlmserveError):
    """A rank could not load. Every rank raises it, so that all leave in order and one of them says why."""


class EngineDeadError(LlmserveError):
    """The engine process is gone; every request it held ends with this sentence."""


class RequestError(LlmserveError):
    """One request cannot be served. It costs no other request anything.

    `param` names the request's field at fault (None: the request as a whole), `code` is OpenAI's
    machine-readable error code where one exists (e.g. "context_length_exceeded").
    """

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code
