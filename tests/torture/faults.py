"""Faults at the k-th call that changes the disk: kill, or an errno; in this process, by wrapping `os` functions.

Everything durable goes through `llmtrain.record.files`, `shutil.rmtree` and plain `os` calls, so that wrapping them
sees every change of the disk that a save makes.
"""

import os
import signal
import threading
from collections.abc import Callable
from typing import Any, Self

CALLS = ("open", "write", "pwrite", "fsync", "rename", "mkdir", "unlink", "rmdir", "ftruncate", "truncate")


class Faults:
    """Counts the calls of this process, in all threads, and acts before the k-th; `install` cannot be undone.

    Args:
        at: number of the call, from 1; 0 only counts.
        error: errno to raise; None kills the process.
        names: which calls count.
        again: raise at every later call, too.
    """

    def __init__(
        self, at: int = 0, *, error: int | None = None, names: tuple[str, ...] = CALLS, again: bool = False
    ) -> None:
        self.at, self.error, self.names, self.again = at, error, names, again
        self.count = 0
        self.trace: list[str] = []
        self._lock = threading.Lock()
        self._originals: dict[str, Callable[..., Any]] = {}

    def __enter__(self) -> Self:
        for name in self.names:
            self._originals[name] = getattr(os, name)
            setattr(os, name, self._wrap(name, getattr(os, name)))
        return self

    def __exit__(self, *_: object) -> None:
        for name, original in self._originals.items():
            setattr(os, name, original)

    def _wrap(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if name == "open" and not (arguments[1] & (os.O_WRONLY | os.O_RDWR)):
                return original(*arguments, **options)
            with self._lock:
                self.count += 1
                self.trace.append(f"{name} {arguments[0]}")
                hit = self.at and (self.count == self.at or (self.again and self.count > self.at))
            if hit and self.error is None:
                os.kill(os.getpid(), signal.SIGKILL)
            if hit:
                assert self.error is not None
                raise OSError(self.error, os.strerror(self.error), arguments[0] if name == "open" else None)
            return original(*arguments, **options)

        return call


def in_child(work: Callable[[], object]) -> int:
    """Run in a forked child that ends without clean-up; its wait status. An exception ends it with 97."""
    child = os.fork()
    if child == 0:
        code = 97
        try:
            work()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]
