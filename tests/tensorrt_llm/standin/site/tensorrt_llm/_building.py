"""What `models`, `builder` and `plugin` do: an engine's files with plausible content, of a checkpoint's config.json."""

from __future__ import annotations

import copy
import json
import os
import signal
from pathlib import Path
from typing import Any

from standin_control import record, settings

from tensorrt_llm._generated import keep

_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")


def _mapping(self: Any, **values: Any) -> None:
    world = values["tp_size"] * values["pp_size"] * values["cp_size"]
    if world != values["world_size"]:
        raise ValueError(
            f"world_size must equal to tp_size * pp_size * cp_size, but got {values['world_size']} != "
            f"{values['tp_size']} * {values['pp_size']} * {values['cp_size']}."
        )
    if not 0 <= values["rank"] < world:
        raise ValueError(f"Rank should be an integer between 0 and {world - 1}, but got {values['rank']}.")
    keep(self, values)


def _new(cls: Any, **values: Any) -> Any:
    made = cls.__new__(cls)
    keep(made, values)
    return made


def _from_hugging_face(
    cls: Any, hf_model_or_dir: str, dtype: str, mapping: Any, quant_config: Any, **taken: Any
) -> Any:
    from tensorrt_llm import Mapping
    from tensorrt_llm.models.modeling_utils import PretrainedConfig, QuantConfig

    mapping, quant_config = mapping or Mapping(), quant_config or QuantConfig()
    record(
        f"{cls.__name__}.from_hugging_face",
        dir=hf_model_or_dir,
        dtype=dtype,
        rank=mapping.rank,
        tp_size=mapping.tp_size,
        quant_algo=getattr(quant_config._quant_algo, "name", None),
        **taken,
    )
    if cls.__name__ == "ChatGLMForCausalLM" and not taken["chatglm_version"]:
        known = [v for v in ("glm4", "chatglm3", "chatglm2", "chatglm", "glm") if v in Path(hf_model_or_dir).as_posix()]
        assert known, f"the version of ChatGLM is not in the path {hf_model_or_dir}"
    given = json.loads((Path(hf_model_or_dir) / "config.json").read_text("utf-8"))
    config = _new(
        PretrainedConfig,
        architecture=cls.__name__,
        dtype="float16" if dtype == "auto" else dtype,
        vocab_size=given.get("padded_vocab_size", given.get("vocab_size")),
        mapping=mapping,
        quantization=quant_config,
        given=given,
    )
    return _new(cls, config=config)


def _save_checkpoint(self: Any, output_dir: str, save_config: bool) -> None:
    folder = Path(output_dir)
    (folder / f"rank{self.config.mapping.rank}.safetensors").write_bytes(b"stand-in")
    if save_config:
        (folder / "config.json").write_text(json.dumps(_described(self.config)), "utf-8")


def _from_checkpoint(cls: Any, ckpt_dir: str, rank: int | None, **_: Any) -> Any:
    from tensorrt_llm import Mapping
    from tensorrt_llm.models.modeling_utils import PretrainedConfig, QuantConfig
    from tensorrt_llm.quantization import QuantAlgo

    folder = Path(ckpt_dir)
    kept = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / f"rank{rank or 0}.safetensors").read_bytes()
    algorithm = kept["quantization"]["quant_algo"]
    config = _new(
        PretrainedConfig,
        architecture=kept["architecture"],
        dtype=kept["dtype"],
        vocab_size=kept["vocab_size"],
        mapping=Mapping(**{**kept["mapping"], "rank": rank or 0}),
        quantization=QuantConfig(quant_algo=QuantAlgo[algorithm] if algorithm else None),
        given=kept,
    )
    return _new(cls, config=config)


