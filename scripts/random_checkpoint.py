"""Write a checkpoint of a real model's shape with random weights, for measuring speed and memory.

    python scripts/random_checkpoint.py qwen2.5-1.5b /tmp/qwen2.5-1.5b

Shapes are those of the models' published config.json files, but for `tiny`. Weights' values change neither speed nor
memory.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from pathlib import Path

import torch

from llmserve.checkpoint.tensor_file import TensorFileWriter, TensorSpec
from llmserve.layers.layout import make_layout
from llmserve.models import make_model, read_config

BAND_NUMBERS = 1 << 24
"""Numbers written at a time, at most."""


def _qwen25(hidden: int, inner: int, layers: int, heads: int, kv_heads: int) -> dict:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": 151936,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
        "torch_dtype": "bfloat16",
        "eos_token_id": 151645,
    }


SHAPES = {
    # For mechanisms, and for trying scripts: nobody's model.
    "tiny": _qwen25(256, 1024, 4, 4, 2) | {"vocab_size": 8192, "eos_token_id": 8191},
    "qwen2.5-0.5b": _qwen25(896, 4864, 24, 14, 2),
    "qwen2.5-1.5b": _qwen25(1536, 8960, 28, 12, 2),
    "qwen3-0.6b": _qwen25(1024, 3072, 28, 16, 8)
    | {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 128, "max_position_embeddings": 40960},
    "chatglm2-6b": {
        "architectures": ["ChatGLMModel"],
        "model_type": "chatglm",
        "num_layers": 28,
        "hidden_size": 4096,
        "ffn_hidden_size": 13696,
        "kv_channels": 128,
        "num_attention_heads": 32,
        "multi_query_attention": True,
        "multi_query_group_num": 2,
        "add_qkv_bias": True,
        "padded_vocab_size": 65024,
        "seq_length": 32768,
        "layernorm_epsilon": 1e-5,
        "torch_dtype": "float16",
        "eos_token_id": 2,
    },
    "qwen-7b": {
        "architectures": ["QWenLMHeadModel"],
        "model_type": "qwen",
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "kv_channels": 128,
        "vocab_size": 151936,
        "seq_length": 8192,
        "max_position_embeddings": 32768,
        "layer_norm_epsilon": 1e-6,
        "use_dynamic_ntk": True,
        "use_logn_attn": True,
        "no_bias": True,
        "torch_dtype": "bfloat16",
        "eos_token_id": 151643,
    },
    # 48 layers in the model; with 8 a checkpoint of 11 GB is enough to see what experts cost.
    "qwen3-30b-a3b-8-layers": {
        **_qwen25(2048, 6144, 8, 32, 4),
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "head_dim": 128,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "norm_topk_prob": True,
        "tie_word_embeddings": False,
    },
    "qwen2.5-7b": _qwen25(3584, 18944, 28, 28, 4) | {"vocab_size": 152064, "tie_word_embeddings": False},
}


NORMS = ("norm.weight", "ln_1.weight", "ln_2.weight", "ln_f.weight")


def write_checkpoint(config: dict, folder: Path, seed: int = 0) -> None:
    """config.json and one model.safetensors, in 16 bits, written band by band."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    model = make_model(read_config(config), make_layout("none", "none", None, "bfloat16", 0, 1))
    dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}[config["torch_dtype"]]
    specs = {}
    for parameter in model.parameters():
        for piece in parameter.pieces:
            if piece.source:
                shape = (piece.of,) if parameter.in_features is None else (piece.of, parameter.in_features)
                specs[piece.source] = TensorSpec(shape[::-1] if piece.transposed else shape, dtype)
    generator = torch.Generator().manual_seed(seed)
    # A band of noise, again and again from another place: drawing billions of numbers would take minutes.
    noise = (torch.randn(BAND_NUMBERS + 4096, generator=generator) * 0.02).to(dtype)
    offsets = random.Random(seed)
    with TensorFileWriter(folder / "model.safetensors", specs, {"format": "pt"}) as writer:
        for name, spec in specs.items():
            width = math.prod(spec.shape[1:])
            step = BAND_NUMBERS // width
            for row in range(0, spec.shape[0], step):
                rows, start = min(step, spec.shape[0] - row), offsets.randrange(4096)
                values = noise[start : start + rows * width].view(rows, *spec.shape[1:])
                is_norm = len(spec.shape) == 1 and name.endswith(
                    ("norm.weight", "ln_1.weight", "ln_2.weight", "ln_f.weight")
                )
                writer.write(name, row, values + 1 if is_norm else values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    write_checkpoint(SHAPES[args.shape], args.folder)


if __name__ == "__main__":
    main()
