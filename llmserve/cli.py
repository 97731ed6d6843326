"""The command line: flags to configs, errors to one sentence and an exit code. The work is imported where it is done,
so that `llmserve --help` is quick and the front's process never sees torch."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from llmserve import __version__
from llmserve.bench.options import OfflineOptions, ServeOptions, TargetOptions, check_target
from llmserve.cli_groups import SectionedCommand, grouped
from llmserve.cli_options import (
    BackendChoice,
    BackendOptions,
    BuildOptions,
    EngineOptions,
    MachineOptions,
    ModelOptions,
    PlannedOptions,
    ServerOptions,
    build_config,
)
from llmserve.config import BuildConfig, TensorRTLLMBuildConfig
from llmserve.errors import ConfigError, LlmserveError

if TYPE_CHECKING:
    from llmserve.build_file import Chosen
    from llmserve.checkpoint.source import Checkpoint

app = typer.Typer(
    name="llmserve",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its tables cut the names of options on a terminal of 80 columns
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

DEMO = Path(__file__).parent / "demo"
"""The checkpoint that comes with the package; `llmserve build demo` means this one."""

ConfigFile = Annotated[
    Path | None, typer.Option(metavar="YAML", help="Settings by the same names, see build_configs/; flags win.")
]
Variant = Annotated[str | None, typer.Option(metavar="NAME", help="Which of the variants that the --config has.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a model of the hub. Default: its newest.")]
Engine = Annotated[Path, typer.Argument(metavar="ENGINE", help="An engine directory made by `llmserve build`.")]
Temperature = Annotated[float, typer.Option(help="0: always the most likely token.")]
Seed = Annotated[int, typer.Option(help="Makes sampling repeatable.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def llmserve(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Compile a Hugging Face checkpoint into an engine, and serve it."""


@app.command(cls=SectionedCommand)
@grouped
def build(
    *,
    checkpoint: Annotated[
        str | None,
        typer.Argument(
            metavar="CHECKPOINT",
            help="A Hugging Face folder, a model of the hub (`org/name`), or `demo`, the one that comes along. "
            "Default: what --config names.",
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="ENGINE", help="Where the engine is to stand.")],
    options: BuildOptions,
    backend: BackendOptions,
    revision: Revision = None,
    lora: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A PEFT LoRA adapter to merge into the checkpoint.")
    ] = None,
    config: ConfigFile = None,
    variant: Variant = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an engine that stands at the output.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Compare the engine's answers to some prompts with the checkpoint's own.")
    ] = False,
) -> None:
    """Compile a checkpoint into an engine. Sharded for tensor parallelism, quantised, verified."""
    import time

    from rich.console import Console
    from rich.table import Table

    from llmserve.build_file import read_chosen
    from llmserve.checkpoint.find import open_checkpoint

    started = time.monotonic()
    chosen = read_chosen(config, variant)
    given = _checkpoint(checkpoint, chosen)
    settings = build_config(chosen.settings, options, backend)
    with _unwinding_signals():
        if isinstance(settings, TensorRTLLMBuildConfig):
            for unwanted, flag in ((lora, "--lora"), (check, "--check")):
                if unwanted:
                    raise ConfigError(f"{flag} is for --backend native only; leave it away.")
            source = open_checkpoint(given, revision)
            rows = _build_tensorrt_llm(source, output, settings, force)
        else:
            source = open_checkpoint(given, revision, lora)
            rows = _build_native(source, output, settings, force, check)
    table = Table(title=f"built {output}", show_header=False, title_justify="left")
    for row in (*rows, ("time", f"{time.monotonic() - started:.1f} s")):
        table.add_row(*row)
    Console(markup=False, emoji=False).print(table)  # a path may hold [brackets]


def _checkpoint(given: str | None, chosen: Chosen) -> str:
    from llmserve.build_file import which_checkpoint

    checkpoint, note = which_checkpoint(given, chosen)
    if note is not None:
        print(f"llmserve: {note}", file=sys.stderr)
    return str(DEMO) if checkpoint == "demo" else checkpoint


def _build_native(
    source: Checkpoint, output: Path, config: BuildConfig, force: bool, check: bool
) -> list[tuple[str, str]]:
    """The closing table's rows."""
    from llmserve.check.agreement import describe as describe_agreement
    from llmserve.check.command import check as check_engine
    from llmserve.checkpoint.build import build_engine, describe
    from llmserve.progress import ByteProgress

    with ByteProgress() as progress:
        report = build_engine(source, output, config, force=force, progress=progress)
        agreement = check_engine(source, output, progress) if check else None
    return describe(report) + (describe_agreement(agreement) if agreement else [])


