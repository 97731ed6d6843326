"""What every measurement of one engine's server is told on its command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Of an engine, a folder for what is written, and a seed; a script adds its own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", type=Path)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def parse(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, list[str]]:
    """This process's arguments, and those after `--`, which are further flags of `llmserve run`. Makes --out."""
    words = sys.argv[1:]
    own = words.index("--") if "--" in words else len(words)
    args = parser.parse_args(words[:own])
    args.out.mkdir(parents=True, exist_ok=True)
    return args, words[own + 1 :]
