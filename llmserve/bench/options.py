"""The flags of `llmserve bench` and their help. Two kinds of benchmark share one command; a flag of the other kind is
an error and not ignored. Imports only what `llmserve --help` has loaded anyway."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmserve.errors import ConfigError

_ENGINE = "ENGINE, in this process"
_SERVE = "--serve URL, a running server"

BenchedEngine = Annotated[
    Path | None, typer.Argument(metavar="[ENGINE]", help="An engine directory: measured in this process, on one rank.")
]
ServeUrl = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Measure this running OpenAI-compatible server instead, over HTTP."),
]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write all figures, samples and settings here.")
]
PlotFile = Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw the figures; needs matplotlib.")]
BenchSeed = Annotated[
    int, typer.Option(help="Of prompts and arrivals. A server with a prefix cache knows a seed's prompts again.")
]

PromptLens = Annotated[
    str, typer.Option(rich_help_panel=_ENGINE, metavar="N,N,…", help="Prompt lengths, as far as the model goes.")
]
BatchSizes = Annotated[
    str,
    typer.Option(
        rich_help_panel=_ENGINE, metavar="N,N,…", help="Sequences at once, each with a prompt of the shortest length."
    ),
]
NewTokens = Annotated[int, typer.Option(rich_help_panel=_ENGINE, help="Tokens to generate for each prompt.")]
Repeats = Annotated[int, typer.Option(rich_help_panel=_ENGINE, help="Runs of each; the median is shown.")]

NumPrompts = Annotated[int, typer.Option(rich_help_panel=_SERVE, help="Requests to send.")]
RequestRate = Annotated[
    str, typer.Option(rich_help_panel=_SERVE, metavar="R", help="Requests per second, as a Poisson process; inf: all.")
]
MaxConcurrency = Annotated[
    int | None, typer.Option(rich_help_panel=_SERVE, help="Requests open at once; more wait here, unsent.")
]
InputLen = Annotated[
    str, typer.Option(rich_help_panel=_SERVE, metavar="N|A-B", help="Tokens of a prompt, or a range to draw from.")
]
OutputLen = Annotated[
    str, typer.Option(rich_help_panel=_SERVE, metavar="N|A-B", help="Tokens to generate, or a range to draw from.")
]
Model = Annotated[str | None, typer.Option(rich_help_panel=_SERVE, help="Default: the first that the server lists.")]
ApiKey = Annotated[str | None, typer.Option(rich_help_panel=_SERVE, help="Sent as a bearer token.")]
VocabSize = Annotated[int, typer.Option(rich_help_panel=_SERVE, help="Prompts are random token ids below this.")]
Warmup = Annotated[int, typer.Option(rich_help_panel=_SERVE, help="Requests sent before, one by one, uncounted.")]
Timeout = Annotated[float, typer.Option(rich_help_panel=_SERVE, help="Seconds of silence that fail a request.")]
ExtraBody = Annotated[
    str | None,
    typer.Option(rich_help_panel=_SERVE, metavar="JSON", help="More parameters of each request; null leaves one out."),
]

_OF_BOTH = frozenset({"engine", "serve", "json_file", "plot", "seed"})
_OF_SERVE = frozenset(
    {"num_prompts", "request_rate", "max_concurrency", "input_len", "output_len", "model", "api_key", "vocab_size",
     "warmup", "timeout", "extra_body"}
)  # fmt: skip


def check_target(context: typer.Context, engine: Path | None, serve: str | None) -> None:
    """One thing is measured, and every flag that was given is about it. ConfigError where not."""
    if (engine is None) == (serve is None):
        raise ConfigError("give an ENGINE to measure in this process, or --serve URL to measure a running server.")
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is None or source.name == "DEFAULT" or name in _OF_BOTH:
            continue
        if (name in _OF_SERVE) != (serve is not None):
            what, here = ("an engine", "--serve") if serve is not None else ("a server", "an ENGINE")
            raise ConfigError(f"--{name.replace('_', '-')} is for measuring {what} and {here} was given; leave it out.")
