"""The executor's loop on the leader: a queue, what runs, a token each an iteration, and the Responses that come of it.

Knows no MPI: `step` is what all ranks do in an iteration.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from standin_control import die_if_told, settings, switched, take_switch

from tensorrt_llm import _answers, _values
from tensorrt_llm._values import Running


def throw(text: str) -> RuntimeError:
    """As TllmException reaches Python: the text, where it was thrown, a stack."""
    return RuntimeError(f"{text} (/src/cpp/tensorrt_llm/executor/executorImpl.cpp:1)\n1       0x7f0000000000 stand-in")


@dataclass(frozen=True)
class Limits:
    """Of the engine, cut by ExecutorConfig's."""

    max_batch_size: int
    max_num_tokens: int
    max_input_len: int
    max_seq_len: int
    vocab_size: int
    tokens_per_block: int
    reuse: bool
    chunked: bool
    max_queue_size: int | None
    iter_stats_max_iterations: int


class Loop:
    def __init__(self, limits: Limits, step: Callable[[], None]) -> None:
        self._limits, self._step = limits, step
        self._lock = threading.Condition()
        self._queue: collections.deque[Running] = collections.deque()
        self._running: list[Running] = []
        self._cancelled: set[int] = set()
        self._responses: dict[int, list[Any]] = {}
        self._terminated: set[int] = set()
        self._known_prefixes: set[tuple[int | None, ...]] = set()
        self._stats: collections.deque[Any] = collections.deque(maxlen=limits.iter_stats_max_iterations)
        self._next_id, self._iteration, self._reused, self._missed = 1, 0, 0, 0
        self._context_requests = self._context_tokens = 0
        self._ending = self._ended = False

    # What Executor's methods do, on the caller's thread.

    def enqueue(self, requests: list[Any]) -> list[int]:
        with self._lock:
            limit = self._limits.max_queue_size
            if limit and len(self._queue) + len(requests) > limit:
                raise throw(f"Maximum queue size of {limit} has been reached, please try again later")
            new = [Running(self._next_id + i, request, request.max_tokens) for i, request in enumerate(requests)]
            self._next_id += len(new)
            self._queue.extend(new)
            self._lock.notify_all()
            return [each.id for each in new]

    def cancel(self, id: int) -> None:
        with self._lock:
            if id not in self._terminated:
                self._cancelled.add(id)

    def await_any(self, timeout: float | None) -> list[Any]:
        with self._lock:
            self._lock.wait_for(lambda: self._responses or self._ended, timeout)
            return [response for id in sorted(self._responses) for response in self._taken(id)]

    def await_one(self, id: int, timeout: float | None) -> list[Any]:
        with self._lock:
            if id in self._terminated:
                return [self._error(id, f"ReqId {id} has already been processed and was terminated.")]
            self._lock.wait_for(lambda: id in self._responses or self._ended, timeout)
            return self._taken(id)

    def ready(self, id: int | None) -> int:
        with self._lock:
            return sum(len(each) for key, each in self._responses.items() if id in (None, key))

    def waiting(self) -> int:
        """How many requests the loop has not fetched: upstream tells it in IterationStats only."""
        with self._lock:
            return len(self._queue)

    def take_stats(self) -> list[Any]:
        with self._lock:
            taken = list(self._stats)
            self._stats.clear()
            return taken

    def end(self) -> None:
        """What runs and what waits is finished first."""
        with self._lock:
            self._ending = True
            self._lock.notify_all()

    # The loop, on a thread of its own.

    def run(self) -> None:
        while True:
            with self._lock:
                while not (self._queue or self._running or self._ending):
                    self._lock.wait(0.02)
                    die_if_told()
                if not (self._queue or self._running):
                    self._ended = True
                    self._lock.notify_all()
                    return
                new = self._fetch()
                if not self._running:  # all that were fetched are refused
                    self._lock.notify_all()
                    continue
            started = time.monotonic()
            while switched("hang"):
                time.sleep(0.005)
            die_if_told()
            self._step()
            with self._lock:
                done = self._iterate()
                self._append_stats(started, new, done)
                self._lock.notify_all()

    def _fetch(self) -> int:
        new = 0
        while self._queue and len(self._running) < self._limits.max_batch_size:
            each = self._queue.popleft()
            try:
                self._validate(each)
            except RuntimeError as e:
                self._respond(each.id, self._error(each.id, f"Encountered an error when fetching new request: {e}"))
                continue
            each.scheduled = time.monotonic()
            each.first_iteration = self._iteration
            self._match_prefix(each)
            self._running.append(each)
            new += 1
        return new

    def _validate(self, each: Running) -> None:
        limits, length, end_id = self._limits, len(each.prompt), each.request.end_id
        if end_id is not None and not -1 <= end_id < limits.vocab_size:
            raise throw(f"EndId ({end_id}) is not within acceptable range [-1, {limits.vocab_size}).")
        if length > limits.max_input_len:
            raise throw(f"Prompt length ({length}) exceeds maximum input length ({limits.max_input_len}).")
        each.max_tokens = min(each.max_tokens, limits.max_seq_len - length)

    def _match_prefix(self, each: Running) -> None:
        size = self._limits.tokens_per_block
        salt = each.request._cache_salt_id
        blocks = [(salt, *each.prompt[:end]) for end in range(size, len(each.prompt), size)]
        matched = [b for b in blocks if b in self._known_prefixes] if self._limits.reuse else []
        each.reused_blocks = len(matched)
        each.prefilled = len(matched) * size
        self._reused += len(matched)
        self._missed += len(blocks) - len(matched)
        self._known_prefixes.update(blocks)

    def _iterate(self) -> int:
        """One iteration of what runs; how many it finished."""
        self._iteration += 1
        if take_switch("fail"):
            for each in self._running:
                self._respond(each.id, self._error(each.id, "Encountered an error in forwardAsync function: told to"))
            done, self._running = len(self._running), []
            return done
        self._context_tokens, self._context_requests = 0, 0
        for each in self._running:
            allotted = each.request._allotted_time_ms
            if allotted is not None and time.monotonic() - each.arrived > allotted.total_seconds():
                each.reason = "TIMED_OUT"
            elif each.id in self._cancelled:
                each.reason = "CANCELLED"
                self._cancelled.discard(each.id)
            else:
                self._advance(each)
            if each.reason or (each.request.streaming and len(each.tokens) > each.sent):
                self._respond(each.id, self._result(each))
        done = [each for each in self._running if each.reason]
        self._running = [each for each in self._running if not each.reason]
        return len(done)

    def _advance(self, each: Running) -> None:
        """A chunk of the prompt, and with its last one, or after it, a token."""
        if each.prefilled < len(each.prompt):
            self._context_requests += 1
            missing = len(each.prompt) - each.prefilled
            chunk = min(missing, self._limits.max_num_tokens) if self._limits.chunked else missing
            each.prefilled += chunk
            self._context_tokens += chunk
            if chunk < missing:
                return
        token = self._next(each)
        each.log_probs.append(_answers.log_prob(token))
        each.first_token = each.first_token or time.monotonic()
        if token == each.request.end_id:  # no token of the answer, and yet it has a log probability
            each.reason = "END_ID"
            return
        each.tokens.append(token)
        if any(each.tokens[-len(word) :] == list(word) for word in each.request.stop_words or () if word):
            each.reason = "STOP_WORDS"
        elif len(each.tokens) >= each.max_tokens:
            each.reason = "LENGTH"

    def _next(self, each: Running) -> int:
        request, sampling, index = each.request, each.request.sampling_config, len(each.tokens)
        ends = settings().ends_after is not None and index >= settings().ends_after  # type: ignore[operator]
        if ends and request.end_id is not None and index >= (sampling.min_tokens or 0):
            return request.end_id  # type: ignore[no-any-return]
        greedy = sampling.top_k == 1 or not (sampling.top_k or sampling.top_p)
        seed = None if greedy else sampling.seed or 0
        token = _answers.next_token(each.prompt, seed, index, self._limits.vocab_size)
        bad = [list(word) for word in request.bad_words or ()]
        while token == request.end_id or any([*each.tokens, token][-len(word) :] == word for word in bad if word):
            token = (token + 1) % self._limits.vocab_size
        return token

    # Responses.

    def _respond(self, id: int, response: Any) -> None:
        self._responses.setdefault(id, []).append(response)

    def _taken(self, id: int) -> list[Any]:
        taken = self._responses.pop(id, [])
        if any(each._error_msg is not None or each._result.is_final for each in taken):
            self._terminated.add(id)
        return taken

    def _error(self, id: int, text: str) -> Any:
        return _values.response(id, text, None)

    def _result(self, each: Running) -> Any:
        blocks = self._blocks(len(each.prompt) + len(each.tokens))
        result = _values.result(each, self._iteration, blocks)
        each.sent = len(each.tokens)
        return _values.response(each.id, None, result, each.request.client_id)

    def _append_stats(self, started: float, new: int, done: int) -> None:
        counts = _values.Counts(
            iteration=self._iteration,
            seconds=time.monotonic() - started,
            new=new,
            running=len(self._running),
            queued=len(self._queue),
            done=done,
            context_requests=self._context_requests,
            context_tokens=self._context_tokens,
            used_blocks=sum(self._blocks(each.prefilled + len(each.tokens)) for each in self._running),
            reused_blocks=self._reused,
            missed_blocks=self._missed,
        )
        self._stats.append(_values.iteration_stats(counts, self._limits.max_batch_size, self._limits.tokens_per_block))

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self._limits.tokens_per_block)
