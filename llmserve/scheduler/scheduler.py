"""In-flight batching: at every step, each sequence's `computed` tries to catch up with its tokens. That is all.

Prefill, chunked prefill, decode, a prefix found in the cache, recompute after preemption: the same rule, and no flag to
tell them apart (the idea is vLLM V1's; batching anew at every step is Orca's, Yu et al., 2022). Requests come in, plans
go out, sampled tokens come back; tensors, devices, ranks and text are elsewhere.

Four choices make the rest simple:

* There is one order: the more urgent priority first, of one priority the first to come. Who waits is let in in that
  order and nobody overtakes; when blocks run out, the last in that order gives all of its own back and waits, before
  all others of its priority. So the first in order always advances, and among equals everyone becomes the first in the
  end: none of them starves. Nobody is thrown out because somebody more urgent has come.
* A sequence is admitted only with room for all its known tokens, and only when every running sequence has been given
  all it wants in this step. So (by induction over steps) only the one admitted last can be behind by more than its
  newest token, and never more sequences run than `max_num_batched_tokens`. What it gets is what the others' newest
  tokens leave of a step: a decode never waits for another's long prompt.
* A step may be planned while the one before is computed. Each sequence then has a token that nobody knows yet, which
  is as good as known for all that planning asks, but for one thing: it may be the last. So who ends unexpectedly is
  left out of the plan at the last moment.
* Whatever has been planned is computed before whatever is planned later. So blocks may change hands while a step that
  uses them is still being computed.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Collection
from operator import attrgetter

from llmserve.errors import RequestError
from llmserve.request import Finish, Request, TokenEvent, TokenLogprobs
from llmserve.scheduler.block_pool import BlockPool
from llmserve.scheduler.counters import Counters
from llmserve.scheduler.deadlines import Deadlines
from llmserve.scheduler.plan import Pooled, Sampled, StepPlan
from llmserve.scheduler.sequence import NEVER, NO_ROW, Sequence
from llmserve.scheduler.step import Part, Step
from llmserve.scheduler.waiting import WaitingQueue

_order = attrgetter("order")
_NOTHING_POOLED = Pooled()


class Scheduler:
    """Turns requests into step plans, and sampled tokens into token events.

        while scheduler.has_work:
            plan = scheduler.schedule()
            sampled = ...  # execute the plan, then sample for each of scheduler.wanted(plan)
            pooled = ...   # and pool for each of scheduler.pooling(plan)
            events = scheduler.update(plan, sampled, pooled)

    Every request that `add` accepts gets exactly one event with `finish` set, and with it the scheduler forgets it.
    From `schedule` to `update` a plan is in flight: more requests may be added meanwhile and the next step may be
    prepared, but no request can be ended.
    """

    def __init__(
        self,
        pool: BlockPool,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_model_len: int,
        max_prompt_logits: int,
        variant_of: Callable[[int, int], int] = lambda prompt, limit: 0,
    ) -> None:
        """The pool must be the scheduler's own.

        At most `max_num_seqs` sequences run at a time, in rows 0 … max_num_seqs - 1; a step computes at most
        `max_num_batched_tokens` tokens; `max_model_len` tokens, prompt included, end a sequence. A step computes one
        row of logits a sequence, and at most `max_prompt_logits` more for log-probabilities of prompts.

        `variant_of`: the prompt's length and the most that the sequence may have → `Chunk.variant`.
        """
        if min(max_num_seqs, max_num_batched_tokens, max_model_len) < 1:
            raise ValueError(
                "max_num_seqs, max_num_batched_tokens and max_model_len must be at least 1, "
                f"got {max_num_seqs}, {max_num_batched_tokens} and {max_model_len}"
            )
        if max_prompt_logits < 0:
            raise ValueError(f"max_prompt_logits must be at least 0, got {max_prompt_logits}")
        self.pool = pool
        self.counters = Counters()
        self.max_num_batched_tokens = max_num_batched_tokens
        self.max_model_len = max_model_len
        self.max_prompt_logits = max_prompt_logits
        self._variant_of = variant_of
        self._free_rows = list(reversed(range(max_num_seqs)))
        self._alive: dict[int, Sequence] = {}  # by request id: those who run and those who wait
        self._running: list[Sequence] = []  # in order
        self._waiting = WaitingQueue()
        self._deadlines = Deadlines()
        self._arrivals = 0
        # The plan in flight, what is in it, and the step after it, where that has been prepared.
        self._plan: StepPlan | None = None
        self._parts: list[Part] = []
        self._prepared: Step | None = None

    @property
    def has_work(self) -> bool:
        """Whether `schedule` would return a plan, or one is in flight."""
        return bool(self._alive)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def add(self, request: Request, now: float = 0.0) -> None:
        """Queue a request, of which the time begins `now` (seconds of any clock; `expire` reads the same).

        RequestError if it could never be served, however idle the server; it then gets no event.
        """
        prompt_len = len(request.prompt)
        pools = request.pooling is not None
        limit = prompt_len + 1 if pools else min(prompt_len + request.sampling.max_tokens, self.max_model_len)
        capacity = self.pool.num_blocks * self.pool.block_size
        if request.id in self._alive:
            raise RequestError(f"A request with id {request.id} is already being served.", param="id")
        if not prompt_len:
            raise RequestError("The prompt is empty; it needs at least one token.", param="prompt")
        if prompt_len > self.max_model_len - (not pools):
            rest = "" if pools else " with at least one left to generate"
            raise RequestError(
                f"The prompt has {prompt_len} tokens, and this model takes at most {self.max_model_len} tokens{rest}; "
                "shorten the prompt.",
                param="prompt",
                code="context_length_exceeded",
            )
        if limit - 1 > capacity:  # the last token is never computed: nothing follows it
            raise RequestError(
                f"The prompt of {prompt_len} tokens with max_tokens {request.sampling.max_tokens} may need a KV cache "
                f"of {limit - 1} tokens, and this server's holds {capacity}; lower max_tokens or shorten the prompt.",
                param="prompt" if prompt_len > capacity else "max_tokens",
                code="context_length_exceeded",
            )
        variant = self._variant_of(prompt_len, prompt_len if pools else limit)
        seq = Sequence(request, self._arrivals, limit, variant)
        self._arrivals += 1
        self._alive[request.id] = seq
        self._waiting.add(seq)
        if request.timeout is not None:
            self._deadlines.set(request.id, now + request.timeout)

    def abort(self, request_id: int) -> TokenEvent | None:
        """End a request now; its final event, or None if it is unknown (it may just have ended).

        RuntimeError while a plan is in flight, as ranks may be writing the request's blocks.
        """
        self._check_nothing_in_flight(f"abort request {request_id}")
        seq = self._alive.get(request_id)
        return self._end(seq, Finish.ABORT) if seq else None

    def expire(self, now: float) -> list[TokenEvent]:
        """End every request whose time is up. RuntimeError while a plan is in flight, as for `abort`."""
        self._check_nothing_in_flight("end requests whose time is up")
        return [self._end(self._alive[id], Finish.TIMEOUT) for id in self._deadlines.passed(now)]

    def abort_all(self, finish: Finish, error: str | None = None) -> list[TokenEvent]:
        """End every request, in order. A plan in flight is forgotten: its step failed, and no rank works on it."""
        self._plan = self._prepared = None
        self._parts = []
        return [self._end(seq, finish, error) for seq in (*self._running, *self._waiting)]

    def schedule(self) -> StepPlan | None:
        """The next step, or None if there is no work. It is in flight until `update`."""
        self._check_nothing_in_flight("schedule another step")
        step, self._prepared = self._prepared, None
        if step is not None:
            step.settle()
        if step is None or not step.parts:
            step = self._next_step()
        self._let_in(step)
        if not step.parts:
            return None
        self._plan = step.plan()
        self._parts = step.parts
        return self._plan

    def prepare(self) -> None:
        """Plan the step after the one in flight, as far as that can be known: `schedule` will have less to do."""
        if self._plan is None or self._prepared is not None:
            raise RuntimeError("the next step is prepared once, while a plan is in flight")
        self._prepared = self._next_step()
        self._let_in(self._prepared)

    def wanted(self, plan: StepPlan) -> list[tuple[Sequence, int]]:
        """For each row of logits of the plan in flight, its sequence and the position of the token that they are of.

        Either the prompt has that token, and its log-probabilities are wanted, or it is the next one to be chosen.
        """
        self._check_in_flight(plan)
        wanted = []
        for seq, end, rows, _ in self._parts:
            if seq.pools:
                continue
            if rows == 1:
                wanted.append((seq, end))
            else:
                wanted += [(seq, position) for position in range(end - rows + 1, end + 1)]
        return wanted

    def pooling(self, plan: StepPlan) -> list[Part]:
        """Those of the plan in flight of which there are rows of hidden states, in the order of these.

        Where a part `chooses`, its rows are the last of its prompt, and the vector is wanted.
        """
        self._check_in_flight(plan)
        return [part for part in self._parts if part.seq.pools and part.rows]

    def update(self, plan: StepPlan, sampled: list[Sampled], pooled: Collection[Pooled] = ()) -> list[TokenEvent]:
        """Account for the plan in flight, which every rank has executed.

        `sampled` has one item per logits row, `pooled` one for each of `pooling`. At most one event a request.
        ValueError, and no change, if there are more or fewer.
        """
        pools = len(self.pooling(plan))
        if len(sampled) != plan.num_logits:
            raise ValueError(f"the plan wants {plan.num_logits} tokens, got {len(sampled)}")
        if len(pooled) != pools:
            raise ValueError(f"the plan wants {pools} pooled, got {len(pooled)}")
        parts = self._parts
        self._plan = None
        self._parts = []
        self.counters.steps += 1
        self.counters.scheduled_tokens += plan.num_tokens
        events: list[TokenEvent] = []
        chosen: Sampled | None
        of_prompt: tuple[TokenLogprobs, ...]
        next_row = 0
        vectors = iter(pooled)
        for seq, end, rows, chooses in parts:
            chosen, of_prompt, vector = None, (), None
            if seq.pools:
                vector, error = next(vectors) if rows else _NOTHING_POOLED
            else:
                first, next_row = next_row, next_row + rows
                if rows == 1 and chooses:  # what decodes
                    chosen = sampled[first]
                    error = chosen.error
                else:
                    chosen, of_prompt, error = _rows(sampled[first:next_row], chooses)
            if error is not None:
                refused = chosen is not None and chosen.refused
                if not refused:
                    # What made its logits unusable may be in its KV: nobody else should find that.
                    self.pool.withdraw(seq.blocks or self.pool.match(seq.keys))  # it may have been pushed out meanwhile
                events.append(self._end(seq, Finish.ERROR, error)._replace(refused=refused))
                continue
            if end >= seq.fills:
                self._publish(seq, end)
            if chosen is not None:
                events.append(self._append(seq, end, chosen, of_prompt))
            elif vector is not None:
                events.append(self._end(seq, Finish.STOP, vector=vector))
            elif of_prompt:
                events.append(TokenEvent(seq.id, None, prompt_logprobs=of_prompt))
        return events

    def _check_in_flight(self, plan: StepPlan) -> None:
        if plan is not self._plan:
            raise RuntimeError("this plan is not the one in flight")

    def _check_nothing_in_flight(self, wish: str) -> None:
        if self._plan is not None:
            raise RuntimeError(f"cannot {wish} while a plan is in flight: update it first")

    def _next_step(self) -> Step:
        """What those who run want, as far as a step may hold it."""
        step = Step(self.max_num_batched_tokens, self.max_prompt_logits)
        running, preemptions = self._running, self.counters.preemptions
        index = 0
        while index < len(running):  # it shrinks from its end where blocks run out
            seq = running[index]
            index += 1
            length = len(seq.tokens)
            if length >= seq.limit:  # the token in flight is its last
                continue
            first_block = len(seq.blocks)
            if length > seq.room and not self._make_room(seq):
                break
            # One for each of those that follow: if one is behind, all others want just one.
            step.add(seq, first_block, len(running) - index)
        # A step that pushes somebody out lets nobody in: first let those blocks do what they were taken for.
        step.is_open &= self.counters.preemptions == preemptions
        return step

    def _let_in(self, step: Step) -> None:
        """Admit as many as there is room for, in the step and beside those who run."""
        while step.is_open and step.tokens_left and self._waiting and self._free_rows:
            if len(self._running) == self.max_num_batched_tokens or not (admitted := self._admit_head()):
                break
            step.add(admitted, 0, 0)

    def _make_room(self, seq: Sequence) -> bool:
        """Blocks for all tokens of one that runs, if need be those of the last in order; False if that is itself."""
        pool = self.pool
        missing = pool.blocks_for(len(seq.tokens)) - len(seq.blocks)
        while missing > pool.num_idle:
            victim = self._running.pop()
            self._vacate(victim)
            self._waiting.put_back(victim)
            self.counters.preemptions += 1
            if victim is seq:
                return False
        seq.blocks += pool.take(missing)
        seq.room = len(seq.blocks) * pool.block_size
        return True

    def _admit_head(self) -> Sequence | None:
        """Let the first who waits run, with blocks for all its tokens, if enough remain for those who run."""
        seq = self._waiting.head
        size = self.pool.block_size
        cached = self.pool.match(seq.prefix_keys(size))
        missing = self.pool.blocks_for(len(seq.tokens)) - len(cached)
        left = self.pool.num_idle - self.pool.count_idle(cached) - missing
        # Within the next block_size steps each running sequence wants one block more. With that many left, whoever is
        # admitted gets at least that far before anyone is preempted; with fewer, it might be thrown out at once, again
        # and again. Alone it may have everything: `add` made sure that is enough.
        if left < (len(self._running) + 1 if self._running else 0):
            return None
        self._waiting.remove(seq)
        insort(self._running, seq, key=_order)
        self.pool.share(cached)
        seq.blocks = cached + self.pool.take(missing)
        seq.room = len(seq.blocks) * size
        seq.computed = len(cached) * size
        seq.row = self._free_rows.pop()
        if self.pool.prefix_caching:
            seq.fills = seq.computed + size
        if not seq.admitted:
            seq.admitted = True
            seq.untold = seq.computed
            if self.pool.prefix_caching and not seq.request.wants_whole_prompt:
                self.counters.prefix_queries += len(seq.tokens)
                self.counters.prefix_hits += seq.computed
        return seq

    def _publish(self, seq: Sequence, end: int) -> None:
        """The KV of all tokens before `end` exists, and the blocks that they fill can be shared from now on."""
        size = self.pool.block_size
        while seq.fills <= end:
            index = seq.fills // size - 1
            self.pool.publish(seq.blocks[index], seq.key(index, size))
            seq.fills += size

    def _append(self, seq: Sequence, at: int, chosen: Sampled, of_prompt: tuple[TokenLogprobs, ...]) -> TokenEvent:
        """Its next token, at position `at`, which has been waited for."""
        token = chosen.token
        seq.tokens[at] = token
        cached_tokens = seq.untold
        seq.untold = 0
        if token in seq.request.sampling.stop_token_ids and at + 1 >= seq.stops_from:
            finish = Finish.STOP
        elif at + 1 >= seq.limit:
            finish = Finish.LENGTH
        else:
            return TokenEvent(seq.id, token, None, chosen.logprobs, cached_tokens, of_prompt)
        self._forget(seq)
        return TokenEvent(seq.id, token, finish, chosen.logprobs, cached_tokens, of_prompt)

    def _end(self, seq: Sequence, finish: Finish, error: str | None = None, vector: bytes | None = None) -> TokenEvent:
        """Its final event, without a token."""
        self._forget(seq)
        return TokenEvent(seq.id, None, finish, cached_tokens=seq.untold, error=error, vector=vector)

    def _forget(self, seq: Sequence) -> None:
        del self._alive[seq.id]
        self._deadlines.forget(seq.id)
        if seq.row == NO_ROW:
            self._waiting.remove(seq)
        else:
            del self._running[bisect_left(self._running, seq.order, key=_order)]
            self._vacate(seq)
        seq.ended = True

    def _vacate(self, seq: Sequence) -> None:
        """Give back a sequence's row and blocks. What it published stays findable, so that coming back may be cheap."""
        self.pool.release(seq.blocks)
        self._free_rows.append(seq.row)
        seq.row = NO_ROW
        seq.blocks = []
        seq.computed = seq.room = 0
        seq.fills = NEVER  # also of what is in flight: those blocks are no longer its own


def _rows(sampled: list[Sampled], chooses: bool) -> tuple[Sampled | None, tuple[TokenLogprobs, ...], str | None]:
    """A chunk's rows → the next token, what is known of the prompt's, and what is wrong with one of them."""
    error = next((row.error for row in sampled if row.error is not None), None)
    chosen = sampled[-1] if chooses else None
    of_prompt = sampled[:-1] if chooses else sampled
    return chosen, tuple(row.logprobs for row in of_prompt if row.logprobs is not None), error
