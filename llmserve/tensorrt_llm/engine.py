"""TensorRT-LLM's executor as an `Engine`: requests in, token events out.

Batching, KV cache and ranks are its own business. It does not know who asks, over what wire, or what the tokens mean.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmserve.comm.plan_line import Speaker
from llmserve.engine.messages import Stats
from llmserve.errors import RequestError
from llmserve.request import Finish, Request, TokenEvent
from llmserve.tensorrt_llm.answers import Answer
from llmserve.tensorrt_llm.guard import Guard
from llmserve.tensorrt_llm.pump import Pump
from llmserve.tensorrt_llm.requests import CAPABILITIES, end_id_of, to_executor

if TYPE_CHECKING:
    from tensorrt_llm.bindings import executor as trtllm


@dataclass(frozen=True, slots=True)
class Limits:
    max_model_len: int
    max_num_seqs: int
    tokens_per_block: int
    vocab_size: int
    eos_token_ids: Sequence[int]


class TensorRTLLMEngine:
    patience = 0.1
    """The pump wakes whoever sleeps for messages; this bounds how late a deadline is seen."""

    def __init__(
        self,
        executor: trtllm.Executor,
        limits: Limits,
        wake: Callable[[], None],
        *,
        speaker: Speaker | None = None,
        stall_timeout: float,
    ) -> None:
        """`wake`: has the loop that calls `step` do so soon, from any thread."""
        self._executor = executor
        self._limits = limits
        self._answers: dict[int, tuple[int, Answer]] = {}  # by the executor's id: ours, and what came so far
        self._ids: dict[int, int] = {}  # ours → the executor's
        self._busy_since = 0.0  # when the first of those that run came
        self._pump = Pump(executor, wake)
        self._guard = Guard(speaker, self._stalled_for, stall_timeout, wake)

    @property
    def has_work(self) -> bool:
        return bool(self._answers)

    def submit(self, request: Request) -> None:
        """RequestError where it can never be served; it then gets no event."""
        if request.pooling is not None:
            raise CAPABILITIES.unable("pooling")
        CAPABILITIES.check(request.sampling, request.priority)
        last, length = self._limits.vocab_size - 1, len(request.prompt)
        if not request.prompt or not 0 <= min(request.prompt) <= max(request.prompt) <= last:
            raise RequestError(
                f"The prompt is empty or holds a token id that is not within 0 … {last}.", param="prompt"
            )
        if length + request.sampling.max_tokens > self._limits.max_model_len:
            raise RequestError(
                f"The prompt's {length} tokens and max_tokens={request.sampling.max_tokens} are more than the "
                f"{self._limits.max_model_len} that this engine holds.",
                param="max_tokens",
            )
        if request.id in self._ids:
            raise RequestError(f"A request with id {request.id} is already being served.", param="id")
        end_id = end_id_of(request, self._limits.eos_token_ids)
        if not self._answers:
            self._busy_since = time.monotonic()
        theirs = self._executor.enqueue_request(to_executor(request, end_id))
        self._answers[theirs] = request.id, Answer(request, end_id, self._limits.tokens_per_block)
        self._ids[request.id] = theirs

    def abort(self, request_id: int) -> TokenEvent | None:
        """Its final event comes later, between two of TensorRT-LLM's iterations."""
        if request_id in self._ids:
            self._executor.cancel_request(self._ids[request_id])
        return None

    def abort_all(self, finish: Finish, error: str | None = None) -> list[TokenEvent]:
        """All final events; what else comes of these requests is dropped."""
        for theirs in self._answers:
            self._executor.cancel_request(theirs)
        ours, self._ids, self._answers = list(self._ids), {}, {}
        return [TokenEvent(request_id, None, finish, error=error) for request_id in ours]

    def step(self, meanwhile: Callable[[], None] = lambda: None) -> list[TokenEvent]:
        """What has come by now. EngineDeadError where a rank is gone or nothing moves."""
        meanwhile()
        self._guard.check()
        events: list[TokenEvent] = []
        for response in self._pump.take():
            if (running := self._answers.get(response.request_id)) is None:
                continue  # aborted with all others
            ours, answer = running
            events += answer.take(response)
            if events and events[-1].request_id == ours and events[-1].finish is not None:
                del self._answers[response.request_id], self._ids[ours]
        return events

    def stats(self) -> Stats:
        totals, running = self._pump.totals, len(self._answers)
        waiting = min(running, max(totals.queued, running - self._limits.max_num_seqs))
        per_block = self._limits.tokens_per_block
        return Stats(
            running=running - waiting,
            waiting=waiting,
            kv_usage=totals.used_blocks / totals.max_blocks if totals.max_blocks and running else 0.0,
            preemptions=totals.paused,
            prefix_queries=(totals.reused_blocks + totals.missed_blocks) * per_block,
            prefix_hits=totals.reused_blocks * per_block,
            steps=totals.steps,
            scheduled_tokens=totals.scheduled_tokens,
        )

    @property
    def kv_cache_tokens(self) -> int:
        """0 before the first iteration's statistics have come."""
        return self._pump.totals.max_blocks * self._limits.tokens_per_block

    def close(self) -> None:
        """Stops watching; the executor is then its maker's to shut down."""
        self._guard.close()
        self._pump.close()

    def _stalled_for(self) -> float:
        if not self._answers:
            return 0.0
        return time.monotonic() - max(self._busy_since, self._pump.progress_at)
