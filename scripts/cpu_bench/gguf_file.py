"""A random checkpoint of a Qwen2 shape as a GGUF file in bfloat16, without a vocabulary: peers are given token ids.

python -m cpu_bench.gguf_file CHECKPOINT FILE        # with llama.cpp's gguf-py on the PYTHONPATH
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np

OUTSIDE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
IN_LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` → `blk.3.ffn_up.weight`"""
    if name in OUTSIDE:
        return OUTSIDE[name]
    layer, _, rest = name.removeprefix("model.layers.").partition(".")
    module, _, kind = rest.rpartition(".")
    return f"blk.{layer}.{IN_LAYER[module]}.{kind}"


def read_tensors(file: Path) -> Iterator[tuple[str, np.ndarray]]:
    """A safetensors file's bfloat16 tensors, as memory-mapped uint16."""
    with file.open("rb") as f:
        size = int.from_bytes(f.read(8), "little")
        header = json.loads(f.read(size))
    header.pop("__metadata__", None)
    data = np.memmap(file, np.uint8, "r", offset=8 + size)
    for name, entry in header.items():
        start, stop = entry["data_offsets"]
        yield name, data[start:stop].view(np.uint16).reshape(entry["shape"])


def add_tensor(writer: gguf.GGUFWriter, name: str, tensor: np.ndarray) -> None:
    """Matrices as they are; vectors (norms, biases) in float32, as llama.cpp wants them."""
    if tensor.ndim == 1:
        writer.add_tensor(name, (tensor.astype(np.uint32) << 16).view(np.float32))
    else:
        writer.add_tensor(name, tensor.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)


def add_config(writer: gguf.GGUFWriter, config: dict) -> None:
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)


def main() -> None:
    checkpoint, target = Path(sys.argv[1]), Path(sys.argv[2])
    writer = gguf.GGUFWriter(target, "qwen2")
    add_config(writer, json.loads((checkpoint / "config.json").read_text()))
    for name, tensor in read_tensors(checkpoint / "model.safetensors"):
        add_tensor(writer, gguf_name(name), tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
