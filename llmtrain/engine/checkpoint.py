"""Checkpointer: when ranks agree that a state is saved, and which saved state a run goes on from.

The bytes are written in `checkpoint_write`, cut and joined in `checkpoint_plan`, removed in `checkpoint_retention`;
this module holds what is collective. Every method that says so must be called by all ranks at the same boundary.
"""

import errno
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from llmtrain.dist import Ranks
from llmtrain.doors import safetensors
from llmtrain.engine import checkpoint_plan, checkpoint_retention, checkpoint_write
from llmtrain.engine.events import Committed
from llmtrain.errors import Failure, fail
from llmtrain.recipe.schema import CheckpointSection
from llmtrain.record import checkpoints, files, metrics
from llmtrain.record.checkpoints import Candidate
from llmtrain.record.folder import RunFolder

if TYPE_CHECKING:
    from torch import Tensor

WriterState = Literal["idle", "busy", "done", "failed"]
NOTHING, OK, FAILED = 0, 1, 2
"""What `Checkpointer.outcome` puts into the control word."""


class Resumable(Protocol):
    """What a run must show to be saved and resumed."""

    def tensors(self) -> Mapping[str, Mapping[str, "Tensor"]]:
        """{"weights": {canonical name: tensor}, "optimizer": {"<name>/exp_avg": tensor}}: live, loaded in place.

        Plain tensors are the same on every rank; DTensors hold their shard. Shapes are the unsharded ones.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Everything else, as strict JSON; equal on every rank."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        ...


@dataclass(frozen=True, kw_only=True)
class Restored:
    """The checkpoint that was loaded."""

    step: int
    seq: int
    path: Path
    state: dict[str, Any]
    identity: dict[str, Any]
    """What the Checkpointer was given as `identity` when it was saved, for comparison with the recipe."""
    metrics_length: int
    rejected: list[str]
    """Newer checkpoints that were passed over: `name: file: reason`."""


class Checkpointer:
    """Saves a run and finds its newest good state; one for each run folder, whose lock rank 0 holds."""

    def __init__(
        self, folder: RunFolder, ranks: Ranks, section: CheckpointSection, *, identity: Mapping[str, Any],
        aliases: Mapping[str, str], on_commit: Callable[[Committed], None], warn: Callable[[str], None],
        may_be_nonfinite: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        """Args:
        folder: the run's folder, visible to every rank.
        ranks: this process among its peers.
        section: the recipe's `checkpoint`.
        identity: JSON that tells what the run is: layout, hashes of recipe, data and tokenizer, versions, threads.
        aliases: second name -> first name of tied weights.
        on_commit: called on rank 0, in the main thread, once a checkpoint is durable.
        warn: takes one line; called on rank 0 only.
        may_be_nonfinite: names of weights that are not checked, such as mask buffers.
        """
        self._folder, self._ranks, self._section = folder, ranks, section
        self._identity, self._aliases = dict(identity), dict(aliases)
        self._on_commit = on_commit
        self._warn: Callable[[str], None] = warn if ranks.is_first else (lambda _: None)
        self._may_be_nonfinite = may_be_nonfinite
        self._job: checkpoint_write.SaveJob | None = None
        self._sequence: int | None = None
        self._parent: int | None = None
        self._verified: set[int] = set()
        self._best: list[int] = []
        self.last_committed: int | None = None
        """Step of the newest checkpoint that this process wrote or restored, as far as this rank knows."""

    def candidates(self) -> list[Candidate]:
        """Final checkpoint folders of this run, newest first, unverified."""
        return checkpoints.list_checkpoints(self._folder)

    # saving

    def save(
        self, source: Resumable, *, step: int, wait: bool, pin: bool = False, metrics_length: int,
        best: Mapping[str, Any] | None = None, progress: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        """Save the state after `step` steps. Collective, at a step boundary, with no accumulation under way.

        One that is still in flight is finished first. When this returns, the live tensors may change.

        Args:
            source: what is saved.
            step: applied and skipped steps so far.
            wait: return only when committed, and fail in any case when that cannot be: for stop and final saves.
            pin: retention never removes it; written synchronously.
            metrics_length: bytes of metrics.jsonl that belong to this state; they must be flushed.
            best: set when this is the best state so far, such as {"metric": "eval_loss", "value": 2.1}.
            progress: counters for the manifest, such as samples and target_tokens.

        Raises:
            Failure: E-CKPT-001 non-finite tensors; E-IO-001, E-CKPT-003 by `checkpoint.on_error`. On every rank.
        """
        self.settle()
        tensors = source.tensors()
        groups = {"weights": tensors["weights"]} if self._section.weights_only else tensors
        plan = checkpoint_plan.plan_save(groups, self._ranks, self._aliases, self._may_be_nonfinite)
        if plan.nonfinite:
            shown = f"step {step}: {len(plan.nonfinite)} tensors hold NaN or infinities: {', '.join(plan.nonfinite)}"
            raise fail("E-CKPT-001", self._with_safe_step(shown[:150]))
        made = self._make_folder(step, plan.size, must=wait)
        if made is None:
            return
        manifest = {"step": step, "tensors": plan.tensors, "pinned": pin, "best": dict(best) if best else None}
        manifest |= {"progress": dict(progress or {})}
        draft = self._draft(made, manifest, state=source.state(), metrics_length=metrics_length)
        synchronous = wait or pin or not self._section.async_
        pieces = plan.mine if synchronous else _copied(plan.mine)
        self._job = checkpoint_write.SaveJob(draft, pieces)
        if best:
            self.mark_best(step)
        if synchronous:
            self._finish(must=wait)

    def _make_folder(self, step: int, size: int, *, must: bool) -> tuple[int, Path] | None:
        """Steps 2 and 3 with their outcomes agreed; None when that failed and the run goes on."""
        answer: dict[str, Any] = {}
        if self._ranks.is_first:
            if self._sequence is None:
                self._sequence = checkpoints.highest_sequence(self._folder)
            self._sequence += 1
            try:
                made = checkpoint_write.make_folder(self._folder, step, self._sequence, size, self._empty_trash)
                answer = {"seq": self._sequence, "name": made.name}
            except OSError as error:
                answer = _as_json(error)
        answer = self._ranks.broadcast(answer)
        outcome: dict[str, Any] = answer if "text" in answer else {}
        if not outcome:
            try:
                checkpoint_write.await_folder(self._folder.checkpoints / answer["name"])
            except OSError as error:
                outcome = _as_json(error)
        if self._by_rule(self._ranks.gather(outcome), step, must=must):
            return None
        return answer["seq"], self._folder.checkpoints / answer["name"]

    def _draft(
        self, made: tuple[int, Path], about: dict[str, Any], *, state: dict[str, Any], metrics_length: int
    ) -> checkpoint_write.Draft:
        seq, temporary = made
        manifest = {
            "format": checkpoints.FORMAT, "run": self._folder.id, "seq": seq, "parent_seq": self._parent,
            "identity": self._identity, "tied": self._aliases, "weights_only": self._section.weights_only, **about,
        }  # fmt: skip
        return checkpoint_write.Draft(
            folder=self._folder, rank=self._ranks.rank, world=self._ranks.world, step=about["step"], seq=seq,
            temporary=temporary, manifest=manifest, state=state, metrics_length=metrics_length,
            sweep=self._empty_trash,
        )  # fmt: skip

    def _empty_trash(self) -> list[str]:
        if not self._ranks.is_first:
            return []
        return checkpoint_retention.empty_trash(self._folder, lambda _: None)

    def poll(self) -> WriterState:
        """What the writer does; reports a commit that has ended since (`on_commit`, retention). Not collective."""
        job = self._job
        if job is None or job.reported:
            return "idle"
        if job.error is not None:
            return "failed"
        if job.finished is not None:
            self._report(job)
            return "done"
        return "busy"

    def outcome(self) -> int:
        """This rank's word for the control word: NOTHING, OK (written, the commit needs agreement) or FAILED."""
        job = self._job
        if job is None:
            return NOTHING
        if job.error is not None:
            return FAILED
        return OK if self._ranks.world > 1 and job.written and not job.agreed and not job.reported else NOTHING

    def conclude(self, all_ok: bool) -> None:
        """Act on the control word, on every rank at the same boundary.

        Args:
            all_ok: True when every rank said OK: rank 0 commits, in its thread. False when one said FAILED: the save
                is given up on all ranks (collective). Not to be called otherwise.

        Raises:
            Failure: as `save`.
        """
        job = self._job
        if job is None:
            return
        if not all_ok:
            self._finish(must=False)
        elif self._ranks.is_first:
            job.commit()
        else:
            job.reported = True

    def settle(self) -> None:
        """Finish the save in flight, if any: write, agree, commit, prune. Collective. Raises Failure as `save`."""
        if self._job is not None:
            self._finish(must=False)

    def _finish(self, *, must: bool) -> None:
        job = self._job
        assert job is not None
        self._await(job)
        written = self._ranks.gather(_as_json(job.error))
        if not any(written) and self._ranks.is_first:
            job.commit()
        self._await(job)
        outcomes = [*written, self._ranks.broadcast(_as_json(job.error))]
        self._job = None
        if any(outcomes):
            job.discard()
            self._ranks.barrier()
            if self._ranks.is_first:
                job.remove_folder()
            _reraise_bug(job.error)
            self._by_rule(outcomes, job.draft.step, must=must)
        elif job.finished is not None and not job.reported:
            self._report(job)
        if not any(outcomes):
            self.last_committed = job.draft.step

    def _await(self, job: checkpoint_write.SaveJob) -> None:
        """Until every rank's thread has ended; no collective waits longer than a second for the disk."""
        while not all(self._ranks.gather(job.wait(1.0))):
            pass

    def _report(self, job: checkpoint_write.SaveJob) -> None:
        """On rank 0, once: tell, then prune."""
        finished = job.finished
        assert finished is not None
        job.reported = True
        if self._ranks.world == 1:
            self._job = None
        self._verified.add(finished.seq)
        self.last_committed = finished.step
        if not finished.durable:
            self._warn("the file system cannot make folder names durable: a power loss may undo the last checkpoint")
        seconds = time.monotonic() - job.started
        self._on_commit(Committed(step=finished.step, path=str(finished.path), seconds=seconds))
        self._prune()

    def _by_rule(self, outcomes: list[dict[str, Any]], step: int, *, must: bool) -> bool:
        """Whether some rank failed; raises by `checkpoint.on_error`, or always with `must`."""
        failed = [(rank % self._ranks.world, outcome) for rank, outcome in enumerate(outcomes) if outcome]
        if not failed:
            return False
        rank, cause = failed[0]
        who = f"rank {rank}: " if self._ranks.world > 1 else ""
        text = self._with_safe_step(f"step {step} not saved: {who}{cause['text']}"[:170])
        if must or self._section.on_error == "stop":
            raise fail("E-IO-001" if cause["errno"] in (errno.ENOSPC, errno.EDQUOT) else "E-CKPT-003", text)
        self._warn(text)
        return True

    def _with_safe_step(self, text: str) -> str:
        safe = f"step {self.last_committed} is safe" if self.last_committed is not None else "no step is safe yet"
        return f"{text}; {safe}"

    def abandon(self) -> None:
        """Give up the save in flight and remove its files, without asking other ranks: the second Ctrl-C."""
        if self._job is not None and self._job.finished is None:
            self._job.abandon()
            if self._ranks.is_first and self._job.finished is None:
                self._job.remove_folder()
        self._job = None

    # retention

    def mark_best(self, step: int) -> None:
        """From now on the checkpoint of this step is the best one, which retention keeps. Not collective."""
        self._best.append(step)
        if self._ranks.is_first:
            self._folder.event("checkpoint", "best", data={"step": step})

    def _prune(self) -> None:
        unwanted = checkpoint_retention.removable(
            self.candidates(), keep=self._section.keep, best=self._best, verified=self._verified,
            rejected=set(checkpoints.lines_of(self._folder, "rejected")),
        )  # fmt: skip
        checkpoint_retention.prune(self._folder, unwanted, self._warn)

    # resuming

    def restore(
        self, target: Resumable, *, only: str | None = None, verify: Literal["full", "sample"] = "full"
    ) -> Restored | None:
        """Load the newest checkpoint that verifies into `target`; None when the run never had one. Collective.

        Leftovers of killed processes are swept first. What is rejected is named in logs/resume.log and by `warn`.

        Args:
            target: its tensors are filled in place, then it takes back its state.
            only: folder name of the one checkpoint to use.
            verify: `full` hashes every byte; `sample` checks sizes, headers and 1 % of the blocks.

        Raises:
            Failure: E-CKPT-004 when there are or were checkpoints and none is usable, E-CKPT-005 when `only` is
                damaged, E-CKPT-002 when names, shapes or dtypes differ.
        """
        if self._ranks.is_first:
            for name in checkpoint_retention.sweep(self._folder, self._warn):
                self._folder.note_resume(f"removed {name}, left by an earlier process")
            files.repair_lines(self._folder.events)
        rejected: list[str] = []
        for name in self._names(only):
            candidate, reasons = self._verify(name, verify)
            if not reasons:
                assert candidate is not None and candidate.manifest is not None
                if candidate.manifest["weights_only"]:
                    raise fail("E-CKPT-004", f"{name} holds weights only and cannot be resumed")
                reasons = self._load(candidate, target)
            if not reasons and candidate is not None:
                return self._restored(candidate, target, rejected)
            rejected.append(f"{name}: {'; '.join(reasons)}")
            self._reject(name, candidate, reasons)
        return self._none_usable(rejected, only)

    def _names(self, only: str | None) -> list[str]:
        found = [candidate.path.name for candidate in self.candidates()] if self._ranks.is_first else []
        if only is not None:
            found = [name for name in found if name == only]
        return self._ranks.broadcast(found)

    def _verify(self, name: str, mode: Literal["full", "sample"]) -> tuple[Candidate | None, list[str]]:
        """Verify with the files shared among the ranks; every rank learns every reason."""
        candidate = next((item for item in self.candidates() if item.path.name == name), None)
        reasons = ["not visible on this rank"]
        unlisted: tuple[str, ...] = ()
        if candidate is not None:
            listed = sorted(candidate.manifest["files"]) if candidate.manifest else []
            verdict = checkpoints.verify(candidate, mode=mode, only=listed[self._ranks.rank :: self._ranks.world])
            reasons, unlisted = list(verdict.reasons), verdict.unlisted
            if mode == "sample" and not reasons:
                reasons = _bad_headers(candidate, listed[self._ranks.rank :: self._ranks.world])
        found = sorted({reason for part in self._ranks.gather(reasons) for reason in part})
        if unlisted and not found:
            self._warn(f"{name}: files that the manifest does not list are not opened: {', '.join(unlisted)}"[:200])
        return candidate, found

    def _load(self, candidate: Candidate, target: Resumable) -> list[str]:
        """Fill the target's tensors; what made that impossible on some rank."""
        manifest = candidate.manifest
        assert manifest is not None
        groups = target.tensors()
        checkpoint_plan.check_names(groups, manifest, self._aliases, candidate.path.name)
        reasons = []
        try:
            checkpoint_plan.load(candidate.path, manifest, groups, self._aliases)
        except (OSError, safetensors.DamagedFile) as error:
            reasons = [str(error)]
        return sorted({reason for part in self._ranks.gather(reasons) for reason in part})

    def _restored(self, candidate: Candidate, target: Resumable, rejected: list[str]) -> Restored:
        manifest = candidate.manifest
        assert manifest is not None
        saved = files.read_json(candidate.path / "state.json")
        target.load_state(saved["state"])
        self._parent, self.last_committed = candidate.seq, candidate.step
        self._verified.add(candidate.seq)
        self._best = self._remembered_best(candidate.step)
        if self._ranks.is_first:
            if candidate.committed is None:
                checkpoint_write.announce(self._folder, candidate.path, late=True)
            self._folder.note_resume(f"resumed from {candidate.path.name}, sequence number {candidate.seq}")
        for line in rejected:
            self._warn(f"{line}; using step {candidate.step} instead")
        return Restored(
            step=candidate.step, seq=candidate.seq, path=candidate.path, state=saved["state"],
            identity=dict(manifest["identity"]), metrics_length=saved["metrics_length"], rejected=rejected,
        )  # fmt: skip

    def _remembered_best(self, step: int) -> list[int]:
        """The steps marked as best, up to the restored one."""
        marks = [
            line["data"]["step"]
            for line in files.read_lines(self._folder.events)
            if line.get("action") == "checkpoint" and line.get("description") == "best"
        ]
        return [mark for mark in marks if mark <= step]

    def _reject(self, name: str, candidate: Candidate | None, reasons: list[str]) -> None:
        if self._ranks.is_first:
            self._folder.note_resume(f"rejected {name}: {'; '.join(reasons)}")
            seq = candidate.seq if candidate else -1
            self._folder.event("checkpoint", "rejected", data={"name": name, "seq": seq, "reasons": reasons}, sync=True)

    def _none_usable(self, rejected: list[str], only: str | None) -> None:
        where = self._folder.path.name
        if only is not None:
            raise fail("E-CKPT-005", f"{where}: {(rejected or [f'{only} is not there'])[0]}"[:200])
        announced = self._ranks.broadcast(len(checkpoints.lines_of(self._folder, "committed")))
        if rejected or announced:
            text = f"{where}: {len(rejected) or announced} checkpoints, none verifies (logs/resume.log says why); "
            hint = None if not rejected else rejected[0][:200]
            raise fail("E-CKPT-004", f"{text}not starting from scratch", hint=hint)

    def rewind(self, restored: Restored) -> None:
        """Once the resume is accepted: cut metrics.jsonl to what the checkpoint remembers, log the event. On rank 0."""
        if self._ranks.is_first:
            dropped = self._folder.logs / f"metrics-dropped-{restored.seq}.jsonl"
            moved = metrics.cut(self._folder.metrics, restored.metrics_length, dropped)
            data = {"step": restored.step, "seq": restored.seq, "metrics_moved": moved}
            self._folder.event("checkpoint", "resumed", data=data)


