"""How a model is laid out over ranks and bits; the same at build and at run."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from llmserve.errors import BuildError
from llmserve.ops.packed import PANEL
from llmserve.quant import Scheme, make_scheme


@dataclass(frozen=True, slots=True)
class Layout:
    """One rank's share: parameters in `dtype`, the layers' matrices in `scheme`, the LM head in `head_scheme`."""

    rank: int
    size: int
    dtype: torch.dtype
    scheme: Scheme
    head_scheme: Scheme

    def cut(self, total: int, what: str) -> tuple[int, int]:
        """This rank's [start, stop) of `total` equal things; BuildError where they cannot be cut equally."""
        if total % self.size:
            raise BuildError(f"tp_size={self.size} does not divide the model's {what} ({total}).")
        share = total // self.size
        return self.rank * share, (self.rank + 1) * share

    def cut_panels(self, total: int, what: str) -> tuple[int, int]:
        """This rank's [start, stop) of `total` rows, as nearly equal as whole units allow; the last may be broken.

        These rows are the columns of the next matrix, so a unit is a group of columns that share a scale: it ends where
        ranks do. Without groups it is a panel of rows, in small models a row.
        """
        unit = self.scheme.group_size or (PANEL if total > PANEL * (self.size - 1) else 1)
        units = -(-total // unit)
        if self.size > units:
            raise BuildError(f"tp_size={self.size} cannot cut the model's {what} ({total}) into units of {unit}.")
        start, stop = (unit * (units * rank // self.size) for rank in (self.rank, self.rank + 1))
        return start, min(stop, total)

    def cut_kv_heads(self, num_kv_heads: int) -> tuple[int, int]:
        """As `cut`, but where there are more ranks than KV heads, several ranks hold the same head."""
        if self.size > num_kv_heads and self.size % num_kv_heads == 0:
            head = self.rank * num_kv_heads // self.size
            return head, head + 1
        return self.cut(num_kv_heads, "number of KV heads")


def make_layout(
    quant: str, head_quant: str, group_size: int | None, dtype: str, rank: int, size: int, zero_points: bool = False
) -> Layout:
    """From the names that a manifest keeps; the same at build and at run."""
    kind = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]
    layers, head = (make_scheme(name, group_size, kind, zero_points) for name in (quant, head_quant))
    return Layout(rank, size, kind, layers, head)
