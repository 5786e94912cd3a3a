"""The safetensors format, written and read by us: streamed, hashed and durable; separate because the format is foreign.

Layout (the format's own description): 8 bytes little-endian header length, a JSON header padded with spaces, then raw
little-endian bytes without holes. The package's writer truncates its target or leaves mode 0600 and never fsyncs,
hence our own; files are interchangeable in both directions.
"""

import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from llmtrain.lazy import Lazy
from llmtrain.record import files

if TYPE_CHECKING:
    from torch import Tensor

torch = Lazy("torch")

HEADER_LIMIT = 100_000_000
"""Bytes of a header; longer ones are refused unread."""
_SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
    "U16": 2, "U32": 4, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool", "U16": "uint16", "U32": "uint32", "U64": "uint64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip


class DamagedFile(Exception):  # noqa: N818 - the message is what the user reads
    """Not a safetensors file, or one whose header cannot be true; the message says why in one line."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tensor of a file: its dtype in the format's spelling, shape, and byte range in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says about itself, checked against its size."""

    tensors: Mapping[str, Entry]
    metadata: Mapping[str, str]


def dtype_name(dtype: Any) -> str:  # noqa: ANN401 - torch.dtype, not imported here
    """The format's spelling of a torch dtype; ValueError for one that the format lacks."""
    text = str(dtype).removeprefix("torch.")
    for name, spelled in _NAMES.items():
        if spelled == text:
            return name
    raise ValueError(f"safetensors has no {text}")


def torch_dtype(name: str) -> Any:  # noqa: ANN401 - torch.dtype, not imported here
    """The torch dtype of the format's spelling."""
    return getattr(torch, _NAMES[name])


def write(
    path: Path, tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str] | None = None, *,
    check: Callable[[], None] = lambda: None,
) -> files.Written:  # fmt: skip
    """Write a new file, tensor by tensor, and make its bytes durable; extra memory is one contiguous tensor at most.

    Args:
        path: must not exist; a link is never followed.
        tensors: on any device, any strides; written in this order.
        metadata: text pairs for the header.
        check: called between tensors; may raise to end the writing.

    Raises:
        OSError: the file is incomplete and the caller's to remove.
        ValueError: a dtype that the format lacks.
    """
    with files.NewFile(path) as file:
        file.write(_header_bytes(tensors, metadata or {}))
        for tensor in tensors.values():
            check()
            file.write(_raw(tensor))
        return file.finish()


