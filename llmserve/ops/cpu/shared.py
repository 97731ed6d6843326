"""Where the ranks of one host keep what they share: offsets into each rank's area (csrc/team.hpp).

Knows nothing of what is computed. Pages cost nothing until they are written, so places are as big as they can ever be.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmserve.ops.packed import padded


@dataclass(frozen=True, slots=True)
class SharedArea:
    """For steps of up to `max_tokens` tokens, sums of `width` numbers a row and logits of `logits_width`."""

    max_tokens: int
    width: int
    logits_width: int

    def sum(self, turn: int) -> int:
        """This rank's part of the turn'th sum, [max_tokens, width] fp32.

        Two places in turn: who writes the one again has met everybody after they read it.
        """
        return turn % 2 * self._rows(4)

    @property
    def residual(self) -> int:
        """[max_tokens, width] fp32; all ranks use rank 0's, each its own rows."""
        return 2 * self._rows(4)

    @property
    def wanted_residual(self) -> int:
        """Likewise, of the wanted rows alone: those it is made of are read by all."""
        return 3 * self._rows(4)

    def normed(self, turn: int) -> int:
        """What the turn'th norm writes, in all forms that are read; rank 0's. Two places in turn, as for sums."""
        return 4 * self._rows(4) + turn % 2 * self._rows(8)

    @property
    def logits(self) -> int:
        """[max_tokens, logits_width] fp32; all ranks write their columns into rank 0's."""
        return 4 * self._rows(4) + 2 * self._rows(8)

    @property
    def bytes(self) -> int:
        return self.logits + self.max_tokens * self.logits_width * 4

    def _rows(self, bytes_per_number: int) -> int:
        """Rows that may be read a little past their end, to whole pages."""
        return -(-(self.max_tokens * padded(self.width) * bytes_per_number + 1024) // 4096) * 4096
