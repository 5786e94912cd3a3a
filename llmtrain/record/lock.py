"""The lock of a run folder: one owner at a time, named to whoever comes second; separate for its subtle races."""

import errno
import fcntl
import os
import socket
import time
from pathlib import Path
from typing import Any, Self

from llmtrain.errors import Failure, fail, quoted
from llmtrain.record import files

_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS)


class RunLock:
    """Held from construction until `release`, or until the process ends, however it ends.

    The kernel's `flock` decides; the content (host, pid, start, boot) is for the message. Where the file system has no
    `flock`, the file's existence decides and a lock of another host is never broken.

    Raises:
        Failure: E-ENV-003 with the owner.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = self._take()

    def release(self) -> None:
        """Remove the file while it is still locked, so that no stale lock stays; twice is harmless."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            files.remove_file(self._path)
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _take(self) -> int:
        while True:
            descriptor, fresh = self._open()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = self._owner()
                os.close(descriptor)
                raise self._held(owner) from None
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    os.close(descriptor)
                    raise
                if not fresh:
                    self._refuse_without_flock(descriptor)
            if self._is_current(descriptor):
                self._sign(descriptor)
                return descriptor
            os.close(descriptor)

    def _open(self) -> tuple[int, bool]:
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        while True:
            try:
                return os.open(self._path, flags | os.O_CREAT | os.O_EXCL, 0o666), True
            except FileExistsError:
                try:
                    return os.open(self._path, flags), False
                except FileNotFoundError:
                    continue
                except OSError as error:
                    if error.errno != errno.ELOOP:
                        raise
                    raise fail("E-ENV-003", f"{quoted(str(self._path))} is a link; not followed") from None

    def _is_current(self, descriptor: int) -> bool:
        """Whether the locked file still has the name: its last owner removes it while holding the lock."""
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self._path, follow_symlinks=False))
        except FileNotFoundError:
            return False

    def _sign(self, descriptor: int) -> None:
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "started": time.time(), "boot": _boot()}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, files.canonical(owner) + b"\n", 0)
        os.fsync(descriptor)

    def _owner(self) -> dict[str, Any]:
        try:
            return files.as_map(files.read_json(self._path))
        except (OSError, files.BadJson):
            return {}

    def _held(self, owner: dict[str, Any]) -> Failure:
        who = f"process {owner.get('pid', '?')} on {owner.get('host', '?')}"
        since = owner.get("started")
        when = time.strftime(" since %H:%M:%S", time.localtime(since)) if isinstance(since, int | float) else ""
        hint = "wait for it, stop it, or start a run of its own"
        return fail("E-ENV-003", f"{quoted(str(self._path.parent))} is in use by {who}{when}", hint=hint)

    def _refuse_without_flock(self, descriptor: int) -> None:
        """Without flock a lock is stale only when this host can prove that its owner is gone."""
        owner = self._owner()
        same = owner.get("host") == socket.gethostname()
        gone = same and (owner.get("boot") != _boot() or not os.path.exists(f"/proc/{owner.get('pid')}"))
        if not gone:
            os.close(descriptor)
            raise self._held(owner)


def _boot() -> str:
    """Tells one start of this machine from another."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
