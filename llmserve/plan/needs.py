"""What an engine needs, in bytes, whichever backend it is for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Share:
    """One rank's weights, in bytes."""

    stored: int  # of its tensors on disk
    file: int | None  # of the file that holds them; None: not known before it is built
    resident: int  # in the memory of its device
    scratch: int  # beside that, for the largest matrix while it is multiplied by
    read_always: int  # of `resident`, read in every step
    experts: int  # of `resident`, all experts of all layers: a step reads those that its tokens go to


@dataclass(frozen=True, slots=True)
class Needs:
    shares: tuple[Share, ...]  # by rank
    workspace: int  # of a rank, for activations and logits; an estimate
    scores_token: int  # beside that, of a rank, for each token of the longest sequence that is read; an estimate
    kv_dtype: str
    kv_layer_token: int  # bytes of a token's keys and values in one layer on one rank
    block_size: int  # tokens
    num_layers: int
    windows: tuple[int | None, ...]  # by layer: how many last positions it reads; None: all
    experts: int  # of a layer; 0: there are none
    experts_per_token: int
    estimated: tuple[str, ...]  # which of these figures are
    notes: tuple[str, ...]

    @property
    def kv_token(self) -> int:
        """Bytes of a token on one rank, all layers."""
        return self.num_layers * self.kv_layer_token

    @property
    def kv_block(self) -> int:
        return self.block_size * self.kv_token

    @property
    def fixed(self) -> int:
        """What a rank needs before it holds any token; of the rank that needs most."""
        return max(share.resident + share.scratch for share in self.shares) + self.workspace

    def read_of_a_step(self, share: Share, batch: int, context: int) -> float:
        """Bytes that a rank reads at least to decode one token of each of `batch` sequences of `context` tokens.

        Of experts the expected number, if each token chose by chance: 1 - (1 - chosen / all) ** batch.
        """
        touched = 1 - (1 - self.experts_per_token / self.experts) ** batch if self.experts else 0.0
        positions = sum(context if window is None else min(context, window) for window in self.windows)
        return share.read_always + share.experts * touched + batch * positions * self.kv_layer_token


def activations(tokens: int, widths: int, rows: int, vocab_size: int) -> int:
    """Bytes of a step's arrays in fp32, were all of a layer's alive at once, and its logits twice; an estimate.

    `widths`: numbers of a token in a layer; `rows`: of logits.
    """
    return 4 * (tokens * widths + 2 * rows * vocab_size)
