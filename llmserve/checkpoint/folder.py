"""A folder as users bring it: its JSON files, and the file that holds each tensor, whatever form it has.

Knows nothing of what the JSON means or what a tensor is for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from llmserve.checkpoint.tensor_file import TensorFileReader, TensorSpec
from llmserve.checkpoint.torch_file import TorchFileReader
from llmserve.errors import CheckpointError

MAX_JSON = 4 << 20
"""Bytes of a config; what Python makes of one can be twenty times as large."""

MAX_INDEX = 32 << 20


class Reader(Protocol):
    """A file of tensors, by bands of rows; see `TensorFileReader`."""

    path: Path
    specs: dict[str, TensorSpec]
    file_size: int
    header_sha256: str

    def rows(self, name: str, start: int, stop: int, cols: tuple[int, int] | None = None) -> torch.Tensor: ...


class Stored(Protocol):
    """One tensor of a checkpoint: as it lies in a file, or as it is made of what lies there."""

    @property
    def spec(self) -> TensorSpec: ...

    def rows(self, start: int, stop: int, cols: tuple[int, int] | None = None) -> torch.Tensor: ...


@dataclass(frozen=True, eq=False)
class InFile:
    """A tensor as it lies in a file."""

    reader: Reader
    name: str

    @property
    def spec(self) -> TensorSpec:
        return self.reader.specs[self.name]

    def rows(self, start: int, stop: int, cols: tuple[int, int] | None = None) -> torch.Tensor:
        """See `TensorFileReader.rows`."""
        return self.reader.rows(self.name, start, stop, cols)


@dataclass(frozen=True)
class Form:
    """One way in which checkpoints keep their tensors: a file, or an index of shards."""

    single: str
    open: Callable[[Path], Reader]

    @property
    def index(self) -> str:
        return f"{self.single}.index.json"


MODEL_FORMS = (Form("model.safetensors", TensorFileReader), Form("pytorch_model.bin", TorchFileReader))
"""In the order in which transformers looks for them; a whole file goes before an index."""

ADAPTER_FORMS = (Form("adapter_model.safetensors", TensorFileReader), Form("adapter_model.bin", TorchFileReader))


def read_json(path: Path, missing: str = "", most: int = MAX_JSON) -> tuple[bytes, dict[str, Any]]:
    """A file's bytes and the JSON object they are. `missing`: the sentence where there is no such file."""
    try:
        if (size := path.stat().st_size) > most:
            raise CheckpointError(f"{path} has {size} bytes, more than the {most} that llmserve reads of such a file.")
        text = path.read_bytes()
        value = json.loads(text)
    except FileNotFoundError:
        raise CheckpointError(missing or f"{path} does not exist.") from None
    except OSError as e:
        raise CheckpointError(f"{path} cannot be read: {e.strerror or e}.") from None
    except (ValueError, RecursionError) as e:
        raise CheckpointError(f"{path} is not valid JSON ({e}); copy or download it again.") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object; copy or download it again.")
    return text, value


def open_tensors(folder: Path, forms: tuple[Form, ...]) -> dict[str, InFile] | None:
    """Every tensor by name; None where the folder has none in these forms. Raises CheckpointError."""
    for form in forms:
        if (folder / form.single).exists():
            reader = form.open(folder / form.single)
            return {name: InFile(reader, name) for name in reader.specs}
        if (folder / form.index).exists():
            return _open_shards(folder, form)
    return None


def shard_names(index: Path) -> dict[str, str]:
    """What an index says: the file of each tensor. Raises CheckpointError."""
    weight_map = read_json(index, most=MAX_INDEX)[1].get("weight_map")
    if not isinstance(weight_map, dict) or not all(_is_file_name(shard) for shard in weight_map.values()):
        raise CheckpointError(f"{index} has no valid weight_map; copy or download it again.")
    return weight_map


def _open_shards(folder: Path, form: Form) -> dict[str, InFile]:
    weight_map = shard_names(folder / form.index)
    readers = {}
    for shard in sorted(set(weight_map.values())):
        if not (folder / shard).exists():
            raise CheckpointError(f"{folder} lacks {shard}, which {form.index} names; copy or download it too.")
        readers[shard] = form.open(folder / shard)
    for name, shard in weight_map.items():
        if name not in readers[shard].specs:
            raise CheckpointError(
                f"{folder / shard} lacks {name}, which {form.index} says it holds; download both again."
            )
    return {name: InFile(readers[shard], name) for name, shard in weight_map.items()}


def _is_file_name(value: object) -> bool:
    """Of a file in this folder: an index may not lead anywhere else."""
    return isinstance(value, str) and re.fullmatch(r"[^/\0]+", value) is not None and value not in (".", "..")


def why_no_tensors(folder: Path) -> str:
    form = MODEL_FORMS[0]
    if (folder / "engine.json").exists():
        return f"{folder} is an engine already; serve it with `llmserve run {folder}`."
    if any(folder.glob("*.safetensors")):
        if (folder / "adapter_model.safetensors").exists():
            return f"{folder} is a LoRA adapter, not a whole model; build its base model with --lora {folder}."
        return f"{folder} has .safetensors files but neither {form.single} nor {form.index}; copy or download that too."
    if any(folder.glob("pytorch_model*.bin")):
        form = MODEL_FORMS[1]
        return f"{folder} has .bin files but neither {form.single} nor {form.index}; copy or download that too."
    if any(folder.glob("*.gguf")):
        return f"{folder} has its weights as .gguf, which llmserve does not read; use the model's safetensors files."
    return (
        f"{folder} has a config.json but no weights: neither {form.single} nor {form.index} nor "
        f"{MODEL_FORMS[1].single}; copy or download them too."
    )
