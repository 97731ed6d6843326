"""A checkpoint's own logits, in fp32 and unquantised, in little memory: weights are read when they are multiplied by,
a band of rows at a time, and not kept."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from llmserve.checkpoint.build import with_prefix
from llmserve.checkpoint.source import Checkpoint
from llmserve.comm.solo import SoloComm
from llmserve.config import ModelConfig
from llmserve.layers.layout import make_layout
from llmserve.layers.parameter import Matrix, Parameter
from llmserve.models import make_model
from llmserve.ops.packed import PANEL, unpack
from llmserve.ops.reference import ReferenceOps
from llmserve.runtime.kv_cache import KVPlan
from llmserve.runtime.model_runner import ModelRunner
from llmserve.scheduler.plan import Chunk, StepPlan

BytesRead = Callable[[int], None]
Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all, of weights in fp32."""


class Rows:
    """A parameter's rows, as the checkpoint has them."""

    def __init__(self, parameter: Parameter, checkpoint: Checkpoint, read: BytesRead) -> None:
        self.parameter = parameter
        self._checkpoint = checkpoint
        self._read = read

    @property
    def rows(self) -> int:
        return self.parameter.num_rows

    def bands(self) -> Iterator[Tensor]:
        """fp32, [n, width] of a matrix or table, one after the other."""
        parameter, left = self.parameter, self.rows
        for _, _, stored in parameter.pack(self._checkpoint):
            self._read(stored.nbytes)
            band = stored
            if isinstance(parameter, Matrix):
                assert parameter.width is not None
                rows = min(left, PANEL * len(stored))
                band = unpack(parameter.scheme.matrix({"weight": stored}, rows, parameter.width))
            left -= len(band)
            yield band

    def all(self) -> Tensor:
        return torch.cat(list(self.bands()))

    def part(self, first: int, count: int) -> Rows:
        """Rows first … first+count-1."""
        part = copy.copy(self.parameter)
        part.pieces, part.num_rows = [], count
        for piece in self.parameter.pieces:
            start, stop = max(first, 0), min(first + count, piece.rows)
            if start < stop:
                at, end = piece.start + start * piece.step, piece.start + (stop - 1) * piece.step + 1
                part.pieces.append(replace(piece, start=at, stop=end))
            first -= piece.rows
        return Rows(part, self._checkpoint, self._read)


class StreamedOps(ReferenceOps):
    """The reference operations, where matrices and the table of tokens are `Rows`."""

    def embedding(self, table: Rows, first: int, scale: float, positions: Tensor | None) -> Tensor:  # type: ignore[override]
        batch = self._batch
        ids, places = batch.tokens.unique(return_inverse=True)
        few = torch.cat([table.part(id - first, 1).all() for id in ids.tolist()])
        self.begin(replace(batch, tokens=places))
        x = super().embedding(few, 0, scale, positions)
        self.begin(batch)
        return x

    def linear(self, x: Tensor, weight: Rows, bias: Tensor | None) -> Tensor:  # type: ignore[override]
        y = torch.cat([F.linear(x[:, : band.shape[1]], band) for band in weight.bands()], dim=1)
        return y if bias is None else y + bias


def checkpoint_logits(
    checkpoint: Checkpoint, config: ModelConfig, prompts: list[tuple[int, ...]], progress: Progress
) -> list[Tensor]:
    """Of every position of every prompt, [tokens, vocab_size] fp32. Raises CheckpointError or BuildError."""
    model = make_model(config, make_layout("none", "none", None, "float32", 0, 1))
    checkpoint = with_prefix(checkpoint, model)
    total = sum(math.prod(shape) * 4 for p in model.parameters() for shape, _ in p.layout().values())
    done = 0

    def read(count: int) -> None:
        nonlocal done
        done += count
        progress(min(done, total - 1), total)  # rows of a tied table come twice

    for parameter in model.parameters():
        rows = Rows(parameter, checkpoint, read)
        streamed = isinstance(parameter, Matrix) or parameter is model.embedding.table
        parameter.handle = rows if streamed else rows.all()
    longest, variants = max(map(len, prompts)), config.rope.variants(config.max_position)
    # One for all layers: each writes all that it reads.
    cache = torch.empty((2, len(prompts), longest, config.num_kv_heads, config.head_dim))
    runner = ModelRunner(
        model,
        StreamedOps(torch.device("cpu")),
        SoloComm(),
        cache.expand(config.num_layers, *cache.shape),
        KVPlan("float32", len(prompts), longest, cache[:, 0].nbytes, longest, variants),
        len(prompts),
    )
    chunks = [
        Chunk(i, 0, 0, prompt, (i,), len(prompt), variants.of(len(prompt), len(prompt)))
        for i, prompt in enumerate(prompts)
    ]
    logits = runner.execute(StepPlan.of(chunks))
    progress(total, total)  # of a table only the prompts' rows were read
    return list(logits.split([len(prompt) for prompt in prompts]))
