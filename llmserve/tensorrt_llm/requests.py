"""A request of ours as one of TensorRT-LLM's, and what of ours it cannot be."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from llmserve.engine.capabilities import Capabilities
from llmserve.request import Request

if TYPE_CHECKING:
    from tensorrt_llm.bindings import executor as trtllm

CAPABILITIES = Capabilities(
    executor="tensorrt-llm",
    max_logprobs=0,  # Result.log_probs has the chosen token's alone
    prompt_logprobs=False,  # context logits would have to be gathered, compiled in, for every prompt
    penalties=False,  # its counts include the prompt's tokens
    logit_bias=False,
    allowed_token_ids=False,
    grammars=False,  # ours are llguidance's, of a tokenizer that it would have to read itself
    pooling=False,
    priorities=False,
    delayed_stops=1,  # min_tokens holds back end_id and no stop word
)


def end_id_of(request: Request, eos_token_ids: Sequence[int]) -> int | None:
    """Of the tokens that end this request the one that TensorRT-LLM itself looks for; the others are stop words.

    The model's own goes first, as it is never part of what comes back.
    """
    stops = request.sampling.stop_token_ids
    return next((token for token in (*eos_token_ids, *sorted(stops)) if token in stops), None)


def to_executor(request: Request, end_id: int | None) -> trtllm.Request:
    """The defaults of its SamplingConfig are not ours: without top_k and top_p it would be greedy."""
    from tensorrt_llm.bindings import executor as trtllm

    sampling = request.sampling
    greedy = sampling.temperature == 0
    return trtllm.Request(
        input_token_ids=list(request.prompt),
        max_tokens=sampling.max_tokens,
        streaming=True,
        sampling_config=trtllm.SamplingConfig(
            beam_width=1,
            top_k=1 if greedy else sampling.top_k or None,
            top_p=None if greedy else sampling.top_p,
            temperature=None if greedy else sampling.temperature,
            min_p=sampling.min_p or None,
            seed=sampling.seed,
            min_tokens=sampling.min_tokens or None,
            repetition_penalty=None if sampling.repetition_penalty == 1 else sampling.repetition_penalty,
        ),
        output_config=trtllm.OutputConfig(
            return_log_probs=sampling.logprobs is not None,
            exclude_input_from_output=True,
            return_perf_metrics=True,  # how much of the prompt was found in the KV cache
        ),
        end_id=end_id,
        pad_id=end_id,
        stop_words=[[token] for token in sorted(sampling.stop_token_ids) if token != end_id] or None,
        bad_words=[list(word) for word in sampling.bad_words] or None,
        allotted_time_ms=None if request.timeout is None else timedelta(seconds=request.timeout),
        cache_salt_id=_salt(request.cache_salt),
    )


def _salt(salt: str) -> int | None:
    """Different texts, different numbers of 63 bits; none for no salt."""
    if not salt:
        return None
    return int.from_bytes(hashlib.blake2b(salt.encode(), digest_size=8).digest(), "big") >> 1
