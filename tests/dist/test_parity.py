"""One optimizer step, cut in every way: the same loss, gradients, norm and weights (formulas.md 1.4)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llmtrain.dist import Ranks
from llmtrain.optim.optimizers import AdamWConfig, LionConfig, MuonConfig, SgdConfig
from llmtrain.recipe.slots import OptimizerConfig
from tests.dist.steps import LENGTHS, Case, packed_rows, single_rows, taken
from tests.ranks import on_ranks

Results = dict[str, np.ndarray]
EXACT = 1e-6
OTHER_KERNELS = 1e-5
"""Packed against padded, recompute, chunked loss: other operations in another order."""


def results(world: int, cases: Mapping[str, Case], scratch: Path) -> dict[str, Results]:
    """Take all cases in one group of ranks; the first rank's results."""

    def work(ranks: Ranks) -> None:
        for name, case in cases.items():
            found = taken(case, ranks)
            if ranks.is_first:
                np.savez(scratch / f"{name}.npz", **found)  # type: ignore[arg-type]

    assert on_ranks(world, work, scratch, wait=120.0) == [0] * world
    return {name: dict(np.load(scratch / f"{name}.npz")) for name in cases}


def difference(mine: Results, theirs: Results) -> dict[str, float]:
    """Largest difference of each kind; of loss and norm relative, of gradients and weights absolute."""
    assert mine.keys() == theirs.keys()
    worst = {"loss": 0.0, "norm": 0.0, "gradient": 0.0, "weight": 0.0}
    for name, array in mine.items():
        kind = name.split("/")[0]
        scale = np.abs(theirs[name]).max() if kind in ("loss", "norm") else 1.0
        worst[kind] = max(worst[kind], float(np.abs(array - theirs[name]).max() / scale))
    return worst


def assert_same(mine: Results, theirs: Results, limit: float, **limits: float) -> None:
    worst = difference(mine, theirs)
    assert all(value <= limits.get(kind, limit) for kind, value in worst.items()), worst


def cut(case: Case, micros: Sequence[int] = (1, 2, 4, 8)) -> dict[str, Case]:
    return {f"{micro}": replace(case, micro=micro) for micro in micros}


def both(case: Case, micros: Sequence[int]) -> dict[str, Case]:
    """Each cut, as replicas and as shards."""
    return {
        f"{sharding}-{micro}": replace(case, micro=micro, sharding=sharding)
        for micro in micros
        for sharding in ("none", "full")
    }


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """All 8 rows in one forward, on one process."""
    return results(1, {"whole": Case()}, tmp_path_factory.mktemp("reference"))["whole"]


def test_the_reference_learns(reference: Results) -> None:
    assert 0.3 < reference["norm"][0] < 0.5 and 4.4 < reference["loss"][0] < 5.0
    assert all(np.abs(array).max() > 1e-6 for name, array in reference.items() if name.startswith("gradient/"))


def test_micro_batches_on_one_process(reference: Results, tmp_path: Path) -> None:
    for found in results(1, cut(Case()), tmp_path).values():
        assert_same(found, reference, EXACT)


def test_micro_batches_on_two_processes_as_replicas_and_as_shards(reference: Results, tmp_path: Path) -> None:
    for found in results(2, both(Case(), (1, 2, 4, 8)), tmp_path).values():
        assert_same(found, reference, EXACT)


def test_a_last_window_of_three_rows_leaves_a_rank_without_rows(tmp_path: Path) -> None:
    case = Case(rows=single_rows((*LENGTHS, 40, 7, 11)), first=1, last=2)
    one = results(1, {"whole": case}, tmp_path)["whole"]
    alone = Case(rows=single_rows((*LENGTHS, 40, 7, 11)[8:]), global_size=3)
    assert results(1, {"alone": alone}, tmp_path)["alone"]["loss"] != pytest.approx(one["loss"][0], abs=1e-3)
    for found in (results(1, cut(case), tmp_path) | results(2, both(case, (1, 2, 4)), tmp_path)).values():
        assert_same(found, one, EXACT)


def test_a_micro_batch_and_a_rank_without_targets(tmp_path: Path) -> None:
    case = Case(rows=single_rows(masked=(0, 1, 2, 3)))
    one = results(1, {"whole": case}, tmp_path)["whole"]
    assert np.isfinite(one["loss"]).all() and one["norm"][0] > 0.1
    for found in (results(1, cut(case, (1, 4)), tmp_path) | results(2, both(case, (2, 4)), tmp_path)).values():
        assert_same(found, one, EXACT)


