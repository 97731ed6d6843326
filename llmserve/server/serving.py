"""What the routes share: the engine, the tokenizer and the model they serve, and how a body becomes a job."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from starlette.types import Receive

from llmserve.config import Manifest
from llmserve.engine.capabilities import Capabilities
from llmserve.engine.messages import Ready
from llmserve.errors import RequestError
from llmserve.request import SamplingParams
from llmserve.server.admission import Admission, Load, QueueFullError
from llmserve.server.answers.choose import Forms
from llmserve.server.deadline import Deadline
from llmserve.server.engine_client import EngineClient, NotReadyError
from llmserve.server.errors import ModelNotFoundError, shown
from llmserve.server.generation import Generation, Job
from llmserve.server.grammars import Grammars
from llmserve.server.metrics import Metrics
from llmserve.server.protocol.generation import GenerationBody
from llmserve.server.protocol.structured import Form
from llmserve.server.streaming import until, until_disconnect
from llmserve.tokenizer import Part, StopStrings, Text, Tokenizer

LONG_TEXT = 20_000
"""Characters from which tokenising takes long enough to hold up other requests; it then runs in a thread."""

SPARE_CHARS = 1000
"""What a tokenizer may drop of a text (spaces at its ends, characters it does not know) before we call it too long."""

MAX_CUT_CHARS = 2**22
"""Of a text of which the last tokens are wanted: all of it is tokenised, which takes a thread a few seconds."""

MAX_CHOICES_PER_CALL = 1024

MAX_SAID = 2**19
"""Token ids and the like that the parameters of a call name, each choice's counted: the engine is told of every one."""

MAX_PROMPT_LOGPROBS = 2**18
"""Of one call: the answer then has about 20 MB."""


