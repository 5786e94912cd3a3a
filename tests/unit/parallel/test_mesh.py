"""The mesh of a plan, and sharding that leaves names and numbers alone."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llmtrain.dist import Ranks
from llmtrain.model.build import TokenIds, build
from llmtrain.parallel.apply import Layout, apply, gathered_outside_blocks, reshard
from llmtrain.parallel.mesh import make_mesh
from llmtrain.parallel.stage import Stage
from llmtrain.recipe.schema import ModelSection
from tests.dist.steps import LLAMA, whole
from tests.ranks import on_ranks


def built() -> Any:
    return build(ModelSection(config=LLAMA), TokenIds(size=96, eos=0, pad=0), seed=1, offline=True)


@pytest.mark.parametrize(("replicate", "shard"), [(2, 1), (1, 2)])
def test_sharding_keeps_names_and_values(tmp_path: Path, replicate: int, shard: int) -> None:
    def work(ranks: Ranks) -> None:
        plan: Any = SimpleNamespace(dp_replicate=replicate, dp_shard=shard)
        mesh = make_mesh(plan, "cpu", ranks.rank)
        assert (mesh.data_ranks, mesh.data_rank, mesh.averaged) == (2, ranks.rank, 2)
        assert mesh.grid.mesh_dim_names == ("dp_replicate", "dp_shard")
        before, model = built().model, built().model
        stage = Stage(model, foreign=False).eval()
        apply(stage, mesh, Layout(recompute=True, compile=None, reshard=True))
        expected = dict(before.named_parameters())
        assert [name for name, _ in model.named_parameters()] == list(expected)
        for name, parameter in model.named_parameters():
            assert torch.equal(whole(parameter), expected[name]), name
        held = sum(parameter.to_local().numel() for parameter in model.parameters())
        total = sum(parameter.numel() for parameter in expected.values())
        assert held == total if shard == 1 else held < 0.6 * total
        ids, positions = torch.arange(12)[None], torch.arange(12)[None]
        alone = Stage(before, foreign=False).eval()
        with torch.no_grad():
            assert torch.equal(stage(ids, positions), alone(ids, positions))
            reshard(stage)
            with gathered_outside_blocks(stage):
                assert torch.equal(model(input_ids=ids, use_cache=False).logits, before(ids, use_cache=False).logits)
        assert sum(parameter.to_local().numel() for parameter in model.parameters()) == held

    assert on_ranks(2, work, tmp_path) == [0, 0]


def test_a_mesh_of_one_shards_nothing(tmp_path: Path) -> None:
    def work(ranks: Ranks) -> None:
        plan: Any = SimpleNamespace(dp_replicate=1, dp_shard=1)
        mesh = make_mesh(plan, "cpu", ranks.rank)
        model = built().model
        apply(Stage(model, foreign=False), mesh, Layout(recompute=False, compile=None, reshard=True))
        assert all(type(parameter) is torch.nn.Parameter for parameter in model.parameters()) and mesh.averaged == 1

    assert on_ranks(1, work, tmp_path) == [0]
