"""Machines that are not here: a GPU by its data sheet, a model by its shape, and what of a peak is reached in practice.

Everything is a stated number, so that whoever doubts one can put in another. Nothing is measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmserve.errors import ConfigError
from simulator.cost import CostModel, Machine

COMPUTE_REACHED = 0.6
"""Of a data sheet's peak, by dense matrix products of a whole layer."""
BANDWIDTH_REACHED = 0.8
MEMORY_USED = 0.9
"""Of a GPU's memory, by weights and KV cache; the rest is for activations and the runtime."""
FIXED = 0.5e-3
"""Seconds a step: launching kernels, the message to the other ranks."""
PER_SEQUENCE = 5e-6
"""Seconds a sequence and step: planning, sampling, booking a token."""
BLOCK_SIZE = 16


@dataclass(frozen=True, slots=True)
class Gpu:
    flops: float  # a second, dense bfloat16
    bandwidth: float  # bytes a second
    memory: float  # bytes


@dataclass(frozen=True, slots=True)
class Shape:
    """A dense decoder with bfloat16 weights and KV cache."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int

    @property
    def layer_weights(self) -> int:
        """Of all layers: gate, up and down; query, output, key and value."""
        attention = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        return self.layers * (3 * self.hidden * self.intermediate + attention)

    @property
    def head_weights(self) -> int:
        return self.hidden * self.vocab

    @property
    def weight_bytes(self) -> int:
        """Layers, embedding and head."""
        return 2 * (self.layer_weights + 2 * self.head_weights)

    @property
    def kv_bytes(self) -> int:
        """Of one token."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_dim


GPUS = {
    "h200-like": Gpu(flops=989e12, bandwidth=4.8e12, memory=141e9),
    "a100-like": Gpu(flops=312e12, bandwidth=2.0e12, memory=80e9),
    "l4-like": Gpu(flops=121e12, bandwidth=0.3e12, memory=24e9),
}

MODELS = {
    # Qwen2.5-7B's shape: 57 kB of KV a token
    "7b-like": Shape(28, 3584, 18944, 28, 4, 128, 152064),
    # Llama-2-7B's, in which every head has keys of its own: 524 kB
    "7b-mha-like": Shape(32, 4096, 11008, 32, 32, 128, 32000),
}


def imagine(gpu_name: str, model_name: str, *, max_num_seqs: int, max_model_len: int) -> Machine:
    """ConfigError where the weights leave no room for a sequence."""
    gpu, model = GPUS[gpu_name], MODELS[model_name]
    free = MEMORY_USED * gpu.memory - model.weight_bytes
    num_blocks = int(free // (model.kv_bytes * BLOCK_SIZE))
    if num_blocks * BLOCK_SIZE < max_model_len:
        raise ConfigError(
            f"{model_name} on {gpu_name} leaves {free / 1e9:.1f} GB for the KV cache, which is less than one sequence "
            f"of {max_model_len} tokens takes; choose a larger GPU or shorter lengths."
        )
    name = f"{gpu_name}, {model_name}"
    return Machine(
        name=name,
        cost=cost_of(gpu, model),
        num_blocks=num_blocks,
        block_size=BLOCK_SIZE,
        max_num_seqs=max_num_seqs,
        max_model_len=max_model_len,
    )


def cost_of(gpu: Gpu, model: Shape) -> CostModel:
    flops, bandwidth = COMPUTE_REACHED * gpu.flops, BANDWIDTH_REACHED * gpu.bandwidth
    token = 2 * model.layer_weights / flops
    reading = 2 * model.layer_weights / bandwidth
    # The head is read once a step, which takes longer than multiplying it by the rows of some hundred sequences.
    head = 2 * model.head_weights / bandwidth
    return CostModel(
        fixed=FIXED + head,
        token=token,
        knee=reading / token,
        # A score and a weighted value, each one multiplication and one addition per dimension of every head.
        pair=4 * model.layers * model.heads * model.head_dim / flops,
        context=model.kv_bytes / bandwidth,
        sequence=PER_SEQUENCE,
    )
