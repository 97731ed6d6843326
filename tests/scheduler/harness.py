"""A whole engine in one object: scheduler, fake model, and a client who remembers every event. Checks itself always."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from llmserve.request import Finish, Pooling, Request, SamplingParams, TokenEvent, TokenLogprobs
from llmserve.scheduler import BlockPool, Pooled, Sampled, Scheduler, Sequence, StepPlan
from llmserve.scheduler.step import Part

from . import invariants
from .fake_model import FakeModel, hidden_of, reference

Planned = TypeVar("Planned")


def request(
    request_id: int,
    prompt: tuple[int, ...],
    max_tokens: int = 8,
    stop: frozenset[int] = frozenset(),
    min_tokens: int = 0,
    prompt_logprobs: int | None = None,
    priority: int = 0,
    timeout: float | None = None,
    cache_salt: str = "",
    pooling: Pooling | None = None,
) -> Request:
    sampling = SamplingParams(
        max_tokens=max_tokens, stop_token_ids=stop, min_tokens=min_tokens, prompt_logprobs=prompt_logprobs
    )
    return Request(request_id, prompt, sampling, priority, timeout, cache_salt, pooling)


def expected(req: Request, max_model_len: int) -> tuple[list[int], Finish]:
    """What the request must yield, worked out without a scheduler."""
    if req.pooling is not None:
        return [], Finish.STOP
    sampling = req.sampling
    room = min(sampling.max_tokens, max_model_len - len(req.prompt))
    tokens = reference(req.prompt, room)
    for count, token in enumerate(tokens, 1):
        if token in sampling.stop_token_ids and count >= sampling.min_tokens:
            return tokens[:count], Finish.STOP
    return tokens, Finish.LENGTH


def vector_of(req: Request) -> bytes:
    """Likewise: what the harness makes a prompt's vector of, one position after the other."""
    states = hidden_of(req.prompt)
    return repr(states if req.pooling is Pooling.MEAN else states[-1:]).encode()


@dataclass
class Answer:
    """What one client received."""

    tokens: list[int] = field(default_factory=list)
    finish: Finish | None = None
    error: str | None = None
    cached_tokens: int | None = None  # of the first event
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    vector: bytes | None = None

    def receive(self, event: TokenEvent) -> None:
        assert self.finish is None, "an event after the final one"
        if self.cached_tokens is None:
            self.cached_tokens = event.cached_tokens
        else:
            assert event.cached_tokens == 0, "cached tokens are told once"
        if event.token is None:
            assert event.finish is not None or event.prompt_logprobs, "an event that says nothing"
        else:
            self.tokens.append(event.token)
        assert not (event.prompt_logprobs and self.tokens[:-1]), "the prompt is told of after its answer"
        self.prompt_logprobs += event.prompt_logprobs
        assert (event.error is not None) == (event.finish is Finish.ERROR)
        self.finish, self.error, self.vector = event.finish, event.error, event.vector


