"""Configurations: what a model computes, how an engine is built, how it is run, and what an engine says of itself.

Frozen pydantic values; an unknown key is an error that names it. Nothing here reads weights or knows torch.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from llmserve.errors import ConfigError, EngineDirError
from llmserve.request import Pooling

ENGINE_FORMAT = 4
"""Version of the engine directory; others are refused. 3: blocks cut by whole panels. 4: sums by BLAKE3."""

DType = Literal["float32", "bfloat16", "float16"]
Device = Literal["cpu", "cuda"]
Quant = Literal["none", "int8", "int4"]
TensorRTLLMQuant = Literal["none", "int8", "int4", "int4_awq", "int8_sq", "fp8"]
"""int8, int4: of weights alone (W8A16, W4A16). The others are calibrated: AWQ in groups, SmoothQuant, FP8."""
MAX_TP_SIZE = 64

# What a model's sizes may be: far beyond any real one, so that a damaged file is found before it costs memory.
MAX_COUNT = 2**31 - 1
MAX_LAYERS = 10_000
MAX_HEAD_DIM = 65_536
MAX_EXPERTS = 4096


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


Config = TypeVar("Config", bound=Frozen)


class RopeVariants(Frozen):
    """Sets of rotation frequencies: a sequence longer than n of the ascending `lengths` turns by set n.

    It keeps the set it begins with, as the keys in its cache have been turned by it already. So its length is that of
    its prompt, or `with_output` the most that it may become.
    """

    lengths: tuple[int, ...] = ()
    with_output: bool = False

    def of(self, prompt: int, limit: int) -> int:
        return bisect_left(self.lengths, limit if self.with_output else prompt)


class Rope(Frozen):
    """Rotary position embedding. `kind` names the frequency rule; the rest are that rule's numbers.

    Sources: Su et al. 2021 (RoPE); "linear" is Chen et al. 2023 (position interpolation); "llama3" is the
    wavelength-dependent rule published with Llama 3.1; "yarn" is Peng et al. 2023; "longrope" is Ding et al. 2024 as
    Phi-3 uses it; "ntk" is the dynamic NTK-aware base of Qwen v1.
    """

    theta: float = Field(gt=0, allow_inf_nan=False)
    kind: Literal["default", "linear", "llama3", "yarn", "longrope", "ntk"] = "default"
    dim: int = Field(ge=0, le=MAX_HEAD_DIM)  # leading dimensions of a head that turn; 0: none do
    interleaved: bool = False  # neighbours turn together (2i, 2i+1), not halves (i, i + dim/2)
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True  # yarn: the borders of its blend go to whole dimensions
    attention_factor: float = Field(default=1.0, gt=0, le=1e4)  # of cosine and sine; the scores grow by its square
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()
    original_max_position: int = 0
    logn_from: int = 0  # queries from this position on grow with its logarithm (Qwen v1); 0: none do

    def variants(self, max_position: int) -> RopeVariants:
        if self.kind == "longrope" and max_position > self.original_max_position:
            return RopeVariants(lengths=(self.original_max_position,), with_output=True)
        lengths, length = [], self.original_max_position
        while self.kind == "ntk" and length < max_position:
            lengths.append(length)
            length *= 2
        return RopeVariants(lengths=tuple(lengths))


class Experts(Frozen):
    """Mixture of experts in place of some layers' feed-forward blocks (Shazeer et al. 2017; Jiang et al. 2024)."""

    count: int = Field(gt=0, le=MAX_EXPERTS)
    per_token: int = Field(gt=0)
    intermediate_size: int = Field(gt=0, le=MAX_COUNT)  # of each expert
    shared_size: int = Field(default=0, ge=0, le=MAX_COUNT)  # of the expert that sees every token; 0: there is none
    renormalise: bool  # the chosen experts' weights are scaled to a sum of 1
    layers: tuple[bool, ...]  # which layers have experts

    @model_validator(mode="after")
    def _fewer_chosen_than_there_are(self) -> Experts:
        if self.per_token > self.count:
            raise ValueError(f"{self.per_token} experts per token of {self.count}")
        return self


Activation = Literal["silu", "gelu_tanh"]


