"""The options that make configs: of a build, of the engine's ranks and of the front.

One is declared here, as a field under its config's name, and nowhere else on the command line. What typer needs for
that is in `cli_groups`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from llmserve.cli_groups import OptionGroup
from llmserve.config import BuildConfig, EngineConfig, ServerConfig, TensorRTLLMBuildConfig, parse_bytes, validated
from llmserve.errors import ConfigError
from llmserve.request import Pooling


class QuantChoice(str, Enum):
    none, int8, int4 = "none", "int8", "int4"


class WeightsChoice(str, Enum):
    none, int8, int4, int4_awq, int8_sq, fp8 = "none", "int8", "int4", "int4_awq", "int8_sq", "fp8"


class DTypeChoice(str, Enum):
    auto, float32, bfloat16, float16 = "auto", "float32", "bfloat16", "float16"


class KVDTypeChoice(str, Enum):
    auto, float32, bfloat16, int8 = "auto", "float32", "bfloat16", "int8"


class ActivationsChoice(str, Enum):
    auto, int8, bfloat16, float32 = "auto", "int8", "bfloat16", "float32"


class DeviceChoice(str, Enum):
    cpu, cuda = "cpu", "cuda"


class BackendChoice(str, Enum):
    native, tensorrt_llm = "native", "tensorrt-llm"


@dataclass(frozen=True)
class BuildOptions(OptionGroup):
    """None: as a YAML file says, or else BuildConfig's default."""

    quant: Annotated[
        WeightsChoice | None,
        Option(help="Weight-only int8, int4; tensorrt-llm also has calibrated int4_awq, int8_sq, fp8. Default: none."),
    ] = None
    head_quant: Annotated[
        QuantChoice | None, Option(help="Of the LM head. Default: int8 in an int4 engine, else as --quant.")
    ] = None
    group_size: Annotated[
        int | None, Option(help="int4: columns per scale, 128, 64 or 32. Default: the largest that fits.")
    ] = None
    tp_size: Annotated[int | None, Option(help="Ranks to shard over. Default: 1.")] = None
    dtype: Annotated[DTypeChoice | None, Option(help="Of activations and unquantised weights. Default: auto.")] = None
    device: Annotated[
        DeviceChoice | None,
        Option(help="What the engine will run on. Default: cpu; `plan`: cuda, or cpu by --gpu cpu or --memory alone."),
    ] = None

    def config(self, from_file: dict[str, Any]) -> BuildConfig:
        given = {name: value for name, value in self.values().items() if value is not None}
        return validated(BuildConfig, from_file | given, from_file.keys() - given)


@dataclass(frozen=True)
class BackendOptions(OptionGroup):
    """Who builds and executes the engine, and what only TensorRT-LLM's builder is told."""

    SECTION = "TensorRT-LLM"

    backend: Annotated[
        BackendChoice | None, Option(help="tensorrt-llm: NVIDIA's builder and executor. Default: native, our own.")
    ] = None
    max_batch_size: Annotated[int | None, Option(help="sequences that run at once. Default: 64.")] = None
    max_seq_len: Annotated[int | None, Option(help="tokens of a sequence, prompt included. Default: the model's.")] = (
        None
    )
    max_input_len: Annotated[int | None, Option(help="tokens of a prompt. Default: all of a sequence's but one.")] = (
        None
    )
    max_num_tokens: Annotated[int | None, Option(help="tokens in one step. Default: 8192.")] = None
    timing_cache: Annotated[
        str | None,
        Option(metavar="FILE", help="TensorRT's measurements, to build quicker again. Default: none."),
    ] = None
    calib_dataset: Annotated[
        str | None, Option(help="name or folder of the data to calibrate on. Default: cnn_dailymail.")
    ] = None
    trust_remote_code: Annotated[
        bool | None, Option("--trust-remote-code", help="let it run code that the checkpoint brings.")
    ] = None


def build_config(
    from_file: dict[str, Any], options: BuildOptions, backend_options: BackendOptions
) -> BuildConfig | TensorRTLLMBuildConfig:
    """ConfigError names a setting that the chosen backend does not have."""
    given = options.values() | backend_options.values()
    flags = {name: value for name, value in given.items() if value is not None}
    values, in_file = from_file | flags, from_file.keys() - flags
    backend = values.pop("backend", "native")
    if backend not in ("native", "tensorrt-llm"):
        raise ConfigError(f"backend is {backend!r:.100}; choose native or tensorrt-llm.")
    ours, theirs = set(BuildConfig.model_fields), set(TensorRTLLMBuildConfig.model_fields)
    foreign = theirs - ours if backend == "native" else ours - theirs
    for name in values:
        if name in foreign:
            raise ConfigError(f"{name} is no setting of the {backend} backend; leave it away.")
    if backend == "native":
        return validated(BuildConfig, values, in_file)
    return validated(TensorRTLLMBuildConfig, values, in_file)


