"""What an engine can do of all that a request may ask for. It says so when it is ready; the front refuses the rest.

Knows requests and their parameters' names. No HTTP, and nothing of why an engine cannot.
"""

from __future__ import annotations

import msgspec

from llmserve.errors import RequestError
from llmserve.request import MAX_LOGPROBS, SamplingParams


class Capabilities(msgspec.Struct, frozen=True):
    """The defaults are all there is, which is what the native engine can do."""

    executor: str = "native"
    max_logprobs: int = MAX_LOGPROBS  # alternatives told of beside each token
    prompt_logprobs: bool = True
    penalties: bool = True  # of presence and frequency, in the answer alone
    logit_bias: bool = True
    allowed_token_ids: bool = True
    grammars: bool = True
    pooling: bool = True
    priorities: bool = True
    delayed_stops: int | None = None  # how many stop tokens min_tokens can hold back; None: any number

    def check(self, sampling: SamplingParams, priority: int = 0) -> None:
        """Raises RequestError, which names the first parameter that asks for something else."""
        for asked, able, param in (
            (sampling.prompt_logprobs is not None, self.prompt_logprobs, "prompt_logprobs"),
            (sampling.presence_penalty != 0, self.penalties, "presence_penalty"),
            (sampling.frequency_penalty != 0, self.penalties, "frequency_penalty"),
            (bool(sampling.logit_bias), self.logit_bias, "logit_bias"),
            (sampling.allowed_token_ids is not None, self.allowed_token_ids, "allowed_token_ids"),
            (sampling.grammar is not None, self.grammars, "response_format"),
            (priority != 0, self.priorities, "priority"),
        ):
            if asked and not able:
                raise self.unable(param)
        if (sampling.logprobs or 0) > self.max_logprobs:
            raise RequestError(
                f"logprobs: this model's engine ({self.executor}) tells of each token's own log-probability and of "
                f"{self.max_logprobs} alternatives, not of {sampling.logprobs}; ask for fewer.",
                param="logprobs",
                code="unsupported_parameter",
            )
        stops = len(sampling.stop_token_ids)
        if sampling.min_tokens and self.delayed_stops is not None and stops > self.delayed_stops:
            raise RequestError(
                f"min_tokens: this model's engine ({self.executor}) can hold back {self.delayed_stops} stop token, and "
                f"this request has {stops}; leave min_tokens out, or set ignore_eos and give one of stop_token_ids.",
                param="min_tokens",
                code="unsupported_parameter",
            )

    def unable(self, param: str) -> RequestError:
        """The refusal of a parameter that asks for what this engine cannot do."""
        return RequestError(
            f"{param} is not possible with this model's engine ({self.executor}); leave it out, or serve the model "
            "with a native engine.",
            param=param,
            code="unsupported_parameter",
        )
