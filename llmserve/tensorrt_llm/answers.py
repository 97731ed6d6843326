"""From TensorRT-LLM's responses to one request to our token events.

A result of a stream has the tokens that are new and the log-probabilities of all so far. The token that is `end_id`
is never among them, although it was chosen: it is put back, as an answer of ours ends with the token that ends it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmserve.request import Finish, Request, TokenEvent, TokenLogprobs

if TYPE_CHECKING:
    from tensorrt_llm.bindings import executor as trtllm

FINISH = {
    "END_ID": Finish.STOP,
    "STOP_WORDS": Finish.STOP,
    "LENGTH": Finish.LENGTH,
    "TIMED_OUT": Finish.TIMEOUT,
    "CANCELLED": Finish.ABORT,
}

NOT_ACCEPTED = "fetching new request"
"""In an error's text where the request itself is at fault, and nothing else is wrong."""


class Answer:
    """Of one request; `take` its responses in order."""

    def __init__(self, request: Request, end_id: int | None, tokens_per_block: int) -> None:
        self._request = request
        self._end_id = end_id
        self._tokens_per_block = tokens_per_block
        self._count = 0  # tokens so far

    def take(self, response: trtllm.Response) -> list[TokenEvent]:
        """The last one's last event has `finish` set."""
        if response.has_error():
            return [self._failed(response.error_msg)]
        result = response.result
        tokens = list(result.output_token_ids[0])
        finish = None
        if result.is_final:
            reason = result.finish_reasons[0].name
            finish = FINISH.get(reason)
            if finish is None:
                return [self._failed(f"it ended with {reason}")]
            if reason == "END_ID" and self._end_id is not None and self._may_tell_of_end(result, len(tokens)):
                tokens.append(self._end_id)
        events = [self._event(token, self._logprobs(result, i)) for i, token in enumerate(tokens)]
        self._count += len(tokens)
        if finish is not None:
            last = events.pop() if events else TokenEvent(self._request.id, None)
            events.append(last._replace(finish=finish, cached_tokens=self._cached(result)))
        return events

    def _event(self, token: int, logprobs: TokenLogprobs | None) -> TokenEvent:
        return TokenEvent(self._request.id, token, logprobs=logprobs)

    def _may_tell_of_end(self, result: trtllm.Result, new: int) -> bool:
        """Where log-probabilities are wanted, only together with its own."""
        return self._request.sampling.logprobs is None or self._logprobs(result, new) is not None

    def _logprobs(self, result: trtllm.Result, i: int) -> TokenLogprobs | None:
        """Of the result's i-th new token."""
        if self._request.sampling.logprobs is None or not result.log_probs:
            return None
        so_far = result.log_probs[0]
        at = self._count + i
        return TokenLogprobs(so_far[at], (), 0) if at < len(so_far) else None

    def _cached(self, result: trtllm.Result) -> int:
        metrics = result.request_perf_metrics
        if metrics is None:
            return 0
        return min(metrics.kv_cache_metrics.num_reused_blocks * self._tokens_per_block, len(self._request.prompt))

    def _failed(self, reason: str) -> TokenEvent:
        """C++ puts a stack behind its sentence."""
        sentence = reason.strip().split("\n", 1)[0][:500]
        return TokenEvent(
            self._request.id,
            None,
            Finish.ERROR,
            error=f"TensorRT-LLM gave this request up: {sentence}",
            refused=NOT_ACCEPTED in reason,
        )
