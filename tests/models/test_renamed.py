"""Families whose original code is not run here, as models that transformers has under other names."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.forward import Forward, deviation
from tests.tiny import SIZES, build, tiny_checkpoint

PROMPT, STEPS = list(range(20, 61)), [5, 3, 8]
TOLERANCE = 1e-4


def write(folder: Path, config: dict[str, object], tensors: dict[str, Tensor]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


def test_glm_4_9b_is_glm_with_a_rope_ratio(tmp_path: Path) -> None:
    """THUDM/glm-4-9b-chat: the code of ChatGLM, whose rope_ratio multiplies the base; transformers has it as GLM."""
    tiny = tiny_checkpoint(tmp_path / "glm", "glm", head_dim=16, rope_theta=10000.0 * 500)
    theirs = load_file(tiny.folder / "model.safetensors")
    tensors = {
        "transformer.embedding.word_embeddings.weight": theirs["model.embed_tokens.weight"],
        "transformer.encoder.final_layernorm.weight": theirs["model.norm.weight"],
        "transformer.output_layer.weight": theirs["lm_head.weight"],
        "transformer.rotary_pos_emb.inv_freq": torch.ones(4),
    }
    for i in range(SIZES["num_hidden_layers"]):
        layer, at = f"transformer.encoder.layers.{i}", f"model.layers.{i}"
        for kind in ("weight", "bias"):
            parts = [theirs[f"{at}.self_attn.{x}_proj.{kind}"] for x in "qkv"]
            tensors[f"{layer}.self_attention.query_key_value.{kind}"] = torch.cat(parts)
        for ours, name in {
            "input_layernorm": "input_layernorm",
            "post_attention_layernorm": "post_attention_layernorm",
            "self_attention.dense": "self_attn.o_proj",
            "mlp.dense_h_to_4h": "mlp.gate_up_proj",
            "mlp.dense_4h_to_h": "mlp.down_proj",
        }.items():
            tensors[f"{layer}.{ours}.weight"] = theirs[f"{at}.{name}.weight"]
    config = {
        "architectures": ["ChatGLMForConditionalGeneration"],
        "model_type": "chatglm",
        "rope_ratio": 500,
        "padded_vocab_size": SIZES["vocab_size"],
        "hidden_size": SIZES["hidden_size"],
        "ffn_hidden_size": SIZES["intermediate_size"],
        "num_layers": SIZES["num_hidden_layers"],
        "num_attention_heads": SIZES["num_attention_heads"],
        "multi_query_attention": True,
        "multi_query_group_num": SIZES["num_key_value_heads"],
        "kv_channels": 16,
        "seq_length": SIZES["max_position_embeddings"],
        "layernorm_epsilon": tiny.model.config.rms_norm_eps,
        "add_qkv_bias": True,
    }
    engine = build(write(tmp_path / "renamed", config, tensors), tmp_path / "engine")
    assert deviation(Forward(engine).prefill_and_steps(PROMPT, STEPS), tiny.logits(PROMPT, STEPS)) < TOLERANCE


def baichuan(folder: Path, source: Path, **config: object) -> Path:
    """A Llama without grouped queries, its q, k and v in one tensor."""
    theirs = load_file(source / "model.safetensors")
    tensors = {name: tensor for name, tensor in theirs.items() if not name.endswith(("q_proj.weight", "k_proj.weight"))}
    for i in range(SIZES["num_hidden_layers"]):
        at = f"model.layers.{i}.self_attn"
        del tensors[f"{at}.v_proj.weight"]
        tensors[f"{at}.W_pack.weight"] = torch.cat([theirs[f"{at}.{x}_proj.weight"] for x in "qkv"])
    told = json.loads((source / "config.json").read_text())
    keys = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "max_position_embeddings", "rms_norm_eps", "hidden_act")  # fmt: skip
    return write(
        folder, {key: told[key] for key in keys} | {"architectures": ["BaichuanForCausalLM"], **config}, tensors
    )


def test_baichuan_is_a_llama_with_q_k_and_v_in_one_tensor(tmp_path: Path) -> None:
    tiny = tiny_checkpoint(tmp_path / "llama", num_key_value_heads=4)
    engine = build(baichuan(tmp_path / "renamed", tiny.folder), tmp_path / "engine")
    assert deviation(Forward(engine).prefill_and_steps(PROMPT, STEPS), tiny.logits(PROMPT, STEPS)) < TOLERANCE


def test_baichuan_2_scales_the_rows_of_its_head_to_length_one(tmp_path: Path) -> None:
    """It is known by its vocabulary."""
    tiny = tiny_checkpoint(tmp_path / "llama", num_key_value_heads=4, vocab_size=125696)
    engine = build(baichuan(tmp_path / "renamed", tiny.folder), tmp_path / "engine")
    with torch.no_grad():
        head = tiny.model.lm_head.weight
        head.copy_(torch.nn.functional.normalize(head))
    assert deviation(Forward(engine).prefill_and_steps(PROMPT, STEPS), tiny.logits(PROMPT, STEPS)) < TOLERANCE
