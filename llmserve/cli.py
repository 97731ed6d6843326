"""The command line: flags to configs, errors to one sentence and an exit code. The work is imported where it is done,
so that `llmserve --help` is quick and the front's process never sees torch."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, TypeVar

import typer
from pydantic import ValidationError

from llmserve import __version__
from llmserve.bench import options
from llmserve.config import BuildConfig, EngineConfig, Frozen, ServerConfig, first_problem, parse_bytes
from llmserve.errors import ConfigError, LlmserveError

app = typer.Typer(
    name="llmserve",
    help="Compile a Hugging Face checkpoint into an engine, and serve it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DEMO = Path(__file__).parent / "demo"
"""The checkpoint that comes with the package; `llmserve build demo` means this one."""


class QuantChoice(str, Enum):
    none = "none"
    int8 = "int8"
    int4 = "int4"


class DTypeChoice(str, Enum):
    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class KVDTypeChoice(str, Enum):
    auto, float32, bfloat16, int8 = "auto", "float32", "bfloat16", "int8"


class ActivationsChoice(str, Enum):
    auto, int8, bfloat16, float32 = "auto", "int8", "bfloat16", "float32"


class DeviceChoice(str, Enum):
    cpu = "cpu"
    cuda = "cuda"


Engine = Annotated[Path, typer.Argument(metavar="ENGINE", help="An engine directory made by `llmserve build`.")]
KVMemory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="KV cache per rank, e.g. 512MiB. Default: 4 GiB over all ranks, less where less can be of use.",
    ),
]
MaxSeqs = Annotated[int, typer.Option(help="Sequences that run at once; more wait.")]
MaxBatchedTokens = Annotated[int, typer.Option(help="Tokens computed in one step: the size of a prefill chunk.")]
MaxModelLen = Annotated[
    int | None,
    typer.Option(help="Tokens of a sequence, prompt included. Default: the model's, or what the cache holds."),
]
BlockSize = Annotated[int, typer.Option(help="Tokens in a block of the paged KV cache.")]
PrefixCaching = Annotated[bool, typer.Option(help="Reuse the KV blocks of prompts that begin alike.")]
Threads = Annotated[int | None, typer.Option(help="Threads per rank. Default: this host's cores over its ranks.")]
KVDType = Annotated[
    KVDTypeChoice,
    typer.Option("--kv-cache-dtype", help="Of keys and values. auto: float32 in a float32 engine, else bfloat16."),
]
ActivationsOption = Annotated[
    ActivationsChoice,
    typer.Option(
        "--activations",
        help="What weights are multiplied by. auto: int8 for quantised weights where the processor has VNNI.",
    ),
]
Kernels = Annotated[
    str, typer.Option(help="An instruction set, or `reference`. Default: the best there is; see `llmserve doctor`.")
]
Verify = Annotated[bool, typer.Option(help="Compare the shards with their checksums before use.")]


@app.command()
def build(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT",
            help="A Hugging Face folder, a model of the hub (`org/name`), or `demo`, the one that comes along.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="ENGINE", help="Where the engine is to stand.")],
    quant: Annotated[QuantChoice | None, typer.Option(help="Weight-only quantisation. Default: none.")] = None,
    head_quant: Annotated[
        QuantChoice | None, typer.Option(help="Of the LM head. Default: int8 in an int4 engine, else as --quant.")
    ] = None,
    group_size: Annotated[
        int | None, typer.Option(help="int4: columns per scale, 128, 64 or 32. Default: the largest that fits.")
    ] = None,
    tp_size: Annotated[int | None, typer.Option(help="Ranks to shard over. Default: 1.")] = None,
    dtype: Annotated[
        DTypeChoice | None, typer.Option(help="Of activations and unquantised weights. Default: auto.")
    ] = None,
    device: Annotated[DeviceChoice | None, typer.Option(help="What the engine will run on. Default: cpu.")] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a model of the hub. Default: its newest.")
    ] = None,
    lora: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A PEFT LoRA adapter to merge into the checkpoint.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="YAML", help="Settings by the same names, see build_configs/; flags win.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an engine that stands at the output.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Compare the engine's answers to some prompts with the checkpoint's own.")
    ] = False,
) -> None:
    """Compile a checkpoint into an engine: sharded for tensor parallelism, quantised, verified."""
    import time

    from rich.console import Console
    from rich.table import Table

    from llmserve.check.agreement import describe as describe_agreement
    from llmserve.check.command import check as check_engine
    from llmserve.checkpoint.build import build_engine, describe
    from llmserve.checkpoint.find import open_checkpoint
    from llmserve.progress import ByteProgress

    started = time.monotonic()
    flags: dict[str, Any] = {
        "quant": quant, "head_quant": head_quant, "group_size": group_size, "tp_size": tp_size, "dtype": dtype,
        "device": device,
    }  # fmt: skip
    settings = (_read_yaml(config) if config else {}) | {k: v for k, v in flags.items() if v is not None}
    build_config = _validated(BuildConfig, settings)
    with _unwinding_signals():
        source = open_checkpoint(str(DEMO) if checkpoint == "demo" else checkpoint, revision, lora)
        with ByteProgress() as progress:
            report = build_engine(source, output, build_config, force=force, progress=progress)
            agreement = check_engine(source, output, progress) if check else None
    table = Table(title=f"built {output}", show_header=False, title_justify="left")
    checked = describe_agreement(agreement) if agreement else []
    for row in (*describe(report), *checked, ("time", f"{time.monotonic() - started:.1f} s")):
        table.add_row(*row)
    Console(markup=False, emoji=False).print(table)  # a path may hold [brackets]


@app.command()
def run(
    engine: Engine,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "0.0.0.0",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any free one.")] = 8000,
    served_model_name: Annotated[str | None, typer.Option(help="Name clients use. Default: the checkpoint's.")] = None,
    chat_template: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Jinja template for chat prompts. Default: the checkpoint's.")
    ] = None,
    kv_cache_memory: KVMemory = None,
    kv_cache_dtype: KVDType = KVDTypeChoice.auto,
    activations: ActivationsOption = ActivationsChoice.auto,
    kernels: Kernels = "auto",
    max_num_seqs: MaxSeqs = 64,
    max_num_batched_tokens: MaxBatchedTokens = 1024,
    max_model_len: MaxModelLen = None,
    block_size: BlockSize = 16,
    prefix_caching: PrefixCaching = True,
    threads: Threads = None,
    verify: Verify = True,
    shutdown_timeout: Annotated[float, typer.Option(help="Seconds that SIGTERM waits for running requests.")] = 30.0,
) -> None:
    """Serve an engine over an OpenAI-compatible HTTP API; alone, or as every rank of `mpirun -n N llmserve run`."""
    from llmserve.engine.launch import launched_by_mpi
    from llmserve.logs import setup_logging

    setup_logging()
    engine_config = _engine_config(
        kv_cache_memory=kv_cache_memory,
        kv_cache_dtype=kv_cache_dtype,
        activations=activations,
        kernels=kernels,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_model_len=max_model_len,
        block_size=block_size,
        prefix_caching=prefix_caching,
        threads=threads,
        verify=verify,
    )
    server_config = _validated(
        ServerConfig,
        {
            "host": host,
            "port": port,
            "served_model_name": served_model_name,
            "shutdown_timeout": shutdown_timeout,
            "chat_template": chat_template,
        },
    )
    if launched_by_mpi():
        from llmserve.engine.under_mpirun import run_as_rank

        sys.exit(run_as_rank(engine, engine_config, server_config))
    from llmserve.server.alone import run_alone

    sys.exit(run_alone(engine, engine_config, server_config))


@app.command()
def generate(
    engine: Engine,
    prompt: Annotated[str, typer.Argument(help="The text to continue, exactly as it stands.")],
    max_tokens: Annotated[int, typer.Option(help="Tokens to generate at most.")] = 128,
    temperature: Annotated[float, typer.Option(help="0: always the most likely token.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Makes sampling repeatable.")] = 0,
    kv_cache_memory: KVMemory = None,
    kv_cache_dtype: KVDType = KVDTypeChoice.auto,
    activations: ActivationsOption = ActivationsChoice.auto,
    kernels: Kernels = "auto",
    threads: Threads = None,
) -> None:
    """Continue a prompt in the terminal, without a server."""
    from llmserve.terminal import generate_text

    config = _engine_config(
        kv_cache_memory=kv_cache_memory,
        kv_cache_dtype=kv_cache_dtype,
        activations=activations,
        kernels=kernels,
        threads=threads,
    )
    sys.exit(generate_text(engine, config, prompt, max_tokens=max_tokens, temperature=temperature, seed=seed))


@app.command()
def chat(
    engine: Engine,
    system: Annotated[str | None, typer.Option(help="A system message to begin with.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Tokens per answer at most. Default: what fits.")] = None,
    temperature: Annotated[float, typer.Option(help="0: always the most likely token.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Makes sampling repeatable.")] = 0,
    kv_cache_memory: KVMemory = None,
    kv_cache_dtype: KVDType = KVDTypeChoice.auto,
    activations: ActivationsOption = ActivationsChoice.auto,
    kernels: Kernels = "auto",
    threads: Threads = None,
) -> None:
    """Talk with a model in the terminal, without a server."""
    from llmserve.terminal import chat_in_terminal

    config = _engine_config(
        kv_cache_memory=kv_cache_memory,
        kv_cache_dtype=kv_cache_dtype,
        activations=activations,
        kernels=kernels,
        threads=threads,
    )
    sys.exit(chat_in_terminal(engine, config, system, max_tokens=max_tokens, temperature=temperature, seed=seed))


@app.command()
def bench(
    context: typer.Context,
    engine: options.BenchedEngine = None,
    serve: options.ServeUrl = None,
    json_file: options.JsonFile = None,
    plot: options.PlotFile = None,
    seed: options.BenchSeed = 0,
    prompt_lens: options.PromptLens = "128,512,2048",
    batch_sizes: options.BatchSizes = "1,2,4,8,16,32",
    new_tokens: options.NewTokens = 64,
    repeats: options.Repeats = 3,
    kv_cache_memory: KVMemory = None,
    kv_cache_dtype: KVDType = KVDTypeChoice.auto,
    activations: ActivationsOption = ActivationsChoice.auto,
    kernels: Kernels = "auto",
    max_num_seqs: MaxSeqs = 64,
    max_num_batched_tokens: MaxBatchedTokens = 1024,
    max_model_len: MaxModelLen = None,
    block_size: BlockSize = 16,
    prefix_caching: PrefixCaching = True,
    threads: Threads = None,
    verify: Verify = True,
    num_prompts: options.NumPrompts = 100,
    request_rate: options.RequestRate = "inf",
    max_concurrency: options.MaxConcurrency = None,
    input_len: options.InputLen = "128",
    output_len: options.OutputLen = "64",
    model: options.Model = None,
    api_key: options.ApiKey = None,
    vocab_size: options.VocabSize = 1000,
    warmup: options.Warmup = 1,
    timeout: options.Timeout = 600.0,
    extra_body: options.ExtraBody = None,
) -> None:
    """Measure an engine in this process, or with --serve a running server: throughput, time to and between tokens."""
    from llmserve.bench.command import bench_engine, bench_server
    from llmserve.bench.settings import OfflineSettings, ServeSettings, offline_values, serve_values

    options.check_target(context, engine, serve)
    if serve is not None:
        sent = {
            "url": serve, "model": model, "num_prompts": num_prompts, "request_rate": request_rate,
            "max_concurrency": max_concurrency, "input_len": input_len, "output_len": output_len,
            "vocab_size": vocab_size, "warmup": warmup, "timeout": timeout, "seed": seed, "extra_body": extra_body,
            "api_key": api_key,
        }  # fmt: skip
        bench_server(_validated(ServeSettings, serve_values(sent)), json_file=json_file, plot=plot)
    elif engine is not None:
        config = _engine_config(
            kv_cache_memory=kv_cache_memory,
            kv_cache_dtype=kv_cache_dtype,
            activations=activations,
            kernels=kernels,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            max_model_len=max_model_len,
            block_size=block_size,
            prefix_caching=prefix_caching,
            threads=threads,
            verify=verify,
        )
        asked = {"prompt_lens": prompt_lens, "batch_sizes": batch_sizes, "new_tokens": new_tokens, "repeats": repeats}
        settings = _validated(OfflineSettings, offline_values(asked | {"seed": seed}))
        bench_engine(engine, config, settings, json_file=json_file, plot=plot)


@app.command()
def inspect(
    engine: Engine,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor of every rank.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print engine.json instead of a table.")] = False,
) -> None:
    """Say what is in an engine."""
    from llmserve.inspect import print_engine

    print_engine(engine, tensors=tensors, as_json=as_json)


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Say what works on this machine: which kernels were chosen and why, MPI, memory, GPUs."""
    from llmserve.doctor import print_findings

    sys.exit(print_findings(as_json=as_json))


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


