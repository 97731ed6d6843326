"""JSON with something else in it: numbers beyond all bounds, other types, parts that are missing or new."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

numbers = st.integers(-2, 9) | st.sampled_from(
    [0, -1, 2**31 - 1, 2**31, 2**63, 10**9, 10**30, 0.5, 1e308, float("nan")]
)
scalars = (
    st.none() | st.booleans() | numbers | st.text(max_size=5) | st.sampled_from(["silu", "float16", "gptq", "model"])
)
values = st.recursive(scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=4), v, max_size=3))


def mutated(data: st.DataObject, value: Any) -> Any:
    """A JSON value of which one part, somewhere, is another, missing or new."""
    if isinstance(value, dict) and value and data.draw(st.integers(0, 9)):
        key = data.draw(st.sampled_from(sorted(value)))
        changed = dict(value)
        kind = data.draw(st.integers(0, 5))
        if kind == 0:
            del changed[key]
        elif kind == 1:
            changed[data.draw(st.text(max_size=6))] = data.draw(values)
        else:
            changed[key] = mutated(data, value[key])
        return changed
    if isinstance(value, list) and value and data.draw(st.integers(0, 3)):
        at = data.draw(st.integers(0, len(value) - 1))
        return [*value[:at], mutated(data, value[at]), *value[at + 1 :]]
    return data.draw(values)
