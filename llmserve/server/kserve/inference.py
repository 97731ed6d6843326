"""Tensors → a job, and a job's answers → tensors: POST …/infer without HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmserve.errors import RequestError
from llmserve.server.completions import DEFAULT_MAX_TOKENS
from llmserve.server.errors import shown
from llmserve.server.generation import Generation
from llmserve.server.kserve.parameters import completion_fields, values_of
from llmserve.server.kserve.protocol import InferBody, InputTensor, validated
from llmserve.server.kserve.tensors import Tensor, from_binary, from_json
from llmserve.server.protocol.completion import CompletionBody
from llmserve.server.protocol.values import MAX_PROMPTS
from llmserve.server.respond import Whole
from llmserve.server.serving import Serving
from llmserve.server.streaming import encode

TEXT_INPUT, TEXT_OUTPUT = "text_input", "text_output"
OUTPUTS = {TEXT_OUTPUT: "BYTES", "finish_reason": "BYTES", "num_output_tokens": "INT32"}
"""Name → datatype; each has a row for each text."""

BINARY_SIZE = "binary_data_size"
BINARY_OUTPUT = "binary_data_output"


@dataclass(frozen=True, slots=True)
class Inference:
    """What a request asks for."""

    id: str | None
    texts: list[str]
    shape: tuple[int, ...]  # of text_input, and so of every output
    body: CompletionBody
    outputs: dict[str, bool]  # name → in binary, in the order in which they are wanted


def completion(texts: Sequence[str], named: Mapping[str, Any]) -> CompletionBody:
    """`named`: parameters by Triton's names. Raises what `errors.answer` knows."""
    if len(texts) > MAX_PROMPTS:
        raise RequestError(
            f"{TEXT_INPUT} has {len(texts)} texts; at most {MAX_PROMPTS} are possible.", param=TEXT_INPUT
        )
    for text in texts:
        if not text:
            raise RequestError(f"{TEXT_INPUT} has an empty text; give at least one character.", param=TEXT_INPUT)
    return validated(CompletionBody, {"prompt": list(texts), "return_token_ids": True, **completion_fields(named)})


async def start(serving: Serving, body: CompletionBody) -> Generation:
    """Raises what a completion raises."""
    serving.check(body, prompts=len(body.prompt), prompt_param=TEXT_INPUT)
    texts = [prompt for prompt in body.prompt if isinstance(prompt, str)]
    job = serving.job(
        body,
        await serving.encode(texts, add_special_tokens=True, param=TEXT_INPUT),
        prompt_param=TEXT_INPUT,
        limit=body.max_tokens,
        limit_param="max_tokens",
        default_limit=DEFAULT_MAX_TOKENS,
        logprobs=None,
        prompt_logprobs=None,
        continues_text=True,
    )
    return serving.start(job)


def inference(body: InferBody, binary: bytes) -> Inference:
    """`binary`: what follows the JSON."""
    parameters = dict(body.parameters or {})
    all_binary = parameters.pop(BINARY_OUTPUT, False)
    if not isinstance(all_binary, bool):
        raise RequestError(f"{BINARY_OUTPUT} must be true or false, not {shown(all_binary)}.", param=BINARY_OUTPUT)
    tensors = _tensors(body.inputs, binary)
    text = tensors.pop(TEXT_INPUT, None)
    if text is None:
        raise RequestError(f"The input {TEXT_INPUT} is missing.", param=TEXT_INPUT)
    if text.datatype != "BYTES" or (text.shape != (1,) and text.shape[1:] != (1,)):
        raise RequestError(
            f"{TEXT_INPUT} is {text.datatype} of shape {list(text.shape)}; it must be BYTES of shape [1] or [n, 1].",
            param=TEXT_INPUT,
        )
    given = values_of(tensors.values(), len(text.data))
    for name in parameters.keys() & given.keys():
        raise RequestError(f"{name} is given as an input and as a parameter; give it once.", param=name)
    if given.get("stream", parameters.get("stream")):
        raise RequestError("infer answers once; send stream: true to generate_stream.", param="stream")
    wanted = {output.name: output.parameters or {} for output in body.outputs or ()}
    outputs = {name: _in_binary(name, own, all_binary) for name, own in wanted.items()}
    return Inference(
        body.id,
        text.data,
        text.shape,
        completion(text.data, parameters | given),
        outputs or dict.fromkeys(OUTPUTS, all_binary),
    )


def _in_binary(name: str, parameters: dict[str, Any], default: bool) -> bool:
    if name not in OUTPUTS:
        raise RequestError(f"{name[:100]} is no output of this model; it has {', '.join(OUTPUTS)}.", param="outputs")
    for key in parameters.keys() - {"binary_data"}:
        raise RequestError(f"{key[:100]} is not supported for outputs; leave it out.", param=f"outputs.{key}")
    binary = parameters.get("binary_data", default)
    if not isinstance(binary, bool):
        raise RequestError(f"binary_data must be true or false, not {shown(binary)}.", param="outputs.binary_data")
    return binary


def _tensors(inputs: Sequence[InputTensor], binary: bytes) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    at = 0
    for given in inputs:
        if given.name in tensors:
            raise RequestError(f"The input {given.name[:100]} is there twice.", param="inputs")
        parameters = dict(given.parameters or {})
        size = parameters.pop(BINARY_SIZE, None)
        for key in parameters:
            raise RequestError(f"{key[:100]} is not supported for inputs; leave it out.", param=f"inputs.{key}")
        if (size is None) == (given.data is None):
            raise RequestError(
                f"The input {given.name[:100]} must have either data or the parameter {BINARY_SIZE}.", param="inputs"
            )
        if given.data is not None:
            tensors[given.name] = from_json(given.name, given.datatype, given.shape, given.data)
            continue
        if type(size) is not int or not 0 <= size <= len(binary) - at:
            raise RequestError(
                f"{BINARY_SIZE} of {given.name[:100]} is {shown(size)}, and {len(binary) - at} bytes follow the JSON.",
                param="inputs",
            )
        tensors[given.name] = from_binary(given.name, given.datatype, given.shape, binary[at : at + size])
        at += size
    if at != len(binary):
        raise RequestError(f"{len(binary) - at} bytes follow the JSON that belong to no input.", param="inputs")
    return tensors


def answer_body(asked: Inference, choices: Sequence[Whole], head: dict[str, Any]) -> tuple[bytes, bytes]:
    """The answer's JSON, and the bytes behind it. `head`: what every answer says."""
    values: dict[str, list[Any]] = {
        TEXT_OUTPUT: [choice.text for choice in choices],
        "finish_reason": [choice.finish.value if choice.finish else "" for choice in choices],
        "num_output_tokens": [len(choice.tokens) for choice in choices],
    }
    told, behind = [], []
    for name, in_binary in asked.outputs.items():
        tensor = Tensor(name, OUTPUTS[name], asked.shape, values[name])
        if in_binary:
            said, raw = tensor.in_binary()
            told.append(said)
            behind.append(raw)
        else:
            told.append(tensor.in_json())
    id = {} if asked.id is None else {"id": asked.id}
    return encode(head | id | {"outputs": told}), b"".join(behind)
