"""One attempt to save: the files of a rank, the manifest, the rename, the announcement (reliability.md 1.2, steps 2 to
11). Separate from the Checkpointer because it runs in a thread: file I/O only, no collectives, no live tensors.
"""

import errno
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from llmtrain.doors import safetensors
from llmtrain.engine.checkpoint_plan import file_name
from llmtrain.record import checkpoints, files
from llmtrain.record.folder import RunFolder

if TYPE_CHECKING:
    from torch import Tensor

VISIBLE = 60.0
"""Seconds in which the folder that rank 0 made must be seen by the others."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_SLACK = 1 << 20
"""Bytes that state, manifest and logs may need beside the tensors."""
T = TypeVar("T")


class Abandoned(Exception):  # noqa: N818 - not an error: the user said stop now
    """The save was given up before it was committed."""


@dataclass(frozen=True, kw_only=True)
class Draft:
    """Everything about a save but the bytes of its tensors."""

    folder: RunFolder
    rank: int
    world: int
    step: int
    seq: int
    temporary: Path
    manifest: Mapping[str, Any]
    state: Mapping[str, Any]
    metrics_length: int
    sweep: Callable[[], object]
    """Frees disk space: deletes what retention renamed away."""

    @property
    def receipt(self) -> Path:
        return self.temporary / f"rank-{self.rank}.json"


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A committed checkpoint."""

    path: Path
    step: int
    seq: int
    durable: bool


def make_folder(folder: RunFolder, step: int, seq: int, needed: int, sweep: Callable[[], object]) -> Path:
    """Steps 2 and 3 on rank 0: check the free space, make the temporary folder beside the final place.

    Raises:
        OSError: ENOSPC with both numbers when `needed` bytes are not there even after a sweep, or what mkdir says.
    """
    os.makedirs(folder.checkpoints, exist_ok=True)
    free = _free(folder.checkpoints)
    if free < needed + _SLACK:
        sweep()
        free = _free(folder.checkpoints)
    if free < needed + _SLACK:
        text = f"disk full: needs {needed / 1e9:.3g} GB, {free / 1e9:.3g} GB free"
        raise OSError(errno.ENOSPC, text, str(folder.checkpoints))
    path = folder.checkpoints / checkpoints.temporary_name(step, seq, secrets.token_hex(3))
    os.mkdir(path)
    return path