@dataclass(frozen=True)
class Serving:
    """One model behind one engine. `tokenizer` is None where the checkpoint had none: token ids only."""

    client: EngineClient
    tokenizer: Tokenizer | None
    manifest: Manifest
    model_name: str
    metrics: Metrics
    admission: Admission
    forms: Forms
    sse_ping_interval: float  # as EventStreamResponse's `ping_s`

    @property
    def max_model_len(self) -> int:
        """Raises NotReadyError before the engine has said so."""
        if self.client.ready is None:
            raise NotReadyError(self.client.state)
        return self.client.ready.max_model_len

    def check(
        self,
        body: GenerationBody,
        *,
        prompts: int,
        prompt_param: str,
        limit: int | None = None,
        limit_param: str = "max_tokens",
        known: Sequence[str | Sequence[int]] = (),
    ) -> None:
        """First of all, before anything costs time: is there somebody to ask, the model that is meant, a context that
        could hold it, and room. The last comes last: who is told to come back would then hear of the others.

        `limit` as in `job`; `known`: the prompts, where they are known before they are tokenised.
        """
        n = body.n or 1
        self._check_asked(body.model, prompts * n, "n" if n > 1 else prompt_param)
        for prompt in known:
            if not isinstance(prompt, str):
                kept = body.kept(tuple(prompt))
                self._check_prompt(kept, prompt_param)
                self._limit(len(kept), limit, limit_param, None)
            else:
                self._check_chars(len(prompt), prompt_param, cut=body.is_cut)
        if limit is not None and limit >= self.max_model_len:
            raise RequestError(
                f"This model's context holds {self.max_model_len} tokens, the prompt's among them, and "
                f"{limit_param}={shown(limit)} is more than it leaves; ask for less.",
                param=limit_param,
                code="context_length_exceeded",
            )
        self.check_room(prompts * n)

    def check_call(self, model: str | None, choices: int, param: str) -> None:
        """As `check`, of a call that is followed by no text: `choices` are its requests to the engine, `param` asks for
        so many."""
        self._check_asked(model, choices, param)
        self.check_room(choices)

    def _check_asked(self, model: str | None, choices: int, param: str) -> None:
        self._ready()
        self.check_model(model)
        if choices > self.most_choices:
            raise RequestError(
                f"The call asks for {choices} choices (prompts times n), and {self.most_choices} are the most that one "
                "may have here; send several calls.",
                param=param,
            )

    def check_model(self, model: str | None) -> None:
        """None: the one that is served."""
        if model is not None and model != self.model_name:
            raise ModelNotFoundError(model, self.model_name)

    @property
    def most_choices(self) -> int:
        """Of one call."""
        return min(MAX_CHOICES_PER_CALL, self.admission.most(self._ready().max_num_seqs))

    @property
    def capabilities(self) -> Capabilities:
        """The engine's. Raises NotReadyError before it has said so."""
        return self._ready().capabilities

    def _ready(self) -> Ready:
        if not isinstance(self.client.state, Ready):
            raise NotReadyError(self.client.state)
        return self.client.state

    def check_room(self, choices: int) -> None:
        """Raises QueueFullError."""
        client, stats = self.client, self.client.stats
        load = Load(
            open=client.open_requests,
            running=stats.running if stats else 0,
            waiting=stats.waiting if stats else 0,
            max_num_seqs=self._ready().max_num_seqs,
            ended_at=client.ended_at,
        )
        try:
            self.admission.check(choices, load, time.monotonic())
        except QueueFullError:
            self.metrics.refused_queue_full.inc(choices)
            raise

    def need_tokenizer(self, param: str) -> Tokenizer:
        if self.tokenizer is None:
            raise RequestError(f"{param} needs a tokenizer, and {self.model_name} has none.", param=param)
        return self.tokenizer

    async def encode(
        self, texts: Sequence[str], *, add_special_tokens: bool, param: str, cut: bool = False
    ) -> list[tuple[int, ...]]:
        """`cut`: only the last of a text's tokens will be read, so that it may have more than a context holds."""
        tokenizer = self.need_tokenizer(param)

        def encode(text: str) -> tuple[int, ...]:
            self._check_chars(len(text), param, cut=cut)
            with _naming(param):
                return tuple(tokenizer.encode(text, add_special_tokens=add_special_tokens))

        if sum(map(len, texts)) < LONG_TEXT:
            return [encode(text) for text in texts]
        return [await asyncio.to_thread(encode, text) for text in texts]

    async def encode_parts(self, parts: Sequence[Part], *, param: str, cut: bool = False) -> tuple[int, ...]:
        """A chat prompt's tokens; `cut` as in `encode`."""
        tokenizer = self.need_tokenizer(param)
        chars = sum(len(part.text) for part in parts if isinstance(part, Text))

        def encode() -> tuple[int, ...]:
            with _naming(param):
                return tuple(tokenizer.encode_parts(parts))

        if chars < LONG_TEXT:
            return encode()
        self._check_chars(chars, param, cut=cut)
        return await asyncio.to_thread(encode)

    async def grammar(self, form: Form | None, deadline: Deadline, receive: Receive) -> str | None:
        """What the answer must be, once it is known that the engine can follow it; for `job`.

        It is not waited for when the client, who is heard of by `receive`, leaves (ClientDisconnect), or no requests
        are taken any more (NotReadyError).
        """
        if form is None:
            return None
        self.need_tokenizer(form.param)
        if not self.capabilities.grammars:
            raise self.capabilities.unable(form.param)
        client, check = self.client, self.grammars.check(form.grammar, form.param)
        while_taken = until(client.refuses.wait(), check, lambda: NotReadyError(client.state))
        await deadline.within(until_disconnect(receive, while_taken))
        return form.grammar

    @cached_property
    def grammars(self) -> Grammars:
        """Only where there is a tokenizer."""
        assert self.tokenizer is not None
        return Grammars(self.tokenizer, self.manifest.model.vocab_size)

    async def decode(self, ids: Sequence[int], *, param: str) -> str:
        """The text of token ids, special ones by their names."""
        tokenizer = self.need_tokenizer(param)
        self._check_ids(ids, param)

        def decode() -> str:
            return tokenizer.decode(ids, skip_special_tokens=False)

        return decode() if len(ids) < LONG_TEXT else await asyncio.to_thread(decode)

    def job(
        self,
        body: GenerationBody,
        prompts: Sequence[tuple[int, ...]],
        *,
        prompt_param: str,
        limit: int | None,
        limit_param: str,
        default_limit: int | None,
        logprobs: int | None,
        prompt_logprobs: int | None,
        continues_text: bool,
        stop_ids: frozenset[int] = frozenset(),
        grammar: str | None = None,
    ) -> Job:
        """`limit` is what the client allows to be generated; without one it is `default_limit`, or what fits.

        `stop_ids` end an answer like the model's own end-of-text tokens; `grammar` as in SamplingParams.
        """
        n = body.n or 1
        for prompt in prompts:
            self._check_prompt(prompt, prompt_param)
        if prompt_logprobs is not None:
            told_by = "echo" if body.prompt_logprobs is None else "prompt_logprobs"
            check_prompt_logprobs(sum(map(len, prompts)) * n, prompt_logprobs, told_by)
        if body.stop:
            self.need_tokenizer("stop")
        self._check_ids(body.stop_token_ids, "stop_token_ids")
        self._check_ids([token for token, _ in body.logit_bias], "logit_bias")
        self._check_ids(body.allowed_token_ids or (), "allowed_token_ids")
        check_said(
            len(prompts) * n,
            stop_token_ids=len(body.stop_token_ids),
            logit_bias=len(body.logit_bias),
            allowed_token_ids=len(body.allowed_token_ids or ()),
            response_format=len(grammar or "") // 8,  # as slow as so many numbers
        )
        generation = self.manifest.generation
        eos = frozenset() if body.ignore_eos else frozenset(generation.eos_token_ids) | stop_ids
        limits = [self._limit(len(prompt), limit, limit_param, default_limit) for prompt in prompts]
        sampling = SamplingParams(
            max_tokens=max(limits),
            temperature=_first(body.temperature, generation.temperature, 1.0),
            top_p=_first(body.top_p, generation.top_p, 1.0),
            top_k=max(0, int(_first(body.top_k, generation.top_k, 0))),  # vLLM's -1 is off, too
            min_p=_first(body.min_p, generation.min_p, 0.0),
            presence_penalty=body.presence_penalty or 0.0,
            frequency_penalty=body.frequency_penalty or 0.0,
            repetition_penalty=_first(body.repetition_penalty, generation.repetition_penalty, 1.0),
            logit_bias=body.logit_bias,
            bad_words=self._sequences(body.bad_words),
            allowed_token_ids=None if body.allowed_token_ids is None else frozenset(body.allowed_token_ids),
            min_tokens=body.min_tokens or 0,
            stop_token_ids=eos | frozenset(body.stop_token_ids),
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            grammar=grammar,
        )
        self.capabilities.check(sampling, body.priority or 0)
        return Job(
            prompts=prompts,
            sampling=sampling,
            max_tokens=limits,
            eos_token_ids=eos,
            n=n,
            seed=body.seed,
            stops=StopStrings(body.stop),
            shows_stops=bool(body.include_stop_str_in_output),
            continues_text=continues_text,
            wants_tokens=bool(body.return_token_ids) or logprobs is not None,
            priority=body.priority or 0,
            timeout=body.timeout,
            cache_salt=body.cache_salt or "",
        )

    def start(self, job: Job) -> Generation:
        """Raises NotReadyError and QueueFullError: while a prompt was read, others may have come in."""
        self.check_room(len(job.prompts) * job.n)
        return Generation(self.client, self.tokenizer, job, self.metrics.observer())

    def _sequences(self, words: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        """Each word's tokens where a text begins with it and, as in vLLM, where a space is before it."""
        if not words:
            return ()
        tokenizer = self.need_tokenizer("bad_words")
        with _naming("bad_words"):
            ways = [
                tuple(tokenizer.encode(before + word.lstrip(), add_special_tokens=False))
                for word in words
                for before in ("", " ")
            ]
        return tuple(way for way in dict.fromkeys(ways) if way)

    @cached_property
    def _longest_token(self) -> int:
        """In bytes, of which a character has at least one."""
        assert self.tokenizer is not None
        return max((len(self.tokenizer.token_bytes(id)) for id in range(self.tokenizer.vocab_size)), default=1)

    def _check_chars(self, chars: int, param: str, *, cut: bool) -> None:
        """What cannot fit is refused unread: reading takes seconds and gigabytes where a client sends megabytes.

        `cut` as in `encode`.
        """
        if chars < LONG_TEXT:
            return
        fits = self.max_model_len * self._longest_token + SPARE_CHARS
        if cut and chars > max(fits, MAX_CUT_CHARS):
            raise RequestError(
                f"{param} has {chars} characters, which is too many to be cut by truncate_prompt_tokens; shorten it.",
                param=param,
            )
        if not cut and chars > fits:
            raise RequestError(
                f"{param} has {chars} characters, which is more than this model's context of "
                f"{self.max_model_len} tokens can hold; shorten it.",
                param=param,
                code="context_length_exceeded",
            )

    def check_whole_prompt(self, prompt: tuple[int, ...], param: str) -> None:
        """For a prompt that nothing is generated after."""
        if not prompt:
            raise RequestError(f"{param} is empty; give at least one token.", param=param)
        if len(prompt) > self.max_model_len:
            raise RequestError(
                f"This model's context holds {self.max_model_len} tokens, and {param} has {len(prompt)} tokens; "
                "shorten it.",
                param=param,
                code="context_length_exceeded",
            )
        self._check_ids(prompt, param)

    def _check_prompt(self, prompt: Sequence[int], param: str) -> None:
        if not prompt:
            raise RequestError(f"{param} is empty; give at least one token to go on from.", param=param)
        if len(prompt) >= self.max_model_len:
            raise RequestError(
                f"This model's context holds {self.max_model_len} tokens, of which at least one is generated, and "
                f"{param} has {len(prompt)} tokens; shorten it.",
                param=param,
                code="context_length_exceeded",
            )
        self._check_ids(prompt, param)

    def _check_ids(self, ids: Sequence[int], param: str) -> None:
        size = self.manifest.model.vocab_size
        for id in (min(ids, default=0), max(ids, default=0)):
            if not 0 <= id < size:
                raise RequestError(
                    f"{param} has the token id {shown(id)}; this model's are 0 to {size - 1}.", param=param
                )

    def _limit(self, prompt_tokens: int, limit: int | None, param: str, default: int | None) -> int:
        left = self.max_model_len - prompt_tokens
        if limit is None:
            return left if default is None else min(default, left)
        if limit > left:
            raise RequestError(
                f"This model's context holds {self.max_model_len} tokens; the prompt's {prompt_tokens} and "
                f"{param}={shown(limit)} are more. Ask for at most {left}, or shorten the prompt.",
                param=param,
                code="context_length_exceeded",
            )
        return limit


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)


@contextmanager
def _naming(param: str) -> Iterator[None]:
    """A tokenizer's refusals say which parameter they are about."""
    try:
        yield
    except RequestError as e:
        raise RequestError(f"{param} cannot be tokenised: {e}", param=param) from None


def check_said(choices: int, **numbers: int) -> None:
    """By parameter, how many numbers each choice is told."""
    said = choices * sum(numbers.values())
    if said > MAX_SAID:
        longest = max(numbers, key=lambda name: numbers[name])
        raise RequestError(
            f"{longest} and the like name {said} numbers, those of all {choices} choices counted, and one call may "
            f"name {MAX_SAID}; name fewer, or send several calls.",
            param=longest,
        )


def check_prompt_logprobs(tokens: int, count: int, param: str) -> None:
    """`tokens`: of the prompts of all choices; `count`: alternatives of each."""
    if tokens * (count + 1) > MAX_PROMPT_LOGPROBS:
        raise RequestError(
            f"{param} asks for {count + 1} log-probabilities of each of {tokens} prompt tokens, those of every choice "
            f"counted; one call may have {MAX_PROMPT_LOGPROBS} of them. Ask for fewer, or send several calls.",
            param=param,
        )
