"""Our writer and reader against the safetensors package, in both directions, and against hostile headers."""

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from llmtrain.doors import safetensors
from llmtrain.record import files

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.float8_e4m3fn,
]  # fmt: skip


def samples() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    found = {f"{dtype}": torch.randint(0, 2, (3, 5), generator=generator).to(dtype) for dtype in DTYPES}
    wide = torch.randn(6, 4, generator=generator)
    return found | {
        "scalar": torch.tensor(1.5), "empty": torch.empty(0, 3), "strided": wide[::2, 1:3], "transposed": wide.t(),
        "nan": torch.tensor([float("nan"), float("inf"), -0.0]), "ünïcode": torch.ones(1),
    }  # fmt: skip


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    raw = [value.contiguous().reshape(-1).view(torch.uint8) if value.numel() else value for value in (one, other)]
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(raw[0], raw[1])


def test_the_package_reads_our_files_bit_for_bit(tmp_path: Path) -> None:
    tensors = samples()
    written = safetensors.write(tmp_path / "a.safetensors", tensors, {"format": "pt"})
    loaded = load_file(tmp_path / "a.safetensors")
    assert loaded.keys() == tensors.keys() and all(same(loaded[name], tensors[name]) for name in tensors)
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert files.hash_file(tmp_path / "a.safetensors") == written


def test_we_read_the_packages_files_bit_for_bit(tmp_path: Path) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in samples().items()}
    save_file(tensors, tmp_path / "a.safetensors", {"k": "v"})
    with safetensors.Reader(tmp_path / "a.safetensors") as reader:
        assert reader.header.metadata == {"k": "v"} and reader.header.tensors.keys() == tensors.keys()
        assert all(same(reader.read(name), tensors[name]) for name in tensors)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), shape=st.lists(st.integers(1, 5), max_size=4))
def test_any_box_of_any_shape(data: st.DataObject, shape: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("boxes") / "a.safetensors"
    whole = torch.arange(torch.Size(shape).numel(), dtype=torch.int32).reshape(shape)
    safetensors.write(path, {"before": torch.ones(3), "whole": whole})
    offsets = [data.draw(st.integers(0, extent)) for extent in shape]
    lengths = [data.draw(st.integers(0, extent - offset)) for extent, offset in zip(shape, offsets, strict=True)]
    box = whole[tuple(slice(o, o + n) for o, n in zip(offsets, lengths, strict=True))]
    with safetensors.Reader(path) as reader:
        assert torch.equal(reader.read("whole", offsets, lengths), box)


def test_boxes_outside_are_refused(tmp_path: Path) -> None:
    safetensors.write(tmp_path / "a", {"x": torch.ones(2, 2)})
    with safetensors.Reader(tmp_path / "a") as reader, pytest.raises(IndexError):
        reader.read("x", [1, 0], [2, 2])


def test_only_the_bytes_of_the_box_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    safetensors.write(tmp_path / "a", {"x": torch.ones(100, 100)})
    read: list[int] = []
    original = os.preadv

    def counting(descriptor: int, views: list[memoryview], position: int) -> int:
        read.append(original(descriptor, views, position))
        return read[-1]

    monkeypatch.setattr(os, "preadv", counting)
    with safetensors.Reader(tmp_path / "a") as reader:
        reader.read("x", [10, 0], [5, 100])
        assert read == [2000]
        reader.read("x", [10, 50], [2, 10])
        assert read == [2000, 40, 40]


def test_an_existing_file_or_link_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for name in ("there", "link"):
        with pytest.raises(FileExistsError):
            safetensors.write(tmp_path / name, {"x": torch.ones(1)})
    assert (tmp_path / "there").read_text() == "mine" and not (tmp_path / "target").exists()


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_mode_follows_the_umask(mask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        safetensors.write(tmp_path / "a", {"x": torch.ones(1)})
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == mode


def file_with(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


def entry(dtype: object = "F32", shape: object = (1,), offsets: object = (0, 4)) -> bytes:
    return json.dumps({"x": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).encode()


def two(first: list[int], second: list[int]) -> bytes:
    """Two tensors in six bytes."""
    ranges = {"a": first, "b": second}
    value = {name: {"dtype": "U8", "shape": [r[1] - r[0]], "data_offsets": r} for name, r in ranges.items()}
    return file_with(json.dumps(value).encode(), bytes(6))


F4 = bytes(4)
HOSTILE = {
    "short": b"1234567", "huge": file_with(b"{}", length=1 << 63), "all-ones": file_with(b"{}", length=(1 << 64) - 1),
    "longer-than-file": file_with(b"{}", length=3), "not-json": file_with(b"{,}"), "list": file_with(b"[]"),
    "nested": file_with(b"[" * 90_000), "not-utf8": file_with(b'{"\xff":1}'),
    "twice": file_with(entry()[:-1] + b"," + entry()[1:], F4), "dtype": file_with(entry("F31"), F4),
    "dtype-kind": file_with(entry(7), F4), "negative": file_with(entry(shape=[-1]), F4),
    "float-shape": file_with(entry(shape=[1.0]), F4), "bool-shape": file_with(entry(shape=[True]), F4),
    "overflow": file_with(entry(shape=[1 << 61, 1 << 61]), F4), "product": file_with(entry(shape=[2]), F4),
    "reversed": file_with(entry(offsets=[4, 0]), F4), "three": file_with(entry(offsets=[0, 4, 8]), F4),
    "beyond": file_with(entry(offsets=[4, 8]), F4), "trailing": file_with(entry(), F4 + b"x"),
    "cut": file_with(entry(), b"123"),
    "overlap": two([0, 4], [2, 6]), "hole": two([0, 2], [4, 6]),
    "metadata": file_with(b'{"__metadata__":{"a":1}}'), "extra-key": file_with(entry()[:-2] + b',"y":1}}', F4),
    "big-integer": file_with(b'{"x":' + b"9" * 5000 + b"}"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(HOSTILE[name])
    with pytest.raises(safetensors.DamagedFile) as caught:
        safetensors.Reader(tmp_path / "a")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_the_hostile_entry_is_else_valid(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(two([0, 2], [2, 6]))
    safetensors.Reader(tmp_path / "b").close()
    (tmp_path / "a").write_bytes(file_with(entry(), F4))
    with safetensors.Reader(tmp_path / "a") as reader:
        assert torch.equal(reader.read("x"), torch.zeros(1))


def test_a_file_cut_after_opening_is_noticed(tmp_path: Path) -> None:
    safetensors.write(tmp_path / "a", {"x": torch.ones(100)})
    with safetensors.Reader(tmp_path / "a") as reader:
        os.truncate(tmp_path / "a", 200)
        with pytest.raises(safetensors.DamagedFile, match="ends at byte"):
            reader.read("x")
