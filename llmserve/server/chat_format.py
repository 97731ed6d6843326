"""What /v1/chat/completions answers with: content, reasoning and tool calls out of the deltas of an answer's text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmserve.request import Finish
from llmserve.server.answers.parts import Answer, AnswerPart, CallArguments, CallBegin, Content, Reasoning
from llmserve.server.answers.reader import AnswerReader
from llmserve.server.asked import Reading
from llmserve.server.generation import Delta, Token, Usage
from llmserve.server.logprob_format import entries
from llmserve.server.openai_format import OpenAIFormat, Told
from llmserve.server.respond import Whole


@dataclass(kw_only=True)
class ChatFormat(OpenAIFormat):
    """`chat.completion` and `chat.completion.chunk`.

    A delta may become several chunks, one for each of its parts, or none while its text is held back. Its tokens, with
    their log-probabilities, are on the first; where there is none they have a chunk of their own.
    """

    KIND = "chat.completion"
    CHUNK_KIND = "chat.completion.chunk"
    ID_PREFIX = "chatcmpl"

    reading: Reading

    def __post_init__(self) -> None:
        super().__post_init__()
        self._choices = [_Streamed(self.reading.reader()) for _ in range(self.n)]
        self._is_plain = not (self.reading.finds_calls or self.reading.finds_reasoning)
        self._reasoning_tokens = 0

    def _first_chunks(self, prompt: int, told: Told) -> list[dict[str, Any]]:
        role = {"role": "assistant", "content": None if self.reading.finds_calls else ""}
        chunks = [self._part_of(i, role) for i in range(self.n)]
        chunks[0] |= self._prompt_token_ids() | self._prompt_logprobs(prompt, told)
        return chunks

    def _chunks_of(self, delta: Delta) -> list[dict[str, Any]]:
        if self._is_plain and delta.text and not delta.tokens:  # most are, and each costs the front's one core
            return [self._part_of(delta.index, {"content": delta.text})]
        streamed = self._choices[delta.index]
        parts = streamed.reader.feed(delta.text) if delta.finish is None else streamed.reader.end()
        chunks = [self._part_of(delta.index, self._shown(part, streamed)) for part in parts]
        streamed.offsets += [token.offset for token in delta.tokens]
        if delta.finish is not None:
            self._reasoning_tokens += _reasoning_tokens(streamed.reader, streamed.offsets)
            ending = {"finish_reason": _reason(delta.finish, streamed.calls), "stop_reason": delta.stop_reason}
            return [*chunks, self._part_of(delta.index, {}, ending)]
        if delta.tokens and (self.return_token_ids or self.logprobs is not None):
            chunks = chunks or [self._part_of(delta.index, {})]
            chunks[0]["choices"][0] |= {"logprobs": self._logprobs(delta.tokens), **self._token_ids(delta.tokens)}
        return chunks

    def body(self, choices: list[Whole], usage: Usage) -> dict[str, Any]:
        told = [self._choice(choice) for choice in choices]
        return self._body(told, usage) | self._prompt_token_ids() | self._of_prompt(choices, 0)

    def _choice(self, choice: Whole) -> dict[str, Any]:
        reader = self.reading.reader()
        answer = Answer.of([*reader.feed(choice.text), *reader.end()])
        self._reasoning_tokens += _reasoning_tokens(reader, [token.offset for token in choice.tokens])
        return {
            "index": choice.index,
            "message": self._message(answer),
            "logprobs": self._logprobs(choice.tokens),
            "finish_reason": choice.finish and _reason(choice.finish, len(answer.calls)),
            "stop_reason": choice.stop_reason,
            **self._token_ids(choice.tokens),
        }

    def _message(self, answer: Answer) -> dict[str, Any]:
        content = answer.content or (None if self.reading.finds_calls else "")
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if answer.reasoning:
            message["reasoning_content"] = answer.reasoning
        if answer.calls:
            message["tool_calls"] = [
                {"id": self.reading.new_call_id(), **_function(call.name, call.arguments)} for call in answer.calls
            ]
        return message

    def _shown(self, part: AnswerPart, streamed: _Streamed) -> dict[str, Any]:
        match part:
            case Content(text):
                return {"content": text}
            case Reasoning(text):
                return {"reasoning_content": text}
            case CallBegin(index, name):
                streamed.calls += 1
                begun = {"index": index, "id": self.reading.new_call_id(), **_function(name, "")}
                return {"tool_calls": [begun]}
            case CallArguments(index, text):
                return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}

    def _part_of(self, index: int, delta: dict[str, Any], ending: dict[str, Any] | None = None) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        return self._chunk(choice if ending is None else choice | ending)

    def _usage(self, usage: Usage) -> dict[str, Any]:
        told = super()._usage(usage)
        if self.reading.finds_reasoning:
            told["completion_tokens_details"] = {"reasoning_tokens": self._reasoning_tokens}
        return told

    def _prompt_token_ids(self) -> dict[str, Any]:
        return {"prompt_token_ids": self.prompts[0]} if self.return_token_ids else {}

    def _logprobs(self, tokens: list[Token]) -> dict[str, Any] | None:
        if self.logprobs is None:
            return None
        return {"content": entries(self.tokenizer, tokens), "refusal": None}


class _Streamed:
    """How far a stream's choice has come."""

    def __init__(self, reader: AnswerReader) -> None:
        self.reader = reader
        self.calls = 0
        self.offsets: list[int] = []  # of its tokens in its text


def _function(name: str, arguments: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def _reason(finish: Finish, calls: int) -> str:
    return "tool_calls" if calls and finish is Finish.STOP else finish.value


def _reasoning_tokens(reader: AnswerReader, offsets: list[int]) -> int:
    """Those that begin in the reasoning."""
    return sum(offset < reader.reasoning_chars for offset in offsets)
