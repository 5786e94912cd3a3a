"""Finding runs: the list, the latest, and what a user's word for one means; separate from the folder it finds."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmtrain.errors import Failure, fail, quoted
from llmtrain.record.folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class RunEntry:
    """A run as lists show it."""

    folder: RunFolder
    status: dict[str, Any]

    @property
    def order(self) -> tuple[float, str]:
        """Sorts by start; the id, which begins with the time, decides ties."""
        started = self.status.get("started")
        return (float(started) if isinstance(started, int | float) else 0.0, self.folder.id)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What RUN, RUN@STEP or the path of a checkpoint names; `checkpoint` is a folder name under `checkpoints/`."""

    folder: RunFolder
    checkpoint: str | None = None


def list_runs(root: str | Path) -> list[RunEntry]:
    """All runs directly under `root`, oldest first; what is no run folder is passed over."""
    return sorted(_entries(Path(root)), key=lambda entry: entry.order)


def _entries(root: Path) -> Iterator[RunEntry]:
    for path in root.iterdir() if root.is_dir() else ():
        if (path / "run.json").is_file():
            try:
                folder = RunFolder.open(path)
            except Failure:
                continue
            yield RunEntry(folder=folder, status=folder.status())


def latest(root: str | Path, *, finished: bool = True) -> RunFolder | None:
    """The newest run, with `finished` the newest whose state is `done`; None without one."""
    runs = [entry for entry in list_runs(root) if not finished or entry.status.get("state") == "done"]
    return runs[-1].folder if runs else None


def newest_of(root: str | Path, recipe_file: str | None, name: str | None) -> RunFolder | None:
    """The newest run of a recipe, in any state: the same recipe file and the same name; None without one.

    `recipe_file` and `name` are compared with `recipe` and `name` of run.json.
    """
    for entry in reversed(list_runs(root)):
        if entry.status.get("recipe") == recipe_file and entry.status.get("name") == name:
            return entry.folder
    return None


def resolve(text: str, root: str | Path) -> RunFolder:
    """The run that `text` names: a folder, an id, the unique beginning of an id, or `latest`; `@STEP` may follow.

    Raises:
        Failure: E-CLI-005 when there is none, or more than one.
    """
    return refer(text, root).folder


def refer(text: str, root: str | Path) -> Reference:
    """As `resolve`, and the checkpoint of `RUN@STEP` or of a path `RUN/checkpoints/NAME`; raises E-CLI-005."""
    path = Path(text)
    if path.parent.name == "checkpoints" and (path.parent.parent / "run.json").is_file() and path.is_dir():
        return Reference(folder=RunFolder.open(path.parent.parent), checkpoint=path.name)
    if (path / "run.json").is_file():
        return Reference(folder=RunFolder.open(path))
    run, mark, step = text.rpartition("@")
    if mark and run:
        folder = refer(run, root).folder
        return Reference(folder=folder, checkpoint=_at_step(folder, step))
    return Reference(folder=_by_id(text, Path(root)))


def _at_step(folder: RunFolder, step: str) -> str:
    """The folder name of the newest checkpoint of a step."""
    stems = [path for path in folder.checkpoints.glob("step-*") if (path / "manifest.json").exists()]
    numbers = {path.name: path.name.split("-")[1].split(".") for path in stems if not path.name.endswith(".tmp")}
    if step.isdecimal():
        same = [(int(parts[1]) if len(parts) > 1 else 0, name) for name, parts in numbers.items()
                if parts[0].isdecimal() and int(parts[0]) == int(step)]  # fmt: skip
        if same:
            return max(same)[1]
    there = ", ".join(sorted({str(int(parts[0])) for parts in numbers.values() if parts[0].isdecimal()}, key=int))
    raise fail("E-CLI-005", f"{folder.id} has no checkpoint of step {quoted(step)}; it has {there or 'none'}"[:200])


def _by_id(text: str, root: Path) -> RunFolder:
    if text == "latest":
        found = latest(root, finished=False)
        if found is None:
            raise fail("E-CLI-005", f"no run under {quoted(str(root))}")
        return found
    runs = [entry.folder for entry in list_runs(root)]
    same = [run for run in runs if run.id == text] or [run for run in runs if text and run.id.startswith(text)]
    if len(same) == 1:
        return same[0]
    if same:
        names = ", ".join(run.id for run in same[:3])
        raise fail("E-CLI-005", f"{quoted(text)} begins {len(same)} run ids: {names}"[:200])
    raise fail("E-CLI-005", f"no run {quoted(text)} under {quoted(str(root))}", hint="llmtrain runs list shows them")
