"""PyTorch `.bin` files: read by slices as torch.load would read them, and nothing in them is ever run."""

from __future__ import annotations

import contextlib
import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmserve.checkpoint.torch_file import TorchFileReader
from llmserve.errors import CheckpointError
from tests.checkpoint.torch_files import EMPTY, number, save_bin, tensor, text, with_pickle, write_zip

FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
DTYPES = [*FLOATS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]
few = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        TorchFileReader(path)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert str(path) in message
    return message


# --- what is read --------------------------------------------------------------------------------------------------


@given(
    st.integers(0, 6), st.integers(0, 6), st.sampled_from(DTYPES), st.sampled_from([2, 3, 4, 5]),
    st.sampled_from(["whole", "rows", "columns", "transposed", "transposed columns"]), st.data(),
)  # fmt: skip
@few
def test_any_rows_and_columns_of_any_matrix(
    tmp_path: Path, rows: int, cols: int, dtype: torch.dtype, protocol: int, kind: str, data: st.DataObject
) -> None:
    whole = torch.arange(1, (rows + 3) * (cols + 4) + 1).reshape(rows + 3, cols + 4).to(dtype)
    views = {
        "whole": whole[:rows, :cols].clone(),
        "rows": whole[2 : 2 + rows],
        "columns": whole[1 : 1 + rows, 3 : 3 + cols],
        "transposed": whole.T[2:],
        "transposed columns": whole.T[1:, 1 : 1 + rows],
    }
    view = views[kind]
    save_bin({"x": view, "y": whole}, tmp_path / "m.bin", protocol)
    reader = TorchFileReader(tmp_path / "m.bin")
    assert (reader.specs["x"].shape, reader.specs["x"].dtype) == (tuple(view.shape), dtype)
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(view))] * 2)))
    left, right = sorted(data.draw(st.tuples(*[st.integers(0, view.shape[1])] * 2)))
    assert torch.equal(reader.rows("x", start, stop), view[start:stop])
    assert torch.equal(reader.rows("x", start, stop, (left, right)), view[start:stop, left:right])
    assert torch.equal(reader.rows("y", 0, len(whole)), whole)


def test_vectors_scalars_and_stacks(tmp_path: Path) -> None:
    tensors = {
        "vector": torch.arange(9.0),
        "every other": torch.arange(9.0)[::2],
        "scalar": torch.tensor(3.5),
        "stack": torch.arange(24.0).reshape(2, 3, 4),
        "part of a stack": torch.arange(120.0).reshape(5, 3, 8)[1:4],
        "nothing": torch.empty(0, 3),
        "row": torch.arange(12.0).reshape(3, 4)[:, 1:2],
    }
    save_bin(tensors, tmp_path / "m.bin")
    reader = TorchFileReader(tmp_path / "m.bin")
    assert list(reader.specs) == list(tensors)
    for name, value in tensors.items():
        assert torch.equal(reader.rows(name, 0, len(value) if value.dim() else 1), value), name
    assert torch.equal(reader.rows("stack", 1, 2), tensors["stack"][1:])


def test_a_modules_state_and_its_parameters(tmp_path: Path) -> None:
    """A state_dict is an OrderedDict with attributes; parameters are pickled differently from tensors."""
    layer = torch.nn.Linear(5, 3)
    torch.save(layer.state_dict(), tmp_path / "state.bin")
    torch.save(OrderedDict(layer.named_parameters()), tmp_path / "parameters.bin")
    for name in ("state.bin", "parameters.bin"):
        reader = TorchFileReader(tmp_path / name)
        assert torch.equal(reader.rows("weight", 0, 3), layer.weight.detach())
        assert torch.equal(reader.rows("bias", 0, 3), layer.bias.detach())


def test_tensors_that_share_a_storage(tmp_path: Path) -> None:
    table = torch.arange(12.0).reshape(4, 3)
    save_bin({"embedding": table, "head": table}, tmp_path / "m.bin")
    assert (tmp_path / "m.bin").stat().st_size < 2000
    reader = TorchFileReader(tmp_path / "m.bin")
    assert torch.equal(reader.rows("head", 1, 3), reader.rows("embedding", 1, 3))


def test_only_the_rows_asked_for_are_read(tmp_path: Path) -> None:
    save_bin({"x": torch.zeros(1000, 1000)}, tmp_path / "m.bin")
    tracemalloc.start()
    reader = TorchFileReader(tmp_path / "m.bin")
    assert tracemalloc.get_traced_memory()[1] < 200_000
    tracemalloc.stop()
    assert reader.rows("x", 5, 7, (3, 9)).untyped_storage().nbytes() == 2 * 6 * 4


def test_the_fingerprint_follows_names_shapes_and_places(tmp_path: Path) -> None:
    def digest(**tensors: torch.Tensor) -> str:
        save_bin(tensors, tmp_path / "m.bin")
        return TorchFileReader(tmp_path / "m.bin").header_sha256

    plain = digest(x=torch.ones(4))
    assert digest(x=torch.ones(4)) == plain
    assert len({plain, digest(y=torch.ones(4)), digest(x=torch.ones(5)), digest(x=torch.ones(2, 2))}) == 4


