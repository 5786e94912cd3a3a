"""Verbs about runs that exist: runs list, show, logs; checkpoint list, verify."""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtrain.cli import streams
from llmtrain.cli.arguments import Request
from llmtrain.errors import Exit, escape, fail

if TYPE_CHECKING:
    from llmtrain.record.checkpoints import Candidate
    from llmtrain.record.folder import RunFolder

ROOT = Path("runs")
COLUMNS = ("id", "mode", "state", "step", "loss", "age")
ENDED = ("done", "error", "stopped")


def list_runs(request: Request) -> None:
    """A line for each run, the newest last."""
    from llmtrain.record import index

    root = Path(_one(request, "FOLDER") or ROOT)
    if request.words and not root.is_dir():
        raise fail("E-FILE-001", "no such folder", file=str(root))
    rows = [run_row(entry.folder) for entry in index.list_runs(root)]
    if request.json:
        streams.result_json({"runs": rows})
        return
    for row in rows:
        row["state"] = _told_state(row)
    table = [COLUMNS, *[tuple(_cell(row[column], column) for column in COLUMNS) for row in rows]]
    widths = [max(len(line[column]) for line in table) for column in range(len(COLUMNS))]
    for line in table:
        streams.result("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() + "\n")


def show(request: Request) -> None:
    """What a run's folder says about it, and the command that goes on."""
    folder = _folder(request)
    from llmtrain.record.checkpoints import list_checkpoints

    status, result = _json(folder.path / "run.json"), _json(folder.path / "result.json")
    if request.json:
        streams.result_json({"path": str(folder.path), "run": status, "result": result, **run_row(folder)})
        return
    good = [item.step for item in list_checkpoints(folder) if not item.reason]
    told = {**status, "state": _told_state(run_row(folder)), "checkpoint": f"step {max(good)}" if good else "none"}
    values = {"path": folder.path, **told, **{key: value for key, value in result.items() if key not in status}}
    lines = list(_flat(values))
    width = max(len(key) for key, _ in lines)
    streams.result("".join(f"{key:<{width}}  {escape(_moment(key, value))}\n" for key, value in lines))
    if status.get("state") in ("stopped", "error", "running"):
        recipe = folder.path / "recipe.yaml"
        streams.result(f"go on: llmtrain train {recipe} --resume {folder.path}\n")


def logs(request: Request) -> None:
    """The first rank's log; with --follow until the run ends."""
    folder = _folder(request)
    path = folder.path / "logs" / "rank_0.log"
    if not path.exists():
        raise fail("E-FILE-001", "this run has no log yet", file=str(path))
    with path.open(encoding="utf-8", errors="backslashreplace") as handle:
        while True:
            text = handle.read()
            if text:
                streams.result(text)
            elif not request.follow or _json(folder.path / "run.json").get("state") in ENDED:
                return
            else:
                time.sleep(0.2)


def checkpoints(request: Request) -> None:
    """A line for each checkpoint."""
    from llmtrain.record.checkpoints import list_checkpoints

    folder = _folder(request)
    rows = [_checkpoint_row(item) for item in list_checkpoints(folder)]
    if request.json:
        streams.result_json({"run": str(folder.path), "checkpoints": rows})
        return
    for row in rows:
        notes = [note for note in ("pinned" if row["pinned"] else "", row["problem"]) if note]
        streams.result("  ".join([f"{row['name']}  step {row['step']}", *map(escape, notes)]) + "\n")


def verify(request: Request) -> int:
    """Hash every file of every checkpoint; 4 when one is damaged or there is none."""
    from llmtrain.record.checkpoints import verify_run

    folder = _folder(request)
    verdicts = verify_run(folder)
    if not verdicts:
        raise fail("E-CKPT-004", "this run has no checkpoint", file=str(folder.path))
    rows = [
        {**_checkpoint_row(item.candidate), "good": item.good, "problem": "; ".join(item.reasons)} for item in verdicts
    ]
    if request.json:
        streams.result_json({"run": str(folder.path), "checkpoints": rows})
    else:
        for row in rows:
            streams.result(
                f"{row['name']}  " + ("good" if row["good"] else f"damaged: {escape(row['problem'])}") + "\n"
            )
    return 0 if all(item.good for item in verdicts) else int(Exit.NO_CHECKPOINT)


def _checkpoint_row(item: "Candidate") -> dict[str, Any]:
    return {
        "name": item.path.name, "path": str(item.path), "step": item.step, "seq": item.seq, "pinned": item.pinned,
        "problem": item.reason,
    }  # fmt: skip


def run_row(folder: "RunFolder") -> dict[str, Any]:
    """The columns of `runs list` for one run."""
    status, result = _json(folder.path / "run.json"), _json(folder.path / "result.json")
    updated, trained = status.get("updated"), result.get("train")
    loss = trained.get("loss") if isinstance(trained, dict) else None
    return {
        "id": status.get("id", folder.path.name), "mode": status.get("mode"), "state": status.get("state"),
        "step": status.get("step"), "loss": loss, "alive": _alive(status), "updated": updated, "age": updated,
    }  # fmt: skip


def _alive(status: Mapping[str, Any]) -> bool | None:
    """Whether a run that says it is running has its process; None where that cannot be known."""
    pid = status.get("pid")
    if status.get("state") != "running" or status.get("host") != socket.gethostname() or not isinstance(pid, int):
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _told_state(row: Mapping[str, Any]) -> str | None:
    return "running (process gone)" if row["alive"] is False else row["state"]


def _moment(key: str, value: Any) -> str:  # noqa: ANN401 - a JSON value
    if key in ("started", "updated") and isinstance(value, int | float):
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
    return str(value)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Name and value of everything but lists and nothing; `train.loss` for what lies deeper."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif value is not None and not isinstance(value, list):
            yield prefix + key, value


def _one(request: Request, what: str) -> str | None:
    if len(request.words) > 1:
        raise fail("E-CLI-001", f"{request.verb}: at most one {what}")
    return request.words[0] if request.words else None


def _folder(request: Request) -> "RunFolder":
    from llmtrain.record import index

    return index.resolve(_one(request, "RUN") or "latest", ROOT)


def _json(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _cell(value: Any, column: str) -> str:  # noqa: ANN401 - a JSON value
    if value is None:
        return "-"
    if column == "age":
        return age(value)
    return f"{value:.4f}" if isinstance(value, float) else escape(str(value))


def age(updated: float | str) -> str:
    """How long ago, in one unit; `updated` in seconds since 1970 or as ISO text."""
    from datetime import UTC, datetime

    if isinstance(updated, str):
        moment = datetime.fromisoformat(updated)
        seconds = (datetime.now(UTC) - (moment if moment.tzinfo else moment.astimezone())).total_seconds()
    else:
        seconds = time.time() - updated
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"


VERBS: dict[str, Callable[[Request], int | None]] = {
    "runs list": list_runs, "runs show": show, "runs logs": logs,
    "checkpoint list": checkpoints, "checkpoint verify": verify,
}  # fmt: skip