Config = TypeVar("Config", bound=Frozen)


def _validated(kind: type[Config], settings: dict[str, Any]) -> Config:
    values = {k: v.value if isinstance(v, Enum) else v for k, v in settings.items()}
    try:
        return kind.model_validate(values)
    except ValidationError as e:
        raise ConfigError(f"the settings cannot be used: {first_problem(e)}.") from None


def _engine_config(*, kv_cache_memory: str | None, **settings: Any) -> EngineConfig:
    memory = None if kv_cache_memory is None else parse_bytes(kv_cache_memory)
    return _validated(EngineConfig, settings | {"kv_cache_memory": memory})


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        data = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as e:
        raise ConfigError(f"{path} cannot be read as YAML ({' '.join(str(e).split())}).") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds no settings; write lines like `quant: int8`.")
    return data


@contextmanager
def _unwinding_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end what is running as an exception does, so that it tidies up. An ignored one stays so."""

    def leave(number: int, frame: FrameType | None) -> None:
        for each in kinds:
            signal.signal(each, signal.SIG_IGN)  # a second one would interrupt the tidying
        raise SystemExit(128 + number)

    kinds = [s for s in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) != signal.SIG_IGN]
    before = {s: signal.signal(s, leave) for s in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without × or 世 is no reason to fail
    try:
        app()
    except LlmserveError as e:
        print(f"llmserve: {e}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # `llmserve inspect … | head`
        sys.exit(1)


if __name__ == "__main__":
    main()
