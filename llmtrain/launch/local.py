"""Several ranks on this machine, through torch elastic in this process.

Elastic starts the ranks, gives them their environment and notices the first that ends. What it cannot do stands here:
pass signals on with a grace time instead of ending at the first, tell the first cause from its consequences, and
end within seconds when a rank is stuck.
"""

import contextlib
import logging
import os
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from llmtrain.errors import Exit, Failure, Problem, fail
from llmtrain.launch.rank import (
    PARENT,
    RECORDS,
    ExitRecord,
    read_record,
    record_failure,
)
from llmtrain.lazy import Lazy

launcher = Lazy("torch.distributed.launcher.api")
multiprocessing = Lazy("torch.distributed.elastic.multiprocessing")
errors = Lazy("torch.distributed.elastic.multiprocessing.errors")

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
AFTER_FAILURE_SECONDS = 5.0
"""What the other ranks get to leave after the first failure."""
POLL_SECONDS = 0.05
QUIET_ENDS = (Exit.OK, Exit.STOPPED, Exit.INTERRUPTED, Exit.TERMINATED)


def launch(
    words: Sequence[str], *, nproc: int, timeout: int, grace: int, program: Sequence[str] = ("-m", "llmtrain")
) -> int:
    """Run `python -m llmtrain WORDS` on `nproc` local ranks and return the job's exit code.

    Args:
        words: the command line of each rank, unchanged.
        nproc: number of ranks.
        timeout: seconds ranks may take to find each other.
        grace: seconds ranks get to save and leave after a signal.
        program: what the interpreter runs.

    Raises:
        Failure: the first cause when no rank has printed it, with E-PEER-001 for a rank that died without a word.
    """
    with tempfile.TemporaryDirectory(prefix="llmtrain-ranks-") as name, _environment(name, nproc):
        records = Path(name)
        supervisor = Supervisor(records, nproc, grace)
        config = launcher.LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=nproc, run_id=uuid.uuid4().hex, rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0", rdzv_configs={"timeout": timeout}, max_restarts=0, monitor_interval=0.1,
            local_addr="127.0.0.1", signals_to_handle="SIGQUIT", shutdown_timeout=grace,
            logs_specs=multiprocessing.DefaultLogsSpecs(
                log_dir=str(records / "output"),
                redirects=dict.fromkeys(range(1, nproc), multiprocessing.Std.ALL) or multiprocessing.Std.NONE,
            ),
        )  # fmt: skip
        with supervisor:
            try:
                launcher.elastic_launch(config, sys.executable)(*program, *words)
                return int(Exit.OK)
            except errors.ChildFailedError as error:
                ends = {rank: failure.exitcode for rank, failure in error.failures.items()}
            except multiprocessing.SignalException:
                return int(Exit.TERMINATED)
        return judge(ends, _records(records, nproc), supervisor)


def judge(ends: Mapping[int, int], records: Mapping[int, ExitRecord], supervisor: "Supervisor") -> int:
    """The job's exit code from its ranks' ends.

    Args:
        ends: exit status of each rank that did not end with 0, in the order they were noticed; -N is signal N.
        records: what ranks wrote before they ended.
        supervisor: knows which signals came and which ranks it ended itself.

    Raises:
        Failure: the first cause, when no rank has printed it.
    """
    own = sorted(
        (record for record in records.values() if record.kind == "own" and record.code not in QUIET_ENDS),
        key=lambda record: record.time,
    )
    told = [record for record in own if record.code != Exit.BUG]
    # a crash may be what a dying peer looks like from inside, so a death by signal counts before it
    silent = None if told else _silent_death(ends, records, supervisor)
    if silent is not None:
        raise fail(
            "E-PEER-001", _death_text(silent, ends[silent]), hint="`llmtrain runs show latest` says where it stood"
        )
    if own:
        cause = (told or own)[0]
        first = records.get(0)
        if cause.rank == 0 or (first is not None and first.kind == "own" and _ids(first) == _ids(cause)):
            return cause.code
        raise _of_rank(cause)
    return _quiet_code(ends, records, supervisor)


@dataclass(frozen=True)
class _Sent:
    number: int
    told: set[int]


