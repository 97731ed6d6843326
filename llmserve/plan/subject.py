"""What is to be planned: a checkpoint, a config.json alone, or an engine that is built already."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmserve.checkpoint.engine_dir import EngineDir
from llmserve.checkpoint.folder import MODEL_FORMS, open_tensors, read_json
from llmserve.checkpoint.hub import fetch_config, is_hub_id
from llmserve.checkpoint.int4_config import read_packing
from llmserve.checkpoint.ranks import Given, checkpoint_dtype, config_dtype, given_int4
from llmserve.checkpoint.source import Checkpoint, Int4Form, quantization_settings
from llmserve.config import DType, Manifest, ModelConfig
from llmserve.errors import CheckpointError, ConfigError
from llmserve.models import read_config


@dataclass(frozen=True, slots=True)
class Subject:
    name: str
    model: ModelConfig
    dtype: DType | None  # the checkpoint's; None: nothing says
    given: Given | None  # of a checkpoint that is int4 already
    manifest: Manifest | None  # of an engine, which is as it is


def open_subject(given: str, revision: str | None = None) -> Subject:
    """`given`: a folder with a checkpoint, with its config.json alone or with an engine; a config.json; or a model of
    the hub, of which config.json is fetched and nothing else. Raises CheckpointError, EngineDirError or ConfigError."""
    path = Path(given)
    if is_hub_id(given):
        return _of_config(fetch_config(given, revision) / "config.json", given.partition("/")[2])
    if (path / "engine.json").is_file():
        directory = EngineDir.open(path)
        directory.require_native()
        manifest = directory.manifest
        return Subject(manifest.model_name, manifest.model, manifest.dtype, None, manifest)
    if path.is_file() and path.suffix in (".yaml", ".yml"):
        raise ConfigError(f"{path} is a build config and no model; give it with --config {path}.")
    if path.is_file():
        return _of_config(path, path.absolute().parent.name)
    if (path / "config.json").is_file() and open_tensors(path, MODEL_FORMS) is None:
        return _of_config(path / "config.json", path.absolute().name)
    checkpoint = Checkpoint.open(path)
    model = read_config(checkpoint.config)
    return Subject(checkpoint.name, model, checkpoint_dtype(checkpoint), given_int4(checkpoint), None)


def _of_config(path: Path, name: str) -> Subject:
    config = read_json(path)[1]
    settings, _ = quantization_settings(config, path.parent)
    given = None if settings is None else _given(settings)
    plain = {key: value for key, value in config.items() if key != "quantization_config"}
    return Subject(name, read_config(plain), config_dtype(config), given, None)


def _given(settings: dict[str, Any]) -> Given:
    """What can be said of an int4 checkpoint without its tensors."""
    packing = read_packing(settings)
    if packing.group_size is None:
        raise CheckpointError(
            "quantization_config says group_size=-1; how its columns can be cut shows in the tensors only, so plan "
            "with the folder that has them."
        )
    return Given(Int4Form(packing.method, packing.group_size, not packing.symmetric), settings.get("lm_head") is True)