def _free(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def await_folder(path: Path) -> None:
    """Step 3 on the other ranks; raises OSError (ETIMEDOUT) when the folder does not become visible."""
    deadline = time.monotonic() + VISIBLE
    while not path.is_dir():
        if time.monotonic() > deadline:
            raise OSError(errno.ETIMEDOUT, f"not visible after {VISIBLE:.0f} s", str(path))
        time.sleep(0.02)


def write_rank(draft: Draft, pieces: Mapping[str, Mapping[str, "Tensor"]], check: Callable[[], None]) -> None:
    """Steps 4 and 5: this rank's files, read back by header, and its receipt.

    A full disk is met once by removing our own files, sweeping and writing them again as new files.

    Raises:
        OSError: what was written is the caller's to remove.
    """
    _again_when_full(draft, lambda: _write_files(draft, pieces, check), lambda: remove_rank(draft))


def _write_files(draft: Draft, pieces: Mapping[str, Mapping[str, "Tensor"]], check: Callable[[], None]) -> None:
    written = {}
    for group, tensors in sorted(pieces.items()):
        name = file_name(group, draft.rank)
        written[name] = safetensors.write(draft.temporary / name, tensors, {"format": "pt"}, check=check).as_json()
        with safetensors.Reader(draft.temporary / name) as reader:
            if set(reader.header.tensors) != set(tensors):
                raise OSError(errno.EIO, "read back differently", str(draft.temporary / name))
    check()
    files.write_new(draft.receipt, files.canonical({"rank": draft.rank, "files": written}))


def _again_when_full(draft: Draft, work: Callable[[], T], undo: Callable[[], object]) -> T:
    try:
        return work()
    except OSError as error:
        if error.errno not in _FULL:
            raise
        undo()
        draft.sweep()
        return work()


def remove_rank(draft: Draft) -> None:
    """Remove this rank's own files from the attempt; what is not there is no error."""
    for path in (*draft.temporary.glob(f"*-r{draft.rank}.safetensors"), draft.receipt):
        files.remove_file(path)


def commit(draft: Draft) -> Finished:
    """Steps 7 to 11 on rank 0, once every rank has written.

    Raises:
        OSError: nothing was announced.
    """
    durable = files.sync_folder(draft.folder.checkpoints)
    _again_when_full(draft, lambda: _write_manifest(draft, durable), lambda: _remove_manifest(draft))
    for rank in range(draft.world):
        files.remove_file(draft.temporary / f"rank-{rank}.json")
    files.sync_folder(draft.temporary)
    plain = draft.folder.checkpoints / checkpoints.final_name(draft.step, draft.seq, taken=False)
    taken = os.path.lexists(plain)
    final = draft.folder.checkpoints / checkpoints.final_name(draft.step, draft.seq, taken=taken)
    if os.path.lexists(final):
        raise OSError(errno.EEXIST, "exists", str(final))
    os.rename(draft.temporary, final)
    files.sync_folder(draft.folder.checkpoints)
    _again_when_full(draft, lambda: announce(draft.folder, final, late=False), lambda: None)
    return Finished(path=final, step=draft.step, seq=draft.seq, durable=durable)


def announce(folder: RunFolder, final: Path, *, late: bool) -> None:
    """Step 11: the `committed` line, on the disk when this returns; then the text file `latest`, for people."""
    manifest = checkpoints.read_manifest(final)
    data = {"name": final.name, "step": manifest["step"], "seq": manifest["seq"]}
    data |= {"manifest_sha256": manifest["self_sha256"], **({"late": True} if late else {})}
    folder.event("checkpoint", "committed", data=data, sync=True)
    if not late:
        files.write_atomic(folder.checkpoints / "latest", f"{final.name}\n".encode())


def _write_manifest(draft: Draft, durable: bool) -> None:
    if draft.folder.metrics.exists():
        files.sync_file(draft.folder.metrics)
        files.sync_folder(draft.folder.path)
    if draft.metrics_length > (draft.folder.metrics.stat().st_size if draft.folder.metrics.exists() else 0):
        raise OSError(errno.EIO, f"shorter than {draft.metrics_length} bytes", str(draft.folder.metrics))
    listed = {}
    for rank in range(draft.world):
        listed |= files.read_json(draft.temporary / f"rank-{rank}.json")["files"]
    state = {"metrics_length": draft.metrics_length, "state": draft.state}
    listed["state.json"] = files.write_new(draft.temporary / "state.json", files.canonical(state)).as_json()
    manifest = checkpoints.seal({**draft.manifest, "files": listed, "durable": durable, "written": time.time()})
    files.write_new(draft.temporary / "manifest.json", files.canonical(manifest))


def _remove_manifest(draft: Draft) -> None:
    for name in ("state.json", "manifest.json"):
        files.remove_file(draft.temporary / name)


class SaveJob:
    """A save in flight on this rank: a thread that writes and, when told or when alone, commits."""

    def __init__(self, draft: Draft, pieces: Mapping[str, Mapping[str, "Tensor"]]) -> None:
        self.draft = draft
        self.started = time.monotonic()
        self.reported = False
        self._abandoned = threading.Event()
        self._commit: Future[Finished] | None = None
        self._write: Future[None] = _start(lambda: self._written(pieces))

    def _written(self, pieces: Mapping[str, Mapping[str, "Tensor"]]) -> None:
        write_rank(self.draft, pieces, self._check)
        if self.draft.world == 1:
            self._commit = _done(commit, self.draft)

    def _check(self) -> None:
        if self._abandoned.is_set():
            raise Abandoned

    @property
    def written(self) -> bool:
        """This rank's files are durable."""
        return self._write.done() and self._write.exception() is None

    @property
    def agreed(self) -> bool:
        """The commit was begun."""
        return self._commit is not None

    @property
    def error(self) -> BaseException | None:
        """What failed so far, without waiting."""
        if not self._write.done():
            return None
        failed = self._write.exception()
        if failed is None and self._commit is not None and self._commit.done():
            failed = self._commit.exception()
        return failed

    @property
    def finished(self) -> Finished | None:
        """The committed checkpoint; None as long as there is none."""
        if self._commit is None or not self._commit.done() or self._commit.exception() is not None:
            return None
        return self._commit.result()

    def commit(self) -> None:
        """Begin steps 7 to 11 in the thread; once."""
        if self._commit is None:
            self._commit = _start(lambda: commit(self.draft))

    def wait(self, timeout: float | None = None) -> bool:
        """Until the thread has nothing more to do, or for `timeout` seconds; whether it has."""
        running: list[Future[Any]] = [self._write] if self._commit is None else [self._write, self._commit]
        return not futures.wait(running, timeout).not_done

    def abandon(self) -> None:
        """Stop between two tensors, wait for the thread, remove this rank's files."""
        self._abandoned.set()
        self.wait()
        self.discard()

    def discard(self) -> None:
        """Remove this rank's files of a save that is not to be; rank 0 alone removes the folder."""
        if self.draft.temporary.is_dir():
            remove_rank(self.draft)
            if self.draft.world == 1:
                self.remove_folder()

    def remove_folder(self) -> None:
        """Remove the whole attempt; on rank 0, when the others have removed their files."""
        shutil.rmtree(self.draft.temporary, ignore_errors=True)


def _start(work: Callable[[], T]) -> "Future[T]":
    """Run in a thread of its own; what it raises waits in the future."""
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
    try:
        return executor.submit(work)
    finally:
        executor.shutdown(wait=False)


def _done(work: Callable[[Draft], T], draft: Draft) -> "Future[T]":
    """Run here and now, as a future that is done."""
    future: Future[T] = Future()
    future.set_result(work(draft))
    return future
