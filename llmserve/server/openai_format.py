"""What OpenAI's endpoints answer with: chunks and whole bodies out of deltas, as vLLM extends them.

What they have in common is here, and completions are; chat is in `chat_format`.
"""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from llmserve.request import Finish, TokenLogprobs
from llmserve.server.generation import Delta, Token, Usage, text_and_tokens
from llmserve.server.logprob_format import finite, token_text
from llmserve.server.respond import Whole
from llmserve.tokenizer import Tokenizer

Told = list[TokenLogprobs | None]
"""What is told of each token of a prompt: nothing of the first, nor of those that a timeout came before."""


@dataclass(kw_only=True)
class OpenAIFormat(ABC):
    """What chat and completions have in common. A stream waits with a prompt's first chunk until all is known that is
    told there."""

    KIND: ClassVar[str]
    CHUNK_KIND: ClassVar[str]
    ID_PREFIX: ClassVar[str]

    model: str
    tokenizer: Tokenizer | None
    prompts: list[tuple[int, ...]]
    n: int
    include_usage: bool
    return_token_ids: bool
    prompt_logprobs: int | None  # most likely tokens to tell of beside each of the prompt; None: tell nothing
    logprobs: int | None  # likewise, of the answer

    def __post_init__(self) -> None:
        self._id = f"{self.ID_PREFIX}-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._chunk_head = self._head(self.CHUNK_KIND)
        self._chunk_tail = {"usage": None} if self.include_usage else {}
        self._held: dict[int, list[Delta]] = {}  # by prompt, until its first chunk can be made

    @property
    def _tells_of_prompts(self) -> bool:
        """In what comes first."""
        return self.prompt_logprobs is not None

    @abstractmethod
    def _first_chunks(self, prompt: int, told: Told) -> list[dict[str, Any]]:
        """What comes before the deltas of a prompt's choices."""

    @abstractmethod
    def _chunks_of(self, delta: Delta) -> list[dict[str, Any]]: ...

    def opening(self, choices: int) -> list[dict[str, Any]]:
        chunks = []
        for prompt, ids in enumerate(self.prompts):
            if self._tells_of_prompts and len(ids) > 1:
                self._held[prompt] = []
            else:
                chunks += self._first_chunks(prompt, [None] * len(ids))
        return chunks

    def chunks(self, delta: Delta) -> list[dict[str, Any]]:
        if not self._held or (prompt := delta.index // self.n) not in self._held:
            return self._chunks_of(delta)
        held = self._held[prompt]
        held.append(delta)
        of_first = [each for each in held if each.index == prompt * self.n]
        known = [logprobs for each in of_first for logprobs in each.prompt_logprobs]
        told = self._told_of(prompt, known, of_first[-1].finish if of_first else None)
        if len(told) < len(self.prompts[prompt]):
            return []
        del self._held[prompt]
        kept = [each for each in held if each.text or each.tokens or each.finish]
        return self._first_chunks(prompt, told) + [chunk for each in kept for chunk in self._chunks_of(each)]

    def usage_chunk(self, usage: Usage) -> dict[str, Any]:
        return {**self._chunk_head, "choices": [], "usage": self._usage(usage)}

    def _usage(self, usage: Usage) -> dict[str, Any]:
        return usage_body(usage)

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self.model}

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        return {**self._chunk_head, "choices": [choice], **self._chunk_tail}

    def _body(self, choices: list[dict[str, Any]], usage: Usage) -> dict[str, Any]:
        return {**self._head(self.KIND), "choices": choices, "usage": self._usage(usage)}

    def _decoded(self, token: int) -> str | None:
        return self.tokenizer.token_text(token) if self.tokenizer else None

    def _token_ids(self, tokens: list[Token]) -> dict[str, Any]:
        return {"token_ids": [token.id for token in tokens]} if self.return_token_ids else {}

    def _of_prompt(self, choices: list[Whole], prompt: int) -> dict[str, Any]:
        """What is known of a prompt by its first choice."""
        first = choices[prompt * self.n]
        return self._prompt_logprobs(prompt, self._told_of(prompt, first.prompt_logprobs, first.finish))

    def _prompt_logprobs(self, prompt: int, told: Told) -> dict[str, Any]:
        if self.prompt_logprobs is None:
            return {}
        each = zip(self.prompts[prompt], told, strict=True)
        return {"prompt_logprobs": [logprobs and self._by_id(token, logprobs) for token, logprobs in each]}

    def _told_of(self, prompt: int, known: list[TokenLogprobs], finish: Finish | None) -> Told:
        told: Told = [None, *known]
        if finish is Finish.TIMEOUT:
            told += [None] * (len(self.prompts[prompt]) - len(told))
        return told

    def _by_id(self, token: int, logprobs: TokenLogprobs) -> dict[str, Any]:
        """The token that is there, then the most likely ones."""
        ranked = {token: (logprobs.chosen, logprobs.rank)}
        top = logprobs.top[: self.prompt_logprobs]
        ranked |= {id: (logprob, rank) for rank, (id, logprob) in enumerate(top, 1)}
        return {
            str(id): {"logprob": finite(logprob), "rank": rank, "decoded_token": self._decoded(id)}
            for id, (logprob, rank) in ranked.items()
        }


