"""Preparation: never a stale cache, the same for any number of workers, a split that stays, counts that close."""

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmtrain.data.prepare import (
    Prepared,
    open_sources,
    prepare,
    train_tokenizer,
    worker_count,
)
from llmtrain.data.rows import IGNORED
from llmtrain.data.tokens import FastTokenizer, train_bpe
from llmtrain.errors import Failure
from llmtrain.recipe.schema import DataLimits, DataSection, EvalSplit, Source
from llmtrain.record.ledger import Ledger
from tests.unit.data.conftest import sentence

Make = Callable[..., Prepared]


def write(path: Path, numbers: range | list[int], length: int = 12) -> Path:
    path.write_text("".join(json.dumps({"text": sentence(n, length)}) + "\n" for n in numbers))
    return path


def texts(rows: Any, tokenizer: FastTokenizer) -> list[str]:
    return [tokenizer.decode(rows.row(index).ids) for index in range(len(rows))]


def entries(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "tokens").iterdir())


def test_a_second_start_reads_the_cache(make: Make, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", range(100))
    first, second = make(path), make(path)
    assert (first.from_cache, second.from_cache) == (False, True)
    assert first.fingerprint == second.fingerprint
    assert len(entries(tmp_path)) == 1


def test_a_byte_changed_behind_the_back_is_noticed(make: Make, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", range(100))
    first, stat = make(path), path.stat()
    path.write_bytes(path.read_bytes().replace(b"quick", b"quirk", 1))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (
        stat.st_size,
        stat.st_mtime_ns,
    )
    second = make(path)
    assert not second.from_cache and second.fingerprint != first.fingerprint


def test_a_touched_or_moved_file_is_not_tokenised_again(make: Make, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", range(100))
    make(path)
    os.utime(path, (1, 1))
    assert make(path).from_cache
    moved = make(path.rename(tmp_path / "b.jsonl"))
    assert moved.from_cache and moved.train.place(0) == f"{tmp_path}/b.jsonl:1"


@pytest.mark.parametrize(
    "keys",
    [{"columns": {"text": "other"}}, {"limit": 5}, {"encoding": "latin-1"}],
)
def test_a_setting_that_decides_documents_makes_another_entry(keys: dict[str, Any], make: Make, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": sentence(n), "other": sentence(n + 1)}) + "\n" for n in range(50)))
    first = make(path, eval=[])
    second = make(Source(path=str(path), **keys), eval=[])
    assert not second.from_cache and second.fingerprint != first.fingerprint


def test_another_tokenizer_of_the_same_size_makes_another_entry(
    make: Make, tokenizer: FastTokenizer, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.jsonl", range(50))
    make(path)
    texts = [sentence(n).upper() for n in range(200)]
    other = FastTokenizer(train_bpe(texts, vocab_size=300, folder=tmp_path / "other"))
    assert (other.vocab_size, other.eos_id) == (tokenizer.vocab_size, tokenizer.eos_id)
    section = DataSection(train=[Source(path=str(path))], seq_len=16)
    assert not prepare(section, other, seed=1, cache=tmp_path / "cache", workers=1, offline=True).from_cache


@pytest.mark.parametrize(
    "keys",
    [
        {"seq_len": 17},
        {"packing": False},
        {"seed": 2},
        {"eval": EvalSplit(fraction=0.1)},
    ],
)
def test_what_only_cuts_rows_keeps_the_tokens(keys: dict[str, Any], make: Make, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", range(100))
    first, second = make(path), make(path, **keys)
    assert second.from_cache and second.fingerprint != first.fingerprint


def damage_flip(folder: Path) -> None:
    data = bytearray((folder / "tokens.bin").read_bytes())
    data[7] ^= 1
    (folder / "tokens.bin").write_bytes(data)


def damage_cut(folder: Path) -> None:
    os.truncate(folder / "documents.bin", 40)


def damage_meta(folder: Path) -> None:
    (folder / "meta.json").write_text("{")


def damage_missing(folder: Path) -> None:
    (folder / "tokens.bin").unlink()


@pytest.mark.parametrize("damage", [damage_flip, damage_cut, damage_meta, damage_missing])
def test_a_damaged_entry_is_built_anew(damage: Callable[[Path], None], make: Make, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", range(100))
    before = make(path).train.row(0).ids
    damage(entries(tmp_path)[0])
    second = make(path)
    assert not second.from_cache
    assert make(path).from_cache and len(entries(tmp_path)) == 1
    assert np.array_equal(before, second.train.row(0).ids)


def test_what_a_dead_builder_left_is_swept(make: Make, tmp_path: Path) -> None:
    left = tmp_path / "cache" / "tokens" / ".0123-dead.tmp"
    left.mkdir(parents=True)
    (left / "lock").touch()
    os.utime(left, (1, 1))
    make(write(tmp_path / "a.jsonl", range(100)))
    assert not left.exists()


def test_builders_may_race(make: Make, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", range(300))
    found: list[Prepared] = []
    threads = [threading.Thread(target=lambda: found.append(make(path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({prepared.fingerprint for prepared in found}) == 1 and len(found) == 4
    assert len(entries(tmp_path)) == 1


def test_stopping_leaves_nothing_half_made(make: Make, tokenizer: FastTokenizer, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", range(30_000))
    calls = []

    def poll() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    section = DataSection(train=[Source(path=str(path))])
    with pytest.raises(KeyboardInterrupt):
        prepare(
            section,
            tokenizer,
            seed=1,
            cache=tmp_path / "cache",
            workers=2,
            offline=True,
            poll=poll,
        )
    assert entries(tmp_path) == []


def test_the_number_of_workers_changes_no_byte(make: Make, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", range(6000))
    (tmp_path / "b.txt").write_text("\n".join(sentence(n) for n in range(9000)))
    written = []
    for workers in (1, 3):
        make(tmp_path / "a.jsonl", tmp_path / "b.txt", workers=workers)
        written.append({p.name: [f.read_bytes() for f in sorted(p.iterdir())] for p in entries(tmp_path)})
        for folder in entries(tmp_path):
            folder.rename(tmp_path / f"{workers}-{folder.name}")
    assert written[0] == written[1]


def test_documents_end_with_the_end_of_text(make: Make, tokenizer: FastTokenizer, tmp_path: Path) -> None:
    prepared = make(write(tmp_path / "a.jsonl", range(20)), eval=[], packing=False, seq_len=200)
    assert texts(prepared.train, tokenizer) == [sentence(n) for n in range(20)]
    assert all(prepared.train.row(index).ids[-1] == tokenizer.eos_id for index in range(20))


def test_packed_and_single_rows_hold_the_same_tokens(make: Make, tokenizer: FastTokenizer, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", range(40))
    packed, single = (
        make(path, eval=[]),
        make(path, eval=[], packing=False, seq_len=400),
    )
    ids = [np.concatenate([p.train.row(i).ids for i in range(len(p.train))]).tolist() for p in (packed, single)]
    assert ids[0] == ids[1]


def test_the_split_stays_when_documents_are_added(make: Make, tokenizer: FastTokenizer, tmp_path: Path) -> None:
    keys = {"packing": False, "seq_len": 200, "eval": EvalSplit(fraction=0.2)}
    first = make(write(tmp_path / "a.jsonl", range(200)), **keys)
    second = make(write(tmp_path / "b.jsonl", [*range(500, 600), *range(200)]), **keys)
    held = set(texts(first.evals[""], tokenizer))
    assert 20 < len(held) < 60
    assert held == {text for text in texts(second.evals[""], tokenizer) if int(text.split()[0]) < 500}
    other = make(tmp_path / "a.jsonl", seed=2, **keys)
    assert held != set(texts(other.evals[""], tokenizer))


def test_copies_of_a_document_stay_on_one_side(make: Make, tokenizer: FastTokenizer, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [*range(60), *range(60)])
    write(tmp_path / "b.jsonl", range(30))
    prepared = make(
        tmp_path / "a.jsonl",
        tmp_path / "b.jsonl",
        packing=False,
        seq_len=200,
        eval=EvalSplit(fraction=0.3),
    )
    assert not set(texts(prepared.train, tokenizer)) & set(texts(prepared.evals[""], tokenizer))
    assert prepared.ledger.total("documents") + prepared.ledger.total("documents", "eval") == 150


def test_one_long_text_is_split_at_its_end(make: Make, tokenizer: FastTokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(sentence(n) for n in range(300)))
    prepared = make(tmp_path / "a.txt", eval=EvalSplit(fraction=0.1))
    assert prepared.ledger.split == "tail" and "end of each document" in prepared.ledger.notices[0]
    held = sum(len(prepared.evals[""].row(i).ids) for i in range(len(prepared.evals[""])))
    assert held == pytest.approx(prepared.tokens * 0.1, abs=1)
    assert sentence(299) in "".join(texts(prepared.evals[""], tokenizer))
    assert sentence(0) in "".join(texts(prepared.train, tokenizer))


def test_too_little_to_split_is_said(make: Make, tmp_path: Path) -> None:
    with pytest.raises(Failure) as caught:
        make(write(tmp_path / "a.jsonl", range(2), length=2))
    assert (caught.value.problems[0].id, caught.value.problems[0].key) == (
        "E-DATA-013",
        "data.eval.fraction",
    )


def test_eval_sources_and_their_names(make: Make, tmp_path: Path) -> None:
    train, one, two = (
        write(tmp_path / f"{n}.jsonl", r) for n, r in [("t", range(50)), ("one", range(45, 60)), ("two", range(70, 80))]
    )
    sources = [Source(path=str(one)), Source(path=str(two), name="second")]
    assert list(make(train, eval=sources[:1]).evals) == [""]
    prepared = make(train, eval=sources)
    assert list(prepared.evals) == ["one.jsonl", "second"]
    assert [entry.split for entry in prepared.ledger.sources] == [
        "train",
        "eval:one.jsonl",
        "eval:second",
    ]
    assert prepared.ledger.shared_documents == 5 and "5 documents" in prepared.ledger.notices[0]


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("overflow", ["auto", "split", "truncate", "drop"])
def test_the_ledger_equals_a_count_of_the_rows(packing: bool, overflow: str, make: Make, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": sentence(n, n % 30)}) + "\n" for n in range(100)))
    prepared = make(
        path,
        packing=packing,
        overflow=overflow,
        seq_len=24,
        eval=EvalSplit(fraction=0.2),
    )
    for entry, rows in zip(prepared.ledger.sources, (prepared.train, prepared.evals[""]), strict=True):
        labels = [rows.row(index).labels for index in range(len(rows))]
        assert entry.supervised == sum(int((part != IGNORED).sum()) for part in labels)
        assert entry.masked == sum(int((part == IGNORED).sum()) for part in labels)
        assert entry.rows == len(labels)
        assert all((part != IGNORED).any() and len(part) <= 24 for part in labels)
    raw = prepared.ledger.total("raw") + prepared.ledger.total("raw", "eval")
    assert raw == prepared.tokens
    assert (prepared.ledger.total("truncated") > 0) == (overflow == "truncate")
    assert (prepared.ledger.total("dropped_documents") > 0) == (overflow == "drop")
    assert Ledger.from_json(json.loads(json.dumps(prepared.ledger.to_json()))) == prepared.ledger


def test_overflow_error_names_the_row(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": sentence(n, 200 if n == 6 else 3)}) + "\n" for n in range(10)))
    with pytest.raises(Failure) as caught:
        make(path, overflow="error", seq_len=64, eval=[])
    problem = caught.value.problems[0]
    assert (problem.id, problem.place.file, problem.place.line) == (
        "E-DATA-014",
        str(path),
        7,
    )
    assert "is 64" in problem.message


@pytest.mark.parametrize(("overflow", "name"), [("truncate", "truncated"), ("drop", "dropped")])
def test_a_limit_passed_stops_before_the_start(overflow: str, name: str, make: Make, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": sentence(n, 60 if n % 2 else 3)}) + "\n" for n in range(10)))
    with pytest.raises(Failure) as caught:
        make(
            path,
            overflow=overflow,
            seq_len=32,
            eval=[],
            limits=DataLimits(**{name: 0.1}),
        )
    problem = caught.value.problems[0]
    assert (problem.id, problem.key) == ("E-DATA-019", f"data.limits.{name}")
    assert "the limit is 10.0%" in problem.message


def test_limit_takes_the_first_documents(make: Make, tokenizer: FastTokenizer, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", range(50))
    prepared = make(Source(path=str(path), limit=7), eval=[], packing=False, seq_len=200)
    assert texts(prepared.train, tokenizer) == [sentence(n) for n in range(7)]


def test_folders_globs_and_lines(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "deep"
    folder.mkdir(parents=True)
    write(folder / "b.jsonl", range(5))
    (tmp_path / "data" / "a.txt").write_text("one\n\ntwo\nthree\n")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    (folder / ".hidden.txt").write_text("no")
    whole = make(tmp_path / "data", eval=[])
    assert (whole.documents, whole.ledger.notices) == (
        6,
        ("data: 1 files of unknown types passed over",),
    )
    assert make(f"{tmp_path}/data/**/*.jsonl", eval=[]).documents == 5
    assert make(Source(path=str(tmp_path / "data" / "a.txt"), documents="lines"), eval=[]).documents == 3


@pytest.mark.parametrize(
    "name",
    [
        "a b.jsonl",
        "it's.jsonl",
        "new\nline.jsonl",
        "\u65e5\u672c.jsonl",
        "star*[x].jsonl",
        "-rf.jsonl",
    ],
)
def test_odd_names_of_files(name: str, make: Make, tmp_path: Path) -> None:
    assert make(write(tmp_path / name, range(5)), eval=[]).documents == 5


def test_rows_of_several_sources_are_told_apart(make: Make, tmp_path: Path) -> None:
    one, two = (
        write(tmp_path / "one.jsonl", range(30)),
        write(tmp_path / "two.jsonl", range(50, 90)),
    )
    prepared = make(one, Source(path=str(two), weight=2.0), eval=[])
    assert prepared.weights == (1.0, 2.0)
    assert [source.row(0).source for source in prepared.sources] == [
        "one.jsonl",
        "two.jsonl",
    ]
    assert len(prepared.train) == sum(len(source) for source in prepared.sources)


def test_a_tokenizer_is_trained_once_per_content(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", range(100))
    section = DataSection(train=[Source(path=str(path))])
    keys = {
        "vocab_size": 300,
        "cache": tmp_path / "cache",
        "workers": 1,
        "offline": True,
    }
    first = train_tokenizer(section, **keys)
    assert train_tokenizer(section, **keys) == first
    path.write_text(path.read_text().replace("fox", "dog"))
    assert train_tokenizer(section, **keys) != first


def test_the_builtin_text_is_real_and_in_a_fixed_order() -> None:
    from llmtrain.data.sources import documents

    opened = [open_sources([Source(path="builtin:python-docs")], key="data.train", offline=True)[0] for _ in range(2)]
    assert opened[0].files == opened[1].files
    found = [piece.text for _, piece in documents(opened[0])]
    assert sum(map(len, found)) > 1_500_000
    assert found[0].startswith('The "assert" statement') and any('The "for" statement' in text for text in found)


def test_an_unknown_builtin_is_refused(make: Make) -> None:
    with pytest.raises(Failure, match="no builtin data"):
        make("builtin:python-doc")


def test_hub_data_without_the_extra_say_what_to_install(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setattr(
        "llmtrain.data.hub.datasets",
        __import__("llmtrain.lazy", fromlist=["Lazy"]).Lazy("datasets"),
    )
    with pytest.raises(Failure) as caught:
        make("hf://someone/something")
    assert caught.value.problems[0].id == "E-DATA-015"
    assert "pip install 'llmtrain[hub]'" in caught.value.problems[0].hint


def test_workers() -> None:
    assert worker_count(3) == 3
    assert 1 <= worker_count("auto") <= 8
