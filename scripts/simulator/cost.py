"""How long a step takes, as a function of what is in it. It knows step plans, and neither clocks nor requests.

The model is a sum of what a step does, with one maximum in it:

    seconds = fixed + token · max(tokens, knee) + pair · pairs + context · contexts + sequence · sequences

The maximum is the roofline of the matrix products. Their weights are read once a step, however many tokens share them,
so up to `knee` tokens a step takes as long as reading takes, and from there on each token costs its arithmetic. The
rest happens one after the other, in a step of this engine as in most, and is added: attention (`pair`: one query
against one key; `context`: one position of KV cache read), and what each sampled token costs (`sequence`: its row of
the LM head, sampling, planning and booking). A maximum over everything would promise an overlap that no step has.
"""

from __future__ import annotations

from operator import mul
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, ValidationError

from llmserve.config import Frozen, first_problem
from llmserve.errors import ConfigError
from llmserve.scheduler import StepPlan


class Work(NamedTuple):
    """What a step has to do."""

    tokens: int  # through the matrices
    sequences: int  # that get a token
    contexts: int  # positions of KV cache that are read, of each chunk up to its end
    pairs: int  # of a query and a key that it sees

    @staticmethod
    def of(plan: StepPlan) -> Work:
        tokens, starts, lengths = plan.num_tokens, plan.starts, plan.lengths
        # A chunk of c tokens from position s on sees s + 1, s + 2, … s + c keys.
        pairs = sum(map(mul, lengths, starts)) + (sum(map(mul, lengths, lengths)) + tokens) // 2
        return Work(tokens, plan.num_logits, sum(starts) + tokens, pairs)


class CostModel(Frozen):
    """All in seconds, but for `knee`, which is in tokens."""

    fixed: float = Field(ge=0, allow_inf_nan=False)
    token: float = Field(ge=0, allow_inf_nan=False)
    knee: float = Field(ge=0, allow_inf_nan=False)
    pair: float = Field(ge=0, allow_inf_nan=False)
    context: float = Field(ge=0, allow_inf_nan=False)
    sequence: float = Field(ge=0, allow_inf_nan=False)

    def seconds(self, work: Work) -> float:
        tokens, sequences, contexts, pairs = work
        return (
            self.fixed
            + self.token * max(tokens, self.knee)
            + self.pair * pairs
            + self.context * contexts
            + self.sequence * sequences
        )


class Machine(Frozen):
    """An engine as the scheduler sees it: how long its steps take, and what it can hold."""

    name: str
    cost: CostModel
    num_blocks: int = Field(ge=1)
    block_size: int = Field(ge=1)
    max_num_seqs: int = Field(ge=1)
    max_model_len: int = Field(ge=2)

    @property
    def kv_tokens(self) -> int:
        return self.num_blocks * self.block_size

    @staticmethod
    def read(file: Path) -> Machine:
        """ConfigError in one sentence where `file` holds none."""
        try:
            return Machine.model_validate_json(file.read_text("utf-8"))
        except OSError as e:
            raise ConfigError(f"{file} cannot be read: {e.strerror or e}; `--calibrate ENGINE` writes one.") from None
        except (ValidationError, UnicodeDecodeError) as e:
            reason = first_problem(e) if isinstance(e, ValidationError) else str(e)
            raise ConfigError(f"{file} describes no machine ({reason}); `--calibrate ENGINE` writes one.") from None

    def write(self, file: Path) -> None:
        file.write_text(self.model_dump_json(indent=1) + "\n", "utf-8")
