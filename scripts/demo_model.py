"""A compact Qwen2 network for training, with parameters named as in Hugging Face checkpoints.

In its last phase the training sees its weights through the rounding of int8 and int4 ("fake quantisation"), so that
the finished model keeps its answers when it is quantised. Knows nothing of data and tokenizers.
"""

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    """The fields of a Hugging Face Qwen2 config.json that matter here, under the same names."""

    vocab_size: int
    hidden_size: int = 256
    intermediate_size: int = 512
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    max_position_embeddings: int = 1024
    rope_theta: float = 1000.0
    rms_norm_eps: float = 1e-6

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    def as_dict(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class Rounding:
    """How linear weights are rounded in a training step: bits, and weights per scale (0: the whole row)."""

    bits: int
    group: int


def fake_quantise(weight: Tensor, rounding: Rounding) -> Tensor:
    """The weight as symmetric quantisation would give it back; gradients pass straight through."""
    largest = 2 ** (rounding.bits - 1) - 1
    grouped = weight.detach().unflatten(1, (-1, rounding.group or weight.shape[1]))
    scale = grouped.abs().amax(-1, keepdim=True).clamp_min(1e-8) / largest
    rounded = ((grouped / scale).round().clamp(-largest, largest) * scale).flatten(1)
    return weight + (rounded - weight.detach())


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class _Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = (
            config.num_attention_heads, config.num_key_value_heads, config.head_dim,
        )  # fmt: skip
        self.q_proj = nn.Linear(config.hidden_size, self.heads * self.head_dim)
        self.k_proj = nn.Linear(config.hidden_size, self.kv_heads * self.head_dim)
        self.v_proj = nn.Linear(config.hidden_size, self.kv_heads * self.head_dim)
        self.o_proj = nn.Linear(self.heads * self.head_dim, config.hidden_size, bias=False)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], linear) -> Tensor:
        q, k, v = (
            linear(x, layer).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = _rotate(q, *rope).to(v.dtype), _rotate(k, *rope).to(v.dtype)
        repeats = self.heads // self.kv_heads
        k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return linear(mixed.transpose(1, 2).flatten(2), self.o_proj)


class _Mlp(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, linear) -> Tensor:
        return linear(F.silu(linear(x, self.gate_proj)) * linear(x, self.up_proj), self.down_proj)


class _Layer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = _Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = _Mlp(config)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], linear) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rope, linear)
        return x + self.mlp(self.post_attention_layernorm(x), linear)


class _Backbone(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)


class Qwen2(nn.Module):
    """Qwen2ForCausalLM with tied embeddings, for right-padded rows that all begin at position 0."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.model = _Backbone(config)
        exponents = torch.arange(0, config.head_dim, 2).float() / config.head_dim
        angles = torch.outer(torch.arange(config.max_position_embeddings).float(), config.rope_theta**-exponents)
        angles = torch.cat((angles, angles), -1)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        self.apply(self._initialise)
        self._look_back()

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5 * 0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    @torch.no_grad()
    def _look_back(self, strength: float = 4.0) -> None:
        """Start the first layer's heads off attending to 1, 2, 3 … tokens before.

        Copying ("spell c-a-t") needs such heads, and small models take long to find them: with zero biases the
        gradient towards a purely positional head is zero. Equal key biases, and query biases turned back by the
        rotary angle of the distance, give exactly that: the score is highest where both angles agree.
        """
        attention, half = self.model.layers[0].self_attn, self.config.head_dim // 2
        frequencies = self.config.rope_theta ** (-torch.arange(half) / half)
        keys = attention.k_proj.bias.view(-1, 2, half)
        keys[:, 0] = strength * (frequencies > 0.05)
        for head, query in enumerate(attention.q_proj.bias.view(-1, 2, half)):
            angles = -frequencies * (head + 1)
            query[0], query[1] = keys[0, 0] * angles.cos(), keys[0, 0] * angles.sin()

    def forward(self, ids: Tensor, scored: Tensor, rounding: Rounding | None = None) -> Tensor:
        """Logits at the scored positions (a boolean mask over ids), as rows."""

        def linear(x: Tensor, layer: nn.Linear) -> Tensor:
            weight = fake_quantise(layer.weight, rounding) if rounding else layer.weight
            return F.linear(x, weight, layer.bias)

        rope = (self.cos[: ids.shape[1]], self.sin[: ids.shape[1]])
        x = self.model.embed_tokens(ids)
        for layer in self.model.layers:
            x = layer(x, rope, linear)
        head = self.model.embed_tokens.weight
        if rounding:
            head = fake_quantise(head, Rounding(8, 0))  # the LM head is never rounded to less than 8 bits
        return F.linear(self.model.norm(x[scored]), head)
