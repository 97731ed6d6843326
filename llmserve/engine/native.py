"""The native engine on rank 0: scheduler, sampler and this rank's share of the model, one step at a time.

Token ids only. It does not know who asks, over what wire, or what the tokens mean.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable

from llmserve.comm import Comm
from llmserve.config import EngineConfig
from llmserve.engine.grammars import Waiting
from llmserve.engine.messages import Stats
from llmserve.errors import RequestError
from llmserve.grammar import Library
from llmserve.request import Finish, Request, TokenEvent
from llmserve.runtime.load import Loaded
from llmserve.runtime.model_runner import Runner
from llmserve.runtime.pooling import Pooler
from llmserve.runtime.rules import Matcher, Rules
from llmserve.runtime.sampler import Want
from llmserve.scheduler.block_pool import BlockPool
from llmserve.scheduler.plan import Pooled, Sampled, StepPlan
from llmserve.scheduler.scheduler import Scheduler
from llmserve.scheduler.sequence import Sequence

MAX_PROMPT_LOGITS = 256
MAX_PROMPT_LOGITS_BYTES = 64 << 20
"""What a step computes at most for log-probabilities of prompts: positions, which bounds the message with them, and
bytes of their logits, each a float for every token of the vocabulary. Longer prompts take more steps."""

PAUSE = 0.005
"""Seconds for which messages may wait while nothing is done but to read grammars."""


class NativeEngine:
    patience = 0.0
    """A step takes as long as it takes; nobody waits for messages beside it."""

    def __init__(
        self,
        loaded: Loaded,
        comm: Comm,
        config: EngineConfig,
        *,
        grammars: Library | None = None,
        spare_core: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`spare_core`: this thread has a core of its own while the kernels run. Where it would take one from them, all
        their threads wait for the one that it stopped, and what is done meanwhile costs more than between steps.

        `grammars`: of this engine's vocabulary; without them no request may have one.
        `clock`: seconds, for requests that may only take so long.
        """
        kv = loaded.kv
        self.kv = kv
        self._comm = comm
        self._runner = loaded.runner
        self._sampler = loaded.sampler
        self._pooler = Pooler()
        self._clock = clock
        self.overlap = spare_core if config.overlap is None else config.overlap
        self._pool = BlockPool(kv.num_blocks, kv.block_size, config.prefix_caching)
        self._scheduler = Scheduler(
            self._pool,
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=config.max_num_batched_tokens,
            max_model_len=kv.max_model_len,
            max_prompt_logits=min(MAX_PROMPT_LOGITS, MAX_PROMPT_LOGITS_BYTES // (4 * loaded.runner.vocab_size)),
            variant_of=kv.variants.of,
        )
        self._waiting = Waiting(grammars)
        self._rules: dict[int, Rules] = {}  # by request id, of those of whom there are any

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work or len(self._waiting) > 0

    def submit(self, request: Request) -> None:
        """RequestError where it can never be served; it then gets no event."""
        last = self._runner.vocab_size - 1
        if request.prompt and not 0 <= min(request.prompt) <= max(request.prompt) <= last:
            raise RequestError(f"The prompt holds a token id that is not within 0 … {last}.", param="prompt")
        if request.id in self._waiting:
            raise RequestError(f"A request with id {request.id} is already being served.", param="id")
        grammar, now = request.sampling.grammar, self._clock()
        matcher = None if grammar is None else self._waiting.matcher(grammar)
        if grammar is None or matcher is not None:
            self._admit(request, now, matcher)
        else:
            self._waiting.add(request, now)

    def abort(self, request_id: int) -> TokenEvent | None:
        """The request's final event, or None where it has just ended."""
        if request_id in self._waiting:
            self._waiting.drop(request_id)
            return TokenEvent(request_id, None, Finish.ABORT)
        self._forget(request_id)
        return self._scheduler.abort(request_id)

    def abort_all(self, finish: Finish, error: str | None = None) -> list[TokenEvent]:
        waited = [TokenEvent(request_id, None, finish, error=error) for request_id in self._waiting.drop_all()]
        return self._told(self._scheduler.abort_all(finish, error)) + waited

    def step(self, meanwhile: Callable[[], None] = lambda: None) -> list[TokenEvent]:
        """`meanwhile` is called once: while the kernels of this step run or before, or if there is nothing to do."""
        now = self._clock()
        late = [TokenEvent(request_id, None, Finish.TIMEOUT) for request_id in self._waiting.expire(now)]
        events = late + self._admit_prepared() + self._scheduler.expire(now)
        plan = self._scheduler.schedule()
        if plan is None:
            meanwhile()
            if self._waiting and not events:
                self._waiting.pause(PAUSE)
            return self._told(events)
        self._comm.broadcast(plan.words)
        # What does not need this step's logits is done while they are computed, or before: nobody waits a step for it.
        if self.overlap:
            self._runner.start(plan)
        meanwhile()
        wants, problems = self._wants(plan)
        sample = self._sampler.prepare(wants)
        if self.overlap:
            self._scheduler.prepare()
            logits = self._runner.finish()
        else:
            logits = self._runner.execute(plan)
        sampled = sample(logits)
        for row, error in problems.items():
            sampled[row] = Sampled(0, error=error, refused=True)
        return self._told(events + self._scheduler.update(plan, sampled, self._pooled(plan)))

    def _admit(self, request: Request, arrived: float, matcher: Matcher | None) -> None:
        self._scheduler.add(request, arrived)
        if request.sampling.edits_logits:
            self._rules[request.id] = Rules(request, self._runner.vocab_size, matcher)

    def _admit_prepared(self) -> list[TokenEvent]:
        """Those whose grammars have been read; the final events of the others."""
        events: list[TokenEvent] = []
        for request, arrived, matcher, error in self._waiting.take() if self._waiting else ():
            if error is None:
                try:
                    self._admit(request, arrived, matcher)
                    continue
                except RequestError as e:
                    error = str(e)
            events.append(TokenEvent(request.id, None, Finish.ERROR, error=error, refused=True))
        return events

    def _wants(self, plan: StepPlan) -> tuple[list[Want], dict[int, str]]:
        """What each row of the plan's logits is for; and for rows whose token cannot be chosen, why not."""
        wants, problems = [], {}
        for row, (seq, position) in enumerate(self._scheduler.wanted(plan)):
            wanted = want(seq, position)
            if self._rules and wanted.given is None and (rules := self._rules.get(seq.id)):
                try:
                    wanted = wanted._replace(edits=rules.edits(seq.tokens, position))
                except RequestError as e:
                    problems[row] = str(e)
            wants.append(wanted)
        return wants, problems

    def _pooled(self, plan: StepPlan) -> list[Pooled]:
        parts = self._scheduler.pooling(plan)
        if not parts:
            return []
        rows = self._runner.hidden().split([part.rows for part in parts])
        return [
            self._pooler.add(part.seq.id, own, complete=part.chooses) for part, own in zip(parts, rows, strict=True)
        ]

    def _told(self, events: list[TokenEvent]) -> list[TokenEvent]:
        """The same events; nothing is kept any more of who ends in them."""
        for event in events:
            if event.finish is not None:
                self._forget(event.request_id)
        return events

    def _forget(self, request_id: int) -> None:
        self._rules.pop(request_id, None)
        self._pooler.forget(request_id)

    def stats(self) -> Stats:
        counters = self._scheduler.counters
        return Stats(
            running=self._scheduler.num_running,
            waiting=self._scheduler.num_waiting,
            kv_usage=self._pool.usage,
            preemptions=counters.preemptions,
            prefix_queries=counters.prefix_queries,
            prefix_hits=counters.prefix_hits,
            steps=counters.steps,
            scheduled_tokens=counters.scheduled_tokens,
        )

    def close(self) -> None:
        """Send the other ranks home; every rank leaves in order."""
        self._waiting.drop_all()
        self._comm.broadcast(array("i"))
        self._comm.close()


def want(seq: Sequence, position: int) -> Want:
    """What the logits are for that foretell the token at `position`."""
    prompt = seq.request.prompt
    given = prompt[position] if position < len(prompt) else None
    return Want(seq.request.sampling, position, given)


def worker_loop(comm: Comm, runner: Runner) -> None:
    """Every rank but 0: hear a plan, execute it; no words mean go home. EngineDeadError when rank 0 dies."""
    while words := comm.broadcast():
        runner.execute(StepPlan.decode(words))
    comm.close()