def _copied(pieces: Mapping[str, Mapping[str, "Tensor"]]) -> dict[str, dict[str, "Tensor"]]:
    """Real copies in host memory: `.cpu()` alone would alias what the next step changes."""
    return {
        group: {
            key: tensor.clone() if tensor.device.type == "cpu" else tensor.to("cpu") for key, tensor in tensors.items()
        }
        for group, tensors in pieces.items()
    }


def _bad_headers(candidate: Candidate, names: list[str]) -> list[str]:
    reasons: list[str] = []
    for name in names:
        if name.endswith(".safetensors"):
            try:
                safetensors.Reader(candidate.path / name).close()
            except (OSError, safetensors.DamagedFile) as error:
                reasons.append(f"{name}: {error}")
    return reasons


def _as_json(error: BaseException | None) -> dict[str, Any]:
    """An outcome for the other ranks; empty when all is well."""
    if error is None:
        return {}
    if isinstance(error, OSError):
        place = f"{Path(str(error.filename)).name}: " if error.filename else ""
        return {"errno": error.errno, "text": f"{place}{error.strerror or error}"}
    return {"errno": None, "text": f"{type(error).__name__}: {error}"}


def _reraise_bug(error: BaseException | None) -> None:
    """What is no trouble with the disk is a bug of ours and keeps its traceback."""
    if error is not None and not isinstance(error, OSError | Failure):
        raise error