class ModelConfig(Frozen):
    """A decoder-only transformer in canonical form: every family's config.json becomes one of these at build."""

    family: str
    vocab_size: int = Field(gt=0, le=MAX_COUNT)
    hidden_size: int = Field(gt=0, le=MAX_COUNT)
    intermediate_size: int = Field(gt=0, le=MAX_COUNT)
    num_layers: int = Field(gt=0, le=MAX_LAYERS)
    num_heads: int = Field(gt=0, le=MAX_COUNT)
    num_kv_heads: int = Field(gt=0, le=MAX_COUNT)
    head_dim: int = Field(gt=0, le=MAX_HEAD_DIM)
    max_position: int = Field(gt=0, le=MAX_COUNT)
    norm_eps: float = Field(gt=0, allow_inf_nan=False)
    rope: Rope
    tie_embeddings: bool
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False  # RMSNorm on each head's query and key, before rotation (Qwen3)
    layer_norm: bool = False  # LayerNorm with a bias instead of RMSNorm (GPT-2)
    norm_offset: float = 0.0  # what is added to every norm's weight (Gemma: 1)
    activation: Activation = "silu"
    experts: Experts | None = None
    embedding_scale: float = Field(default=1.0, gt=0, le=1e6)
    attention_scale: float | None = Field(default=None, gt=0, le=1e6)  # of the scores; None: 1 / √head_dim
    attention_softcap: float = Field(
        default=0.0, ge=0, le=1e6
    )  # scores become cap · tanh(score / cap); 0: they stay (Gemma 2)
    logit_softcap: float = Field(default=0.0, ge=0, le=1e6)
    unit_head: bool = False  # the head's rows are scaled to length 1 (Baichuan 2)
    sliding_windows: tuple[int | None, ...]  # one per layer: how many last positions it sees; None: all

    @model_validator(mode="after")
    def _one_window_per_layer(self) -> ModelConfig:
        if len(self.sliding_windows) != self.num_layers:
            raise ValueError(f"{len(self.sliding_windows)} sliding_windows for num_layers={self.num_layers}")
        if self.experts and len(self.experts.layers) != self.num_layers:
            raise ValueError(f"{len(self.experts.layers)} layers of experts for num_layers={self.num_layers}")
        if self.rope.dim > self.head_dim or self.rope.dim % 2:
            raise ValueError(f"rotation of {self.rope.dim} of a head's {self.head_dim} dimensions")
        return self


KVCacheDType = Literal["auto", "float32", "bfloat16", "int8"]
Activations = Literal["auto", "int8", "bfloat16", "float32"]


class BuildConfig(Frozen):
    """`llmserve build`'s settings; `--config FILE.yaml` gives the same keys."""

    model_config = ConfigDict(strict=True)  # YAML's `yes` is no number

    quant: Quant = "none"
    head_quant: Quant | None = None  # of the LM head; None: int8 in an int4 engine, else as `quant`
    group_size: int | None = None  # None: the largest of 128, 64, 32 that divides every sharded matrix
    tp_size: int = Field(default=1, ge=1, le=MAX_TP_SIZE)
    dtype: DType | Literal["auto"] = "auto"  # auto: the checkpoint's
    device: Device = "cpu"

    @property
    def head(self) -> Quant:
        """The LM head's. It is where rounding shows most, and of an int4 engine it is read but once a token."""
        return self.head_quant or ("int8" if self.quant == "int4" else self.quant)


class TensorRTLLMBuildConfig(Frozen):
    """`llmserve build --backend tensorrt-llm`'s settings. The limits are compiled in."""

    model_config = ConfigDict(strict=True)

    quant: TensorRTLLMQuant = "none"
    tp_size: int = Field(default=1, ge=1, le=MAX_TP_SIZE)
    dtype: DType | Literal["auto"] = "auto"  # auto: the checkpoint's, float16 for a float32 one
    max_batch_size: int = Field(default=64, ge=1, le=4096)  # sequences that run at once; decoder buffers grow with it
    max_seq_len: int | None = Field(default=None, ge=2)  # tokens of a sequence; None: the model's
    max_input_len: int | None = Field(default=None, ge=1)  # of them, the prompt's; None: all but one
    max_num_tokens: int = Field(default=8192, ge=1, le=1 << 20)  # tokens in one step
    timing_cache: str | None = None  # a file that TensorRT reads and adds its measurements to; None: kept nowhere
    calib_dataset: str = "cnn_dailymail"  # what int4_awq, int8_sq and fp8 are calibrated on
    trust_remote_code: bool = False  # TensorRT-LLM may run the checkpoint's own code, without which it reads no ChatGLM


