"""Our reader and writer of safetensors files, judged by the safetensors library in both directions."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from llmserve.checkpoint.tensor_file import TensorFileReader, TensorFileWriter, TensorSpec
from llmserve.checkpoint.tensor_header import DTYPES
from llmserve.errors import BuildError

dtypes = st.sampled_from(list(DTYPES.values()))
shapes = st.lists(st.integers(0, 9), max_size=3).map(tuple)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda s: s != "__metadata__")
files_of_tensors = st.dictionaries(names, st.builds(TensorSpec, shapes, dtypes), max_size=5)
relaxed = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def random_tensor(spec: TensorSpec, seed: int = 0) -> torch.Tensor:
    """Of random bits, so that NaNs, negative zeros and extremes travel too."""
    generator = torch.Generator().manual_seed(seed)
    high = 2 if spec.dtype is torch.bool else 256
    data = torch.randint(0, high, (spec.nbytes,), dtype=torch.uint8, generator=generator)
    return data.view(spec.dtype).reshape(spec.shape)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    def bits(tensor: torch.Tensor) -> list[int]:
        return tensor.contiguous().reshape(-1).view(torch.uint8).tolist()

    return a.shape == b.shape and a.dtype == b.dtype and bits(a) == bits(b)


def write_whole(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    specs = {name: TensorSpec(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    with TensorFileWriter(path, specs, metadata or {}) as writer:
        for name, tensor in tensors.items():
            writer.write(name, 0, tensor)


# --- against the library -------------------------------------------------------------------------------------------


@relaxed
@given(specs=files_of_tensors, data=st.data())
def test_reads_what_the_library_writes_by_any_band(
    specs: dict[str, TensorSpec], data: st.DataObject, tmp_path: Path
) -> None:
    tensors = {name: random_tensor(spec, seed) for seed, (name, spec) in enumerate(specs.items())}
    path = tmp_path / "library.safetensors"
    save_file(tensors, path, {"made": "by the library"})
    reader = TensorFileReader(path)
    assert reader.specs == specs
    assert reader.metadata == {"made": "by the library"}
    for name, tensor in tensors.items():
        if not tensor.dim():
            assert same_bits(reader.rows(name, 0, 1), tensor)
            continue
        start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(tensor))] * 2)))
        assert same_bits(reader.rows(name, start, stop), tensor[start:stop])
        if tensor.dim() == 2:
            first, last = sorted(data.draw(st.tuples(*[st.integers(0, tensor.shape[1])] * 2)))
            assert same_bits(reader.rows(name, start, stop, (first, last)), tensor[start:stop, first:last])


@relaxed
@given(specs=files_of_tensors, data=st.data())
def test_the_library_reads_what_we_write_in_any_order_of_bands(
    specs: dict[str, TensorSpec], data: st.DataObject, tmp_path: Path
) -> None:
    tensors = {name: random_tensor(spec, seed) for seed, (name, spec) in enumerate(specs.items())}
    bands: list[tuple[str, int, torch.Tensor]] = []
    for name, tensor in tensors.items():
        if tensor.dim():
            cuts = sorted({0, len(tensor), *data.draw(st.lists(st.integers(0, len(tensor)), max_size=3))})
            bands += [(name, a, tensor[a:b]) for a, b in pairwise(cuts)]
        else:
            bands.append((name, 0, tensor))
    path = tmp_path / "ours.safetensors"
    path.unlink(missing_ok=True)
    with TensorFileWriter(path, specs, {"made": "here"}) as writer:
        for name, row, band in data.draw(st.permutations(bands)):
            writer.write(name, row, band)
    loaded = load_file(path)
    assert loaded.keys() == tensors.keys()
    assert all(same_bits(loaded[name], tensor) for name, tensor in tensors.items())
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"made": "here"}
    reader = TensorFileReader(path)
    assert all(same_bits(reader.rows(name, 0, spec.rows), tensors[name]) for name, spec in specs.items())


@relaxed
@given(specs=files_of_tensors)
def test_every_tensor_is_aligned_as_far_as_the_format_allows(specs: dict[str, TensorSpec], tmp_path: Path) -> None:
    path = tmp_path / "aligned.safetensors"
    path.unlink(missing_ok=True)
    write_whole(path, {name: random_tensor(spec) for name, spec in specs.items()})
    raw = path.read_bytes()
    data_start = 8 + int.from_bytes(raw[:8], "little")
    assert data_start % 64 == 0
    for name, entry in json.loads(raw[8:data_start]).items():
        begin, nbytes = entry["data_offsets"][0], specs[name].nbytes
        assert begin % specs[name].dtype.itemsize == 0
        assert nbytes % 64 or begin % 64 == 0


def test_tensors_of_one_size_keep_their_order(tmp_path: Path) -> None:
    order = ["layer.10", "layer.2", "a", "z"]
    write_whole(tmp_path / "f", {name: torch.zeros(64) for name in order})
    assert list(TensorFileReader(tmp_path / "f").specs) == order


def test_a_view_of_a_larger_tensor_is_written_as_it_looks(tmp_path: Path) -> None:
    transposed = torch.arange(12, dtype=torch.float32).reshape(3, 4).T[1:]
    write_whole(tmp_path / "f", {"t": transposed})
    assert torch.equal(load_file(tmp_path / "f")["t"], transposed)


def test_what_is_read_is_owned(tmp_path: Path) -> None:
    write_whole(tmp_path / "f", {"t": torch.zeros(4, 4)})
    before = (tmp_path / "f").read_bytes()
    rows = TensorFileReader(tmp_path / "f").rows("t", 1, 3)
    rows.fill_(7)
    assert (tmp_path / "f").read_bytes() == before


# --- memory --------------------------------------------------------------------------------------------------------

STREAM = """
import re, sys
import torch
from pathlib import Path
from llmserve.checkpoint.tensor_file import TensorFileReader, TensorFileWriter, TensorSpec

