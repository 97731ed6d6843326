"""Damaged safetensors files: each damage is one sentence that names the file, and none is ever read as if whole."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from llmserve.checkpoint.tensor_file import TensorFileReader
from llmserve.errors import CheckpointError


def file_of(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(begin: int, end: int, shape: Any = (2,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


DAMAGES = {
    "empty": (b"", "its header is cut off (the file has 0 bytes)"),
    "half a length": (b"\x10\0\0", "its header is cut off"),
    "header past the end": (file_of({"t": entry(0, 8)})[:20], "its header is cut off"),
    "length of nonsense": (b"\xff" * 40, "its header is cut off"),
    "not JSON": (file_of(b"{not json}"), "its header is not valid JSON"),
    "not UTF-8": (file_of(b'{"\xff\xfe": 1}'), "its header is not valid JSON"),
    "too deep": (file_of(b"[" * 200_000), "its header is not valid JSON"),
    "a name twice": (file_of(b'{"t": {}, "t": {}}'), "its header is not valid JSON"),
    "a list": (file_of([]), "its header is not a JSON object"),
    "metadata of numbers": (file_of({"__metadata__": {"a": 1}}), "its __metadata__ is not a map of strings"),
    "no entry": (file_of({"t": 3}), "the entry of t is not a JSON object"),
    "no shape": (file_of({"t": {"dtype": "F32", "data_offsets": [0, 8]}}, b"8" * 8), "t has no valid shape"),
    "shape of text": (file_of({"t": entry(0, 8, ["2"])}, b"8" * 8), "t has no valid shape"),
    "negative shape": (file_of({"t": entry(0, 8, [-2])}, b"8" * 8), "t has no valid shape"),
    "shape of truth": (file_of({"t": entry(0, 4, [True])}, b"4444"), "t has no valid shape"),
    "three offsets": (file_of({"t": entry(0, 8) | {"data_offsets": [0, 4, 8]}}, b"8" * 8), "no valid data_offsets"),
    "backwards": (file_of({"t": entry(8, 0)}, b"8" * 8), "t has -8 bytes where its shape and dtype need 8"),
    "too small for its shape": (file_of({"t": entry(0, 4)}, b"4444"), "t has 4 bytes where its shape and dtype need 8"),
    "overlap": (
        file_of({"t": entry(0, 8), "u": entry(4, 12)}, b"x" * 12),
        "u begins at byte 4 of the data, the tensor before it ends at 8",
    ),
    "hole": (file_of({"t": entry(4, 12)}, b"x" * 12), "t begins at byte 4"),
    "data cut off": (file_of({"t": entry(0, 8)}, b"123"), "it is cut off (it has "),
    "data too long": (file_of({"t": entry(0, 8)}, b"x" * 9), "it goes on after its last tensor (it has "),
    "unknown dtype": (file_of({"t": entry(0, 2, dtype="F8_E4M3")}, b"xx"), "t with dtype F8_E4M3, which llmserve does"),
    "no dtype": (file_of({"t": entry(0, 8, dtype=None)}, b"x" * 8), "t with dtype None"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "is a Git LFS pointer"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_one_sentence(damage: str, tmp_path: Path) -> None:
    content, sentence = DAMAGES[damage]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        TensorFileReader(path)
    message = str(caught.value)
    assert sentence in message
    assert message.startswith(str(path))
    assert message.endswith(".")
    assert "\n" not in message


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_escapes_as_another_exception(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(3, 5), "b": torch.zeros(7, dtype=torch.int8)}, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        reader = TensorFileReader(path)
    except CheckpointError:
        return
    for name, spec in reader.specs.items():
        assert reader.rows(name, 0, spec.rows).shape == spec.shape


def test_a_file_cut_short_after_opening(tmp_path: Path) -> None:
    path = tmp_path / "f"
    save_file({"t": torch.zeros(100, 100)}, path)
    reader = TensorFileReader(path)
    os.truncate(path, 20_000)
    with pytest.raises(CheckpointError, match="it now ends at byte 20000"):
        reader.rows("t", 0, 100)


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read: Is a directory"):
        TensorFileReader(tmp_path)


@pytest.mark.parametrize("rows", [(-1, 2), (0, 5), (3, 2)])
def test_rows_that_do_not_exist_are_a_bug(rows: tuple[int, int], tmp_path: Path) -> None:
    save_file({"t": torch.zeros(4, 4), "scalar": torch.tensor(1.0)}, tmp_path / "f")
    reader = TensorFileReader(tmp_path / "f")
    with pytest.raises(ValueError, match="are not rows of"):
        reader.rows("t", *rows)
    with pytest.raises(ValueError, match="are not rows of"):
        reader.rows("scalar", 0, 0)
    with pytest.raises(ValueError, match="are not columns of"):
        reader.rows("t", 0, 1, (2, 5))
    with pytest.raises(ValueError, match="are not columns of"):
        reader.rows("scalar", 0, 1, (0, 1))