def _quantize(cls: Any, hf_model_dir: str, output_dir: str, mapping: Any, quant_config: Any, **taken: Any) -> None:
    from tensorrt_llm import Mapping

    record(f"{cls.__name__}.quantize", dir=hf_model_dir, quant_algo=quant_config._quant_algo.name)
    if quant_config._quant_algo.name in ("W8A16", "W4A16", "FP8_PER_CHANNEL_PER_TOKEN"):
        raise ValueError(
            f"The quant_config ({quant_config}) does not require calibration, try {cls.__name__}.from_hugging_face"
            " instead."
        )
    size = mapping.tp_size if mapping else 1
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    for rank in range(size):
        own = Mapping(world_size=size, rank=rank, tp_size=size)
        special = {"chatglm_version": "chatglm2"} if cls.__name__ == "ChatGLMForCausalLM" else {}
        model = cls.from_hugging_face(hf_model_dir, taken["dtype"], mapping=own, quant_config=quant_config, **special)
        model.save_checkpoint(output_dir, save_config=rank == 0)


def _build(model: Any, build_config: Any) -> Any:
    from tensorrt_llm.builder import Engine, EngineConfig

    config, rank = model.config, model.config.mapping.rank
    own = settings(rank)
    record("build", rank=rank, limits={n: getattr(build_config, n, None) for n in _LIMITS})
    if own.build_is_killed:
        os.kill(os.getpid(), signal.SIGKILL)
    if own.build_fails == "OutOfMemory":
        import torch

        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    if own.build_fails:
        raise RuntimeError(own.build_fails)
    algorithm = getattr(config.quantization._quant_algo, "name", None)
    if algorithm in ("W8A16", "W4A16") and (10, 0) <= own.sm < (12, 0):
        raise RuntimeError("INT8/INT4 quantization is not supported on SM>=100.")
    build_config = copy.copy(build_config)
    if build_config.max_seq_len is None:
        build_config.max_seq_len = config._given.get("max_position_embeddings", config._given.get("seq_length", 2048))
    if rank == 0 and build_config.output_timing_cache:
        Path(build_config.output_timing_cache).write_bytes(b"stand-in")
    made = _new(EngineConfig, pretrained_config=config, build_config=build_config, version=own.version)
    return _new(Engine, config=made)


_LIMITS = ("max_batch_size", "max_input_len", "max_seq_len", "max_num_tokens", "max_beam_width", "output_timing_cache")


def _save(self: Any, engine_dir: str) -> None:
    folder = Path(engine_dir)
    folder.mkdir(parents=True, exist_ok=True)
    config, rank = self.config, self.config.pretrained_config.mapping.rank
    if rank == 0:
        built = {name: getattr(config.build_config, name, None) for name in _LIMITS}
        plugins = config.build_config.plugin_config
        built["plugin_config"] = {name: getattr(plugins, name) for name in plugins._attributes}
        described = {"version": config.version, "pretrained_config": _described(config.pretrained_config)}
        (folder / "config.json").write_text(json.dumps({**described, "build_config": built}, indent=4), "utf-8")
    (folder / f"rank{rank}.engine").write_bytes(b"stand-in for a TensorRT engine of rank %d" % rank)


def _described(config: Any) -> dict[str, Any]:
    quantization = {"quant_algo": getattr(config.quantization._quant_algo, "name", None)}
    mapping = {n: getattr(config.mapping, n) for n in ("world_size", "tp_size", "pp_size", "cp_size")}
    sizes = {name: config._given[name] for name in _SIZES if name in config._given}
    named = {"architecture": config.architecture, "dtype": config.dtype, "vocab_size": config.vocab_size}
    return {**named, **sizes, "mapping": mapping, "quantization": quantization}


def _engine_version(engine_dir: str) -> Any:
    return json.loads((Path(engine_dir) / "config.json").read_text("utf-8")).get("version")


_MODELS = ("ChatGLMForCausalLM", "QWenForCausalLM", "LLaMAForCausalLM")
BEHAVIOURS = {
    "tensorrt_llm.mapping:Mapping.__init__": _mapping,
    "tensorrt_llm.models.modeling_utils:PretrainedModel.save_checkpoint": _save_checkpoint,
    "tensorrt_llm.models.modeling_utils:PretrainedModel.from_checkpoint": _from_checkpoint,
    "tensorrt_llm.models.modeling_utils:PretrainedModel.quantize": _quantize,
    "tensorrt_llm.builder:build": _build,
    "tensorrt_llm.builder:Engine.save": _save,
    "tensorrt_llm.builder:get_engine_version": _engine_version,
    **{f"tensorrt_llm.models:{name}.from_hugging_face": _from_hugging_face for name in _MODELS},
}
