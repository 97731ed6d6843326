"""How much there is to read in a JSON text, found out without reading it."""

from __future__ import annotations

from llmserve.errors import RequestError

MAX_VALUES = 2**20 + 2**16
"""Of one body: as many token ids as it may have, and more than anything else needs. Reading them is a fraction of a
second in which nobody else is served; of the most that fits into a body it is several."""

MAX_NAMES = 2**17
"""Of one body: more than all that can be said in one has. A name costs several times what a number does, most of all
where each is another."""


def check_values(raw: bytes) -> None:
    """RequestError where there are more. What is in strings does not count; they are looked for only where all that
    looks like a value, or a name, is too many."""
    if _marks(raw) > MAX_VALUES or raw.count(b":") > MAX_NAMES:
        in_and_out = raw.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"', 2 * MAX_VALUES)
        out = b"".join(in_and_out[::2])
        if len(in_and_out) > 2 * MAX_VALUES or _marks(out) > MAX_VALUES:
            raise RequestError(f"The body has more than {MAX_VALUES} values and names; send less at a time.")
        if out.count(b":") > MAX_NAMES:
            raise RequestError(f"The body has more than {MAX_NAMES} names; send less at a time.")


def _marks(raw: bytes) -> int:
    """At least as many as there are values: one is before each but the first."""
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{")
