"""In-flight batching: at every step, each sequence's `computed` tries to catch up with its tokens. That is all.

Prefill, chunked prefill, decode, a prefix found in the cache, recompute after preemption: the same rule, and no flag to
tell them apart (the idea is vLLM V1's; batching anew at every step is Orca's, Yu et al., 2022). Requests come in, plans
go out, sampled tokens come back; tensors, devices, ranks and text are elsewhere.

Three choices make the rest simple:

* First come, first served, and nobody overtakes. So whoever runs arrived before everyone who waits, in that order.
* A sequence is admitted only with room for all its known tokens, and only when every running sequence has been given
  all it wants in this step. So (by induction over steps) only the youngest running sequence can be behind by more than
  its newest token, and never more sequences run than `max_num_batched_tokens`. Going through them oldest first, every
  one advances in every step: a decode never waits for another's long prompt.
* When blocks run out the youngest gives all of its own back and waits, at the head of the queue. So the oldest always
  advances, and everyone becomes the oldest in the end: nothing starves.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from llmserve.errors import RequestError
from llmserve.request import Finish, Request, TokenEvent, TokenLogprobs
from llmserve.scheduler.block_pool import BlockPool
from llmserve.scheduler.plan import Chunk, Sampled, StepPlan
from llmserve.scheduler.sequence import NO_ROW, Sequence


@dataclass(slots=True)
class Counters:
    """Totals since the start."""

    preemptions: int = 0
    prefix_queries: int = 0  # prompt tokens looked up in the prefix cache, at a request's first admission
    prefix_hits: int = 0  # of those, found
    steps: int = 0
    scheduled_tokens: int = 0


class _Step:
    """A step that is being planned: what is in it so far, and what it may still hold."""

    def __init__(self, tokens: int, prompt_logits: int) -> None:
        self.chunks: list[Chunk] = []
        self.sequences: list[Sequence] = []  # chunk by chunk
        self.has_room = True  # for one more sequence: all so far got all they want, and that is not all there is
        self._tokens = tokens
        self._prompt_logits = prompt_logits

    def add(self, seq: Sequence, first_block: int) -> None:
        """As many of a sequence's pending tokens as there is room for, with its blocks from entry `first_block` on."""
        start = seq.computed
        wanted = max(start, seq.scored)  # the first position whose logits are
        # One row of logits is every chunk's own, so whoever is in a step advances by a token.
        stop = min(len(seq.tokens), start + self._tokens, wanted + 1 + self._prompt_logits)
        logits = max(0, stop - wanted)
        tokens, blocks = tuple(seq.tokens[start:stop]), tuple(seq.blocks[first_block:])
        self.chunks.append(Chunk(seq.row, start, first_block, tokens, blocks, logits, seq.variant))
        self.sequences.append(seq)
        self._tokens -= stop - start
        self._prompt_logits -= max(0, logits - 1)
        self.has_room = self._tokens > 0 and stop == len(seq.tokens)