def _build_tensorrt_llm(
    source: Checkpoint, output: Path, config: TensorRTLLMBuildConfig, force: bool
) -> list[tuple[str, str]]:
    """The closing table's rows."""
    from llmserve.tensorrt_llm.build import build_engine, describe

    def say(what: str) -> None:
        print(f"{what} …", file=sys.stderr, flush=True)

    return describe(build_engine(source, output, config, force=force, say=say))


@app.command(cls=SectionedCommand)
@grouped
def run(engine: Engine, server: ServerOptions, options: EngineOptions) -> None:
    """Serve an engine over an OpenAI-compatible HTTP API. Alone, or as every rank of `mpirun -n N llmserve run`."""
    from llmserve.engine.launch import launched_by_mpi
    from llmserve.logs import setup_logging

    setup_logging()
    engine_config, server_config = options.config(), server.config()
    if launched_by_mpi():
        from llmserve.engine.under_mpirun import run_as_rank

        sys.exit(run_as_rank(engine, engine_config, server_config))
    from llmserve.server.alone import run_alone

    sys.exit(run_alone(engine, engine_config, server_config))


@app.command(cls=SectionedCommand)
@grouped
def generate(
    engine: Engine,
    prompt: Annotated[str, typer.Argument(help="The text to continue, exactly as it stands.")],
    options: ModelOptions,
    max_tokens: Annotated[int, typer.Option(help="Tokens to generate at most.")] = 128,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
) -> None:
    """Continue a prompt in the terminal, without a server."""
    from llmserve.terminal import generate_text

    config = options.config()
    sys.exit(generate_text(engine, config, prompt, max_tokens=max_tokens, temperature=temperature, seed=seed))


@app.command(cls=SectionedCommand)
@grouped
def chat(
    engine: Engine,
    options: ModelOptions,
    system: Annotated[str | None, typer.Option(help="A system message to begin with.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Tokens per answer at most. Default: what fits.")] = None,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
) -> None:
    """Talk with a model in the terminal, without a server."""
    from llmserve.terminal import chat_in_terminal

    config = options.config()
    sys.exit(chat_in_terminal(engine, config, system, max_tokens=max_tokens, temperature=temperature, seed=seed))


@app.command(cls=SectionedCommand)
@grouped
def bench(
    context: typer.Context, target: TargetOptions, offline: OfflineOptions, options: EngineOptions, serve: ServeOptions
) -> None:
    """Measure an engine, or a running server. Throughput, time to the first token and between tokens."""
    from llmserve.bench.command import bench_engine, bench_server

    check_target(context, target)
    if target.serve is not None:
        settings = serve.settings(target.serve, target.seed)
        bench_server(settings, json_file=target.json_file, plot=target.plot)
    elif target.engine is not None:
        config = options.config()
        bench_engine(target.engine, config, offline.settings(target.seed), json_file=target.json_file, plot=target.plot)


@app.command(cls=SectionedCommand)
@grouped
def plan(
    *,
    checkpoint: Annotated[
        str | None,
        typer.Argument(
            metavar="CHECKPOINT|CONFIG|ENGINE",
            help="As for `llmserve build`, but config.json is enough, be it alone or of the hub; or an engine. "
            "Default: what --config names.",
        ),
    ] = None,
    build_options: BuildOptions,
    planned: PlannedOptions,
    machine: MachineOptions,
    backend: Annotated[BackendChoice | None, typer.Option(help="Default: native, or what --config says.")] = None,
    revision: Revision = None,
    config: ConfigFile = None,
    variant: Variant = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Say whether an engine fits, before it is built. Bytes, tokens and sequences, and the speed that memory allows."""
    from llmserve.build_file import read_chosen
    from llmserve.plan.command import plan_engine

    chosen = read_chosen(config, variant)
    given = _checkpoint(checkpoint, chosen)
    plan_engine(
        given, revision, chosen.settings, build_options, planned, machine, backend.value if backend else None,
        as_json=as_json,
    )  # fmt: skip


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
    """Say what works on this machine. Which kernels were chosen and why, MPI, memory, GPUs."""
    from llmserve.doctor import print_findings

    sys.exit(print_findings(as_json=as_json))


@app.command(name="verify-tensorrt-llm")
def verify_tensorrt_llm(
    wheel: Annotated[Path | None, typer.Option(metavar="FILE", help="A wheel, as pip downloads it.")] = None,
    site_packages: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder in which tensorrt_llm is installed.")
    ] = None,
) -> None:
    """Compare a TensorRT-LLM with what llmserve calls of it. By its files; nothing of it is loaded.

    Exits with 1 where something differs, with 3 where nothing does but not all can be read.
    """
    from llmserve.tensorrt_llm.verify import print_findings

    sys.exit(print_findings(wheel, site_packages))


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


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