# --- what wants more than to be read ---------------------------------------------------------------------------------


class Run:
    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("module, name", [("os", "mkdir"), ("builtins", "eval"), ("torch", "load"), ("torch.hub", "x")])
def test_a_pickle_that_would_run_something(tmp_path: Path, protocol: int, module: str, name: str) -> None:
    """mkdir leaves a trace if it is run."""
    if (module, name) == ("os", "mkdir"):
        import os

        hostile = pickle.dumps({"x": Run(os.mkdir, str(tmp_path / "ran"))}, protocol)
        wanted = "posix.mkdir"
    else:
        hostile = b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"(" + text("1") + b"tR."
        wanted = f"{module}.{name}"
    assert f"Python would have to run '{wanted}', and weights need nothing" in refusal(
        with_pickle(tmp_path / "m.bin", hostile)
    ).replace("nt.mkdir", "posix.mkdir")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "hostile, wanted",
    [
        (b"(S'x'\nios\nsystem\n.", "the operation STRING"),
        (b"(ios\nsystem\n.", "os.system"),
        (b"\x80\x04" + b"\x8c\x02os\x8c\x06system\x93.", "os.system"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n" + b"}\x81.", "the operation NEWOBJ"),
        (b"\x82\x01.", "the operation EXT1"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n}b.", "the operation BUILD"),
        (b"ctorch\nFloatStorage\n)R.", "torch.FloatStorage"),
        (b"ctorch._utils\n_rebuild_wrapper_subclass\n.", "torch._utils._rebuild_wrapper_subclass"),
        (b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n.", "torch._utils._rebuild_tensor_v2.__globals__"),
    ],
)
def test_each_way_to_import_or_to_call(tmp_path: Path, hostile: bytes, wanted: str) -> None:
    assert f"would have to run {wanted!r}," in refusal(with_pickle(tmp_path / "m.bin", hostile))


@pytest.mark.parametrize(
    "value, sentence",
    [
        ([torch.ones(1)], "holds a list, not a dictionary of tensors"),
        ({"model": {"x": torch.ones(1)}}, "holds a dict under 'model', where llmserve reads tensors only"),
        ({"step": 3}, "holds a int under 'step'"),
        ({}, None),
    ],
)
def test_what_is_no_dictionary_of_tensors(tmp_path: Path, value: Any, sentence: str | None) -> None:
    torch.save(value, tmp_path / "m.bin")
    if sentence is None:
        assert TorchFileReader(tmp_path / "m.bin").specs == {}
    else:
        assert sentence in refusal(tmp_path / "m.bin")


# --- what would cost too much ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "costly",
    [
        b"}r" + struct.pack("<I", 2**32 - 1) + b".",  # the C unpickler would make a list of that length
        b"\x8d" + struct.pack("<Q", 2**62) + b"x.",
        b"\x80\x02" + b"]" * 500_000 + b".",
        b"\x80\x02" + b"(" * 500_000 + b".",
        b"\x80\x02]" + b"\x85" * 300_000 + b".",
        b"\x80\x02" + b")" + b"q\x00h\x00\x86" * 60 + b"K\x01s.",  # a key whose hash takes 2^60 steps
        b"\x8a\xff" + b"\x7f" * 255 + b".",
    ],
)
def test_pickles_that_grow(tmp_path: Path, costly: bytes) -> None:
    path = with_pickle(tmp_path / "m.bin", costly)
    tracemalloc.start()
    with contextlib.suppress(CheckpointError):
        TorchFileReader(path)
    assert tracemalloc.get_traced_memory()[1] < 100 << 20
    tracemalloc.stop()


def test_a_pickle_too_long_to_be_one(tmp_path: Path) -> None:
    assert "its pickle would be 16777217 bytes long" in refusal(with_pickle(tmp_path / "m.bin", b"N" * (2**24 + 1)))


def test_a_zip_bomb(tmp_path: Path) -> None:
    path = write_zip(
        tmp_path / "m.bin",
        {"data.pkl": tensor("0", 2**24, (2**24,), (1,)), "data/0": bytes(2**26)},
        zipfile.ZIP_DEFLATED,
    )
    assert path.stat().st_size < 100_000
    assert "is compressed or encrypted, which PyTorch's own files are not, and is refused" in refusal(path)


