"""Write a checkpoint of a real model's shape with random weights, for measuring speed and memory.

    python scripts/random_checkpoint.py qwen2.5-1.5b /tmp/qwen2.5-1.5b

Shapes are those of the models' published config.json files. Weights' values change neither speed nor memory.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from llmserve.checkpoint.tensor_file import TensorFileWriter, TensorSpec
from llmserve.layers.layout import make_layout
from llmserve.models import make_model, read_config

BAND = 8192
"""Rows generated at a time."""


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
    "qwen2.5-0.5b": _qwen25(896, 4864, 24, 14, 2),
    "qwen2.5-1.5b": _qwen25(1536, 8960, 28, 12, 2),
    "qwen3-0.6b": _qwen25(1024, 3072, 28, 16, 8)
    | {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 128, "max_position_embeddings": 40960},
    "qwen2.5-7b": _qwen25(3584, 18944, 28, 28, 4) | {"vocab_size": 152064, "tie_word_embeddings": False},
}


def write_checkpoint(config: dict, folder: Path, seed: int = 0) -> None:
    """config.json and one model.safetensors, in bfloat16, written band by band."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    model = make_model(read_config(config), make_layout("none", "none", None, "bfloat16", 0, 1))
    specs = {}
    for parameter in model.parameters():
        for piece in parameter.pieces:
            if piece.source:
                shape = (piece.of,) if parameter.in_features is None else (piece.of, parameter.in_features)
                specs[piece.source] = TensorSpec(shape, torch.bfloat16)
    generator = torch.Generator().manual_seed(seed)
    with TensorFileWriter(folder / "model.safetensors", specs, {"format": "pt"}) as writer:
        for name, spec in specs.items():
            for row in range(0, spec.shape[0], BAND):
                shape = (min(BAND, spec.shape[0] - row), *spec.shape[1:])
                values = torch.randn(shape, generator=generator) * 0.02
                if len(shape) == 1 and name.endswith("norm.weight"):
                    values += 1
                writer.write(name, row, values.bfloat16())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    write_checkpoint(SHAPES[args.shape], args.folder)


if __name__ == "__main__":
    main()