class Engine:
    """`step` plans, executes what came over the wire, samples, updates, and checks every invariant on the way.

    `ahead`: the next step is prepared before this one is executed. Time is counted in steps.
    """

    def __init__(
        self,
        num_blocks: int = 64,
        block_size: int = 4,
        max_num_seqs: int = 8,
        max_num_batched_tokens: int = 64,
        max_model_len: int = 64,
        prefix_caching: bool = True,
        max_prompt_logits: int = 8,
        ahead: bool = False,
    ) -> None:
        self.pool = BlockPool(num_blocks, block_size, prefix_caching)
        self.max_num_seqs = max_num_seqs
        self.scheduler = Scheduler(
            self.pool,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            max_model_len=max_model_len,
            max_prompt_logits=max_prompt_logits,
        )
        self.ahead = ahead
        self.model = FakeModel(num_blocks, block_size, max_num_seqs)
        self.arrivals: list[int] = []
        self.answers: dict[int, Answer] = {}
        # (request id, position in the answer; before 0: in the prompt, from its end) -> the sampler's error
        self.faults: dict[tuple[int, int], str] = {}
        self.pooled: dict[int, list[int]] = {}  # of each request, what its vector is made of so far
        self.steps = 0

    def add(self, *requests: Request) -> None:
        for req in requests:
            self.scheduler.add(req, self.steps)
            self.arrivals.append(req.id)
            self.answers[req.id] = Answer()

    def abort(self, request_id: int) -> TokenEvent | None:
        event = self.scheduler.abort(request_id)
        if event is not None:
            assert event.request_id == request_id
            self.answers[request_id].receive(event)
        self.check()
        return event

    def expire(self) -> list[TokenEvent]:
        events = self.scheduler.expire(self.steps)
        for event in events:
            assert (event.token, event.finish) == (None, Finish.TIMEOUT)
            self.answers[event.request_id].receive(event)
        self.check()
        return events

    def step(self) -> StepPlan | None:
        had_work = self.scheduler.has_work
        plan = self._planning(self.scheduler.schedule)
        assert (plan is not None) == had_work, "work without a plan, or a plan without work"
        if plan is None:
            return None
        self.steps += 1
        told = {i: len(answer.prompt_logprobs) + len(self.pooled.get(i, ())) for i, answer in self.answers.items()}
        invariants.check_plan(self.scheduler, plan, told)
        received = StepPlan.decode(plan.words[:])
        assert received == plan
        wanted, pooling = self.scheduler.wanted(plan), self.scheduler.pooling(plan)
        parts = list(self.scheduler._parts)
        if self.ahead:
            self._planning(self.scheduler.prepare)
        tokens, hidden = self.model.execute(received)
        for seq in invariants.running(self.scheduler):
            table = self.model.table[seq.row]
            mine = seq.blocks[: len(table)] if self.ahead else seq.blocks
            assert table == mine or (self.ahead and seq not in [part.seq for part in parts]), "another block table"
        assert len(wanted) == len(tokens) == plan.num_logits
        sampled = [self._sample(seq, position, token) for (seq, position), token in zip(wanted, tokens, strict=True)]
        assert all(part.rows for part in pooling), "pooled without rows"
        assert sum(part.rows for part in pooling) == len(hidden) == sum(chunk.hidden for chunk in plan.chunks)
        pooled = {part.seq.id: self._pool(part, hidden) for part in pooling}
        assert not hidden
        events = self.scheduler.update(plan, sampled, list(pooled.values()))
        quiet = [id for id, made in pooled.items() if made == Pooled()]
        who = [part.seq.id for part in parts if part.rows and part.seq.id not in quiet]
        assert [event.request_id for event in events] == who, "not one event for each who got something"
        for event in events:
            self.answers[event.request_id].receive(event)
        self.check()
        return plan

    def _planning(self, act: Callable[[], Planned]) -> Planned:
        ran = {seq.request.id for seq in invariants.running(self.scheduler)}
        preemptions = self.scheduler.counters.preemptions
        result = act()
        if self.scheduler.counters.preemptions > preemptions:
            runs = {seq.request.id for seq in invariants.running(self.scheduler)}
            assert ran > runs, "admitted in a step that preempts"
        invariants.check_all(self.scheduler, self.max_num_seqs, self.arrivals, self.model)
        return result

    def _sample(self, seq: Sequence, position: int, token: int) -> Sampled:
        prompt = seq.request.prompt
        error = self.faults.get((seq.request.id, position - len(prompt)))
        if position >= len(prompt):
            return Sampled(token, error=error)
        return Sampled(prompt[position], TokenLogprobs(float(token), (), 1), error)

    def _pool(self, part: Part, hidden: list[int]) -> Pooled:
        """Takes the part's rows from the beginning of `hidden`."""
        id, first = part.seq.id, part.end - part.rows
        for position in range(first, part.end):
            if error := self.faults.get((id, position + 1 - len(part.seq.request.prompt))):
                del hidden[: part.rows]
                return Pooled(error=error)
        mine = self.pooled.setdefault(id, [])
        mine += hidden[: part.rows]
        del hidden[: part.rows]
        return Pooled(repr(mine).encode()) if part.chooses else Pooled()

    def run(self) -> dict[int, Answer]:
        """Until nothing is left to do."""
        while self.step() is not None:
            # The first in order advances by a token or more in every step and is never preempted.
            assert self.steps <= len(self.arrivals) * self.scheduler.max_model_len, "somebody starves"
        assert self.pool.num_idle == self.pool.num_blocks, "blocks were lost"
        assert all(answer.finish is not None for answer in self.answers.values()), "a request without a final event"
        return self.answers

    def check(self) -> None:
        invariants.check_all(self.scheduler, self.max_num_seqs, self.arrivals, self.model)
        invariants.check_progress(self.scheduler)
