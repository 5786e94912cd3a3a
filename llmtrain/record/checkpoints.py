"""Checkpoints as files: names, manifests, listing and verification; separate from engine/ because it needs no torch."""

import fcntl
import hashlib
import os
import random
import re
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llmtrain.record import files
from llmtrain.record.folder import RunFolder

FORMAT = 1
"""Version of the manifest; others are refused."""
_FINAL = re.compile(r"^step-(\d{8,})(?:\.(\d+))?$")
_TEMPORARY = re.compile(r"^step-(\d{8,})\.(\d+)-[0-9a-f]+\.tmp$")
_BARE = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")
_HASH = re.compile(r"^[0-9a-f]{64}$")


class Damaged(Exception):  # noqa: N818 - the message is what the user reads
    """A checkpoint that cannot be used; the message names the file and the reason."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A final checkpoint folder; `manifest` is None where it cannot be read, and `reason` says why."""

    path: Path
    step: int
    seq: int
    manifest: Mapping[str, Any] | None = None
    committed: Mapping[str, Any] | None = None
    """`data` of its line in events.jsonl."""
    reason: str = ""

    @property
    def pinned(self) -> bool:
        return bool(self.manifest and self.manifest["pinned"])


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What verification found about one checkpoint: good when there is no reason against it."""

    candidate: Candidate
    reasons: tuple[str, ...]
    unlisted: tuple[str, ...] = ()
    """Files that the manifest does not know: never opened, not a reason."""

    @property
    def good(self) -> bool:
        return not self.reasons


def final_name(step: int, seq: int, *, taken: bool) -> str:
    """Folder name of a committed checkpoint; the sequence number is added where the plain name is taken."""
    return f"step-{step:08d}.{seq}" if taken else f"step-{step:08d}"


def temporary_name(step: int, seq: int, token: str) -> str:
    """Folder name of a checkpoint that is being written."""
    return f"step-{step:08d}.{seq:04d}-{token}.tmp"


def seal(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with its own hash over the canonical rest."""
    rest = {key: value for key, value in manifest.items() if key != "self_sha256"}
    return {**rest, "self_sha256": hashlib.sha256(files.canonical(rest)).hexdigest()}


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint folder, its shape and its own hash checked.

    Raises:
        Damaged: unreadable, malformed, of another format version, or not what was written.
    """
    try:
        data = files.read_regular(path / "manifest.json")
        value = files.as_map(files.parse_json(data))
    except OSError as error:
        raise Damaged(f"manifest.json: {error.strerror}") from error
    except files.BadJson as error:
        raise Damaged(f"manifest.json: {error}") from error
    if value.get("format") != FORMAT:
        raise Damaged(f"manifest.json: format {str(value.get('format'))[:40]}, this version reads {FORMAT}")
    try:
        same = seal(value)["self_sha256"] == value.get("self_sha256") and files.canonical(value) == data
    except ValueError as error:
        raise Damaged(f"manifest.json: {error}"[:120]) from error
    if not same:
        raise Damaged("manifest.json: its own SHA-256 differs")
    for key, kind in (("seq", int), ("step", int), ("run", str), ("files", dict), ("tensors", dict), ("pinned", bool)):
        if not isinstance(value.get(key), kind):
            raise Damaged(f"manifest.json: {key} is missing or malformed")
    for name, entry in value["files"].items():
        _check_entry(name, entry)
    return value


def _check_entry(name: str, entry: Any) -> None:  # noqa: ANN401 - untrusted JSON
    if not _BARE.match(name):
        raise Damaged(f"manifest.json: file {name[:60]!r} is not a bare name")
    known = files.as_map(entry)
    if not isinstance(known.get("size"), int) or not isinstance(known.get("blocks"), list):
        raise Damaged(f"manifest.json: entry of {name} is malformed")
    if not isinstance(known.get("sha256"), str) or not _HASH.match(known["sha256"]):
        raise Damaged(f"manifest.json: hash of {name} is malformed")


def lines_of(folder: RunFolder, description: str) -> dict[tuple[str, int], dict[str, Any]]:
    """`data` of the events `committed`, `rejected` or `pruned`, by folder name and sequence number.

    The number belongs to the key: a name comes back when a step is saved again after a fallback.
    """
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for line in files.read_lines(folder.events):
        data = files.as_map(line.get("data"))
        if line.get("action") != "checkpoint" or line.get("description") != description:
            continue
        if isinstance(data.get("name"), str) and isinstance(data.get("seq"), int):
            found[data["name"], data["seq"]] = data
    return found


def list_checkpoints(folder: RunFolder) -> list[Candidate]:
    """Final folders of this run, newest sequence number first; unreadable manifests without a line come first of all.

    Folders of another run are left out.
    """
    lines = lines_of(folder, "committed")
    found: list[Candidate] = []
    for name in sorted(os.listdir(folder.checkpoints)) if folder.checkpoints.is_dir() else ():
        match = _FINAL.match(name)
        if match:
            candidate = _candidate(folder, name, int(match[1]), lines)
            if candidate is not None:
                found.append(candidate)
    return sorted(found, key=lambda item: (item.seq < 0, item.seq, item.step), reverse=True)


def _candidate(
    folder: RunFolder, name: str, step: int, lines: Mapping[tuple[str, int], Mapping[str, Any]]
) -> Candidate | None:
    path = folder.checkpoints / name
    try:
        if path.is_symlink() or not path.is_dir():
            raise Damaged("not a folder")
        manifest = read_manifest(path)
        if manifest["step"] != step:
            raise Damaged(f"manifest.json: belongs to step {manifest['step']}")
    except Damaged as error:
        announced = max((seq for known, seq in lines if known == name), default=-1)
        line = lines.get((name, announced))
        return Candidate(path=path, step=step, seq=announced, committed=line, reason=str(error))
    if manifest["run"] != folder.id:
        return None
    seq = manifest["seq"]
    return Candidate(path=path, step=manifest["step"], seq=seq, manifest=manifest, committed=lines.get((name, seq)))


def highest_sequence(folder: RunFolder) -> int:
    """The highest sequence number ever given out here: manifests, temporary names and events."""
    numbers = [0, *(candidate.seq for candidate in list_checkpoints(folder))]
    numbers += [seq for _, seq in lines_of(folder, "committed")]
    for name in os.listdir(folder.checkpoints) if folder.checkpoints.is_dir() else ():
        match = _TEMPORARY.match(name) or _FINAL.match(name)
        if match and match[2]:
            numbers.append(int(match[2]))
    return max(numbers)


def verify(
    candidate: Candidate, *, mode: Literal["full", "sample"] = "full", only: Iterable[str] | None = None
) -> Verdict:
    """Compare a checkpoint with its manifest.

    Args:
        candidate: from `list_checkpoints`.
        mode: `full` hashes every byte; `sample` checks sizes and 1 % of the blocks.
        only: names of the files to open, for ranks that share the work; the folder itself is always looked at.
    """
    if candidate.manifest is None:
        return Verdict(candidate=candidate, reasons=(candidate.reason,))
    reasons: list[str] = []
    announced = (candidate.committed or {}).get("manifest_sha256", candidate.manifest["self_sha256"])
    if announced != candidate.manifest["self_sha256"]:
        reasons.append("manifest.json: not the one that events.jsonl committed")
    listed = candidate.manifest["files"]
    for name in sorted(listed if only is None else set(only)):
        reason = _check_file(candidate.path / name, listed[name], mode)
        if reason:
            reasons.append(f"{name}: {reason}")
    present = set(os.listdir(candidate.path)) - {"manifest.json"}
    return Verdict(candidate=candidate, reasons=tuple(reasons), unlisted=tuple(sorted(present - set(listed))))


def _check_file(path: Path, entry: Mapping[str, Any], mode: str) -> str:
    """What is wrong with one file; empty when nothing is."""
    try:
        size = os.stat(path, follow_symlinks=False).st_size
        os.close(files.open_regular(path))
        if size != entry["size"]:
            return f"{size} bytes, the manifest has {entry['size']}"
        if mode == "full":
            return "" if files.hash_file(path).sha256 == entry["sha256"] else "SHA-256 differs from the manifest"
        blocks = entry["blocks"]
        chosen = random.Random(entry["sha256"]).sample(range(len(blocks)), -(-len(blocks) // 100))
        wrong = [number for number in chosen if files.block_sum(path, number) != blocks[number]]
        return f"block {wrong[0]} differs from the manifest" if wrong else ""
    except OSError as error:
        return error.strerror or str(error)


def verify_run(folder: RunFolder, *, mode: Literal["full", "sample"] = "full") -> list[Verdict]:
    """A verdict for every checkpoint of a run, newest first, then one for each committed checkpoint that is gone though
    retention did not remove it.
    """
    present = list_checkpoints(folder)
    verdicts = [verify(candidate, mode=mode) for candidate in present]
    known = {candidate.path.name for candidate in present}
    removed = lines_of(folder, "pruned")
    for (name, seq), line in sorted(lines_of(folder, "committed").items(), key=lambda item: -item[0][1]):
        if name not in known and (name, seq) not in removed:
            path = folder.checkpoints / name
            gone = Candidate(path=path, step=int(line.get("step", 0)), seq=seq, committed=line, reason="folder is gone")
            verdicts.append(verify(gone))
    return verdicts


@contextmanager
def reading(path: Path) -> Generator[None]:
    """Hold a checkpoint against retention while it is read, by a shared lock on its manifest.

    Raises:
        OSError: it cannot be opened, or was removed in between.
    """
    descriptor = files.open_regular(path / "manifest.json")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        os.stat(path / "manifest.json", follow_symlinks=False)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def unread(path: Path) -> Generator[bool]:
    """Whether nobody reads a checkpoint now; readers that come wait until the block ends."""
    try:
        descriptor = files.open_regular(path / "manifest.json")
    except OSError:
        yield True
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        yield free
    finally:
        os.close(descriptor)