@dataclass(frozen=True)
class ModelOptions(OptionGroup):
    """Of every command that loads an engine."""

    SECTION = "Engine"

    kv_cache_memory: Annotated[
        str | None,
        Option(
            metavar="SIZE",
            help="KV cache per rank, e.g. 512MiB. Default: 4 GiB over all ranks, less where less can be of use.",
        ),
    ] = None
    kv_cache_dtype: Annotated[
        KVDTypeChoice, Option(help="Of keys and values. auto: float32 in a float32 engine, else bfloat16.")
    ] = KVDTypeChoice.auto
    activations: Annotated[
        ActivationsChoice,
        Option(help="What weights are multiplied by. auto: int8 for quantised weights, given AVX2 or more."),
    ] = ActivationsChoice.auto
    kernels: Annotated[
        str, Option(help="An instruction set, or `reference`. Default: the best there is; see `llmserve doctor`.")
    ] = "auto"
    threads: Annotated[int | None, Option(help="Threads per rank. Default: this host's cores over its ranks.")] = None

    def config(self) -> EngineConfig:
        values = self.values()
        memory = values["kv_cache_memory"]
        return validated(EngineConfig, values | {"kv_cache_memory": None if memory is None else parse_bytes(memory)})


@dataclass(frozen=True)
class EngineOptions(ModelOptions):
    """All that EngineConfig has."""

    max_num_seqs: Annotated[int, Option(help="Sequences that run at once; more wait.")] = 64
    max_num_batched_tokens: Annotated[int, Option(help="Tokens computed in one step: the size of a prefill chunk.")] = (
        1024
    )
    max_model_len: Annotated[
        int | None, Option(help="Tokens of a sequence, prompt included. Default: the model's, or what the cache holds.")
    ] = None
    block_size: Annotated[int, Option(help="Tokens in a block of the paged KV cache.")] = 16
    prefix_caching: Annotated[bool, Option(help="Reuse the KV blocks of prompts that begin alike.")] = True
    overlap: Annotated[
        bool | None,
        Option(
            "--overlap/--no-overlap",
            help="Prepare the next step while this one is computed. Default: if a core is left for it.",
        ),
    ] = None
    verify: Annotated[bool, Option(help="Compare the shards with their checksums before use.")] = True
    stall_timeout: Annotated[
        float | None,
        Option(help="tensorrt-llm: seconds without a step, while there is work, that end the server. Default: 8."),
    ] = None


@dataclass(frozen=True)
class PlannedOptions(OptionGroup):
    """Of what a planned engine is to serve; `llmserve run` takes them by the same names."""

    SECTION = "Serving"

    max_model_len: Annotated[
        int | None, Option(help="Tokens of a sequence that must fit. Default: as many as do, of the model's.")
    ] = None
    max_num_seqs: Annotated[
        int | None, Option(help="Sequences that run at once. Default: 64, or max_batch_size of --config.")
    ] = None
    max_num_batched_tokens: Annotated[
        int | None, Option(help="Tokens in one step. Default: 1024, or max_num_tokens of --config.")
    ] = None
    kv_cache_dtype: Annotated[
        KVDTypeChoice, Option(help="Of keys and values. auto: float32 in a float32 engine, else bfloat16.")
    ] = KVDTypeChoice.auto
    block_size: Annotated[int, Option(help="Tokens in a block of the paged KV cache.")] = 16

    def config(self, from_file: dict[str, Any]) -> EngineConfig:
        given = {name: value for name, value in self.values().items() if value is not None}
        return validated(EngineConfig, from_file | given, from_file.keys() - given)


@dataclass(frozen=True)
class MachineOptions(OptionGroup):
    """Of what is planned for."""

    SECTION = "Machine"

    gpu: Annotated[
        str | None,
        Option(metavar="NAME", help="H200, L4, …, or cpu: this host. Default: all GPUs there are figures of."),
    ] = None
    memory: Annotated[
        str | None, Option(metavar="SIZE", help="Instead of the GPU's, or of a machine without a name: 24GB.")
    ] = None
    bandwidth: Annotated[str | None, Option(metavar="SIZE/s", help="Likewise, of its memory: 60GB/s.")] = None
    memory_utilization: Annotated[
        float, Option(help="Share of the memory that may be used; the rest is the driver's and what gets lost.")
    ] = 0.9


@dataclass(frozen=True)
class ServerOptions(OptionGroup):
    """All that ServerConfig has."""

    host: Annotated[str, Option(help="Address to listen on.")] = "0.0.0.0"
    port: Annotated[int, Option(help="Port to listen on; 0: any free one.")] = 8000
    served_model_name: Annotated[str | None, Option(help="Name clients use. Default: the checkpoint's.")] = None
    chat_template: Annotated[
        Path | None, Option(metavar="FILE", help="Jinja template for chat prompts. Default: the checkpoint's.")
    ] = None
    tool_call_parser: Annotated[
        str | None, Option(metavar="NAME", help="Form of the model's tool calls, or none. Default: by the template.")
    ] = None
    reasoning_parser: Annotated[
        str | None, Option(metavar="NAME", help="Form of the model's reasoning, or none. Default: by the template.")
    ] = None
    max_queue: Annotated[int, Option(help="Requests that wait beyond those that run; more get a 429.")] = 4096
    sse_ping_interval: Annotated[
        float, Option(help="Seconds of a stream's silence until a comment keeps its connection; 0: never.")
    ] = 15.0
    pooling: Annotated[
        Pooling, Option(help="What embeddings are made of: of all positions of a text the mean, or the last one's.")
    ] = Pooling.LAST
    shutdown_timeout: Annotated[float, Option(help="Seconds that SIGTERM waits for running requests.")] = 30.0

    def config(self) -> ServerConfig:
        return validated(ServerConfig, self.values())
