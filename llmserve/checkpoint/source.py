"""A Hugging Face checkpoint: its configuration, its tensors by slices, its tokenizer files.

Everything is checked once, at `Checkpoint.open`; after that only a tensor's data is ever read. Whatever a checkpoint
keeps its tensors in (safetensors, PyTorch files, int4 of GPTQ or AWQ, an adapter beside them), from here on they are
rows of matrices. Knows nothing of families, of what the configuration means, or of engines.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from llmserve.checkpoint.folder import (
    MODEL_FORMS,
    InFile,
    Stored,
    open_tensors,
    read_json,
    why_no_tensors,
)
from llmserve.checkpoint.int4_config import read_packing
from llmserve.checkpoint.int4_tensors import Int4Tensor, common_group_size, int4_tensors
from llmserve.checkpoint.tensor_file import TensorSpec
from llmserve.errors import CheckpointError

TOKENIZER_FILES = (
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


_OLD_QUANTIZATION = "quantize_config.json"
"""Where AutoGPTQ kept what is now config.json's quantization_config; a checkpoint that has both has it twice."""


@dataclass(frozen=True, slots=True)
class Int4Form:
    """How a checkpoint's int4 matrices are stored, as far as an engine has to know."""

    method: str  # what its users call it
    group_size: int  # a scale holds for whole groups of that many columns
    zero_points: bool  # groups have zero points other than 8


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """An opened checkpoint. Holds no file handles and no data; make one with `Checkpoint.open`.

    `config` and `generation_config` are the JSON objects as they stand ({} where there is no generation_config.json),
    but for a quantization_config that has been understood: `int4` says what it said, None where matrices are numbers.
    """

    path: Path
    name: str  # the folder's; for a folder of the hub's local cache, the repository's
    config: dict[str, Any]
    generation_config: dict[str, Any]
    int4: Int4Form | None
    total_bytes: int  # of all tensors, as they are stored
    _tensors: dict[str, Stored]
    _fingerprint: str

    @staticmethod
    def open(path: str | Path) -> Checkpoint:
        """Reads the configuration and every file's header. Raises CheckpointError, one sentence."""
        folder = Path(os.path.abspath(path))
        _require_folder(folder, str(path))
        config_text, config = read_json(
            folder / "config.json", f"{folder} is not a Hugging Face checkpoint: it has no config.json."
        )
        generation_config: dict[str, Any] = {}
        if (folder / "generation_config.json").exists():
            generation_config = read_json(folder / "generation_config.json")[1]
        files = open_tensors(folder, MODEL_FORMS)
        if files is None:
            raise CheckpointError(why_no_tensors(folder))
        checkpoint = Checkpoint(
            folder,
            _name(folder),
            config,
            generation_config,
            None,
            sum(tensor.spec.nbytes for tensor in files.values()),
            dict(files),
            hashlib.sha256(config_text + headers_digest(files)).hexdigest(),
        )
        settings, text = quantization_settings(config, folder)
        return checkpoint if settings is None else _of_int4(checkpoint, settings, text)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def names(self) -> list[str]:
        """Every tensor's name, sorted."""
        return sorted(self._tensors)

    def spec(self, name: str) -> TensorSpec:
        """Shape and dtype. Raises CheckpointError if there is no such tensor."""
        return self.tensor(name).spec

    def shape(self, name: str) -> tuple[int, ...]:
        """Raises CheckpointError if there is no such tensor."""
        return self.spec(name).shape

    def rows(self, name: str, start: int, stop: int, cols: tuple[int, int] | None = None) -> torch.Tensor:
        """Rows [start, stop), of a matrix only columns [cols[0], cols[1]); see `TensorFileReader.rows`.

        An int4 matrix's come as fp32. Raises CheckpointError if there is no such tensor or its file cannot be read.
        """
        return self.tensor(name).rows(start, stop, cols)

    def is_int4(self, name: str) -> bool:
        """Raises CheckpointError if there is no such tensor."""
        return isinstance(self.tensor(name), Int4Tensor)

    def groups(
        self, name: str, start: int, stop: int, cols: tuple[int, int] | None, size: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rows [start, stop) of an int4 matrix as it is stored; see `Int4Tensor.groups`. Raises CheckpointError."""
        tensor = self.tensor(name)
        assert isinstance(tensor, Int4Tensor), f"{name} is not int4"
        return tensor.groups(start, stop, cols, size)

    def fingerprint(self) -> str:
        """Hex SHA-256 over config.json and each file's header and size. Not over the data: that would take minutes."""
        return self._fingerprint

    def changed(self, tensors: dict[str, Stored], name: str, digest: bytes) -> Checkpoint:
        """This checkpoint with these in place of its own tensors; `digest` is of whatever the change came from."""
        fingerprint = hashlib.sha256(bytes.fromhex(self._fingerprint) + digest).hexdigest()
        return replace(self, name=name, _tensors=self._tensors | tensors, _fingerprint=fingerprint)

    def under(self, prefix: str) -> Checkpoint:
        """This checkpoint with `prefix` before every tensor's name but the LM head's, which stands beside the model."""
        named = {name if name.startswith("lm_head.") else prefix + name: t for name, t in self._tensors.items()}
        return replace(self, _tensors=named)

    def tokenizer_files(self) -> list[Path]:
        """What text in and out depends on, generation_config.json included; those that exist."""
        found = (path for pattern in TOKENIZER_FILES for path in sorted(self.path.glob(pattern)))
        return [path for path in found if path.is_file()]

    def tensor(self, name: str) -> Stored:
        """Raises CheckpointError if there is no such tensor."""
        try:
            return self._tensors[name]
        except KeyError:
            near = difflib.get_close_matches(name, self._tensors, n=3)
            hint = f"the nearest names in it are {', '.join(near)}" if near else "no name in it is near"
            raise CheckpointError(f"{self.path} has no tensor {name}; {hint}.") from None


def headers_digest(files: dict[str, InFile]) -> bytes:
    """What there is of a fingerprint without reading data: each file's header and size."""
    readers = {tensor.reader.path.name: tensor.reader for tensor in files.values()}
    return b"".join(f" {r.header_sha256} {r.file_size}".encode() for _, r in sorted(readers.items()))


def quantization_settings(config: dict[str, Any], folder: Path) -> tuple[dict[str, Any] | None, bytes]:
    """What a checkpoint says of its int4, None where it is not; and what says so where that is not config.json."""
    settings = config.get("quantization_config")
    if settings is not None:
        if not isinstance(settings, dict):
            raise CheckpointError(f"config.json says quantization_config={settings!r:.200}, which is not an object.")
        return settings, b""
    if (folder / _OLD_QUANTIZATION).exists():
        text, settings = read_json(folder / _OLD_QUANTIZATION)
        return {"quant_method": "gptq", **settings}, text
    return None, b""


def _of_int4(checkpoint: Checkpoint, settings: dict[str, Any], more: bytes) -> Checkpoint:
    """`more`: what `settings` was read from where that is not config.json."""
    packing = read_packing(settings)
    tensors = int4_tensors(checkpoint._tensors, packing)
    form = Int4Form(packing.method, common_group_size(tensors), zero_points=not packing.symmetric)
    config = {key: value for key, value in checkpoint.config.items() if key != "quantization_config"}
    fingerprint = hashlib.sha256(bytes.fromhex(checkpoint._fingerprint) + more).hexdigest()
    return replace(checkpoint, config=config, int4=form, _tensors=tensors, _fingerprint=fingerprint)


def _name(folder: Path) -> str:
    cached = re.fullmatch(r"models--(?:.+--)?(.+)", folder.parent.parent.name)
    return cached[1] if cached and folder.parent.name == "snapshots" else folder.name


def _require_folder(folder: Path, given: str) -> None:
    if folder.is_dir():
        return
    if folder.is_file():
        raise CheckpointError(f"{given} is a file; give the folder that holds config.json and model.safetensors.")
    raise CheckpointError(
        f"{given} does not exist; give the folder of a Hugging Face checkpoint, a model of the hub (`org/name`) or "
        "`demo`."
    )
