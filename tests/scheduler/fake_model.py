"""A model small enough to check by eye: KV contents in physical slots, and tokens that depend on every one it reads."""

from __future__ import annotations

from llmserve.scheduler import StepPlan

VOCAB = 11


def kv_of(before: int, position: int, token: int) -> int:
    """As in a transformer, a position's KV depends on its token and on all that came before."""
    return hash((before, position, token))


def next_token(context: list[int]) -> int:
    """The token that follows, from the KV of all positions so far. Hashes of ints are the same in every process."""
    return hash(tuple(context)) // 7 % VOCAB


def foretold(prompt: tuple[int, ...]) -> list[int]:
    """What the logits of each position of a prompt but the last say of the token that follows there."""
    context: list[int] = []
    for token in prompt[:-1]:
        context.append(kv_of(context[-1] if context else 0, len(context), token))
    return [next_token(context[:length]) for length in range(1, len(prompt))]


def hidden_of(prompt: tuple[int, ...]) -> list[int]:
    """What stands for the hidden state of each position: its KV, on which everything before it shows."""
    context: list[int] = []
    for token in prompt:
        context.append(kv_of(context[-1] if context else 0, len(context), token))
    return context


def reference(prompt: tuple[int, ...], count: int) -> list[int]:
    """`count` tokens generated one by one from scratch: what every request must get, whatever surrounds it."""
    context: list[int] = []
    for token in prompt:
        context.append(kv_of(context[-1] if context else 0, len(context), token))
    generated: list[int] = []
    for _ in range(count):
        generated.append(next_token(context))
        context.append(kv_of(context[-1], len(context), generated[-1]))
    return generated


class FakeModel:
    """Executes plans as a rank would, knowing nothing else: a block table per row and a KV slot per position."""

    def __init__(self, num_blocks: int, block_size: int, rows: int) -> None:
        self.block_size = block_size
        self.kv: list[int | None] = [None] * (num_blocks * block_size)
        self.table: list[list[int]] = [[] for _ in range(rows)]

    def execute(self, plan: StepPlan) -> tuple[list[int], list[int]]:
        """The next token for each wanted row of logits, and what stands for each hidden state that is wanted."""
        writer: dict[int, int] = {}  # slot -> the row that writes it in this step
        for chunk in plan.chunks:
            table = self.table[chunk.row]
            assert chunk.first_block <= len(table), "a hole in the block table"
            table[chunk.first_block :] = chunk.new_blocks
            for position in range(chunk.start, chunk.start + len(chunk.tokens)):
                slot = self._slot(chunk.row, position)
                assert writer.setdefault(slot, chunk.row) == chunk.row, "two rows write one slot"
        tokens, hidden = [], []
        for chunk in plan.chunks:
            context = [self._read(chunk.row, position, writer) for position in range(chunk.start)]
            for position, token in enumerate(chunk.tokens, chunk.start):
                context.append(kv_of(context[-1] if context else 0, position, token))
                self.kv[self._slot(chunk.row, position)] = context[-1]
                if position >= chunk.start + len(chunk.tokens) - chunk.logits:
                    tokens.append(next_token(context))
                if position >= chunk.start + len(chunk.tokens) - chunk.hidden:
                    hidden.append(context[-1])
        return tokens, hidden

    def _slot(self, row: int, position: int) -> int:
        return self.table[row][position // self.block_size] * self.block_size + position % self.block_size

    def _read(self, row: int, position: int, writer: dict[int, int]) -> int:
        slot = self._slot(row, position)
        assert slot not in writer, "reads what another row is writing in this step"
        content = self.kv[slot]
        assert content is not None, "reads a slot that was never written"
        return content