class Supervisor:
    """A thread that passes signals on to ranks and ends those that outlive the grace time.

    Handlers only note a signal; the thread delivers it to every rank, also to one that registers later.
    """

    def __init__(self, records: Path, nproc: int, grace: float) -> None:
        self.records, self.nproc, self.grace = records, nproc, grace
        self.signals: deque[_Sent] = deque()
        self.killed: set[int] = set()
        """Ranks ended by this supervisor."""
        self._deadline: float | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="llmtrain-supervisor", daemon=True)
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "Supervisor":
        for number in FORWARDED:
            self._previous[number] = signal.signal(number, self._note)
        # the job outlives its terminal; ranks inherit this
        self._previous[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.signals.append(_Sent(number, set()))

    def _watch(self) -> None:
        while not self._done.wait(POLL_SECONDS):
            living = {rank: pid for rank, pid in self._pids().items() if not process_ended(pid)}
            for sent in list(self.signals):
                self._deliver(sent, living)
            if self.signals:
                self._end_by(time.monotonic() + self.grace)
            if self._someone_failed():
                self._end_by(time.monotonic() + AFTER_FAILURE_SECONDS)
            if self._deadline is not None and time.monotonic() > self._deadline:
                self._kill(living)

    def _end_by(self, moment: float) -> None:
        self._deadline = moment if self._deadline is None else min(self._deadline, moment)

    def _deliver(self, sent: _Sent, living: Mapping[int, int]) -> None:
        for rank, pid in living.items():
            if rank not in sent.told:
                sent.told.add(rank)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, sent.number)

    def _kill(self, living: Mapping[int, int]) -> None:
        for rank, pid in living.items():
            self.killed.add(rank)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    def _pids(self) -> dict[int, int]:
        return {
            rank: int(path.read_text())
            for rank in range(self.nproc)
            if (path := self.records / f"rank_{rank}.pid").exists()
        }

    def _someone_failed(self) -> bool:
        for rank, pid in self._pids().items():
            record = read_record(self.records / f"rank_{rank}.exit.json")
            if record is not None and record.code not in QUIET_ENDS:
                return True
            if record is None and process_ended(pid) and not self.signals:
                return True
        return False


def process_ended(pid: int) -> bool:
    """Whether a process is gone, or dead and not yet waited for; where there is no /proc, only whether it is gone."""
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat").read_text()
    except ProcessLookupError:
        return True
    except FileNotFoundError:
        return sys.platform == "linux"
    return stat.rpartition(")")[2].split()[0] in ("Z", "X")


def _silent_death(ends: Mapping[int, int], records: Mapping[int, ExitRecord], supervisor: Supervisor) -> int | None:
    """The first rank that died without a record and was not told to."""
    asked = {sent.number for sent in supervisor.signals}
    for position, (rank, status) in enumerate(ends.items()):
        ended_by_us = rank in supervisor.killed or -status in asked or (position > 0 and status == -signal.SIGTERM)
        if rank not in records and not ended_by_us:
            return rank
    return None


def _death_text(rank: int, status: int) -> str:
    if status >= 0:
        return f"rank {rank} ended with code {status} without a word; all ranks stopped"
    likely = " (often the out-of-memory killer)" if -status == signal.SIGKILL else ""
    return f"rank {rank} was killed by signal {-status}{likely}; all ranks stopped"


def _of_rank(record: ExitRecord) -> Failure:
    if not record.problems:
        return fail("E-PEER-001", f"rank {record.rank} ended with code {record.code}; all ranks stopped")
    problems = record_failure(record).problems
    return Failure(*[
        Problem(
            id=item.id, message=f"rank {record.rank}: {item.message}", place=item.place, key=item.key, hint=item.hint
        )
        for item in problems
    ])  # fmt: skip


def _quiet_code(ends: Mapping[int, int], records: Mapping[int, ExitRecord], supervisor: Supervisor) -> int:
    codes = {record.code for record in records.values()}
    for code in (Exit.INTERRUPTED, Exit.TERMINATED):
        if code in codes:
            return int(code)
    asked = [sent.number for sent in supervisor.signals]
    if asked and (supervisor.killed or any(rank not in records for rank in ends)):
        return int(Exit.INTERRUPTED if asked[0] == signal.SIGINT else Exit.TERMINATED)
    if int(Exit.STOPPED) in codes:
        return int(Exit.STOPPED)
    raise fail("E-PEER-001", "a rank was lost, and no rank knows why; all ranks stopped", hint="see the run's logs/")


def _records(folder: Path, nproc: int) -> dict[int, ExitRecord]:
    found = {rank: read_record(folder / f"rank_{rank}.exit.json") for rank in range(nproc)}
    return {rank: record for rank, record in found.items() if record is not None}


def _ids(record: ExitRecord) -> list[str]:
    return [item["id"] for item in record.problems]


@contextlib.contextmanager
def _environment(records: str, nproc: int) -> Iterator[None]:
    """The environment that ranks inherit, and elastic's own log lines silenced: there is one line from the launcher."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    added = {PARENT: str(os.getpid()), RECORDS: records}
    if "OMP_NUM_THREADS" not in os.environ:
        added["OMP_NUM_THREADS"] = str(max(1, cores // nproc))
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    os.environ.update(added)
    try:
        yield
    finally:
        logging.disable(before)
        for name in added:
            del os.environ[name]
