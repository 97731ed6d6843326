"""Triton's names for what an answer depends on → those of a completion, which has the rules for their values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from llmserve.errors import RequestError
from llmserve.server.errors import shown
from llmserve.server.kserve.tensors import Tensor

WHOLE = ("INT32", "INT64", "UINT32", "UINT64")
NUMBER = ("FP32", "FP64")
FLAG = ("BOOL",)
TEXTS = ("BYTES",)
MICROSECONDS = 1e6


@dataclass(frozen=True, slots=True)
class Parameter:
    datatypes: tuple[str, ...]  # as an input; the first is what metadata say
    field: str  # of CompletionBody


PARAMETERS = {
    "max_tokens": Parameter(WHOLE, "max_tokens"),
    "min_tokens": Parameter(WHOLE, "min_tokens"),
    "temperature": Parameter(NUMBER, "temperature"),
    "top_p": Parameter(NUMBER, "top_p"),
    "top_k": Parameter(WHOLE, "top_k"),
    "min_p": Parameter(NUMBER, "min_p"),
    "presence_penalty": Parameter(NUMBER, "presence_penalty"),
    "frequency_penalty": Parameter(NUMBER, "frequency_penalty"),
    "repetition_penalty": Parameter(NUMBER, "repetition_penalty"),
    "seed": Parameter(("INT64", "INT32", "UINT32", "UINT64"), "seed"),
    "stop": Parameter(TEXTS, "stop"),
    "ignore_eos": Parameter(FLAG, "ignore_eos"),
    "stream": Parameter(FLAG, "stream"),
}
"""Each is possible as an input and as a parameter of the request."""

OTHER_NAMES = {"random_seed": "seed", "stop_words": "stop"}
"""Of Triton's TensorRT-LLM backend."""

ASKS_FOR_NOTHING: dict[str, tuple[Any, ...]] = {
    "bad_words": ("", [], [""]),
    "exclude_input_in_output": (True,),  # an answer never begins with its prompt
    "return_log_probs": (False,),
}
"""Of the same backend and vLLM's: known and unsupported, with the values that make no difference."""


def completion_fields(named: Mapping[str, Any]) -> dict[str, Any]:
    """RequestError for a name that means nothing here."""
    fields: dict[str, Any] = {}
    for name, value in named.items():
        if name in ASKS_FOR_NOTHING:
            if value not in ASKS_FOR_NOTHING[name]:
                raise RequestError(f"{name} is not supported, got {shown(value)}; leave it out.", param=name)
            continue
        field, given = _field(name, value)
        if field in fields:
            raise RequestError(f"{name} is given twice; give it once.", param=name)
        fields[field] = given
    return fields


def _field(name: str, value: Any) -> tuple[str, Any]:
    if name == "timeout":  # Triton's is a whole number of microseconds
        if type(value) is not int or not 0 <= value < 2**63:
            raise RequestError(f"timeout must be a whole number of microseconds, not {shown(value)}.", param=name)
        return name, value / MICROSECONDS if value else None
    if name == "priority":
        return name, value
    known = OTHER_NAMES.get(name, name)
    if known not in PARAMETERS:
        raise RequestError(
            f"{name[:100]} is neither an input nor a parameter of this model; it has {', '.join(PARAMETERS)}, priority "
            "and timeout.",
            param=name,
        )
    return PARAMETERS[known].field, [] if known == "stop" and value in ("", [""]) else value


def values_of(tensors: Iterable[Tensor], rows: int) -> dict[str, Any]:
    """Parameters that came as inputs, for a request of `rows` texts. RequestError that names the input."""
    values: dict[str, Any] = {}
    for tensor in tensors:
        known = PARAMETERS.get(OTHER_NAMES.get(tensor.name, tensor.name))
        if known is not None and tensor.datatype not in known.datatypes:
            raise RequestError(
                f"{tensor.name} is of {tensor.datatype}; it must be of {' or '.join(known.datatypes)}.",
                param=tensor.name,
            )
        values[tensor.name] = _texts(tensor) if tensor.datatype in TEXTS else _value(tensor, rows)
    return values


def _texts(tensor: Tensor) -> list[str]:
    if len(tensor.shape) == 2 and tensor.shape[0] > 1:
        raise RequestError(
            f"{tensor.name} has shape {list(tensor.shape)}; all texts of a request share it: it must be [n] or [1, n].",
            param=tensor.name,
        )
    return tensor.data


def _value(tensor: Tensor, rows: int) -> Any:
    if tensor.shape not in ((1,), (1, 1), (rows, 1)):
        raise RequestError(
            f"{tensor.name} has shape {list(tensor.shape)}; it must be [1], [1, 1] or [{rows}, 1].", param=tensor.name
        )
    if any(value != tensor.data[0] for value in tensor.data):
        raise RequestError(
            f"{tensor.name} differs between the texts of one request, which share it; send a request for each.",
            param=tensor.name,
        )
    return tensor.data[0]
