"""One step of a build in a process of its own, which has a GPU and much memory, and may die of either:

    python -m llmserve.tensorrt_llm.rank_build OPTIONS        with Options' fields as JSON

It calibrates (for all ranks at once) or builds one rank's engine, and writes what came of it to `options.result`.
"""

from __future__ import annotations

import signal
import sys
import traceback
from pathlib import Path
from typing import Any, Literal

from llmserve.config import Frozen, TensorRTLLMBuildConfig
from llmserve.engine.launch import die_with_parent
from llmserve.errors import BuildError, LlmserveError
from llmserve.tensorrt_llm import library
from llmserve.tensorrt_llm.device import Gpu, use_gpu

QUANT_ALGOS = {
    "none": None,
    "int8": "W8A16",
    "int4": "W4A16",
    "int4_awq": "W4A16_AWQ",
    "int8_sq": "W8A8_SQ_PER_CHANNEL",
    "fp8": "FP8",
}
GIVEN_INT4 = "W4A16_GPTQ"
"""Of a checkpoint's own int4, AWQ's too: the layout is what the name stands for."""

CALIBRATED = ("int4_awq", "int8_sq", "fp8")
BLACKWELL, HOPPER_OR_ADA = 100, 89


class GivenInt4(Frozen):
    """A checkpoint's own int4 matrices."""

    method: str  # GPTQ or AWQ
    group_size: int
    zero_points: bool


class Options(Frozen):
    step: Literal["calibrate", "build"]
    config: TensorRTLLMBuildConfig
    checkpoint: str
    model_class: str
    class_options: dict[str, str]
    dtype: str
    given: GivenInt4 | None
    rank: int
    gpu: int  # of this host
    max_seq_len: int
    calibrated: str  # the folder of what `calibrate` writes and `build` then reads
    timing_cache: str  # a file, which need not exist
    output: str  # the folder of all ranks' engines
    result: str  # the file for Result


class Result(Frozen):
    problem: str = ""  # a sentence; the rest then is of no matter
    version: str = ""
    tensorrt_version: str = ""
    gpu: str = ""
    sm: int = 0


def main() -> int:
    die_with_parent(signal.SIGKILL)
    options = Options.model_validate_json(sys.argv[1])
    result = run(options)
    Path(options.result).write_text(result.model_dump_json())
    return 1 if result.problem else 0


def run(options: Options) -> Result:
    """Whatever goes wrong is in the result."""
    try:
        return _run(options)
    except LlmserveError as e:
        return Result(problem=str(e))
    except Exception as e:
        traceback.print_exc()
        return Result(problem=_told(e, options))


def _run(options: Options) -> Result:
    version = library.load()
    gpu = use_gpu(options.gpu)
    check_gpu(gpu, options.config.quant, options.given)
    if options.step == "calibrate":
        _calibrate(options)
    else:
        _build(options)
    return Result(version=version, tensorrt_version=library.tensorrt_version(), gpu=gpu.name, sm=gpu.sm)


def check_gpu(gpu: Gpu, quant: str, given: GivenInt4 | None) -> None:
    """BuildError where TensorRT-LLM has no kernels of this quantisation for it: before hours are spent."""
    if BLACKWELL <= gpu.sm < 120 and (quant in ("int8", "int4", "int8_sq") or given is not None):
        raise BuildError(
            f"TensorRT-LLM has no {quant} for {gpu.name} (compute capability {gpu.sm / 10}); use --quant none or fp8, "
            "or another GPU."
        )
    if quant == "fp8" and gpu.sm < HOPPER_OR_ADA:
        raise BuildError(
            f"--quant fp8 needs compute capability 8.9, and {gpu.name} has {gpu.sm / 10}; use int8 or int4_awq."
        )


def _calibrate(options: Options) -> None:
    """All ranks' checkpoints, in TensorRT-LLM's own form."""
    _model_class(options).quantize(
        options.checkpoint,
        options.calibrated,
        dtype=options.dtype,
        mapping=_mapping(options),
        quant_config=_quant_config(options),
        calib_dataset=options.config.calib_dataset,
    )


def _build(options: Options) -> None:
    from tensorrt_llm.builder import BuildConfig, build

    config = options.config
    if config.quant in CALIBRATED:
        model = _model_class(options).from_checkpoint(options.calibrated, rank=options.rank)
    else:
        # AWQ's and GPTQ's matrices are read as they are, by one name; `use_autoawq`: they lie as AWQ has them.
        awq: dict[str, Any] = {"use_autoawq": True} if options.given and options.given.method == "AWQ" else {}
        model = _model_class(options).from_hugging_face(
            options.checkpoint,
            dtype=options.dtype,
            mapping=_mapping(options),
            quant_config=_quant_config(options),
            trust_remote_code=config.trust_remote_code,
            **options.class_options,
            **awq,
        )
    cache = options.timing_cache
    build_config = BuildConfig(
        max_batch_size=config.max_batch_size,
        max_input_len=config.max_input_len or options.max_seq_len - 1,
        max_seq_len=options.max_seq_len,
        max_num_tokens=config.max_num_tokens,
        max_beam_width=1,
        input_timing_cache=cache if Path(cache).exists() else None,
        output_timing_cache=cache,  # the default is a file in whatever folder this is
    )
    plugins = build_config.plugin_config
    plugins.use_paged_context_fmha = True  # without it, no prompt in chunks and no prefix found again
    plugins.remove_input_padding = True
    if config.quant == "none" and options.given is None:
        plugins.gemm_plugin = "auto"
    engine = build(model, build_config)
    if engine is None:
        raise BuildError(f"TensorRT found no way to build rank {options.rank}'s engine; its messages are above.")
    engine.save(options.output)


def _model_class(options: Options) -> Any:
    from tensorrt_llm import models

    return getattr(models, options.model_class)


def _mapping(options: Options) -> Any:
    from tensorrt_llm.mapping import Mapping

    size = options.config.tp_size
    return Mapping(world_size=size, rank=options.rank, tp_size=size)


def _quant_config(options: Options) -> Any:
    from tensorrt_llm.models.modeling_utils import QuantConfig
    from tensorrt_llm.quantization import QuantAlgo

    if options.given is not None:
        return QuantConfig(
            quant_algo=QuantAlgo[GIVEN_INT4],
            group_size=options.given.group_size,
            has_zero_point=options.given.zero_points,
        )
    algo = QUANT_ALGOS[options.config.quant]
    return QuantConfig(quant_algo=None if algo is None else QuantAlgo[algo])


def _told(error: Exception, options: Options) -> str:
    """What a user can do about an exception that is not ours."""
    first = library.first_line(error)
    if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or "out of memory" in str(error).lower():
        return (
            f"GPU {options.gpu} or this host ran out of memory while rank {options.rank} was built ({first}); stop "
            "what else uses it, or build with more ranks, a smaller --max-num-tokens or --max-batch-size."
        )
    return f"TensorRT-LLM could not {options.step} rank {options.rank} ({type(error).__name__}: {first})."


if __name__ == "__main__":
    sys.exit(main())
