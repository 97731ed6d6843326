"""Flags: what they may be, and one sentence for each that cannot be used. And the pictures."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llmserve.bench.offline_result import Case, OfflineResult, Row, Timeline
from llmserve.bench.output import check_outputs
from llmserve.bench.plots import plot_offline, plot_serve, tokens_per_second
from llmserve.bench.sample import Sample
from llmserve.bench.serve import ServeResult
from llmserve.bench.settings import parse_counts, parse_extra, parse_range, parse_rate, parse_url
from llmserve.cli import app
from llmserve.errors import ConfigError, LlmserveError
from tests.tiny import build, tiny_checkpoint


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_counts, "4,1, 2,4", (1, 2, 4)),
        (parse_range, "7", (7, 7)),
        (parse_range, "3-9", (3, 9)),
        (parse_rate, "inf", math.inf),
        (parse_rate, "2.5", 2.5),
        (parse_url, "http://h:1/v1/", "http://h:1"),
        (parse_url, "https://h/x", "https://h/x"),
        (parse_extra, None, {}),
        (parse_extra, '{"a": null}', {"a": None}),
    ],
)
def test_what_flags_mean(parse: Callable[[Any, str], Any], text: str | None, value: Any) -> None:
    assert parse(text, "--flag") == value


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        *((parse_counts, text) for text in ("", "1;2", "1,,2", "a")),
        *((parse_range, text) for text in ("", "-", "a-b", "1-2-3", "-5")),
        *((parse_rate, text) for text in ("", "0", "-1", "nan", "fast")),
        *((parse_url, text) for text in ("", "h:8000", "ftp://h", "http://", "/engine")),
        *((parse_extra, text) for text in ("", "[]", "1", "{")),
    ],
)
def test_what_cannot_be_used_is_one_sentence_with_the_value(parse: Callable[[Any, str], Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "--flag")
    assert str(caught.value).startswith(f"--flag {text!r} is not a")
    assert "; write it like " in str(caught.value) or "; write " in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "give an ENGINE to measure in this process or --serve URL to measure a server."),
        (("x", "--serve", "http://h"), "--serve URL to measure a server, not both."),
        (("x", "--num-prompts", "3"), "--num-prompts is for measuring a server and an ENGINE was given; leave it out."),
        (("--serve", "http://h", "--threads", "1"), "--threads is for measuring an engine and --serve was given"),
        (("--serve", "http://h", "--new-tokens", "64"), "--new-tokens is for measuring an engine"),
        (("--serve", "http://h", "--num-prompts", "0"), "--num-prompts 0 cannot be used: input should be greater than"),
        (("--serve", "http://h", "--input-len", "9-3"), "--input-len (9, 3) cannot be used: 9-3 begins above its end"),
        (("--serve", "http://h", "--input-len", "0"), "--input-len 0 cannot be used"),
        (("x", "--batch-sizes", "0,1"), "--batch-sizes 0 cannot be used: input should be greater"),
        (("x", "--new-tokens", "1"), "--new-tokens 1 cannot be used: input should be greater than"),
        (("x", "--json", "/no/such/folder/f"), "--json /no/such/folder/f cannot be written"),
        (("no-such-engine",), "no-such-engine does not exist; make an engine with"),
    ],
)
def test_flags_that_do_not_fit_are_one_sentence(flags: tuple[str, ...], message: str) -> None:
    done = CliRunner().invoke(app, ["bench", *flags])
    assert isinstance(done.exception, LlmserveError)
    assert message in str(done.exception)


def test_an_engine_for_several_ranks_is_measured_as_a_server(tmp_path: Path) -> None:
    engine = build(tiny_checkpoint(tmp_path / "tiny").folder, tmp_path / "engine", tp_size=2)
    done = CliRunner().invoke(app, ["bench", str(engine)])
    assert "is for 2 ranks and only a native engine of one can be measured in this process" in str(done.exception)
    assert "`llmserve bench --serve URL`" in str(done.exception)


def test_a_missing_matplotlib_is_said_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        check_outputs(None, tmp_path / "x.png")
    assert str(caught.value) == (
        "--plot needs matplotlib, which is not installed; get it with `pip install matplotlib`."
    )


def test_a_client_does_not_load_torch() -> None:
    program = (
        "import sys, llmserve.bench.command, llmserve.bench.serve, llmserve.bench.serve_report, llmserve.bench.plots, "
        "llmserve.cli\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr


def a_sample(**times: Any) -> Sample:
    return Sample(
        **{"due": 0.0, "sent": 0.0, "ended": 4.0, "token_times": [1.0, 2.0, 4.0], "output_tokens": 6, **times}
    )


def test_tokens_over_time_add_up_to_those_generated() -> None:
    edges, rates = tokens_per_second([a_sample(), a_sample()], bins=4)
    assert edges == [0, 1, 2, 3, 4]
    assert rates == [0, 4, 4, 4]
    assert sum(rates) * 1 == 12


def test_pictures_are_drawn_of_much_and_of_nothing(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    single = Row(Case(1, 10, 3), (Timeline(Case(1, 10, 3), ((1.0, 2.0, 3.0),)),))
    staggered = Row(Case(2, 10, 2), (Timeline(Case(2, 10, 2), ((1.0, 2.0), (2.0, 3.0))),))
    plot_offline(OfflineResult((single,), (single, staggered), ()), r"a $\no$ [x]", tmp_path / "a.png")
    plot_offline(OfflineResult((single,), (), ()), "", tmp_path / "b.png")
    plot_serve(ServeResult("m", [a_sample(), a_sample(error="no")]), "title", tmp_path / "c.png")
    plot_serve(ServeResult("m", [a_sample(token_times=[], output_tokens=0)]), "title", tmp_path / "d.png")
    for name in "abcd":
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