@dataclass(kw_only=True)
class CompletionFormat(OpenAIFormat):
    """`text_completion`, the same object in a stream and whole."""

    KIND = CHUNK_KIND = "text_completion"
    ID_PREFIX = "cmpl"

    echo: bool  # an answer begins with its prompt

    def __post_init__(self) -> None:
        super().__post_init__()
        self._begun: set[int] = set()  # choices of which a chunk was made
        self._echo_chars: dict[int, int] = {}  # of each prompt whose echo is out
        self._of_prompts: dict[int, dict[str, Any]] = {}  # what each choice's first chunk tells of its prompt

    @property
    def _tells_of_prompts(self) -> bool:
        return super()._tells_of_prompts or (self.echo and self.logprobs is not None)

    def _first_chunks(self, prompt: int, told: Told) -> list[dict[str, Any]]:
        """A prompt's echo, once for each of its choices."""
        self._of_prompts[prompt] = self._prompt_logprobs(prompt, told)
        if not self.echo:
            return []
        text, tokens = text_and_tokens(self.tokenizer, self.prompts[prompt], told)
        self._echo_chars[prompt] = len(text)
        first = prompt * self.n
        logprobs = {"logprobs": self._logprobs(tokens)}
        return [self._first_chunk(self._choice(Whole(i, text)) | logprobs) for i in range(first, first + self.n)]

    def _chunks_of(self, delta: Delta) -> list[dict[str, Any]]:
        tokens = delta.tokens
        if shift := self._echo_chars.get(delta.index // self.n):
            tokens = [token._replace(offset=shift + token.offset) for token in tokens]
        choice = self._choice(Whole(delta.index, delta.text, tokens, delta.finish, delta.stop_reason))
        if delta.finish is not None:
            choice["logprobs"] = None
        return [self._first_chunk(choice)]

    def _first_chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        """Or a further one, which does not tell of the prompt's tokens again."""
        if choice["index"] not in self._begun:
            self._begun.add(choice["index"])
            choice |= self._prompt_token_ids(choice["index"]) | self._of_prompts[choice["index"] // self.n]
        return self._chunk(choice)

    def body(self, choices: list[Whole], usage: Usage) -> dict[str, Any]:
        prompts = [self._of_prompt(choices, index) for index in range(len(self.prompts))]
        echoes = [self._echoed(choices, index) for index in range(len(self.prompts))] if self.echo else []
        told = []
        for choice in choices:
            prompt = choice.index // self.n
            told.append(self._choice(choice) | self._prompt_token_ids(choice.index) | prompts[prompt])
            if self.echo:
                told[-1] |= self._with_prompt(*echoes[prompt], choice)
        return self._body(told, usage)

    def _choice(self, choice: Whole) -> dict[str, Any]:
        return {
            "index": choice.index,
            "text": choice.text,
            "logprobs": self._logprobs(choice.tokens),
            "finish_reason": choice.finish and choice.finish.value,
            "stop_reason": choice.stop_reason,
            **self._token_ids(choice.tokens),
        }

    def _echoed(self, choices: list[Whole], prompt: int) -> tuple[str, list[Token]]:
        """A prompt's text and tokens."""
        ids = self.prompts[prompt]
        if self.logprobs is None:
            return text_and_tokens(self.tokenizer, ids, [None] * len(ids))
        first = choices[prompt * self.n]
        return text_and_tokens(self.tokenizer, ids, self._told_of(prompt, first.prompt_logprobs, first.finish))

    def _with_prompt(self, text: str, tokens: list[Token], choice: Whole) -> dict[str, Any]:
        answer = [token._replace(offset=len(text) + token.offset) for token in choice.tokens]
        return {"text": text + choice.text, "logprobs": self._logprobs(tokens + answer)}

    def _prompt_token_ids(self, index: int) -> dict[str, Any]:
        return {"prompt_token_ids": self.prompts[index // self.n]} if self.return_token_ids else {}

    def _logprobs(self, tokens: list[Token]) -> dict[str, Any] | None:
        if self.logprobs is None:
            return None
        return {
            "text_offset": [token.offset for token in tokens],
            "token_logprobs": [token.logprobs and finite(token.logprobs.chosen) for token in tokens],
            "tokens": [token_text(self.tokenizer, token.id) for token in tokens],
            "top_logprobs": [token.logprobs and self._top(token.id, token.logprobs) for token in tokens],
        }

    def _top(self, chosen: int, logprobs: TokenLogprobs) -> dict[str, float]:
        """By text, most likely first; the chosen token is always among them."""
        top: dict[str, float] = {}
        for id, logprob in (*logprobs.top[: self.logprobs], (chosen, logprobs.chosen)):
            top.setdefault(token_text(self.tokenizer, id), finite(logprob))
        return top


def usage_body(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
