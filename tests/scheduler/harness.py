"""A whole engine in one object: scheduler, fake model, and a client who remembers every event. Checks itself always."""

from __future__ import annotations

from dataclasses import dataclass, field

from llmserve.request import Finish, Request, SamplingParams, TokenEvent
from llmserve.scheduler import BlockPool, Sampled, Scheduler, StepPlan

from . import invariants
from .fake_model import FakeModel, reference


def request(
    request_id: int,
    prompt: tuple[int, ...],
    max_tokens: int = 8,
    stop: frozenset[int] = frozenset(),
    min_tokens: int = 0,
) -> Request:
    sampling = SamplingParams(max_tokens=max_tokens, stop_token_ids=stop, min_tokens=min_tokens)
    return Request(request_id, prompt, sampling)


def expected(req: Request, max_model_len: int) -> tuple[list[int], Finish]:
    """What the request must yield, worked out without a scheduler."""
    sampling = req.sampling
    room = min(sampling.max_tokens, max_model_len - len(req.prompt))
    tokens = reference(req.prompt, room)
    for count, token in enumerate(tokens, 1):
        if token in sampling.stop_token_ids and count >= sampling.min_tokens:
            return tokens[:count], Finish.STOP
    return tokens, Finish.LENGTH


@dataclass
class Answer:
    """What one client received."""

    tokens: list[int] = field(default_factory=list)
    finish: Finish | None = None
    error: str | None = None
    cached_tokens: int | None = None  # of the first event

    def receive(self, event: TokenEvent) -> None:
        assert self.finish is None, "an event after the final one"
        if self.cached_tokens is None:
            self.cached_tokens = event.cached_tokens
        else:
            assert event.cached_tokens == 0, "cached tokens are told once"
        if event.token is None:
            assert event.finish is not None, "an event that says nothing"
        else:
            self.tokens.append(event.token)
        assert (event.error is not None) == (event.finish is Finish.ERROR)
        self.finish, self.error = event.finish, event.error


class Engine:
    """`step` plans, executes what came over the wire, samples, updates, and checks every invariant on the way."""

    def __init__(
        self,
        num_blocks: int = 64,
        block_size: int = 4,
        max_num_seqs: int = 8,
        max_num_batched_tokens: int = 64,
        max_model_len: int = 64,
        prefix_caching: bool = True,
    ) -> None:
        self.pool = BlockPool(num_blocks, block_size, prefix_caching)
        self.max_num_seqs = max_num_seqs
        self.scheduler = Scheduler(
            self.pool,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            max_model_len=max_model_len,
        )
        self.model = FakeModel(num_blocks, block_size, max_num_seqs)
        self.arrivals: list[int] = []
        self.answers: dict[int, Answer] = {}
        self.faults: dict[tuple[int, int], str] = {}  # (request id, tokens generated before) -> the sampler's error
        self.steps = 0

    def add(self, *requests: Request) -> None:
        for req in requests:
            self.scheduler.add(req)
            self.arrivals.append(req.id)
            self.answers[req.id] = Answer()

    def abort(self, request_id: int) -> TokenEvent | None:
        event = self.scheduler.abort(request_id)
        if event is not None:
            assert event.request_id == request_id
            self.answers[request_id].receive(event)
        self.check()
        return event

    def step(self) -> StepPlan | None:
        had_work = self.scheduler.has_work
        ran = set(self.scheduler._running)
        preemptions = self.scheduler.counters.preemptions
        plan = self.scheduler.schedule()
        if self.scheduler.counters.preemptions > preemptions:
            assert ran > set(self.scheduler._running), "admitted in a step that preempts"
        assert (plan is not None) == had_work, "work without a plan, or a plan without work"
        if plan is None:
            return None
        self.steps += 1
        invariants.check_all(self.scheduler, self.max_num_seqs, self.arrivals)
        invariants.check_plan(self.scheduler, plan)
        received = StepPlan.decode(plan.encode())
        assert received == plan
        tokens = self.model.execute(received)
        for seq in invariants.running(self.scheduler):
            assert self.model.table[seq.row] == seq.blocks, "the ranks' block table is another"
        seqs = self.scheduler.to_sample(plan)
        assert len(seqs) == len(tokens) == plan.num_logits
        sampled = [
            Sampled(token, error=self.faults.get((seq.request.id, seq.num_generated)))
            for seq, token in zip(seqs, tokens, strict=True)
        ]
        events = self.scheduler.update(plan, sampled)
        assert [event.request_id for event in events] == [seq.request.id for seq in seqs], "not one event a token"
        for event in events:
            self.answers[event.request_id].receive(event)
        self.check()
        return plan

    def run(self) -> dict[int, Answer]:
        """Until nothing is left to do."""
        while self.step() is not None:
            # The oldest advances by a token or more in every step and is never preempted.
            assert self.steps <= len(self.arrivals) * self.scheduler.max_model_len, "somebody starves"
        assert self.pool.num_idle == self.pool.num_blocks, "blocks were lost"
        assert all(answer.finish is not None for answer in self.answers.values()), "a request without a final event"
        return self.answers

    def check(self) -> None:
        invariants.check_all(self.scheduler, self.max_num_seqs, self.arrivals)
        invariants.check_progress(self.scheduler)
