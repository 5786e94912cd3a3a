"""Findings about machines that are not this one."""

import re
import tomllib
from pathlib import Path

import pytest

from llmtrain import doctor


def test_this_machine_has_a_finding_for_everything() -> None:
    findings = doctor.examine()
    assert {"python", "platform", "torch", "processor", "memory", "disk", "cache", "devices", "compiler"} <= {
        item.name for item in findings
    }
    assert all(item.mend for item in findings if item.state == "fail")


def test_a_failed_line_has_its_mend_under_it() -> None:
    found = [
        doctor.Finding(name="a", state="ok", text="fine", mend="x"),
        doctor.Finding(name="bb", state="fail", text="no", mend="do"),
    ]
    assert doctor.table(found) == "ok    a   fine\nfail  bb  no\n          mend: do\n"


@pytest.mark.parametrize(
    ("installed", "state"), [("2.12.9", "fail"), ("2.13.0+cpu", "ok"), ("3.0", "ok"), ("2.13.0.dev1", "ok")]
)
def test_versions_against_floors(monkeypatch: pytest.MonkeyPatch, installed: str, state: str) -> None:
    monkeypatch.setattr(doctor.importlib.metadata, "version", lambda _: installed)
    found = next(item for item in doctor.packages() if item.name == "torch")
    assert found.state == state


def test_floors_are_those_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]
    parts = [re.match(r"([\w-]+)>=([\d.]+)", item) for item in project["dependencies"]]
    assert {part[1]: part[2] for part in parts if part} == doctor.FLOORS
    extras = project["optional-dependencies"]
    assert all(any(item.startswith(name) for item in extras[extra]) for name, (extra, _) in doctor.OPTIONAL.items())


def test_a_missing_package_fails_unless_it_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise doctor.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.importlib.metadata, "version", absent)
    states = {item.name: item.state for item in doctor.packages()}
    assert states["torch"] == "fail"
    assert states["gguf"] == "note"


@pytest.mark.parametrize(
    ("system", "state"), [("Linux", "ok"), ("Darwin", "note"), ("Windows", "fail"), ("Plan9", "warn")]
)
def test_platforms(monkeypatch: pytest.MonkeyPatch, system: str, state: str) -> None:
    monkeypatch.setattr(doctor.platform, "system", lambda: system)
    assert doctor.system()[1].state == state


def test_processor_flags(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nflags\t\t: fpu avx2 amx_bf16 avx512_bf16\n\nprocessor\t: 1\n")
    assert {"amx_bf16", "avx2"} <= doctor.cpu_flags(file)
    assert doctor.cpu_flags(tmp_path / "none") == frozenset()


def test_the_control_group_limits_memory(tmp_path: Path) -> None:
    limited, free = tmp_path / "limited", tmp_path / "free"
    limited.write_text("1048576\n")
    free.write_text("max\n")
    assert doctor.memory_limit([limited]) == 1048576
    assert doctor.memory_limit([free]) == doctor.memory_limit([])


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLMTRAIN_CACHE", str(tmp_path / "file" / "below"))
    assert doctor.cache()[0].state == "fail"
    monkeypatch.setenv("LLMTRAIN_CACHE", str(tmp_path / "new"))
    assert doctor.cache()[0].state == "ok"