def peak():  # MiB; not ru_maxrss, which a child inherits from its parent
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024

spec = TensorSpec((75_000, 2_000), torch.bfloat16)  # 300 MB
band = 2_500  # 10 MB
path = Path(sys.argv[1])
torch.randint(0, 9, (band, 2_000)).sum()  # what torch needs once does not count
before = peak()
with TensorFileWriter(path / "in", {"t": spec}, {}) as out:
    for row in range(0, spec.rows, band):
        out.write("t", row, torch.full((band, 2_000), row / band, dtype=torch.bfloat16))
reader = TensorFileReader(path / "in")
columns = TensorSpec((75_000, 1_000), torch.bfloat16)
with TensorFileWriter(path / "out", {"half": columns}, {}) as out:
    for row in range(0, spec.rows, band):
        assert (reader.rows("t", row, row + band) == row // band).all()
        out.write("half", row, reader.rows("t", row, row + band, (1_000, 2_000)))
print(peak() - before)
whole = reader.rows("t", 0, spec.rows)
print(peak() - before)
"""


def test_memory_stays_within_a_few_bands_of_a_large_file(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STREAM, str(tmp_path)]
    by_bands, whole = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert by_bands < 100  # MiB, for a file of 286 MiB written and read in bands of 10
    assert whole > 250  # the measure does see a file that is read whole


# --- the writer's promises -----------------------------------------------------------------------------------------


def four_rows(path: Path) -> TensorFileWriter:
    return TensorFileWriter(path, {"t": TensorSpec((4, 3), torch.float32)}, {})


def test_a_row_written_twice_is_refused(tmp_path: Path) -> None:
    writer = four_rows(tmp_path / "f")
    writer.write("t", 0, torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"rows \[1, 3\) of t were already written"):
        writer.write("t", 1, torch.zeros(2, 3))
    writer.write("t", 2, torch.zeros(2, 3))
    writer.close()


def test_a_row_never_written_is_refused(tmp_path: Path) -> None:
    writer = four_rows(tmp_path / "f")
    writer.write("t", 0, torch.zeros(1, 3))
    writer.write("t", 2, torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"of t's 4 rows only \[\(0, 1\), \(2, 4\)\] were written"):
        writer.close()
    writer.close()  # the handle is gone; nothing more to say


@pytest.mark.parametrize("band", [torch.zeros(2, 4), torch.zeros(2, 3, dtype=torch.float64), torch.zeros(3)])
def test_a_band_of_another_shape_or_dtype_is_refused(band: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="do not fit at row 0"), four_rows(tmp_path / "f") as writer:
        writer.write("t", 0, band)


def test_leaving_by_an_exception_keeps_that_exception_and_closes(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), four_rows(tmp_path / "f"):
        raise ZeroDivisionError
    assert not any(Path(link).exists() and link.samefile(tmp_path / "f") for link in Path("/proc/self/fd").iterdir())


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("mine")
    with pytest.raises(BuildError, match="cannot be written: File exists"):
        four_rows(tmp_path / "f")
    assert (tmp_path / "f").read_text() == "mine"


def test_a_full_disk_shows_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, offset: int, length: int) -> None:
        os.pwrite(fd, b"what it got before the disk was full", 0)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(BuildError) as caught:
        TensorFileWriter(tmp_path / "rank0.safetensors", {"t": TensorSpec((10**6, 10**6), torch.float32)}, {})
    message = str(caught.value)
    assert message.startswith("rank0.safetensors needs 4.0 TB but only ")
    assert f" are free in {tmp_path}; free some space or choose another -o." in message
    assert (tmp_path / "rank0.safetensors").stat().st_size == 0  # given back, and so counted as free


def test_a_file_system_that_cannot_reserve_space_still_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    write_whole(tmp_path / "f", {"t": torch.ones(3, 3)})
    assert torch.equal(load_file(tmp_path / "f")["t"], torch.ones(3, 3))
    monkeypatch.setattr(os, "pwrite", unsupported)
    with pytest.raises(BuildError, match="cannot be written: Operation not supported"):
        write_whole(tmp_path / "g", {"t": torch.ones(3, 3)})


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], capture_output=True)
    if mount.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        with pytest.raises(BuildError, match=r"f needs 8\.0 MB but only 1\.0 MB are free in"):
            TensorFileWriter(tmp_path / "f", {"t": TensorSpec((1000, 1000), torch.float64)}, {})
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_what_the_format_cannot_hold_is_a_bug(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be written"):
        TensorFileWriter(tmp_path / "f", {"t": TensorSpec((2,), torch.complex64)}, {})
    with pytest.raises(ValueError, match="cannot be written"):
        TensorFileWriter(tmp_path / "f", {"__metadata__": TensorSpec((2,), torch.int8)}, {})
