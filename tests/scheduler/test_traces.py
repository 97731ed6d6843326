"""Random lives of a server. Whatever happens around a request, it yields what it would yield alone.

Every trace runs with the checks of `harness.Engine` after every step: so batched == alone, chunked == whole,
cached == cold and preempted == undisturbed are all one comparison with a reference that knows no scheduler.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmserve.errors import RequestError
from llmserve.request import Finish, Pooling, Request

from .fake_model import VOCAB, foretold
from .harness import Engine, expected, request, vector_of


@dataclass(frozen=True)
class Client:
    """One request's life: when it comes, what it asks, and what goes wrong."""

    arrives: int  # step
    family: int  # clients of a family begin with the same tokens …
    common: int  # … this many of them …
    own: int  # … and go on with so many of their own
    max_tokens: int
    min_tokens: int
    stop: int  # a stop token, or VOCAB for none
    leaves: int | None  # aborted before this step
    fault: int | None  # the sampler fails at this token of the answer; before 0: of the prompt, from its end
    prompt_logprobs: int | None
    priority: int
    timeout: int | None  # steps
    salt: str
    n: int  # so many requests, which come at once with the same prompt
    pooling: Pooling | None

    def request(self, number: int, request_id: int) -> Request:
        prompt = [(self.family * 3 + i * i) % VOCAB for i in range(self.common)]
        prompt += [(number + i * 5) % VOCAB for i in range(self.own)]
        return request(
            request_id,
            tuple(prompt),
            self.max_tokens,
            frozenset({self.stop} - {VOCAB}),
            min(self.min_tokens, self.max_tokens),
            self.prompt_logprobs,
            self.priority,
            self.timeout,
            self.salt,
            self.pooling,
        )


rarely = st.one_of(st.none(), st.none(), st.none(), st.integers(0, 40))
faults = st.one_of(rarely, rarely, rarely, st.integers(-10, -1))
sometimes = st.sampled_from([None, None, 0])
priorities = st.sampled_from([0, 0, 0, 1, -1])
timeouts = st.one_of(st.none(), st.none(), st.none(), st.integers(1, 40))
salts = st.sampled_from(["", "", "", "a", "b"])
poolings = st.sampled_from([None, None, None, *Pooling])
clients = st.builds(
    Client,
    arrives=st.integers(0, 12),
    family=st.integers(0, 1),
    common=st.one_of(st.integers(0, 8), st.integers(0, 40)),
    own=st.integers(0, 8),
    max_tokens=st.integers(1, 40),
    min_tokens=st.integers(0, 8),
    stop=st.one_of(st.just(VOCAB), st.integers(0, VOCAB)),
    leaves=rarely,
    fault=faults,
    prompt_logprobs=sometimes,
    priority=priorities,
    timeout=timeouts,
    salt=salts,
    n=st.sampled_from([1, 1, 1, 2, 3]),
    pooling=poolings,
)


