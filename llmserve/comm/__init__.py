"""The line between the ranks of one engine. Knows nothing of what is sent."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Comm(Protocol):
    rank: int
    size: int

    def broadcast(self, words: array[int] | None = None) -> array[int]:
        """int32 words from rank 0 to all. Rank 0 passes them; the others pass nothing and sleep until they come.

        Raises EngineDeadError on a rank that can no longer hear rank 0.
        """

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum over ranks, on every rank; may be done in place."""

    def all_gather(self, x: Tensor) -> Tensor:
        """[R, n] of each rank → [R, size · n], in rank order, on every rank."""

    def all_gather_text(self, text: str) -> list[str]:
        """One short text of each rank, on every rank, in rank order; for comparing notes at start, not for steps."""

    def abort(self, code: int) -> None:
        """End every rank at once with this exit code. Does not return."""

    def close(self) -> None:
        """Leave in order; every rank calls it."""
