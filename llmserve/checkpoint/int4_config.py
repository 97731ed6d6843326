"""`quantization_config` of GPTQ and AWQ checkpoints: how their int4 weights are packed.

Sources: AutoGPTQ and GPTQModel (`gptq` counts zero points from 1, `gptq_v2` from 0), AutoAWQ (`gemm`: the outputs of a
word stand in the order 0 2 4 6 1 3 5 7). A value that changes the computation and is not implemented is an error that
names it, and so is a key that nobody here knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmserve.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Packing:
    """Eight values of 4 bits lie in a word of 32. Zero points lie as AWQ's weights do: eight outputs in a word."""

    method: str  # what its users call it
    along_inputs: bool  # a word holds 8 inputs of an output (GPTQ), not 8 outputs of an input (AWQ)
    shifts: tuple[int, ...]  # where in the word each of the 8 begins
    zero_offset: int  # a zero point is what is stored, and this
    group_size: int | None  # inputs that share a scale; None: all of them
    symmetric: bool  # every zero point is 8


_IN_ORDER = (0, 4, 8, 12, 16, 20, 24, 28)
_AWQ_ORDER = (0, 16, 4, 20, 8, 24, 12, 28)

_GPTQ_DOES_NOT_COMPUTE = {
    "act_group_aware", "backend", "batch_size", "block_name_to_quantize", "cache_block_outputs", "damp_auto_increment",
    "damp_percent", "dataset", "disable_exllama", "exllama_config", "failsafe", "max_input_length", "meta",
    "model_file_base_name", "model_name_or_path", "model_seqlen", "module_name_preceding_first_block",
    "modules_in_block_to_quantize", "mse", "offload_to_disk", "offload_to_disk_path", "pad_token_id", "static_groups",
    "tokenizer", "true_sequential", "use_cuda_fp16", "use_exllama",
}  # fmt: skip
"""Keys that say how the weights were found or with what to run them, not what they are."""

_AWQ_DOES_NOT_COMPUTE = {"backend", "do_fuse", "exllama_config", "fuse_max_seq_len", "modules_to_fuse"}

_NOT_HERE = {"modules_to_not_convert", "lm_head"}
"""Which modules are quantised: the tensors themselves show it."""


def read_packing(config: dict[str, Any]) -> Packing:
    """CheckpointError, one sentence, where we do not read what it describes."""
    method = config.get("quant_method")
    if method == "gptq":
        return _gptq(config)
    if method == "awq":
        return _awq(config)
    raise _not_implemented("quant_method", method, "gptq and awq of 4 bits; use the model's BF16 or F16 checkpoint")


def _gptq(config: dict[str, Any]) -> Packing:
    _require(config, "bits", 4)
    _require(config, "is_marlin_format", False, None)
    _require(config, "pack_dtype", "int32", None)
    _require(config, "dynamic", {}, None)
    _require(config, "rotation", None, "")
    _require(config, "adapter", {}, None)
    form = config.get("checkpoint_format", config.get("format")) or "gptq"
    if form not in ("gptq", "gptq_v2"):
        raise _not_implemented("checkpoint_format", form, "gptq and gptq_v2")
    implemented = {"bits", "is_marlin_format", "pack_dtype", "dynamic", "rotation", "adapter", "checkpoint_format",
                   "format", "quant_method", "group_size", "sym", "desc_act"}  # fmt: skip
    _refuse_unknown(config, implemented | _GPTQ_DOES_NOT_COMPUTE | _NOT_HERE)
    _truth(config, "desc_act", False)  # what it does is seen from g_idx
    size, symmetric = _group_size(config), _truth(config, "sym", True)
    return Packing("GPTQ", True, _IN_ORDER, 1 if form == "gptq" else 0, size, symmetric)


def _awq(config: dict[str, Any]) -> Packing:
    _require(config, "bits", 4)
    _require(config, "zero_point", True)
    version = config.get("version", "gemm")
    if not isinstance(version, str) or version.lower() != "gemm":
        raise _not_implemented("version", version, "gemm")
    implemented = {"bits", "zero_point", "version", "quant_method", "group_size"}
    _refuse_unknown(config, implemented | _AWQ_DOES_NOT_COMPUTE | _NOT_HERE)
    return Packing("AWQ", False, _AWQ_ORDER, 0, _group_size(config), False)


def _group_size(config: dict[str, Any]) -> int | None:
    size = config.get("group_size", 128)
    if type(size) is not int or not (size == -1 or (size >= 32 and size % 32 == 0)):
        raise _not_implemented("group_size", size, "multiples of 32, and -1")
    return None if size == -1 else size


def _truth(config: dict[str, Any], key: str, default: bool) -> bool:
    value = config.get(key, default)
    if type(value) is not bool:
        raise _not_implemented(key, value, "true and false")
    return value


def _require(config: dict[str, Any], key: str, *allowed: Any) -> None:
    value = config.get(key, allowed[0])
    if not any(type(value) is type(known) and value == known for known in allowed):
        raise _not_implemented(key, value, repr(allowed[0]))


def _refuse_unknown(config: dict[str, Any], known: set[str]) -> None:
    """A key that asks for nothing may stay."""
    for key, value in config.items():
        if key not in known and value not in (None, False, {}, [], ""):
            raise CheckpointError(
                f"quantization_config says {key}={value!r:.200}, of which llmserve does not know whether it changes "
                "the computation; use the model's BF16 or F16 checkpoint, or remove the key if it does not."
            )


def _not_implemented(key: str, value: Any, known: str) -> CheckpointError:
    return CheckpointError(
        f"quantization_config says {key}={value!r:.200}, which llmserve does not implement; it reads {known}."
    )
