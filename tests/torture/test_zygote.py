"""The tool that forks runs: codes, output, environment, signals."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.torture.zygote import Zygote


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote(entry="tests.torture.echo:main", modules=()) as made:
        yield made


def test_a_run_has_its_own_output_folder_and_environment(zygote: Zygote, tmp_path: Path) -> None:
    run = zygote.run(["echo", "a b", "é"], scratch=tmp_path, env={"SPECIAL": "yes", "HOME": None})
    assert run.wait() == 7
    assert run.stdout.read_text() == f"a b é {tmp_path} yes None\n" and run.stderr.read_text() == "heard\n"


def test_an_exception_is_exit_code_1_with_its_traceback(zygote: Zygote, tmp_path: Path) -> None:
    run = zygote.run(["crash"], scratch=tmp_path)
    assert run.wait() == 1 and "ValueError: boom" in run.stderr.read_text()
    assert zygote.run(["read"], scratch=tmp_path).wait() == 0


def test_runs_at_once_are_told_apart_and_killed(zygote: Zygote, tmp_path: Path) -> None:
    sleeper, echo = zygote.run(["sleep"], scratch=tmp_path), zygote.run(["echo"], scratch=tmp_path)
    assert echo.wait() == 7 and sleeper.running()
    sleeper.kill()
    assert sleeper.wait() == -signal.SIGKILL and not sleeper.running()
    sleeper.kill()


def test_a_run_that_takes_too_long_is_killed(zygote: Zygote, tmp_path: Path) -> None:
    run = zygote.run(["sleep"], scratch=tmp_path)
    with pytest.raises(TimeoutError):
        run.wait(0.2)
    assert not run.running()
