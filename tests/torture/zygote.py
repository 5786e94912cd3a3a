"""Many runs forked from one warm process: imports dominate a small run, so they are paid once.

`Zygote` is the client, for tests; run as a script, this file is the server. The server imports, starts no thread, and
forks a child for each command; the child is the leader of its own process group and ends as the console script would.
One JSON object a line, in: {"argv", "cwd", "env", "stdout", "stderr"}; out: {"ready"}, {"pid"} or {"ended", "status"}.
"""

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

MODULES = ("torch", "torch.distributed.checkpoint", "torch.distributed.fsdp", "transformers")
ENTRY = "llmtrain.cli.app:main"
_PR_SET_PDEATHSIG = 1


@dataclass
class Run:
    """A forked run."""

    pid: int
    stdout: Path
    stderr: Path
    zygote: "Zygote"

    def wait(self, timeout: float = 120.0) -> int:
        """Its exit code, negative for a signal; TimeoutError after killing its group."""
        try:
            return self.zygote._ended(self.pid, timeout)
        except TimeoutError:
            self.kill()
            self.zygote._ended(self.pid, 10.0)
            raise

    def running(self) -> bool:
        self.zygote._listen(0.0)
        return self.pid not in self.zygote._codes

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Signal the whole process group; one that is gone is no error."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def signal(self, number: int) -> None:
        """Signal the run's own process only."""
        os.kill(self.pid, number)


class Zygote:
    """The warm process; a context manager. Children die with it."""

    def __init__(self, *, entry: str = ENTRY, modules: Sequence[str] = MODULES, start_timeout: float = 120.0) -> None:
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH")) if part)
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, __file__, entry, *modules]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self._codes: dict[int, int] = {}
        self._pids: list[int] = []
        self._rest = b""
        self._ready = False
        self._until(lambda: self._ready, start_timeout)

    def run(
        self, argv: Sequence[str], *, scratch: Path, cwd: Path | None = None,
        env: Mapping[str, str | None] | None = None,
    ) -> Run:  # fmt: skip
        """Fork a run of `main(argv)`.

        Args:
            argv: arguments without the program's name.
            scratch: folder for its stdout and stderr files.
            cwd: working folder; default: `scratch`.
            env: changes of the environment; None removes a name.
        """
        stem = scratch / f"run-{len(list(scratch.glob('run-*.out')))}"
        stdout, stderr = stem.with_suffix(".out"), stem.with_suffix(".err")
        stdout.touch()
        stderr.touch()
        order = {"argv": list(argv), "cwd": str(cwd or scratch), "env": dict(env or {})}
        line = json.dumps({**order, "stdout": str(stdout), "stderr": str(stderr)}) + "\n"
        assert self._server.stdin is not None
        self._server.stdin.write(line.encode())
        self._server.stdin.flush()
        self._until(lambda: bool(self._pids), 30.0)
        return Run(pid=self._pids.pop(), stdout=stdout, stderr=stderr, zygote=self)

    def close(self) -> None:
        """End the server; its children get SIGKILL from the kernel."""
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.close()
        self._server.stdout.close()
        self._server.wait(30)
        self._server.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ended(self, pid: int, timeout: float) -> int:
        self._until(lambda: pid in self._codes, timeout)
        return self._codes[pid]

    def _until(self, reached: Callable[[], bool], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not reached():
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"nothing within {timeout:.0f} s")
            self._listen(left)

    def _listen(self, timeout: float) -> None:
        assert self._server.stdout is not None
        descriptor = self._server.stdout.fileno()
        if not select.select([descriptor], [], [], timeout)[0]:
            return
        data = os.read(descriptor, 65536)
        if not data:
            raise RuntimeError(f"the zygote ended with code {self._server.wait()}")
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "pid" in message:
                self._pids.append(message["pid"])
            elif "ended" in message:
                self._codes[message["ended"]] = os.waitstatus_to_exitcode(message["status"])
            else:
                self._ready = True


def serve(entry: str, modules: Sequence[str]) -> None:
    """The server: import, then fork on command until stdin ends."""
    for module in modules:
        importlib.import_module(module)
    module, _, name = entry.partition(":")
    main = vars(importlib.import_module(module))[name]
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise RuntimeError(f"{threads} threads after the imports: a fork would lose them")
    gc.freeze()
    bell, wakeup = os.pipe()
    for descriptor in (bell, wakeup):
        os.set_blocking(descriptor, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakeup)
    _say({"ready": True})
    waiting = b""
    while True:
        for descriptor in select.select([0, bell], [], [])[0]:
            if descriptor == bell:
                os.read(bell, 4096)
                _reap()
                continue
            data = os.read(0, 65536)
            if not data:
                return
            *lines, waiting = (waiting + data).split(b"\n")
            for line in lines:
                _fork(main, json.loads(line))


def _say(message: Mapping[str, object]) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


def _reap() -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _say({"ended": pid, "status": status})


def _fork(main: Callable[[list[str]], int], order: Mapping[str, object]) -> None:
    parent = os.getpid()
    child = os.fork()
    if child:
        _say({"pid": child})
        return
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for descriptor, place, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, str(order["stdout"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        (2, str(order["stderr"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    ):
        opened = os.open(place, flags, 0o666)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
    os.chdir(str(order["cwd"]))
    environment, argv = order["env"], order["argv"]
    assert isinstance(environment, dict) and isinstance(argv, list)
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    added = str(environment.get("PYTHONPATH") or "")
    sys.path[:0] = [part for part in added.split(os.pathsep) if part]
    sys.argv = ["llmtrain", *argv]
    os._exit(_code(main, argv))


def _code(main: Callable[[list[str]], int], argv: list[str]) -> int:
    """Run to the end, threads and exit functions included, without tearing down a heap of imports (seconds each)."""
    try:
        code = main(argv)
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2:])
