"""Power loss, simulated: what the disk may hold when only fsynced bytes and names are certain.

`Disk` follows the calls that change one folder and keeps, beside what processes see, what has been made durable. A
SIGKILL cannot test fsync, for the kernel keeps what it was given; this model forgets it.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

Names = Literal["kept", "reverted"]
Data = Literal["dropped", "cut", "zeroed"]


@dataclass
class File:
    seen: bytearray = field(default_factory=bytearray)
    durable: bytes = b""


@dataclass
class Folder:
    seen: dict[str, "File | Folder"] = field(default_factory=dict)
    durable: dict[str, "File | Folder"] = field(default_factory=dict)


class Disk:
    """Use as a context manager around the work, in one thread; `after` is called when a change of the disk is done."""

    def __init__(self, root: Path, after: Callable[[str], None]) -> None:
        self._path, self._after = root, after
        self.root = _load(root)
        self._descriptors: dict[int, File | Folder] = {}
        self._originals: dict[str, Callable[..., Any]] = {}

    def __enter__(self) -> Self:
        for name, follow in self._followers().items():
            self._originals[name] = getattr(os, name)
            setattr(os, name, self._wrap(name, follow))
        return self

    def __exit__(self, *_: object) -> None:
        for name, original in self._originals.items():
            setattr(os, name, original)

    def _followers(self) -> dict[str, Callable[..., bool]]:
        return {
            "open": self._opened, "close": self._closed, "write": self._written, "pwrite": self._pwritten,
            "fsync": self._synced, "rename": self._renamed, "mkdir": self._made, "unlink": self._removed,
            "rmdir": self._removed, "ftruncate": self._cut, "truncate": self._cut_path,
        }  # fmt: skip

    def _wrap(self, name: str, follow: Callable[..., bool]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            result = self._originals[name](*arguments, **options)
            if follow(result, *arguments, **options):
                self._after(f"{name} {arguments[0]}")
            return result

        return call

    def _place(self, path: Any, dir_fd: int | None = None) -> tuple[Folder, str] | None:
        """The folder that holds a path, and the name in it; None outside the root."""
        if dir_fd is not None:
            holder = self._descriptors.get(dir_fd)
            return (holder, os.fsdecode(path)) if isinstance(holder, Folder) else None
        if not isinstance(path, str | os.PathLike) or not Path(path).is_relative_to(self._path):
            return None
        parts = Path(path).relative_to(self._path).parts
        folder = self.root
        for part in parts[:-1]:
            inner = folder.seen[part]
            assert isinstance(inner, Folder)
            folder = inner
        return folder, parts[-1] if parts else ""

    def _opened(self, descriptor: int, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> bool:
        place = self._place(path, dir_fd)
        if place is None:
            return False
        folder, name = place
        created = name != "" and name not in folder.seen
        if created:
            folder.seen[name] = File()
        self._descriptors[descriptor] = folder.seen[name] if name else folder
        return created

    def _closed(self, _: None, descriptor: int) -> bool:
        self._descriptors.pop(descriptor, None)
        return False

    def _file(self, descriptor: int) -> File | None:
        node = self._descriptors.get(descriptor)
        return node if isinstance(node, File) else None

    def _written(self, count: int, descriptor: int, data: Any) -> bool:
        """All writers append or fill a new file, so bytes come at the end."""
        file = self._file(descriptor)
        if file is not None:
            file.seen += bytes(data)[:count]
        return file is not None

    def _pwritten(self, count: int, descriptor: int, data: Any, offset: int) -> bool:
        file = self._file(descriptor)
        if file is not None:
            file.seen[offset : offset + count] = bytes(data)[:count]
        return file is not None

    def _synced(self, _: None, descriptor: int) -> bool:
        node = self._descriptors.get(descriptor)
        if isinstance(node, File):
            node.durable = bytes(node.seen)
        elif node is not None:
            node.durable = dict(node.seen)
        return node is not None

    def _renamed(self, _: None, source: Any, target: Any, **options: Any) -> bool:
        there, here = self._place(source), self._place(target)
        if there is None or here is None:
            return False
        here[0].seen[here[1]] = there[0].seen.pop(there[1])
        return True

    def _made(self, _: None, path: Any, *arguments: Any, **options: Any) -> bool:
        place = self._place(path)
        if place is not None:
            place[0].seen[place[1]] = Folder()
        return place is not None

    def _removed(self, _: None, path: Any, *, dir_fd: int | None = None) -> bool:
        place = self._place(path, dir_fd)
        if place is not None:
            del place[0].seen[place[1]]
        return place is not None

    def _cut(self, _: None, descriptor: int, length: int) -> bool:
        file = self._file(descriptor)
        if file is not None:
            del file.seen[length:]
        return file is not None

    def _cut_path(self, _: None, path: Any, length: int) -> bool:
        place = self._place(path)
        if place is not None:
            file = place[0].seen[place[1]]
            assert isinstance(file, File)
            del file.seen[length:]
        return place is not None


def _load(path: Path) -> Folder:
    folder = Folder()
    for child in path.iterdir():
        if child.is_dir():
            folder.seen[child.name] = _load(child)
        else:
            data = child.read_bytes()
            folder.seen[child.name] = File(bytearray(data), data)
    folder.durable = dict(folder.seen)
    return folder


def survive(folder: Folder, target: Path, names: Names, data: Data) -> None:
    """Write to `target` what a power loss may leave.

    Args:
        folder: the model's root.
        target: a folder that does not exist.
        names: names that were not made durable are all there, or all as before.
        data: bytes that were not made durable are gone, half there, or zeros.
    """
    target.mkdir()
    for name, node in (folder.seen if names == "kept" else folder.durable).items():
        if isinstance(node, Folder):
            survive(node, target / name, names, data)
        else:
            (target / name).write_bytes(_bytes(node, data))


def _bytes(file: File, data: Data) -> bytes:
    seen, durable = bytes(file.seen), file.durable
    if seen == durable or data == "dropped":
        return durable
    certain = next((i for i, (a, b) in enumerate(zip(seen, durable, strict=False)) if a != b), len(durable))
    certain = min(certain, len(seen))
    if data == "cut":
        return seen[: certain + (len(seen) - certain) // 2]
    return seen[:certain] + bytes(len(seen) - certain)
