"""How requests end: every one exactly once, for its own reason, and at no other request's expense."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from llmserve.errors import RequestError
from llmserve.models.decoder import Decoder
from llmserve.request import Finish, Request, SamplingParams
from llmserve.runtime.model_runner import ModelRunner
from tests.engine.answers import Answer, Built, Engine, alone, assert_same
from tests.tiny import SIZES

MAX_LEN, VOCAB = SIZES["max_position_embeddings"], SIZES["vocab_size"]

GREEDY = SamplingParams(max_tokens=MAX_LEN, temperature=0)


def assert_idle(engine: Engine) -> None:
    stats = engine.native.stats()
    assert not engine.native.has_work
    assert (stats.running, stats.waiting, stats.kv_usage) == (0, 0, 0.0)
    assert engine.native.step() == []


@pytest.mark.parametrize("prompt_len", [1, 16, MAX_LEN - 1])
@pytest.mark.parametrize("blocks", ["small", "48"])
def test_the_longest_sequence_fills_the_model_to_its_last_position(built: Built, prompt_len: int, blocks: str) -> None:
    engine = Engine(built, block_size=built.small_block if blocks == "small" else 48)
    answer = engine.run([Request(0, (5,) * prompt_len, GREEDY)])[0]
    assert len(answer.tokens) == MAX_LEN - prompt_len
    assert answer.finish is Finish.LENGTH
    assert_idle(engine)


def test_a_kv_cache_smaller_than_the_model_limits_the_length(built: Built) -> None:
    one = Engine(built, max_num_seqs=1).native.kv
    engine = Engine(built, kv_cache_memory=4 * one.block_bytes - 1)
    assert engine.native.kv.max_model_len == 48
    answer = engine.run([Request(0, (5, 6, 7), GREEDY)])[0]
    assert len(answer.tokens) == 45


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_time_is_up_for_one_who_runs_and_one_who_waits(
    built: Built, requests: list[Request], expected: dict[int, Answer]
) -> None:
    engine, clock = Engine(built, max_num_seqs=2), Clock()
    engine.native._clock = clock
    hurried = [replace(request, timeout=5.0 + i) for i, request in enumerate(requests[:3])]
    hurried[1] = replace(hurried[1], timeout=None)
    for request in hurried:
        engine.submit(request)
    clock.now += 4.5
    engine.step()
    assert all(answer.finish is None for answer in engine.answers.values())
    clock.now += 0.5
    engine.step()  # the first's time is up; the third waits, and still may
    assert (engine.answers[0].finish, engine.answers[0].tokens) == (Finish.TIMEOUT, expected[0].tokens[:1])
    clock.now += 3
    engine.step()
    assert (engine.answers[2].finish, len(engine.answers[2].tokens)) == (Finish.TIMEOUT, 1)
    engine.run()
    assert_same(engine.answers[1], expected[1], built)
    assert_idle(engine)


def test_the_more_urgent_goes_first(built: Built, requests: list[Request], expected: dict[int, Answer]) -> None:
    engine = Engine(built, max_num_seqs=1)
    order = [0, 1, 2, 4]
    for request, priority in zip(order, [0, 5, 0, -3], strict=True):
        engine.submit(replace(requests[request], priority=priority))
    ended: list[int] = []
    while engine.native.has_work:
        engine.step()
        ended += [i for i, answer in engine.answers.items() if answer.finish and i not in ended]
    assert ended == [4, 0, 2, 1]
    for i in order:
        assert_same(engine.answers[i], expected[i], built)


def test_only_equal_salts_share(built: Built, requests: list[Request], expected: dict[int, Answer]) -> None:
    engine = Engine(built)
    for i, salt in enumerate(["", "a", "a", "b", ""]):
        answer = engine.run([replace(requests[5], id=i, cache_salt=salt)])[i]
        assert_same(answer, expected[5], built)
        assert answer.cached_tokens == (48 if i in (2, 4) else 0)


def test_max_tokens_ends_a_request(built: Built, requests: list[Request], expected: dict[int, Answer]) -> None:
    shorter = replace(requests[4], sampling=replace(requests[4].sampling, max_tokens=7, logprobs=None))
    answer = Engine(built).run([shorter])[4]
    assert answer.tokens == expected[4].tokens[:7]
    assert answer.finish is Finish.LENGTH


def test_a_stop_token_ends_a_request_and_is_its_last_token(
    built: Built, requests: list[Request], expected: dict[int, Answer]
) -> None:
    tokens = expected[4].tokens
    stop = next(token for token in tokens[3:] if tokens.index(token) >= 3)
    sampling = replace(requests[4].sampling, stop_token_ids=frozenset({stop}))
    answer = Engine(built).run([replace(requests[4], sampling=sampling)])[4]
    assert answer.tokens == tokens[: tokens.index(stop) + 1]
    assert answer.finish is Finish.STOP


def test_min_tokens_goes_on_past_a_stop_token_without_taking_it(built: Built, requests: list[Request]) -> None:
    first = Engine(built).run([requests[4]])[4].tokens[0]
    sampling = replace(requests[4].sampling, stop_token_ids=frozenset({first}), min_tokens=5)
    answer = Engine(built).run([replace(requests[4], sampling=sampling)])[4]
    assert len(answer.tokens) >= 5
    assert first not in answer.tokens[:5]


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_an_abort_ends_one_request_and_disturbs_no_other(
    built: Built, requests: list[Request], expected: dict[int, Answer], steps: int
) -> None:
    """At any moment: waiting, in its prompt, or generating."""
    for victim in (0, 4, 5):
        engine = Engine(built, block_size=16, max_num_batched_tokens=24)
        for request in requests:
            engine.submit(request)
        for _ in range(steps):
            engine.step()
        event = engine.native.abort(victim)
        assert event is not None
        assert event.token is None
        assert event.finish is Finish.ABORT
        engine.add([event])
        assert engine.native.abort(victim) is None
        engine.run()
        assert engine.answers[victim].tokens == expected[victim].tokens[: len(engine.answers[victim].tokens)]
        for i in expected.keys() - {victim}:
            assert_same(engine.answers[i], expected[i], built)
        assert_idle(engine)


def test_abort_of_nobody_is_nothing(built: Built) -> None:
    assert Engine(built).native.abort(7) is None


def test_abort_all_ends_everyone_and_the_engine_goes_on(
    built: Built, requests: list[Request], expected: dict[int, Answer]
) -> None:
    engine = Engine(built, block_size=16, max_num_batched_tokens=24)
    for request in requests:
        engine.submit(request)
    for _ in range(3):
        engine.step()
    open_requests = {i for i, answer in engine.answers.items() if answer.finish is None}
    events = engine.native.abort_all(Finish.ERROR, "the engine failed.")
    engine.add(events)
    assert sorted(event.request_id for event in events) == sorted(open_requests)
    assert {(event.finish, event.error) for event in events} == {(Finish.ERROR, "the engine failed.")}
    assert_idle(engine)
    again = engine.run([replace(request, id=request.id + 100) for request in requests])
    for i, answer in expected.items():
        assert_same(again[i + 100], answer, built)


@pytest.mark.parametrize(
    "prompt", [(), (VOCAB,), (1, -1), (5,) * MAX_LEN], ids=["empty", "too high", "negative", "long"]
)
def test_a_prompt_that_cannot_be_served_is_refused_at_once(built: Built, prompt: tuple[int, ...]) -> None:
    engine = Engine(built)
    with pytest.raises(RequestError) as caught:
        engine.native.submit(Request(0, prompt, GREEDY))
    assert caught.value.param == "prompt"
    assert_idle(engine)


def embedding_of(engine: Engine) -> torch.Tensor:
    """[vocabulary, hidden], the memory that it is read from."""
    runner = engine.native._runner
    if isinstance(runner, ModelRunner):
        return runner._model.embedding.table.handle
    (model,) = (kept for kept in runner._keep if isinstance(kept, Decoder))
    return model.embedding.table.handle.keep[0]


def test_logits_that_are_no_numbers_end_their_request_and_no_other(
    built: Built, requests: list[Request], expected: dict[int, Answer]
) -> None:
    """For a while one token of the vocabulary is poison. Whoever has it fails; later nobody finds a trace of that."""
    poison = next(t for t in range(VOCAB) if not any(t in r.prompt + tuple(expected[r.id].tokens) for r in requests))
    victims = [Request(100 + i, (*r.prompt[:20], poison, *r.prompt[20:]), r.sampling) for i, r in enumerate(requests)]
    healthy = {**expected, **alone(built, victims)}
    engine = Engine(built, block_size=16, max_num_batched_tokens=24)
    row = embedding_of(engine)[poison]
    original = row.clone()

    row.fill_(torch.nan)
    engine.run([request for pair in zip(requests, victims, strict=True) for request in pair])
    for request in requests:
        assert_same(engine.answers[request.id], expected[request.id], built)
    for victim in victims:
        answer = engine.answers[victim.id]
        if built.window and len(victim.prompt) > 21 + 2 * (built.window - 1) and answer.finish is not Finish.ERROR:
            assert_same(answer, healthy[victim.id], built)  # the poison at 20 is out of everyone's sight
        else:
            before = healthy[victim.id].prompt[: len(answer.prompt)]
            assert_same(answer, Answer(finish=Finish.ERROR, prompt=before), built)
    assert_idle(engine)

    row.copy_(original)
    late = engine.run([replace(request, id=request.id + 200) for request in requests + victims])
    for i, answer in healthy.items():
        assert_same(late[i + 200], answer, built)


def test_stats_count_what_happened(built: Built, requests: list[Request]) -> None:
    engine = Engine(built, block_size=built.small_block)
    engine.submit(requests[5])
    engine.step()
    stats = engine.native.stats()
    assert (stats.running, stats.waiting, stats.steps, stats.scheduled_tokens) == (1, 0, 1, len(requests[5].prompt))
    assert stats.kv_usage > 0
    engine.run([replace(requests[5], id=100)])
    stats = engine.native.stats()
    assert stats.prefix_queries == 2 * len(requests[5].prompt)
    assert stats.prefix_hits == (len(requests[5].prompt) - 1) // built.small_block * built.small_block


@pytest.mark.parametrize("overlap", [False, True])
def test_nobody_waits_a_step_for_what_is_done_meanwhile(built: Built, requests: list[Request], overlap: bool) -> None:
    """It is done once a step: between the two halves of its computation, or before it."""
    engine, acts = Engine(built, overlap=overlap), []
    runner = engine.native._runner

    def noted(name: str) -> Callable[..., Any]:
        plain = getattr(runner, name)

        def act(*arguments: Any) -> Any:
            acts.append(name)
            return plain(*arguments)

        return act

    for name in ("execute", "start", "finish"):
        setattr(runner, name, noted(name))
    engine.submit(requests[0])
    engine.native.step(lambda: acts.append("meanwhile"))
    expected = ["start", "meanwhile", "finish"] if overlap else ["meanwhile", "execute"]
    assert acts[: len(expected)] == expected
    assert acts.count("meanwhile") == 1
