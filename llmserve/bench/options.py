"""The options of `llmserve bench` but for the engine's. Two kinds of benchmark share one command; an option of the
other kind is an error and not ignored. Imports only what `llmserve --help` has loaded anyway."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from llmserve.bench.settings import OfflineSettings, ServeSettings, offline_values, serve_values
from llmserve.cli_groups import OptionGroup
from llmserve.config import validated
from llmserve.errors import ConfigError


@dataclass(frozen=True)
class TargetOptions(OptionGroup):
    """What is measured, and what both kinds of benchmark have."""

    engine: Annotated[
        Path | None,
        typer.Argument(metavar="[ENGINE]", help="An engine directory: measured in this process, on one rank."),
    ] = None
    serve: Annotated[
        str | None, Option(metavar="URL", help="Measure this running OpenAI-compatible server instead, over HTTP.")
    ] = None
    json_file: Annotated[
        Path | None, Option("--json", metavar="FILE", help="Write all figures, samples and settings here.")
    ] = None
    plot: Annotated[Path | None, Option(metavar="FILE.png", help="Draw the figures; needs matplotlib.")] = None
    seed: Annotated[
        int, Option(help="Of prompts and arrivals. A server with a prefix cache knows a seed's prompts again.")
    ] = 0


@dataclass(frozen=True)
class OfflineOptions(OptionGroup):
    SECTION = "ENGINE, in this process"

    prompt_lens: Annotated[str, Option(metavar="N,N,…", help="Prompt lengths, as far as the model goes.")] = (
        "128,512,2048"
    )
    batch_sizes: Annotated[
        str, Option(metavar="N,N,…", help="Sequences at once, each with a prompt of the shortest length.")
    ] = "1,2,4,8,16,32"
    new_tokens: Annotated[int, Option(help="Tokens to generate for each prompt.")] = 64
    repeats: Annotated[int, Option(help="Runs of each; the median is shown.")] = 3

    def settings(self, seed: int) -> OfflineSettings:
        return validated(OfflineSettings, offline_values(self.values() | {"seed": seed}))


@dataclass(frozen=True)
class ServeOptions(OptionGroup):
    SECTION = "--serve URL, a running server"

    num_prompts: Annotated[int, Option(help="Requests to send.")] = 100
    request_rate: Annotated[str, Option(metavar="R", help="Requests per second, as a Poisson process; inf: all.")] = (
        "inf"
    )
    max_concurrency: Annotated[int | None, Option(help="Requests open at once; more wait here, unsent.")] = None
    input_len: Annotated[str, Option(metavar="N|A-B", help="Tokens of a prompt, or a range to draw from.")] = "128"
    output_len: Annotated[str, Option(metavar="N|A-B", help="Tokens to generate, or a range to draw from.")] = "64"
    model: Annotated[str | None, Option(help="Default: the first that the server lists.")] = None
    api_key: Annotated[str | None, Option(help="Sent as a bearer token.")] = None
    vocab_size: Annotated[int, Option(help="Prompts are random token ids below this.")] = 1000
    warmup: Annotated[int, Option(help="Requests sent before, one by one, uncounted.")] = 1
    timeout: Annotated[float, Option(help="Seconds of silence that fail a request.")] = 600.0
    extra_body: Annotated[
        str | None, Option(metavar="JSON", help="More parameters of each request; null leaves one out.")
    ] = None

    def settings(self, url: str, seed: int) -> ServeSettings:
        return validated(ServeSettings, serve_values(self.values() | {"url": url, "seed": seed}))


_OF_BOTH = {field.name for field in fields(TargetOptions)}
_OF_SERVE = {field.name for field in fields(ServeOptions)}


def check_target(context: typer.Context, target: TargetOptions) -> None:
    """One thing is measured, and every flag that was given is about it. ConfigError where not."""
    if (target.engine is None) == (target.serve is None):
        both = ", not both" if target.serve is not None else ""
        raise ConfigError(f"give an ENGINE to measure in this process or --serve URL to measure a server{both}.")
    serve = target.serve is not None
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is None or source.name == "DEFAULT" or name in _OF_BOTH:
            continue
        if (name in _OF_SERVE) != serve:
            what, here = ("an engine", "--serve") if serve else ("a server", "an ENGINE")
            raise ConfigError(f"--{name.replace('_', '-')} is for measuring {what} and {here} was given; leave it out.")
