"""The values that cross every boundary between a client's JSON and a token: requests in, token events out.

Frozen, standard library only. They know token ids; text, HTTP, blocks and tensors are elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from llmserve.errors import RequestError

MAX_LOGPROBS = 20
"""The most alternatives a request may ask for with each token (OpenAI's own limit)."""


class Finish(str, Enum):
    """Why a request ended. Every admitted request ends with exactly one of these."""

    STOP = "stop"  # a stop token, or (decided by the front) a stop string
    LENGTH = "length"  # max_tokens, or the engine's model length
    TIMEOUT = "timeout"  # the request's own time was up, waiting or running
    ABORT = "abort"  # the client left, or the server is shutting down
    ERROR = "error"  # the engine could not go on; `TokenEvent.error` says why


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen. The defaults are OpenAI's; whoever makes one has already resolved the model's own.

    `seed` is always set: the front draws one where the client gave none, so that what a request
    yields depends on nothing but the request (batch, chunking, cache and preemption do not show).
    """

    max_tokens: int
    temperature: float = 1.0  # 0: greedy
    top_p: float = 1.0
    top_k: int = 0  # 0: off
    seed: int = 0  # 0 … 2**63 - 1
    min_tokens: int = 0  # stop tokens cannot be chosen before this many tokens
    stop_token_ids: frozenset[int] = frozenset()  # the model's end-of-text ids are among them, unless ignored
    logprobs: int | None = None  # None: none; n: the chosen token's and those of the n most likely
    prompt_logprobs: int | None = None  # likewise, of each prompt token but the first
    min_p: float = 0.0  # tokens less likely than this times the likeliest do not come; 0: off
    presence_penalty: float = 0.0  # taken from the logit of a token that is in the answer so far
    frequency_penalty: float = 0.0  # likewise, for each time that it is
    repetition_penalty: float = (
        1.0  # the logit of a token in prompt or answer is divided by it, a negative one multiplied
    )
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token id, what is added to its logit), no id twice
    bad_words: tuple[tuple[int, ...], ...] = ()  # token sequences that do not come in the answer
    allowed_token_ids: frozenset[int] | None = None  # no other comes; None: all may
    grammar: str | None = None  # what the text must be, in llguidance's JSON form; None: anything

    @property
    def edits_logits(self) -> bool:
        """Whether a token may be chosen from other logits than the model's own."""
        return (
            self.min_tokens > 0
            or self.presence_penalty != 0
            or self.frequency_penalty != 0
            or self.repetition_penalty != 1
            or bool(self.logit_bias)
            or bool(self.bad_words)
            or self.allowed_token_ids is not None
            or self.grammar is not None
        )

    def __post_init__(self) -> None:
        for ok, param, rule in (
            (self.max_tokens >= 1, "max_tokens", "must be at least 1"),
            (0 <= self.temperature <= 100, "temperature", "must be between 0 and 100"),
            (0 < self.top_p <= 1, "top_p", "must be above 0 and at most 1"),
            (0 <= self.top_k < 2**31, "top_k", "must be 0 (off) or a positive count"),
            (0 <= self.seed < 2**63, "seed", "must be between 0 and 2**63 - 1"),
            (0 <= self.min_tokens <= self.max_tokens, "min_tokens", "must be between 0 and max_tokens"),
            (self.logprobs is None or 0 <= self.logprobs <= MAX_LOGPROBS, "logprobs",
             f"must be between 0 and {MAX_LOGPROBS}"),
            (self.prompt_logprobs is None or 0 <= self.prompt_logprobs <= MAX_LOGPROBS, "prompt_logprobs",
             f"must be between 0 and {MAX_LOGPROBS}"),
            (0 <= self.min_p <= 1, "min_p", "must be between 0 and 1"),
            (-2 <= self.presence_penalty <= 2, "presence_penalty", "must be between -2 and 2"),
            (-2 <= self.frequency_penalty <= 2, "frequency_penalty", "must be between -2 and 2"),
            (0 < self.repetition_penalty <= 100, "repetition_penalty", "must be above 0 and at most 100"),
        ):  # fmt: skip
            if not ok:
                raise RequestError(f"{param} {rule}, got {getattr(self, param)}.", param=param)
        if self.grammar is not None and not self.stop_token_ids:
            raise RequestError(
                "Structured output ends with a stop token, and there is none: leave ignore_eos out, or give "
                "stop_token_ids.",
                param="ignore_eos",
            )


NO_SAMPLING = SamplingParams(max_tokens=1)
"""Of a request for a vector: nothing is generated."""


class Pooling(str, Enum):
    """Of which positions of a prompt the hidden states behind the final norm become its vector."""

    MEAN = "mean"  # of all
    LAST = "last"


@dataclass(frozen=True, slots=True)
class Request:
    """One sequence to generate, or with `pooling` one to make a vector of. `id` is unique among those of one front.

    Where not all can run, those of the lowest `priority` go first, and of these the first to come. Only requests with
    the same `cache_salt` find each other's prefixes in the cache.
    """

    id: int
    prompt: tuple[int, ...]
    sampling: SamplingParams
    priority: int = 0  # within int64; the field's convention: less is sooner
    timeout: float | None = None  # seconds from its arrival, waiting and running, after which it ends; None: never
    cache_salt: str = ""
    pooling: Pooling | None = None  # `sampling` then is of no matter

    @property
    def wants_whole_prompt(self) -> bool:
        """Something is wanted of every position of the prompt, and not only of its last."""
        if self.pooling is not None:
            return self.pooling is Pooling.MEAN
        return self.sampling.prompt_logprobs is not None

    def __post_init__(self) -> None:
        if not -(2**63) <= self.priority < 2**63:
            raise RequestError(f"priority must be within int64, got {self.priority}.", param="priority")
        if self.timeout is not None and not 0 < self.timeout < float("inf"):
            raise RequestError(f"timeout must be a positive number of seconds, got {self.timeout}.", param="timeout")


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural logarithms of probabilities under the model itself, before temperature and filters."""

    chosen: float  # of the token that is there
    top: tuple[tuple[int, float], ...]  # (token id, log probability), most likely first
    rank: int  # of the token that is there: 1 where none is more likely; of equally likely ones the lowest id is first;
    # 0: not known


class TokenEvent(NamedTuple):
    """What a step did for one request: log-probabilities of its prompt, a token, a vector, an end, or several."""

    request_id: int
    token: int | None  # None: the prompt is not done yet, or the request ended without a further token (abort, error)
    finish: Finish | None = None  # set on the request's last event only
    logprobs: TokenLogprobs | None = None
    cached_tokens: int = 0  # on one event, the first or the last: how many prompt tokens the prefix cache held
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()  # of the prompt's next tokens, of which the first has none
    error: str | None = None  # with Finish.ERROR: one sentence
    refused: bool = False  # with `error`: what the request asks for cannot be; nothing else is wrong
    vector: bytes | None = None  # of the prompt, of length 1: little-endian fp32; with Finish.STOP