@st.composite
def engines(draw: st.DrawFn) -> Engine:
    """From room for half of one longest sequence to room for four."""
    max_model_len = draw(st.one_of(st.integers(2, 64), st.integers(24, 64)))
    block_size = draw(st.one_of(st.integers(1, 4), st.integers(1, 32)))
    return Engine(
        num_blocks=-(-max_model_len * draw(st.integers(1, 8)) // (2 * block_size)),
        block_size=block_size,
        max_num_seqs=draw(st.integers(1, 8)),
        max_num_batched_tokens=draw(st.one_of(st.integers(1, 8), st.integers(1, 64))),
        max_model_len=max_model_len,
        prefix_caching=draw(st.sampled_from([True, True, False])),
        max_prompt_logits=draw(st.integers(0, 12)),
        ahead=draw(st.booleans()),
    )


def can_ever_be_served(req: Request, engine: Engine) -> bool:
    if req.pooling is not None:
        return (
            0 < len(req.prompt) <= min(engine.scheduler.max_model_len, engine.pool.num_blocks * engine.pool.block_size)
        )
    limit = min(len(req.prompt) + req.sampling.max_tokens, engine.scheduler.max_model_len)
    return (
        0 < len(req.prompt) < engine.scheduler.max_model_len
        and limit - 1 <= engine.pool.num_blocks * engine.pool.block_size
    )


# Short prompts and long answers, in a pool that holds hardly more than one: preemption after preemption.
hungry = st.builds(
    Client,
    arrives=st.integers(0, 3),
    family=st.integers(0, 1),
    common=st.integers(0, 8),
    own=st.integers(1, 3),
    max_tokens=st.integers(20, 40),
    min_tokens=st.just(0),
    stop=st.just(VOCAB),
    leaves=rarely,
    fault=faults,
    prompt_logprobs=sometimes,
    priority=priorities,
    timeout=timeouts,
    salt=salts,
    n=st.sampled_from([1, 1, 1, 2, 3]),
    pooling=poolings,
)
tiny_engines = st.builds(
    lambda block_size, spare, rows, budget, caching, prompt_logits, ahead: Engine(
        -(-50 // block_size) + spare, block_size, rows, budget, 50, caching, prompt_logits, ahead
    ),
    block_size=st.integers(1, 8),
    spare=st.integers(0, 4),
    rows=st.integers(3, 8),
    budget=st.integers(3, 40),
    caching=st.booleans(),
    prompt_logits=st.integers(0, 12),
    ahead=st.booleans(),
)
SLOW_MACHINES_ARE_FINE = [HealthCheck.too_slow]


def crowds(client: st.SearchStrategy[Client], most: int) -> st.SearchStrategy[list[Client]]:
    return st.integers(1, most).flatmap(lambda count: st.lists(client, min_size=count, max_size=count))


@settings(max_examples=4 * settings.default.max_examples, deadline=None, suppress_health_check=SLOW_MACHINES_ARE_FINE)
@given(engine=engines(), crowd=crowds(clients, 16))
def test_every_request_yields_what_it_would_alone(engine: Engine, crowd: list[Client]) -> None:
    live(engine, crowd)


@settings(max_examples=2 * settings.default.max_examples, deadline=None, suppress_health_check=SLOW_MACHINES_ARE_FINE)
@given(engine=tiny_engines, crowd=crowds(hungry, 8))
def test_also_when_blocks_run_out_all_the_time(engine: Engine, crowd: list[Client]) -> None:
    live(engine, crowd)


def live(engine: Engine, crowd: list[Client]) -> None:
    """Let `crowd` come and go, then compare each answer with what its request yields alone."""
    each = [(number, client) for number, client in enumerate(crowd) for _ in range(client.n)]
    everyone = [(request_id, number, client) for request_id, (number, client) in enumerate(each)]
    requests: dict[int, Request] = {}
    for now in range(42):
        for request_id, number, client in everyone:
            if client.arrives == now:
                req = client.request(number, request_id)
                try:
                    engine.add(req)
                except RequestError:
                    assert not can_ever_be_served(req, engine)
                else:
                    assert can_ever_be_served(req, engine)
                    requests[request_id] = req
                    if client.fault is not None:
                        engine.faults[request_id, client.fault] = "The logits are not finite."
            if client.leaves == now and request_id in requests:
                ended = engine.answers[request_id].finish is not None
                assert (engine.abort(request_id) is None) == ended
        engine.expire()
        engine.step()
    answers = engine.run()

    assert answers.keys() == requests.keys()
    for request_id, req in requests.items():
        answer, client = answers[request_id], everyone[request_id][2]
        tokens, finish = expected(req, engine.scheduler.max_model_len)
        told = [int(logprobs.chosen) for logprobs in answer.prompt_logprobs]
        if req.pooling is not None:
            check_vector(engine, req, client)
            continue
        asked = req.sampling.prompt_logprobs is not None
        # Positions in the answer; those before 0 are looked at only where log-probabilities are asked for.
        fault = client.fault if client.fault is not None and (client.fault >= 0 or asked) else len(tokens)
        if answer.finish is Finish.ABORT:
            assert client.leaves is not None
            assert answer.tokens == tokens[: len(answer.tokens)]
            assert len(answer.tokens) < len(tokens)
        elif answer.finish is Finish.TIMEOUT:
            assert client.timeout is not None
            assert answer.tokens == tokens[: len(answer.tokens)]
            assert len(answer.tokens) < len(tokens)
        elif len(req.prompt) + fault > 0 and fault < len(tokens):
            assert (answer.tokens, answer.finish) == (tokens[: max(0, fault)], Finish.ERROR)
        else:
            assert (answer.tokens, answer.finish) == (tokens, finish)
        assert told == foretold(req.prompt)[: len(told)]
        if not asked:
            assert not told
        elif answer.tokens:
            assert len(told) == len(req.prompt) - 1, "a token before all of the prompt is told of"
        assert answer.cached_tokens is not None
        assert 0 <= answer.cached_tokens < len(req.prompt)
        assert answer.cached_tokens % engine.pool.block_size == 0
        assert (engine.pool.prefix_caching and not asked) or answer.cached_tokens == 0


def check_vector(engine: Engine, req: Request, client: Client) -> None:
    answer = engine.answers[req.id]
    first = 1 - len(req.prompt) if req.pooling is Pooling.MEAN else 0
    assert not answer.tokens
    assert not answer.prompt_logprobs
    if answer.finish is Finish.ABORT:
        assert client.leaves is not None
    elif answer.finish is Finish.TIMEOUT:
        assert client.timeout is not None
    elif client.fault is not None and first <= client.fault <= 0:
        assert answer.finish is Finish.ERROR
    else:
        assert (answer.finish, answer.vector) == (Finish.STOP, vector_of(req))
        assert answer.cached_tokens is not None
        assert answer.cached_tokens % engine.pool.block_size == 0
        assert (engine.pool.prefix_caching and req.pooling is Pooling.LAST) or answer.cached_tokens == 0


WORKLOAD = [
    request(0, (1, 2, 3, 4, 5, 6, 7), 12),
    request(1, (8, 2, 9), 16),
    request(2, (1, 2, 3, 4, 5, 6), 13),
    request(3, (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1, 2), 3, prompt_logprobs=0),
    request(4, (5,), 18),
    request(5, (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13), pooling=Pooling.MEAN),
    request(6, (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13), pooling=Pooling.LAST),
]


def workload(ahead: bool = False) -> Engine:
    """Six blocks of four for seven requests, seven tokens a step: chunking, queueing and preemption all happen."""
    engine = Engine(num_blocks=6, block_size=4, max_num_seqs=4, max_num_batched_tokens=7, max_model_len=20, ahead=ahead)
    engine.add(*WORKLOAD)
    return engine


def test_the_workload_meets_everything_it_is_meant_to() -> None:
    engine = workload()
    engine.run()
    counters = engine.scheduler.counters
    assert counters.preemptions > 0
    assert counters.prefix_hits > 0
    assert counters.steps == engine.steps


@pytest.mark.parametrize("ahead", [False, True])
def test_abort_at_every_point_costs_the_others_nothing(ahead: bool) -> None:
    whole = workload(ahead)
    whole.run()
    for victim in range(len(WORKLOAD)):
        for moment in range(whole.steps + 1):
            engine = workload(ahead)
            for _ in range(moment):
                engine.step()
            ended = engine.answers[victim].finish
            event = engine.abort(victim)
            assert (event is None) == (ended is not None)
            assert engine.abort(victim) is None
            for request_id, answer in engine.run().items():
                tokens, finish = expected(WORKLOAD[request_id], 20)
                if request_id == victim and ended is None:
                    assert answer.finish is Finish.ABORT
                    assert answer.tokens == tokens[: len(answer.tokens)]
                else:
                    assert (answer.tokens, answer.finish) == (tokens, finish)


@pytest.mark.parametrize("ahead", [False, True])
def test_abort_all_at_every_point_even_with_a_plan_in_flight(ahead: bool) -> None:
    whole = workload(ahead)
    whole.run()
    for moment in range(whole.steps + 1):
        for in_flight in (False, True):
            engine = workload(ahead)
            for _ in range(moment):
                engine.step()
            alive = [request_id for request_id in engine.arrivals if engine.answers[request_id].finish is None]
            if in_flight and engine.scheduler.schedule() and ahead:
                engine.scheduler.prepare()
            events = engine.scheduler.abort_all(Finish.ERROR, "The engine died.")
            assert [event.request_id for event in events] == alive
            for event in events:
                assert (event.token, event.error) == (None, "The engine died.")
                engine.answers[event.request_id].receive(event)
            engine.check()
            assert not engine.scheduler.has_work
            # The scheduler is as good as new.
            again = [request(req.id + 10, req.prompt, req.sampling.max_tokens) for req in WORKLOAD[:5]]
            engine.add(*again)
            answers = engine.run()
            assert all(answers[req.id].tokens == expected(req, 20)[0] for req in again)