def _header_bytes(tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name, tensor in tensors.items():
        end = position + tensor.numel() * tensor.element_size()
        shape = list(tensor.shape)
        entries[name] = {"dtype": dtype_name(tensor.dtype), "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _raw(tensor: "Tensor") -> memoryview:
    """The bytes of a tensor in row-major order; no copy where it is contiguous in host memory."""
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


class Reader:
    """An open file: its checked header, and byte-range reads of boxes of its tensors."""

    def __init__(self, path: Path) -> None:
        """Raises OSError as `files.open_regular`, DamagedFile for a header that cannot be true."""
        self._descriptor = files.open_regular(path)
        try:
            self.header = _read_header(self._descriptor)
        except BaseException:
            self.close()
            raise

    def read(self, name: str, offsets: Sequence[int] | None = None, lengths: Sequence[int] | None = None) -> "Tensor":
        """A box of a tensor, the whole one by default, reading only the bytes that hold it.

        Args:
            name: a name of the header; KeyError for others.
            offsets: first index in each dimension.
            lengths: extent in each dimension; must lie inside the tensor (IndexError).

        Raises:
            DamagedFile: the file ends early.
            OSError: it cannot be read.
        """
        entry = self.header.tensors[name]
        offsets = [0] * len(entry.shape) if offsets is None else list(offsets)
        lengths = list(entry.shape) if lengths is None else list(lengths)
        if any(o < 0 or n < 0 or o + n > s for o, n, s in zip(offsets, lengths, entry.shape, strict=True)):
            raise IndexError(f"{name}: box {offsets} + {lengths} in shape {list(entry.shape)}")
        result = torch.empty(lengths, dtype=torch_dtype(entry.dtype))
        if result.numel():
            view = memoryview(result.reshape(-1).view(torch.uint8).numpy())
            for start, size in _ranges(entry, offsets, lengths):
                self._fill(view[:size], start, name)
                view = view[size:]
        return result

    def _fill(self, view: memoryview, position: int, name: str) -> None:
        while view:
            count = os.preadv(self._descriptor, [view[: 1 << 30]], position)
            if count == 0:
                raise DamagedFile(f"{name}: the file ends at byte {position}")
            view, position = view[count:], position + count

    def close(self) -> None:
        """Close the file; twice is harmless."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _ranges(entry: Entry, offsets: Sequence[int], lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(position, bytes) of the contiguous runs of a box, in row-major order."""
    width = _SIZES[entry.dtype]
    strides = [width * prod(entry.shape[axis + 1 :]) for axis in range(len(entry.shape))]
    split = len(entry.shape)
    while split > 0 and lengths[split:] == list(entry.shape[split:]):
        split -= 1
    base = entry.start + sum(offset * stride for offset, stride in zip(offsets, strides, strict=True))
    size = width * prod(lengths[split:])
    for index in itertools.product(*(range(length) for length in lengths[:split])):
        yield base + sum(i * stride for i, stride in zip(index, strides, strict=False)), size


def _read_header(descriptor: int) -> Header:
    size = os.fstat(descriptor).st_size
    start = os.pread(descriptor, 8, 0)
    if len(start) < 8:
        raise DamagedFile(f"{size} bytes are too few for a safetensors file")
    length = int.from_bytes(start, "little")
    if length > HEADER_LIMIT or length > size - 8:
        raise DamagedFile(f"header of {length} bytes in a file of {size}, at most {HEADER_LIMIT} allowed")
    try:
        value: object = files.parse_json(os.pread(descriptor, length, 8))
    except files.BadJson as error:
        raise DamagedFile(f"header: {error}") from error
    if not isinstance(value, dict):
        raise DamagedFile("header: not an object")
    items = files.as_map(value)
    metadata: Any = items.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in files.as_map(metadata).values()):
        raise DamagedFile("header: __metadata__ is not a map of texts")
    entries = {name: _entry(name, item, 8 + length) for name, item in items.items()}
    _check_cover(entries, 8 + length, size)
    return Header(tensors=entries, metadata=files.as_map(metadata))


def _entry(name: str, item: Any, base: int) -> Entry:  # noqa: ANN401 - untrusted JSON
    where = f"header: {name[:60]!r}"
    parts = files.as_map(item)
    if set(parts) != {"dtype", "shape", "data_offsets"}:
        raise DamagedFile(f"{where} is malformed")
    dtype, shape, offsets = parts["dtype"], parts["shape"], parts["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _SIZES:
        raise DamagedFile(f"{where} has the unknown dtype {str(dtype)[:20]!r}")
    if not _are_counts(shape) or len(shape) > 64 or not _are_counts(offsets) or len(offsets) != 2:
        raise DamagedFile(f"{where} has a malformed shape or byte range")
    if offsets[1] - offsets[0] != prod(shape) * _SIZES[dtype]:
        raise DamagedFile(f"{where} has {offsets[1] - offsets[0]} bytes, its shape needs {prod(shape) * _SIZES[dtype]}")
    return Entry(dtype=dtype, shape=tuple(shape), start=base + offsets[0], end=base + offsets[1])


def _are_counts(value: Any) -> bool:  # noqa: ANN401 - untrusted JSON
    return isinstance(value, list) and all(
        type(item) is int and 0 <= item < 1 << 62 for item in cast("list[Any]", value)
    )


def _check_cover(entries: Mapping[str, Entry], base: int, size: int) -> None:
    """Byte ranges must follow one another without overlap or hole and end where the file ends."""
    position = base
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != position:
            what = "overlaps another tensor" if entry.start < position else "leaves a hole before it"
            raise DamagedFile(f"header: {name[:60]!r} {what}")
        position = entry.end
    if position != size:
        raise DamagedFile(f"tensors end at byte {position}, the file at {size}")
