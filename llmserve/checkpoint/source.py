"""A Hugging Face checkpoint folder: its configuration, its tensors by slices, its tokenizer files.

Everything is checked once, at `Checkpoint.open`; after that only a tensor's data is ever read. Knows nothing of
families, of what the configuration means, or of engines.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llmserve.checkpoint.tensor_file import TensorFileReader, TensorSpec
from llmserve.errors import CheckpointError

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.tiktoken",
    "generation_config.json",
)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """An opened checkpoint. Holds no file handles and no data; make one with `Checkpoint.open`.

    `config` and `generation_config` are the JSON objects as they stand ({} where there is no generation_config.json).
    """

    path: Path
    config: dict[str, Any]
    generation_config: dict[str, Any]
    _files: dict[str, TensorFileReader]  # by tensor name
    _fingerprint: str

    @staticmethod
    def open(path: str | Path) -> Checkpoint:
        """Reads the configuration and every file's header. Raises CheckpointError, one sentence."""
        folder = Path(os.path.abspath(path))
        _require_folder(folder, str(path))
        config_text, config = _read_json(
            folder / "config.json", f"{folder} is not a Hugging Face checkpoint: it has no config.json."
        )
        generation_config: dict[str, Any] = {}
        if (folder / "generation_config.json").exists():
            generation_config = _read_json(folder / "generation_config.json")[1]
        files = _open_tensors(folder)
        digest = hashlib.sha256(config_text)
        for reader in sorted(set(files.values()), key=lambda reader: reader.path.name):
            digest.update(f" {reader.header_sha256} {reader.file_size}".encode())
        return Checkpoint(folder, config, generation_config, files, digest.hexdigest())

    @property
    def name(self) -> str:
        """The folder's name; for a folder of the hub's local cache, the repository's."""
        cached = re.fullmatch(r"models--(?:.+--)?(.+)", self.path.parent.parent.name)
        if cached and self.path.parent.name == "snapshots":
            return cached[1]
        return self.path.name

    @property
    def total_bytes(self) -> int:
        """Of all tensors."""
        return sum(self.spec(name).nbytes for name in self._files)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def names(self) -> list[str]:
        """Every tensor's name, sorted."""
        return sorted(self._files)

    def spec(self, name: str) -> TensorSpec:
        """Shape and dtype. Raises CheckpointError if there is no such tensor."""
        return self._file(name).specs[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """Raises CheckpointError if there is no such tensor."""
        return self.spec(name).shape

    def rows(self, name: str, start: int, stop: int, cols: tuple[int, int] | None = None) -> torch.Tensor:
        """Rows [start, stop), of a matrix only columns [cols[0], cols[1]); see `TensorFileReader.rows`.

        Raises CheckpointError if there is no such tensor or its file cannot be read.
        """
        return self._file(name).rows(name, start, stop, cols)

    def fingerprint(self) -> str:
        """Hex SHA-256 over config.json and each file's header and size. Not over the data: that would take minutes."""
        return self._fingerprint

    def tokenizer_files(self) -> list[Path]:
        """What text in and out depends on, generation_config.json included; those that exist."""
        found = (path for pattern in _TOKENIZER_FILES for path in sorted(self.path.glob(pattern)))
        return [path for path in found if path.is_file()]

    def _file(self, name: str) -> TensorFileReader:
        try:
            return self._files[name]
        except KeyError:
            near = difflib.get_close_matches(name, self._files, n=3)
            hint = f"the nearest names in it are {', '.join(near)}" if near else "no name in it is near"
            raise CheckpointError(f"{self.path} has no tensor {name}; {hint}.") from None


def _require_folder(folder: Path, given: str) -> None:
    if folder.is_dir():
        return
    if folder.is_file():
        raise CheckpointError(f"{given} is a file; give the folder that holds config.json and model.safetensors.")
    if folder.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", given):
        raise CheckpointError(f"{given} does not exist; give the folder of a Hugging Face checkpoint.")
    raise CheckpointError(
        f"{given} does not exist here, and llmserve does not download; if it is a model of the Hugging Face hub, run "
        f"`hf download {given} --local-dir {folder.name}` and give that folder."
    )


def _read_json(path: Path, missing: str = "") -> tuple[bytes, dict[str, Any]]:
    """A file's bytes and the JSON object they are."""
    try:
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


def _open_tensors(folder: Path) -> dict[str, TensorFileReader]:
    """The file that holds each tensor. As transformers does, a whole model.safetensors goes before an index."""
    if (folder / _SINGLE).exists():
        reader = TensorFileReader(folder / _SINGLE)
        return dict.fromkeys(reader.specs, reader)
    if not (folder / _INDEX).exists():
        raise CheckpointError(_why_no_tensors(folder))
    weight_map = _read_json(folder / _INDEX)[1].get("weight_map")
    if not isinstance(weight_map, dict) or not all(_is_file_name(shard) for shard in weight_map.values()):
        raise CheckpointError(f"{folder / _INDEX} has no valid weight_map; copy or download it again.")
    readers = {}
    for shard in sorted(set(weight_map.values())):
        if not (folder / shard).exists():
            raise CheckpointError(f"{folder} lacks {shard}, which {_INDEX} names; copy or download it too.")
        readers[shard] = TensorFileReader(folder / shard)
    for name, shard in weight_map.items():
        if name not in readers[shard].specs:
            raise CheckpointError(f"{folder / shard} lacks {name}, which {_INDEX} says it holds; download both again.")
    return {name: readers[shard] for name, shard in weight_map.items()}


def _is_file_name(value: object) -> bool:
    """Of a file in this folder: an index may not lead anywhere else."""
    return isinstance(value, str) and value == os.path.basename(value) and value not in ("", ".", "..")


def _why_no_tensors(folder: Path) -> str:
    if any(folder.glob("*.safetensors")):
        if (folder / "adapter_model.safetensors").exists():
            return f"{folder} is a LoRA adapter, not a whole model; merge it into its base model first."
        return f"{folder} has .safetensors files but neither {_SINGLE} nor {_INDEX}; copy or download that too."
    if any(folder.glob("pytorch_model*.bin")):
        return (
            f"{folder} has its weights as .bin files only, which llmserve does not read yet; convert them with "
            "`python -c \"from transformers import AutoModelForCausalLM as M; p='" + str(folder) + "'; "
            "M.from_pretrained(p, dtype='auto').save_pretrained(p)\"`."
        )
    if any(folder.glob("*.gguf")):
        return f"{folder} has its weights as .gguf, which llmserve does not read; use the model's safetensors files."
    return f"{folder} has a config.json but no weights: neither {_SINGLE} nor {_INDEX}; copy or download them too."