def test_members_that_share_their_bytes(tmp_path: Path) -> None:
    """One local file, listed often: a small file that pretends to be a large one."""
    path = write_zip(tmp_path / "m.bin", {"data.pkl": EMPTY, "data/0": bytes(64), "data/1": bytes(64)})
    raw = path.read_bytes()
    first = raw.index(b"PK\x01\x02", raw.index(b"PK\x01\x02") + 4)  # the list's entry of data/0
    second = raw.index(b"PK\x01\x02", first + 4)
    changed = raw[: second + 42] + raw[first + 42 : first + 46] + raw[second + 46 :]
    path.write_bytes(changed)
    assert "overlaps another" in refusal(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_is_there_twice(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.bin", "w") as archive:
        for content in (EMPTY, EMPTY):
            archive.writestr("archive/data.pkl", content)
    assert "is there twice" in refusal(tmp_path / "m.bin")


@pytest.mark.parametrize(
    "shape, strides, offset, sentence",
    [
        ((10**12,), (0,), 0, "as a view with strides [0]"),
        ((4, 4), (1, 1), 0, "as a view with strides [1, 1]"),
        ((2, 3), (6, 2), 0, "as a view with strides [6, 2]"),
        ((2, 2, 2), (1, 2, 4), 0, "as a view with strides [1, 2, 4]"),
        ((17,), (1,), 0, "x goes beyond its storage"),
        ((8,), (1,), 9, "x goes beyond its storage"),
        ((1, 2**60), (1, 1), 0, "x goes beyond its storage"),
        ((-1,), (1,), 0, "its pickle is not valid"),
        ((4,), (-1,), 4, "its pickle is not valid"),
        ((1,) * 9, (1,) * 9, 0, "its pickle is not valid"),
    ],
)
def test_views_that_are_none(
    tmp_path: Path, shape: tuple[int, ...], strides: tuple[int, ...], offset: int, sentence: str
) -> None:
    path = with_pickle(tmp_path / "m.bin", tensor("0", 16, shape, strides, offset), _0=bytes(64))
    assert sentence in refusal(path)


def test_a_view_written_by_hand_is_read(tmp_path: Path) -> None:
    """Or the refusals above could all be for one wrong byte in how these tests write pickles."""
    path = with_pickle(tmp_path / "m.bin", tensor("0", 16, (2, 3), (8, 1), 4), _0=torch.arange(16.0).numpy().tobytes())
    assert TorchFileReader(path).rows("x", 0, 2).tolist() == [[4, 5, 6], [12, 13, 14]]


# --- what is damaged -------------------------------------------------------------------------------------------------


def test_storages_that_are_missing_or_of_another_size(tmp_path: Path) -> None:
    assert "the storage of x is missing" in refusal(with_pickle(tmp_path / "m.bin", tensor("0", 4, (4,), (1,))))
    path = with_pickle(tmp_path / "m.bin", tensor("0", 4, (4,), (1,)), _0=bytes(15))
    assert "the storage of x has 15 bytes where 16 are needed" in refusal(path)


def test_other_kinds_of_files(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    torch.save({"x": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    assert "is in the form that PyTorch wrote before 1.6" in refusal(path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "is a Git LFS pointer" in refusal(path)
    path.write_bytes(b"")
    assert "does not begin as a zip file" in refusal(path)
    write_zip(path, {"version": b"3"})
    assert "it has 0 pickles instead of one" in refusal(path)
    write_zip(path, {"data.pkl": EMPTY, "constants.pkl": EMPTY})
    assert "is a TorchScript program" in refusal(path)
    write_zip(path, {"data.pkl": EMPTY, "byteorder": b"big"})
    assert "was written on a big-endian machine" in refusal(path)
    with pytest.raises(CheckpointError, match=r"cannot be read: No such file"):
        TorchFileReader(tmp_path / "none.bin")


def test_a_file_cut_short_after_it_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    save_bin({"x": torch.ones(100)}, path)
    reader = TorchFileReader(path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(CheckpointError, match="it now ends at byte"):
        reader.rows("x", 0, 100)


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("valid") / "m.bin"
    save_bin({"x": torch.ones(4, 3), "y": torch.ones(5).half()}, path)
    return path.read_bytes()


@given(st.data())
@settings(parent=few, max_examples=300)
def test_whatever_is_changed_in_a_file_it_is_read_or_refused(valid: bytes, tmp_path: Path, data: st.DataObject) -> None:
    raw = bytearray(valid)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    del raw[data.draw(st.sampled_from([len(raw), len(raw), data.draw(st.integers(0, len(raw)))])) :]
    path = tmp_path / "m.bin"
    path.write_bytes(raw)
    try:
        reader = TorchFileReader(path)
    except CheckpointError:
        return
    for name, spec in reader.specs.items():
        assert reader.rows(name, 0, spec.rows).shape == spec.shape


@given(st.binary(max_size=200) | st.lists(st.sampled_from([
    b"(", b"}", b"]", b")", b"t", b"\x85", b"\x86", b"R", b"Q", b"s", b"u", b"a", b"e", b"b", b"0", b"N", b"q\x00",
    b"h\x00", b"\x94", b"\x93", text("storage"), text("x"), number(1), b"ctorch\nFloatStorage\n",
    b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_parameter\n",
]), max_size=30).map(b"".join))  # fmt: skip
@settings(parent=few, max_examples=500)
def test_whatever_a_pickle_says_it_is_read_or_refused(tmp_path: Path, program: bytes) -> None:
    with contextlib.suppress(CheckpointError):
        TorchFileReader(with_pickle(tmp_path / "m.bin", program + b"."))


def test_a_pickle_of_too_many_operations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmserve.checkpoint.torch_pickle._MAX_STEPS", 1000)
    assert "its pickle has more than 1000 operations" in refusal(with_pickle(tmp_path / "m.bin", b"N" * 2000))
