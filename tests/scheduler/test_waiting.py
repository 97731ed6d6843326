"""The queue and the deadlines by themselves, beside what they are meant to be: a sorted list, and a dictionary."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmserve.scheduler.deadlines import Deadlines
from llmserve.scheduler.sequence import Sequence
from llmserve.scheduler.waiting import WaitingQueue

from .harness import request

ACTIONS = st.lists(st.tuples(st.sampled_from(["add", "remove", "admit", "back"]), st.integers(0, 3)), max_size=60)


@given(ACTIONS)
def test_the_queue_is_a_sorted_list(actions: list[tuple[str, int]]) -> None:
    """Whoever is put back was at the head before, as in the scheduler: by the last admitted of its priority first."""
    queue, model, admitted = WaitingQueue(), [], []
    for count, (action, which) in enumerate(actions):
        if action == "add":
            seq = Sequence(request(count, (1,), priority=which - 1), count, 10)
            queue.add(seq)
            model.append(seq)
        elif action == "remove" and model:
            seq = model.pop(which % len(model))
            queue.remove(seq)
        elif action == "admit" and model:
            seq = queue.head
            queue.remove(seq)
            model.remove(seq)
            admitted.append(seq)
        elif action == "back" and admitted:
            seq = max(admitted, key=lambda seq: seq.order)
            admitted.remove(seq)
            queue.put_back(seq)
            model.append(seq)
        model.sort(key=lambda seq: seq.order)
        assert list(queue) == model
        assert len(queue) == len(model)
        assert bool(queue) == bool(model)
        if model:
            assert queue.head is model[0]


MOMENTS = st.tuples(st.sampled_from(["set", "forget", "pass"]), st.integers(0, 5), st.integers(0, 9))


@given(st.lists(MOMENTS, max_size=50))
def test_deadlines_are_a_dictionary(actions: list[tuple[str, int, int]]) -> None:
    deadlines, model, now = Deadlines(), {}, 0.0
    for action, request_id, moment in actions:
        if action == "set" and request_id not in model:
            model[request_id] = now + moment
            deadlines.set(request_id, now + moment)
        elif action == "forget":
            model.pop(request_id, None)
            deadlines.forget(request_id)
        else:
            now += moment
            passed = [i for i, at in model.items() if at <= now]
            told = deadlines.passed(now)
            assert sorted(told) == sorted(passed)
            assert [model[i] for i in told] == sorted(model[i] for i in passed)
            for i in passed:
                del model[i]


def test_forgotten_deadlines_do_not_pile_up() -> None:
    deadlines = Deadlines()
    deadlines.set(-1, 1e9)
    for i in range(10_000):
        deadlines.set(i, 1e6 + i)
        deadlines.forget(i)
    assert len(deadlines._heap) < 200
    assert deadlines.passed(1e8) == []
    assert deadlines.passed(1e9) == [-1]


def test_what_turns_otherwise_or_has_another_salt_has_other_keys() -> None:
    """Of equal tokens; and no salt can be made that gives another's keys."""
    tokens = (1, 2, 3, 4, 5, 6, 7, 8)
    keys = [
        tuple(Sequence(request(0, tokens, cache_salt=salt), 0, 20, variant).prefix_keys(2))
        for salt in ("", "a", "1", "\ud800")
        for variant in (0, 1, 2)
    ]
    assert all(len(each) == 3 for each in keys)
    assert len({key for each in keys for key in each}) == 3 * len(keys)
