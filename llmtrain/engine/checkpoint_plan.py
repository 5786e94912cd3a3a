"""Which rank stores which piece of which tensor, and which bytes fill a target: torch's checkpoint planners over our
files. Separate because it is the only place that knows those planners (docs/adr/0001).

The planners cut DTensors into boxes and intersect saved boxes with wanted ones. Their coordination, which gathers
pickled objects, and their storage are not used: plans travel as JSON, pieces as safetensors.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtrain.dist import Ranks
from llmtrain.doors import safetensors
from llmtrain.errors import Failure, Problem, fail, quoted
from llmtrain.lazy import Lazy

if TYPE_CHECKING:
    from torch import Tensor

torch = Lazy("torch")
planners = Lazy("torch.distributed.checkpoint.default_planner")
metadata = Lazy("torch.distributed.checkpoint.metadata")

Groups = Mapping[str, Mapping[str, "Tensor"]]
"""{"weights": {canonical name: tensor}, "optimizer": {"<name>/exp_avg": tensor}}"""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A box of a tensor that one rank stores."""

    group: str
    name: str
    offset: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def key(self) -> str:
        """Name inside the file; the offset is part of it, for a file may hold several boxes of one tensor."""
        return self.name if not any(self.offset) else f"{self.name}@{','.join(map(str, self.offset))}"


@dataclass(frozen=True, kw_only=True)
class SavePlan:
    """What this rank writes, and what the manifest says about all ranks' pieces."""

    mine: Mapping[str, Mapping[str, "Tensor"]]
    """{group: {key in the file: live local tensor}}"""
    tensors: dict[str, dict[str, Any]]
    """{group: {name: {"dtype", "shape", "slices": [[file, key, offset, shape], ...]}}}"""
    nonfinite: list[str]
    """Names that hold NaN or an infinity on some rank, sorted."""
    size: int
    """Bytes of all ranks' pieces."""


def file_name(group: str, rank: int) -> str:
    """The file of a rank's pieces of a group."""
    return f"{group}-r{rank}.safetensors"


def _flat(groups: Groups, aliases: Mapping[str, str]) -> dict[str, "Tensor"]:
    """One map for the planners, names under their group, second names of tied tensors left out."""
    return {
        f"{group}/{name}": tensor
        for group, tensors in groups.items()
        for name, tensor in tensors.items()
        if not (group == "weights" and name in aliases)
    }


def plan_save(groups: Groups, ranks: Ranks, aliases: Mapping[str, str], may_be_nonfinite: frozenset[str]) -> SavePlan:
    """Cut every tensor into boxes, each stored once by one rank. Collective; reads tensors, copies nothing.

    Args:
        groups: live tensors; a plain tensor of several ranks is the same on all of them.
        ranks: this process and its peers.
        aliases: second name -> first name of tied weights.
        may_be_nonfinite: weights such as mask buffers that are not checked.
    """
    flat = _flat(groups, aliases)
    planner = planners.DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    planner.set_up_planner(flat, is_coordinator=ranks.is_first)
    local: dict[tuple[str, tuple[int, ...]], Tensor] = {}
    boxes: list[list[Any]] = []
    nonfinite: list[str] = []
    for item in planner.create_local_plan().items:
        chunk, shape = item.tensor_data.chunk, tuple(item.tensor_data.size)
        tensor = planner.resolve_data(item).detach()
        name = item.index.fqn
        if prod(shape) and not prod(chunk.sizes):
            continue
        if name.removeprefix("weights/") not in may_be_nonfinite and not _is_finite(tensor):
            nonfinite.append(name)
        local[name, tuple(chunk.offsets)] = tensor
        dtype = safetensors.dtype_name(tensor.dtype)
        boxes.append([name, list(chunk.offsets), list(chunk.sizes), list(shape), dtype, tensor.element_size()])
    gathered = ranks.gather({"boxes": boxes, "nonfinite": nonfinite})
    owners, size = _assign([part["boxes"] for part in gathered])
    tensors = _describe(owners)
    bad = sorted({name for part in gathered for name in part["nonfinite"]})
    mine: dict[str, dict[str, Tensor]] = {}
    for (name, offset), (rank, box) in sorted(owners.items()):
        if rank == ranks.rank:
            piece = _piece(name, offset, box[2])
            mine.setdefault(piece.group, {})[piece.key] = local[name, offset]
    return SavePlan(mine=mine, tensors=tensors, nonfinite=bad, size=size)


def _is_finite(tensor: "Tensor") -> bool:
    """One pass without a temporary: the extremes are NaN when any element is."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    low, high = torch.aminmax(tensor.float() if tensor.element_size() == 1 else tensor)
    return bool(torch.isfinite(low) & torch.isfinite(high))


def _piece(name: str, offset: tuple[int, ...], shape: list[int]) -> Piece:
    group, _, rest = name.partition("/")
    return Piece(group=group, name=rest, offset=offset, shape=tuple(shape))


def _assign(plans: list[list[list[Any]]]) -> tuple[dict[tuple[str, tuple[int, ...]], tuple[int, list[Any]]], int]:
    """Give each box to one of the ranks that hold it: the one with the fewest bytes so far, then the lowest.

    Every rank computes the same from the same plans.
    """
    holders: dict[tuple[str, tuple[int, ...]], list[tuple[int, list[Any]]]] = {}
    for rank, boxes in enumerate(plans):
        for box in boxes:
            holders.setdefault((box[0], tuple(box[1])), []).append((rank, box))
    load = [0] * len(plans)
    owners: dict[tuple[str, tuple[int, ...]], tuple[int, list[Any]]] = {}
    for key in sorted(holders):
        rank, box = min(holders[key], key=lambda item: (load[item[0]], item[0]))
        load[rank] += prod(box[2]) * box[5]
        owners[key] = (rank, box)
    return owners, sum(load)


def _describe(owners: Mapping[tuple[str, tuple[int, ...]], tuple[int, list[Any]]]) -> dict[str, dict[str, Any]]:
    """The manifest's `tensors`; every element of every tensor must be stored exactly once."""
    tensors: dict[str, dict[str, Any]] = {}
    for (name, offset), (rank, box) in sorted(owners.items()):
        piece = _piece(name, offset, box[2])
        entry = tensors.setdefault(piece.group, {}).setdefault(
            piece.name, {"dtype": box[4], "shape": box[3], "slices": []}
        )
        entry["slices"].append([file_name(piece.group, rank), piece.key, list(offset), box[2]])
    for group in tensors.values():
        for name, entry in group.items():
            stored = sum(prod(part[3]) for part in entry["slices"])
            assert stored == prod(entry["shape"]), f"{name}: {stored} of {prod(entry['shape'])} elements"
    return tensors