@pytest.mark.parametrize("fault", ["mean of means", "divided by micro-batches", "count per rank"])
def test_seeded_faults_are_seen(reference: Results, tmp_path: Path, fault: str) -> None:
    case = Case(micro=2, fault=fault)
    worst = difference(results(2, {"faulty": case}, tmp_path)["faulty"], reference)
    assert worst["gradient"] > 1e-3 and worst["norm"] > 1e-2, worst


OPTIMIZERS: dict[str, tuple[OptimizerConfig, float]] = {
    "momentum": (
        SgdConfig(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
        EXACT,
    ),
    # AdamW's first update is lr * g / (|g| + eps): gradients near eps would turn 1e-9 of summation order into 1e-4
    "adamw": (AdamWConfig(lr=1e-3, eps=1e-3), EXACT),
    "lion": (LionConfig(lr=1e-4), EXACT),
    # Newton-Schulz takes 5 rounds in bf16, whose steps are 2^-8 of a number: 3 % of updates that reach 1.4e-3
    "muon": (MuonConfig(lr=1e-3, eps=1e-3), 4e-5),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_on_every_layout(tmp_path: Path, name: str) -> None:
    config, limit = OPTIMIZERS[name]
    case = Case(optimizer=config)
    one = results(1, {"whole": case}, tmp_path)["whole"]
    found = results(1, cut(case, (2,)), tmp_path) | results(2, both(case, (2,)), tmp_path)
    for other in found.values():
        if name == "lion":  # the sign of a gradient that is rounding itself is not determined
            for key in [key for key in other if key.startswith("weight/")]:
                certain = np.abs(one[key.replace("weight/", "gradient/")]) > 1e-7
                other[key], one[key] = other[key] * certain, one[key] * certain
        assert_same(other, one, EXACT, weight=limit)


def test_without_a_limit_the_gradient_is_applied_as_it_is(reference: Results, tmp_path: Path) -> None:
    free = results(1, {"free": Case(optimizer=SgdConfig(lr=0.1, max_grad_norm=0.0))}, tmp_path)["free"]
    start = results(1, {"still": Case(optimizer=SgdConfig(lr=1e-30))}, tmp_path)["still"]
    share = 0.2 / reference["norm"][0]
    for name in [name for name in free if name.startswith("gradient/")]:
        weight = name.replace("gradient/", "weight/")
        assert np.abs(start[weight] - free[weight] - 0.1 * free[name]).max() < EXACT
        assert np.abs(start[weight] - reference[weight] - 0.1 * share * free[name]).max() < EXACT


def test_recompute_and_the_chunked_loss_change_nothing(reference: Results, tmp_path: Path) -> None:
    cases = {
        f"{recompute}-{chunked}-{sharding}": Case(micro=2, recompute=recompute, chunked=chunked, sharding=sharding)
        for recompute, chunked in ((True, False), (False, True), (True, True))
        for sharding in ("none", "full")
    }
    alone = {name: case for name, case in cases.items() if case.sharding == "none"}
    for found in (results(1, alone, tmp_path) | results(2, cases, tmp_path)).values():
        assert_same(found, reference, OTHER_KERNELS)


def test_packed_documents_are_the_same_as_padded_ones(reference: Results, tmp_path: Path) -> None:
    packed = Case(rows=packed_rows(single_rows()), global_size=1, micro=1)
    assert_same(results(1, {"packed": packed}, tmp_path)["packed"], reference, OTHER_KERNELS)


def test_five_steps_of_adamw_on_every_layout(tmp_path: Path) -> None:
    """Small differences may not grow with the steps."""
    rows = single_rows((*LENGTHS[::-1], *LENGTHS))
    case = Case(
        rows=rows,
        last=5,
        optimizer=AdamWConfig(lr=1e-3, eps=1e-3),
        factor=lambda step: 1.0 / (step + 1),
    )
    one = results(1, {"whole": case}, tmp_path)["whole"]
    for found in results(2, both(case, (1, 4)), tmp_path).values():
        assert_same(found, one, 5 * EXACT)
