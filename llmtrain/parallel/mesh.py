"""The mesh: one grid of ranks with named axes, even for one process; every axis-dependent number is read from it."""

from dataclasses import dataclass

from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from llmtrain.recipe.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """Ranks in a grid (dp_replicate, dp_shard)."""

    grid: DeviceMesh
    data_ranks: int
    data_rank: int

    @property
    def averaged(self) -> int:
        """Ranks over which the gradient reducer averages; the loss is multiplied by it (formulas.md 1.1)."""
        return self.data_ranks


def make_mesh(plan: Plan, device: str, rank: int) -> Mesh:
    """The plan's mesh over the started process group; collective."""
    grid = init_device_mesh(device, (plan.dp_replicate, plan.dp_shard), mesh_dim_names=("dp_replicate", "dp_shard"))
    return Mesh(grid=grid, data_ranks=plan.dp_replicate * plan.dp_shard, data_rank=rank)
