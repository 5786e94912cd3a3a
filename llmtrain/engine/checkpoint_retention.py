"""Which checkpoints stay, and removing the others without ever leaving half of one; separate so that the rule can be
tested without a training run.
"""

import os
import secrets
import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from llmtrain.record import checkpoints, files
from llmtrain.record.checkpoints import Candidate
from llmtrain.record.folder import RunFolder


def removable(
    candidates: Sequence[Candidate], *, keep: int | None, best: Sequence[int], verified: Collection[int],
    rejected: Collection[tuple[str, int]],
) -> list[Candidate]:  # fmt: skip
    """The checkpoints that retention lets go, oldest first.

    Kept: the newest `keep` that this process has verified or written, the best, pinned ones, and whatever is newer
    than the last of those. Rejected and unreadable ones are evidence: neither counted nor removed.

    Args:
        candidates: newest first.
        keep: None keeps all.
        best: steps that were the best, the latest last: the last that has a checkpoint counts, and of it the newest.
        verified: sequence numbers known to be good.
        rejected: (folder name, sequence number) of damaged ones.
    """
    if keep is None:
        return []
    good = [item for item in candidates if item.manifest is not None and (item.path.name, item.seq) not in rejected]
    counted = [item for item in good if item.seq in verified]
    if len(counted) < keep:
        return []
    oldest_kept = counted[keep - 1].seq
    best_one = next((item for step in reversed(best) for item in good if item.step == step), None)
    return [item for item in reversed(good) if item.seq < oldest_kept and not item.pinned and item is not best_one]


def prune(folder: RunFolder, unwanted: Sequence[Candidate], warn: Callable[[str], None]) -> list[str]:
    """Remove checkpoints: rename away, make that durable, then delete. The names removed.

    One that somebody reads is left for the next time, a failed delete is a warning and tried again then.
    """
    removed: list[str] = []
    for candidate in unwanted:
        with checkpoints.unread(candidate.path) as free:
            if not free:
                continue
            name = candidate.path.name
            try:
                data = {"name": name, "seq": candidate.seq, "step": candidate.step}
                folder.event("checkpoint", "pruned", data=data, sync=True)
                trash = folder.checkpoints / f".trash-{candidate.seq:04d}-{secrets.token_hex(3)}"
                os.rename(candidate.path, trash)
                files.sync_folder(folder.checkpoints)
            except OSError as error:
                warn(f"{name} could not be removed: {error.strerror}")
                continue
            removed.append(name)
    empty_trash(folder, warn)
    return removed


def empty_trash(folder: RunFolder, warn: Callable[[str], None]) -> list[str]:
    """Delete what was renamed away; the names deleted."""
    return _delete([path for path in _children(folder) if path.name.startswith(".trash-")], warn)


def sweep(folder: RunFolder, warn: Callable[[str], None]) -> list[str]:
    """Delete what killed processes left, trash and unfinished saves; needs the run's lock. The names deleted."""
    leftovers = [path for path in _children(folder) if path.name.startswith(".trash-") or path.name.endswith(".tmp")]
    return _delete(leftovers, warn) + folder.sweep()


def _children(folder: RunFolder) -> list[Path]:
    return sorted(folder.checkpoints.iterdir()) if folder.checkpoints.is_dir() else []


def _delete(paths: Sequence[Path], warn: Callable[[str], None]) -> list[str]:
    deleted: list[str] = []
    for path in paths:
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                files.remove_file(path)
        except OSError as error:
            warn(f"{path.name} could not be removed: {error.strerror}")
            continue
        deleted.append(path.name)
    return deleted