class EngineConfig(Frozen):
    """What the engine ranks need to know to run. Counts are tokens, sizes are bytes, times are seconds."""

    model_config = ConfigDict(strict=True)

    max_num_seqs: int = Field(default=64, ge=1, le=4096)
    max_num_batched_tokens: int = Field(default=1024, ge=1, le=1 << 20)
    max_model_len: int | None = Field(default=None, ge=2)  # None: the model's, or what the KV cache holds
    block_size: int = Field(default=16, ge=1, le=1024)
    kv_cache_dtype: KVCacheDType = "auto"  # auto: float32 in a float32 engine, else bfloat16
    activations: Activations = "auto"  # what weights are multiplied by; see ops.cpu.recorder
    kernels: str = "auto"  # an instruction set, or "reference"; auto: the best that this processor runs
    kv_cache_memory: int | None = Field(default=None, ge=1)  # per rank; None: see runtime.kv_cache
    prefix_caching: bool = True
    overlap: bool | None = None  # prepare the next step while this one is computed; None: where a core is left for it
    threads: int | None = Field(default=None, ge=1, le=4096)  # per rank; None: the host's cores over its ranks
    verify: bool = True  # compare every shard with its BLAKE3 before use
    stall_timeout: float | None = Field(default=None, gt=0)  # tensorrt-llm: see tensorrt_llm.rank; None: its default

    def require_native(self) -> None:
        """Raises ConfigError, which names a setting that the native engine does not have."""
        if self.stall_timeout is not None:
            raise ConfigError("--stall-timeout is for engines of tensorrt-llm only; leave it away.")

    def longest(self, model: ModelConfig) -> int:
        """Tokens of a sequence, as far as the model and --max-model-len say. Raises ConfigError."""
        if self.max_model_len is not None and self.max_model_len > model.max_position:
            raise ConfigError(
                f"--max-model-len {self.max_model_len} exceeds the {model.max_position} positions this model was made "
                "for; lower it."
            )
        return self.max_model_len or model.max_position


class ServerConfig(Frozen):
    """What the front needs to know."""

    host: str = "0.0.0.0"
    port: int = Field(default=8000, ge=0, le=65535)
    served_model_name: str | None = None  # None: the checkpoint's folder name
    max_queue: int = Field(default=4096, ge=0)  # requests that wait beyond those that run; more are refused
    shutdown_timeout: float = Field(default=30.0, ge=0)  # how long SIGTERM waits for running requests
    sse_ping_interval: float = Field(default=15.0, ge=0)  # seconds of a stream's silence until a comment; 0: none
    chat_template: Path | None = None  # a Jinja file, in place of the checkpoint's own way to put conversations
    tool_call_parser: str | None = None  # a form's name, or "none"; None: the one that the way of asking tells of
    reasoning_parser: str | None = None  # likewise
    pooling: Pooling = Pooling.LAST  # what embeddings are made of where a request does not say


class FileRecord(Frozen):
    size: int
    blake3: str  # hex


class GenerationDefaults(Frozen):
    """From generation_config.json: what a request gets where it does not say."""

    eos_token_ids: tuple[int, ...] = ()
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_tokens: int | None = None  # of a chat's answer


class TensorRTLLMFacts(Frozen):
    """What an engine of TensorRT-LLM is tied to, and the limits that were compiled into it."""

    version: str  # of tensorrt_llm
    tensorrt_version: str
    gpu: str  # that it was built on
    sm: int  # its compute capability, as 90 for 9.0
    max_batch_size: int = Field(ge=1)
    max_input_len: int = Field(ge=1)
    max_seq_len: int = Field(ge=2)
    max_num_tokens: int = Field(ge=1)
    tokens_per_block: int = Field(ge=1)
    paged_context: bool  # prompts can be read in chunks and find each other's prefixes


