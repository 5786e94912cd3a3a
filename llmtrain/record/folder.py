"""The run folder: its id, layout, state and owner; separate because every command finds and describes runs by it."""

import os
import platform
import re
import secrets
import shutil
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llmtrain.errors import fail, quoted
from llmtrain.record import files
from llmtrain.record.lock import RunLock

State = Literal["preceding", "running", "done", "error", "stopped"]


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """One run's folder. Only the holder of `lock()` writes into it; the other ranks write their own logs."""

    path: Path
    id: str

    @classmethod
    def create(cls, root: str | Path, name: str, *, directory: str | Path | None = None) -> "RunFolder":
        """Make a fresh folder `root/<YYMMDD-HHMMSS>-<name>`, or `directory` where one is named.

        Raises:
            Failure: E-RUN-006 when `directory` holds something, E-FILE-005 when it cannot be made.
        """
        label = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "run"
        identity = f"{time.strftime('%y%m%d-%H%M%S')}-{label}"
        try:
            if directory is None:
                path = _make_unique(Path(root), identity)
                folder = cls(path=path, id=path.name)
            else:
                folder = cls(path=Path(directory), id=identity)
                _make_named(folder.path)
            folder.write_status(state="preceding", step=0, name=name, started=time.time())
            folder.logs.mkdir()
            folder.checkpoints.mkdir()
            files.sync_folder(folder.path)
        except OSError as error:
            where = error.filename or directory or root
            raise fail("E-FILE-005", f"{quoted(str(where))} cannot be made: {error.strerror}") from error
        return folder

    @classmethod
    def open(cls, path: str | Path, *, wait: float = 0.0, id: str | None = None) -> "RunFolder":
        """An existing run's folder.

        Args:
            path: the folder.
            wait: seconds to wait until it is visible here, for ranks on a shared file system.
            id: the run id that must stand in it, as told by rank 0.

        Raises:
            Failure: E-CLI-005 when no run is there, E-ENV-004 when it is another one.
        """
        deadline = time.monotonic() + wait
        while not (Path(path) / "run.json").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        try:
            found = files.read_json(Path(path) / "run.json")["id"]
        except (OSError, files.BadJson, KeyError, TypeError) as error:
            raise fail("E-CLI-005", f"{quoted(str(path))} is not a run folder: no readable run.json") from error
        if id is not None and found != id:
            host = socket.gethostname()
            raise fail("E-ENV-004", f"{quoted(str(path))} on {host} holds run {quoted(found)}, not {quoted(id)}")
        return cls(path=Path(path), id=str(found))

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def resolved(self) -> Path:
        return self.path / "recipe.resolved.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def samples(self) -> Path:
        return self.path / "samples.jsonl"

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.json"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tb"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model"

    def lock(self) -> RunLock:
        """Own the folder until the lock is released or the process ends; E-ENV-003 names another owner."""
        lock = RunLock(self.path / "lock")
        for part in (self.logs, self.checkpoints):
            part.mkdir(exist_ok=True)
        return lock

    def status(self) -> dict[str, Any]:
        """run.json as it stands; empty where it cannot be read."""
        try:
            return files.as_map(files.read_json(self.path / "run.json"))
        except (OSError, files.BadJson):
            return {}

    def write_status(self, *, state: State, step: int | None = None, exit_code: int | None = None, **more: Any) -> None:  # noqa: ANN401
        """Renew run.json; what is not given stays. `more`: mode, objective, recipe, name, reason and the like."""
        status = {**self.status(), "id": self.id, "state": state, **more}
        if step is not None:
            status["step"] = step
        status |= {"exit_code": exit_code, "pid": os.getpid(), "host": socket.gethostname(), "updated": time.time()}
        files.write_json(self.path / "run.json", status)

    def write_environment(self, versions: Mapping[str, str], devices: Mapping[str, Any]) -> None:
        """env.json: what was measured on this machine, by name; never the process environment as a whole."""
        machine = {"system": platform.system(), "release": platform.release(), "machine": platform.machine()}
        value = {"python": platform.python_version(), "versions": dict(versions), "devices": dict(devices)}
        files.write_json(self.path / "env.json", {**value, "machine": machine, "processors": os.cpu_count()})

    def event(
        self, action: str, description: str, *, state: str = "running", data: Mapping[str, Any] | None = None,
        sync: bool = False,
    ) -> None:  # fmt: skip
        """Add a line to events.jsonl: one write, on the disk when this returns with `sync`."""
        line = {"time": time.time(), "action": action, "action_id": secrets.token_hex(4), "state": state}
        files.append_line(self.events, {**line, "description": description, "data": dict(data or {})}, sync=sync)

    def note_resume(self, text: str) -> None:
        """Add a line to logs/resume.log."""
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(text.split())}\n"
        files.append_text(self.logs / "resume.log", line.encode())

    def write_rank_exit(self, rank: int, *, code: int, kind: Literal["own", "peer"], phase: str, step: int) -> None:
        """logs/rank_N.exit.json, from which the launcher finds the root cause."""
        value = {"code": code, "kind": kind, "phase": phase, "step": step, "time": time.time()}
        files.write_json(self.logs / f"rank_{rank}.exit.json", value)

    def rank_exit(self, rank: int) -> dict[str, Any] | None:
        """What `write_rank_exit` left; None when the rank ended without a word."""
        try:
            return files.read_json(self.logs / f"rank_{rank}.exit.json")
        except (OSError, files.BadJson):
            return None

    def write_crash(self, text: str) -> Path:
        """crash-<time>.txt with a traceback that the caller has redacted; its path."""
        path = self.path / f"crash-{time.strftime('%y%m%d-%H%M%S')}-{os.getpid()}.txt"
        files.write_atomic(path, text.encode("utf-8", "replace"))
        return path

    def sweep(self) -> list[str]:
        """Remove temporary files that a killed process left; needs the lock. The names removed."""
        removed: list[str] = []
        for folder in (self.path, self.logs, self.checkpoints):
            for entry in sorted(os.scandir(folder), key=lambda item: item.name) if folder.is_dir() else ():
                if entry.name.startswith(".") and entry.name.endswith(".tmp"):
                    _remove(Path(entry.path), entry.is_dir(follow_symlinks=False))
                    removed.append(entry.name)
        return removed


def _remove(path: Path, is_folder: bool) -> None:
    if is_folder:
        shutil.rmtree(path)
    else:
        files.remove_file(path)


def _make_unique(root: Path, identity: str) -> Path:
    """The first of identity, identity-2, identity-3 ... that nobody had."""
    os.makedirs(root, exist_ok=True)
    number = 1
    while True:
        path = root / (identity if number == 1 else f"{identity}-{number}")
        try:
            os.mkdir(path)
        except FileExistsError:
            number += 1
            continue
        files.sync_folder(root)
        return path


def _make_named(path: Path) -> None:
    os.makedirs(path.parent, exist_ok=True)
    try:
        os.mkdir(path)
    except FileExistsError:
        if not path.is_dir() or any(not item.name.startswith(".run.json.") for item in path.iterdir()):
            hint = f"go on with --resume {path}, or name another folder with run.dir"
            raise fail("E-RUN-006", f"{quoted(str(path))} exists and is not empty", hint=hint) from None
    files.sync_folder(path.parent)