def check_names(groups: Groups, manifest: Mapping[str, Any], aliases: Mapping[str, str], where: str) -> None:
    """Compare names, shapes and dtypes of the target with those of a checkpoint.

    Raises:
        Failure: E-CKPT-002 with one problem a kind: missing, extra, differing; the first 10 names and the count.
    """
    saved = _saved(manifest)
    wanted = {manifest_name(name, manifest): tensor for name, tensor in _flat(groups, aliases).items()}
    missing = sorted(set(wanted) - set(saved))
    extra = sorted(set(saved) - set(wanted))
    differing = [
        f"{name} {_form(saved[name])} -> {_shown(tensor)}"
        for name, tensor in sorted(wanted.items())
        if name in saved and _form(saved[name]) != _shown(tensor)
    ]
    problems: list[Problem] = []
    for label, names in (("lacks", missing), ("has, unknown to the model,", extra), ("differs in", differing)):
        if names:
            shown = ", ".join(names[:10])
            text = f"{where} {label} {len(names)} tensors: {shown}"
            text = text if len(text) <= 200 else text[:199] + "…"
            problems.append(fail("E-CKPT-002", text).problems[0])
    if problems:
        raise Failure(*problems)


def _saved(manifest: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {f"{group}/{name}": entry for group, names in manifest["tensors"].items() for name, entry in names.items()}


def manifest_name(name: str, manifest: Mapping[str, Any]) -> str:
    """Under which name a checkpoint holds a tensor of ours: a tied one under its first name."""
    group, _, rest = name.partition("/")
    return f"weights/{manifest['tied'].get(rest, rest)}" if group == "weights" else name


def _form(entry: Mapping[str, Any]) -> str:
    return f"{entry['dtype']}{list(entry['shape'])}"


def _shown(tensor: "Tensor") -> str:
    return f"{safetensors.dtype_name(tensor.dtype)}{list(tensor.shape)}"


def load(path: Path, manifest: Mapping[str, Any], groups: Groups, aliases: Mapping[str, str]) -> None:
    """Fill the tensors of `groups` in place from a checkpoint of any layout; names must have been compared.

    Reads only the byte ranges that this rank's boxes need; extra memory is one such range at most. Not collective.

    Raises:
        OSError, safetensors.DamagedFile: a file cannot be read as its manifest says.
    """
    flat = _flat(groups, aliases)
    saved = _saved(manifest)
    entries = {name: saved[manifest_name(name, manifest)] for name in flat}
    planner = planners.DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    planner.set_up_planner(flat, metadata=_metadata(entries), is_coordinator=True)
    readers: dict[str, safetensors.Reader] = {}
    try:
        with torch.no_grad():
            for item in planner.create_local_plan().items:
                file, key, _, _ = entries[item.storage_index.fqn]["slices"][item.storage_index.index]
                if file not in readers:
                    readers[file] = safetensors.Reader(path / file)
                box = _read(readers[file], file, key, list(item.storage_offsets), list(item.lengths))
                planner.resolve_tensor(item).detach().copy_(box)
    finally:
        for reader in readers.values():
            reader.close()


def _read(reader: safetensors.Reader, file: str, key: str, offsets: list[int], lengths: list[int]) -> "Tensor":
    if key not in reader.header.tensors:
        raise safetensors.DamagedFile(f"{file}: {quoted(key)} is not in it")
    return reader.read(key, offsets, lengths)


def _metadata(entries: Mapping[str, Mapping[str, Any]]) -> Any:  # noqa: ANN401 - torch's Metadata, not imported here
    """The planners' description of a checkpoint, built from our manifest."""
    described = {}
    for name, entry in entries.items():
        chunks = [
            metadata.ChunkStorageMetadata(offsets=torch.Size(part[2]), sizes=torch.Size(part[3]))
            for part in entry["slices"]
        ]
        properties = metadata.TensorProperties(dtype=safetensors.torch_dtype(entry["dtype"]))
        size = torch.Size(entry["shape"])
        described[name] = metadata.TensorStorageMetadata(properties=properties, size=size, chunks=chunks)
    return metadata.Metadata(state_dict_metadata=described)


def load_full(path: Path, manifest: Mapping[str, Any], keep: Callable[[str], bool] = bool) -> dict[str, "Tensor"]:
    """Whole tensors of a checkpoint in host memory, by `group/name`, for those whose name passes `keep`."""
    entries = {name: entry for name, entry in _saved(manifest).items() if keep(name)}
    tensors = {
        name: torch.empty(entry["shape"], dtype=safetensors.torch_dtype(entry["dtype"]))
        for name, entry in entries.items()
    }
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        group, _, rest = name.partition("/")
        groups.setdefault(group, {})[rest] = tensor
    load(path, manifest, groups, {})
    return tensors