class Manifest(Frozen):
    """`engine.json`: all that is known of an engine without opening its shards."""

    format: int = Field(default=ENGINE_FORMAT, ge=1)
    llmserve_version: str
    executor: Literal["native", "tensorrt-llm"] = "native"
    device: Device
    model_name: str
    model: ModelConfig
    quant: TensorRTLLMQuant
    head_quant: Quant
    group_size: int | None
    zero_points: bool = False  # int4 matrices have a zero point of their own in every group (GPTQ, AWQ)
    tp_size: int = Field(ge=1, le=MAX_TP_SIZE)
    dtype: DType
    generation: GenerationDefaults
    tokenizer_sha256: str | None  # None: the checkpoint had no tokenizer; only token ids can be served
    source_fingerprint: str  # of the checkpoint's config and tensor headers
    files: dict[str, FileRecord]
    tensorrt_llm: TensorRTLLMFacts | None = None  # where that is the executor

    @model_validator(mode="after")
    def _facts_of_its_executor(self) -> Manifest:
        if (self.executor == "tensorrt-llm") != (self.tensorrt_llm is not None):
            raise ValueError(f"executor {self.executor} {'without' if self.tensorrt_llm is None else 'with'} its facts")
        return self

    def stored_as(self) -> list[tuple[str, str]]:
        """What an engine's numbers are kept in, as rows of a table for people."""

        def told(quant: TensorRTLLMQuant) -> str:
            zeros = " with zero points" if self.zero_points else ""
            groups = f", groups of {self.group_size}{zeros}" if quant.startswith("int4") and self.group_size else ""
            return self.dtype if quant == "none" else quant + groups

        embedding = ", the embedding beside its tied head too" if self.model.tie_embeddings else ""
        rest = self.dtype + (embedding if self.head_quant != "none" else "")
        return [("layers in", told(self.quant)), ("LM head in", told(self.head_quant)), ("the rest in", rest)]

    @staticmethod
    def read(engine: Path) -> Manifest:
        """Raises EngineDirError in one sentence where `engine` holds no manifest we can use."""
        path = engine / "engine.json"
        if not engine.exists():
            raise EngineDirError(
                f"{engine} does not exist; make an engine with `llmserve build CHECKPOINT -o {engine}`."
            )
        if not path.is_file():
            raise EngineDirError(f"{engine} is not an engine (it has no engine.json); make one with `llmserve build`.")
        try:
            data = json.loads(path.read_text("utf-8"))
        except OSError as e:
            raise EngineDirError(f"{path} cannot be read: {e.strerror or e}.") from None
        except (ValueError, RecursionError) as e:
            raise EngineDirError(f"{path} is not valid JSON ({e}); build the engine again.") from None
        if not isinstance(data, dict) or type(data.get("format")) is not int:
            raise EngineDirError(f"{path} has no format number; build the engine again.")
        if data["format"] > ENGINE_FORMAT:
            raise EngineDirError(
                f"{engine} has engine format {data['format']}, newer than this llmserve reads ({ENGINE_FORMAT}); "
                "update llmserve or build the engine again."
            )
        if data["format"] < ENGINE_FORMAT:
            raise EngineDirError(
                f"{engine} has engine format {data['format']}, older than this llmserve reads ({ENGINE_FORMAT}); "
                "build the engine again."
            )
        try:
            return Manifest.model_validate(data)
        except ValidationError as e:
            raise EngineDirError(f"{path} is damaged: {first_problem(e)}; build the engine again.") from None


def validated(kind: type[Config], values: dict[str, Any], in_file: Collection[str] = ()) -> Config:
    """Settings as a user gave them → a config; ConfigError in one sentence, which names one as it was typed.

    `in_file`: names of those that stand in the file of --config; the others are flags.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as e:
        problem = e.errors(include_url=False)[0]
        reason = _reason(problem["msg"])
        if not problem["loc"]:  # of several settings together
            raise ConfigError(f"the settings cannot be used: {reason}.") from None
        name = str(problem["loc"][0])
        typed = f"{name} of --config" if name in in_file else f"--{name.replace('_', '-')}"
        told = f"{typed} {problem['input']!r:.100} cannot be used: {reason[0].lower()}{reason[1:]}"
        raise ConfigError(f"{told[:400]}.") from None


def first_problem(error: ValidationError) -> str:
    """The first thing pydantic complains about, as `key: reason`, bounded in length."""
    problem = error.errors(include_url=False, include_input=False)[0]
    key = ".".join(str(part) for part in problem["loc"]) or "value"
    return f"{key}: {_reason(problem['msg'])}"[:300]


def _reason(message: str) -> str:
    """pydantic's message without its name for the exception that a validator of ours raised."""
    return message.removeprefix("Value error, ").rstrip(".")


def parse_bytes(text: str) -> int:
    """`512MiB`, `4g`, `1.5GB`, `123456B` → bytes. k/m/g and Ki/Mi/Gi are powers of 1024, KB/MB/GB of 1000.

    A number without a unit is refused: whoever writes 24 hardly means bytes.
    """
    units = {"b": 1}
    for power, letter in enumerate("kmgt", start=1):
        units |= {letter: 1024**power, f"{letter}i": 1024**power, f"{letter}ib": 1024**power, f"{letter}b": 1000**power}
    stripped = text.strip().lower()
    number = stripped.rstrip("bkmgti ")
    if number == stripped and number.replace(".", "", 1).isdigit():
        raise ConfigError(f"{text!r} has no unit, so it is not a size; write it like 512MiB, 4GiB or 1.5GB.")
    try:
        value = float(number) * units[stripped[len(number) :].strip()]
    except (KeyError, ValueError):
        raise ConfigError(f"{text!r} is not a size; write it like 512MiB, 4GiB or 1.5GB.") from None
    if not 1 <= value < 2**60:
        raise ConfigError(f"{text!r} is not a usable size; write it like 512MiB, 4GiB or 1.5GB.")
    return int(value)


def size_text(size: int) -> str:
    """Bytes as people write them, exactly: the shortest text that `parse_bytes` makes the same number of."""
    texts = [f"{size}B"]
    for power, letter in enumerate("KMGT", start=1):
        for unit, base in ((f"{letter}iB", 1024), ("kB" if letter == "K" else f"{letter}B", 1000)):
            value = size / base**power
            if value >= 1 and round(value, 3) * base**power == size:
                texts.append(f"{round(value, 3):.15g}{unit}")
    return min(texts, key=len)