class Scheduler:
    """Turns requests into step plans, and sampled tokens into token events.

        while scheduler.has_work:
            plan = scheduler.schedule()
            sampled = ...  # execute the plan, then sample for each of scheduler.wanted(plan)
            events = scheduler.update(plan, sampled)

    Every request that `add` accepts gets exactly one event with `finish` set, and with it the scheduler forgets it.
    From `schedule` to `update` a plan is in flight: more requests may be added meanwhile, but none aborted.
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
        # By request id; together in order of arrival, running before waiting.
        self._running: dict[int, Sequence] = {}
        self._waiting: OrderedDict[int, Sequence] = OrderedDict()
        # The plan in flight and its sequences, chunk by chunk.
        self._plan: StepPlan | None = None
        self._planned: list[Sequence] = []

    @property
    def has_work(self) -> bool:
        """Whether `schedule` would return a plan."""
        return bool(self._running or self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def add(self, request: Request) -> None:
        """Queue a request. RequestError if it could never be served, however idle the server; it then gets no event."""
        prompt_len = len(request.prompt)
        limit = min(prompt_len + request.sampling.max_tokens, self.max_model_len)
        capacity = self.pool.num_blocks * self.pool.block_size
        if request.id in self._running or request.id in self._waiting:
            raise RequestError(f"A request with id {request.id} is already being served.", param="id")
        if not prompt_len:
            raise RequestError("The prompt is empty; it needs at least one token.", param="prompt")
        if prompt_len >= self.max_model_len:
            raise RequestError(
                f"The prompt has {prompt_len} tokens, and this model takes at most {self.max_model_len} tokens with at "
                "least one left to generate; shorten the prompt.",
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
        self._waiting[request.id] = Sequence(request, limit, self._variant_of(prompt_len, limit))

    def abort(self, request_id: int) -> TokenEvent | None:
        """End a request now; its final event, or None if it is unknown (it may just have ended).

        Between steps only: RuntimeError while a plan is in flight, as ranks may be writing the request's blocks.
        """
        if self._plan is not None:
            raise RuntimeError(f"request {request_id} cannot be aborted while a plan is in flight")
        seq = self._running.get(request_id) or self._waiting.get(request_id)
        return self._end(seq, Finish.ABORT) if seq else None

    def abort_all(self, finish: Finish, error: str | None = None) -> list[TokenEvent]:
        """End every request, oldest first. A plan in flight is forgotten: its step failed, and no rank works on it."""
        self._plan = None
        self._planned = []
        return [self._end(seq, finish, error) for seq in (*self._running.values(), *self._waiting.values())]

    def schedule(self) -> StepPlan | None:
        """The next step, or None if there is no work. It is in flight until `update`."""
        if self._plan is not None:
            raise RuntimeError("the last plan is still in flight: update it before scheduling the next")
        step = _Step(self.max_num_batched_tokens, self.max_prompt_logits)
        preemptions = self.counters.preemptions
        for seq in tuple(self._running.values()):
            if seq.row == NO_ROW:  # it and all younger ones were preempted for an older one just now
                break
            first_block = len(seq.blocks)
            if not self._make_room(seq):
                break
            step.add(seq, first_block)
        # A step that pushes somebody out lets nobody in: first let those blocks do what they were taken for.
        if self.counters.preemptions == preemptions:
            while step.has_room and self._waiting and self._free_rows and (admitted := self._admit_head()):
                step.add(admitted, 0)
        if not step.chunks:
            return None
        self._plan = StepPlan(tuple(step.chunks))
        self._planned = step.sequences
        self.counters.steps += 1
        self.counters.scheduled_tokens += self._plan.num_tokens
        return self._plan

    def wanted(self, plan: StepPlan) -> list[tuple[Sequence, int]]:
        """For each row of logits of the plan in flight, its sequence and the position of the token that they are of.

        Either the sequence has that token, and its log-probabilities are wanted, or it is the next one to be chosen.
        """
        self._check_in_flight(plan)
        wanted = []
        for chunk, seq in zip(plan.chunks, self._planned, strict=True):
            end = chunk.start + len(chunk.tokens)
            wanted += [(seq, position) for position in range(end - chunk.logits + 1, end + 1)]
        return wanted

    def update(self, plan: StepPlan, sampled: list[Sampled]) -> list[TokenEvent]:
        """Account for the plan in flight, which every rank has executed; `sampled` has one item per logits row.

        At most one event a request. ValueError, and no change, if `sampled` is not as long as `plan.num_logits`.
        """
        self._check_in_flight(plan)
        if len(sampled) != plan.num_logits:
            raise ValueError(f"the plan wants {plan.num_logits} tokens, got {len(sampled)}")
        planned = self._planned
        self._plan = None
        self._planned = []
        events: list[TokenEvent] = []
        results = iter(sampled)
        for chunk, seq in zip(plan.chunks, planned, strict=True):
            rows = list(islice(results, chunk.logits))
            error = next((row.error for row in rows if row.error is not None), None)
            if error is not None:
                # What made its logits unusable may be in its KV: nobody else should find that.
                self.pool.withdraw(seq.blocks)
                events.append(self._end(seq, Finish.ERROR, error))
                continue
            self._advance(seq, len(chunk.tokens))
            if rows:
                seq.scored += len(rows)
                chosen = rows.pop() if seq.computed == len(seq.tokens) else None
                prompt_logprobs = tuple(row.logprobs for row in rows if row.logprobs is not None)
                events.append(self._append(seq, chosen, prompt_logprobs))
        return events

    def _check_in_flight(self, plan: StepPlan) -> None:
        if plan is not self._plan:
            raise RuntimeError("this plan is not the one in flight")

    def _make_room(self, seq: Sequence) -> bool:
        """Blocks for all tokens of a running sequence, if need be those of the youngest; False if that is itself."""
        missing = self.pool.blocks_for(len(seq.tokens)) - len(seq.blocks)
        while missing > self.pool.num_idle:
            _, victim = self._running.popitem()
            self._vacate(victim)
            self._waiting[victim.request.id] = victim
            self._waiting.move_to_end(victim.request.id, last=False)
            self.counters.preemptions += 1
            if victim is seq:
                return False
        if missing:
            seq.blocks += self.pool.take(missing)
        return True

    def _admit_head(self) -> Sequence | None:
        """Let the oldest waiting sequence run, with blocks for all its tokens, if enough remain for those who run."""
        request_id, seq = next(iter(self._waiting.items()))
        size = self.pool.block_size
        cached = self.pool.match(seq.prefix_keys(size))
        missing = self.pool.blocks_for(len(seq.tokens)) - len(cached)
        left = self.pool.num_idle - self.pool.count_idle(cached) - missing
        # Within the next block_size steps each running sequence wants one block more. With that many left, whoever is
        # admitted gets at least that far before anyone is preempted; with fewer, it might be thrown out at once, again
        # and again. Alone it may have everything: `add` made sure that is enough.
        if self._running and left < len(self._running) + 1:
            return None
        del self._waiting[request_id]
        self._running[request_id] = seq
        self.pool.share(cached)
        seq.blocks = cached + self.pool.take(missing)
        seq.computed = len(cached) * size
        seq.row = self._free_rows.pop()
        if seq.cached_tokens is None:
            seq.cached_tokens = seq.computed
            if self.pool.prefix_caching and seq.request.sampling.prompt_logprobs is None:
                self.counters.prefix_queries += len(seq.tokens)
                self.counters.prefix_hits += seq.computed
        return seq

    def _advance(self, seq: Sequence, count: int) -> None:
        """The KV of `count` more tokens exists, and blocks it filled can be shared from now on."""
        size = self.pool.block_size
        filled = range(seq.computed // size, (seq.computed + count) // size)
        seq.computed += count
        if self.pool.prefix_caching:
            for index in filled:
                self.pool.publish(seq.blocks[index], seq.key(index, size))

    def _append(self, seq: Sequence, chosen: Sampled | None, prompt_logprobs: tuple[TokenLogprobs, ...]) -> TokenEvent:
        """What its rows of logits yielded; `chosen`: its next token, if it has caught up with those it had."""
        if chosen is None:
            return TokenEvent(seq.request.id, None, prompt_logprobs=prompt_logprobs)
        sampling = seq.request.sampling
        token = chosen.token
        cached_tokens = 0 if seq.num_generated else seq.cached_tokens or 0
        seq.tokens.append(token)
        if token in sampling.stop_token_ids and seq.num_generated >= sampling.min_tokens:
            finish = Finish.STOP
        elif len(seq.tokens) >= seq.limit:
            finish = Finish.LENGTH
        else:
            finish = None
        if finish:
            self._forget(seq)
        return TokenEvent(
            seq.request.id, token, finish, chosen.logprobs, cached_tokens, prompt_logprobs=prompt_logprobs
        )

    def _end(self, seq: Sequence, finish: Finish, error: str | None = None) -> TokenEvent:
        """Its final event, without a token."""
        self._forget(seq)
        cached_tokens = 0 if seq.num_generated else seq.cached_tokens or 0
        return TokenEvent(seq.request.id, None, finish, cached_tokens=cached_tokens, error=error)

    def _forget(self, seq: Sequence) -> None:
        if seq.row == NO_ROW:
            del self._waiting[seq.request.id]
        else:
            del self._running[seq.request.id]
            self._vacate(seq)

    def _vacate(self, seq: Sequence) -> None:
        """Give back a sequence's row and blocks. What it published stays findable, so that coming back may be cheap."""
        self.pool.release(seq.blocks)
        self._free_rows.append(seq.row)
        seq.row = NO_ROW
        seq.blocks = []
        seq.computed = 0
