"""Triton's generate extension: one text in, its answer out, whole or as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

from llmserve.errors import RequestError
from llmserve.server.generation import Generation
from llmserve.server.kserve.inference import TEXT_OUTPUT, completion
from llmserve.server.kserve.protocol import GenerateBody
from llmserve.server.kserve.statistics import Statistics
from llmserve.server.protocol.completion import CompletionBody
from llmserve.server.respond import Whole, problem_of
from llmserve.server.streaming import event


@dataclass(frozen=True, slots=True)
class GenerateFormat:
    """`head`: what every answer says."""

    head: dict[str, Any]

    def body(self, choice: Whole) -> dict[str, Any]:
        return self._part(choice.text) | {
            "finish_reason": choice.finish and choice.finish.value,
            "num_output_tokens": len(choice.tokens),
        }

    async def chunks(self, generation: Generation, statistics: Statistics, *, at_once: bool) -> AsyncIterator[bytes]:
        """An event for each piece of text, or `at_once` for all of it; at last one with what is known at the end."""
        whole = Whole(0)
        try:
            with statistics.request(1):
                async for delta in generation.deltas():
                    whole.add(delta)
                    if delta.text and not at_once:
                        yield event(self._part(delta.text))
            yield event(self.body(whole if at_once else replace(whole, text="")))
        except Exception as e:
            yield event(problem_of(e).sentence())

    def _part(self, text: str) -> dict[str, Any]:
        return self.head | {TEXT_OUTPUT: text}


def generate_completion(body: GenerateBody) -> CompletionBody:
    """RequestError where a parameter is given twice."""
    named = dict(body.parameters or {})
    for name, value in (body.model_extra or {}).items():
        if name in named:
            raise RequestError(f"{name[:100]} is given twice; give it once.", param=name)
        named[name] = value
    return completion([body.text_input], named)
