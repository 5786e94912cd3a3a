"""Who failed first, from records and exit statuses alone."""

import signal
from dataclasses import asdict
from pathlib import Path

import pytest

from llmtrain.errors import Failure, fail
from llmtrain.launch.local import Supervisor, _Sent, judge
from llmtrain.launch.rank import ExitRecord, read_record, record_exit


def record(rank: int, code: int, *, kind: str = "own", time: float = 0.0, id: str | None = None) -> ExitRecord:
    problems = [asdict(fail(id, "what happened").problems[0])] if id else []
    return ExitRecord(rank=rank, code=code, kind=kind, time=time, problems=problems)


def judged(
    ends: dict[int, int], records: list[ExitRecord], *, signals: tuple[int, ...] = (), killed: tuple[int, ...] = ()
) -> int | str:
    supervisor = Supervisor(Path(), 4, 30)
    supervisor.signals.extend(_Sent(number, set()) for number in signals)
    supervisor.killed.update(killed)
    try:
        return judge(ends, {item.rank: item for item in records}, supervisor)
    except Failure as failure:
        return f"{int(failure.exit_code)} {failure.problems[0].message}"


def test_the_earliest_own_failure_counts() -> None:
    records = [
        record(0, 69, kind="peer", time=1.0),
        record(1, 74, time=3.0, id="E-IO-001"),
        record(2, 3, time=2.0, id="E-RUN-001"),
    ]
    assert judged({0: 69, 1: 74, 2: 3}, records) == "3 rank 2: what happened"


def test_what_rank_0_said_itself_is_not_repeated() -> None:
    both = [record(0, 3, time=2.0, id="E-RUN-001"), record(1, 3, time=1.0, id="E-RUN-001")]
    assert judged({1: 3, 0: 3}, both) == 3
    assert judged({0: 2}, [record(0, 2, id="E-RECIPE-001")]) == 2


def test_a_death_by_signal_comes_before_the_crash_it_caused() -> None:
    crash = record(0, 1, time=1.0, id="E-RUN-005")
    assert judged({0: 1, 1: -signal.SIGSEGV}, [crash]) == "69 rank 1 was killed by signal 11; all ranks stopped"


def test_a_told_failure_comes_before_the_abort_it_caused() -> None:
    told = record(1, 3, time=1.0, id="E-RUN-001")
    assert judged({1: 3, 0: -signal.SIGABRT}, [told]) == "3 rank 1: what happened"


def test_ranks_ended_by_the_launcher_are_no_cause() -> None:
    own = record(1, 1, time=1.0, id="E-RUN-005")
    assert judged({1: 1, 0: -signal.SIGTERM}, [own]) == "1 rank 1: what happened"
    assert judged({1: 1, 0: -signal.SIGKILL}, [own], killed=(0,)) == "1 rank 1: what happened"


def test_a_bare_code_is_a_lost_peer() -> None:
    assert str(judged({1: 7}, [])).startswith("69 rank 1 ended with code 7 without a word")


@pytest.mark.parametrize(
    ("records", "ends", "signals", "code"),
    [
        ([record(0, 75), record(1, 75)], {0: 75, 1: 75}, (signal.SIGTERM,), 75),
        ([record(0, 75), record(1, 0)], {0: 75}, (), 75),
        ([record(0, 75), record(1, 130)], {0: 75, 1: 130}, (signal.SIGINT, signal.SIGINT), 130),
        ([], {0: -signal.SIGINT, 1: -signal.SIGINT}, (signal.SIGINT,), 130),
        ([], {0: -signal.SIGTERM, 1: -signal.SIGTERM}, (signal.SIGTERM,), 143),
        ([], {0: -signal.SIGUSR1, 1: -signal.SIGTERM}, (signal.SIGUSR1,), 143),
    ],
)
def test_ends_by_signal(records: list[ExitRecord], ends: dict[int, int], signals: tuple[int, ...], code: int) -> None:
    assert judged(ends, records, signals=signals) == code


def test_only_peers_left_is_said() -> None:
    assert str(judged({0: 69, 1: 69}, [record(0, 69, kind="peer"), record(1, 69, kind="peer")])).startswith(
        "69 a rank was lost"
    )


def test_records_survive_the_way_through_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMTRAIN_RANK_RECORDS", str(tmp_path))
    monkeypatch.setenv("RANK", "3")
    problems = fail("E-DATA-001", "not valid JSON", file="a.jsonl", line=4, hint="look").problems
    record_exit(2, problems=problems)
    found = read_record(tmp_path / "rank_3.exit.json")
    assert found is not None
    assert (found.rank, found.code, found.kind) == (3, 2, "own")
    assert [item["place"]["line"] for item in found.problems] == [4]
    assert read_record(tmp_path / "rank_4.exit.json") is None


def test_without_a_launcher_nothing_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLMTRAIN_RANK_RECORDS", raising=False)
    monkeypatch.chdir(tmp_path)
    record_exit(3)
    assert list(tmp_path.iterdir()) == []
