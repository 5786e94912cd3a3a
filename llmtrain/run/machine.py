"""What this machine offers a run: device, number formats, threads; separate because it is measured, not configured."""

import os
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from llmtrain.dist import launched_world
from llmtrain.errors import fail
from llmtrain.recipe.schema import Recipe

FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BF16_FLAGS = ("amx_bf16", "avx512_bf16")
"""Processor flags with which bf16 products are faster than fp32 ones; without them they are far slower."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The choices for one rank."""

    device: torch.device
    compute: torch.dtype
    backend: str
    threads: int
    reason: str
    """Why this compute format, for the header."""


def processor_flags() -> frozenset[str]:
    """Instruction-set flags of the first processor; empty where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    found = next((line for line in lines if line.startswith(("flags", "Features"))), ":")
    return frozenset(found.split(":", 1)[1].split())


def choose(recipe: Recipe) -> Machine:
    """Resolve the recipe's `auto` values on this machine and set threads and matrix precision.

    Raises:
        Failure: a device or format that was asked for is not here.
    """
    _, local_rank, world = launched_world()
    device = _device(recipe.run.device, local_rank)
    compute, reason = _compute(recipe.precision.compute, device)
    backend = recipe.launch.backend
    if backend == "auto":
        backend = "nccl" if device.type == "cuda" else "gloo"
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
    threads = recipe.speed.threads
    count = max(1, len(_cores()) // max(1, local)) if threads == "auto" else threads
    torch.set_num_threads(count)
    tf32 = recipe.precision.tf32
    torch.set_float32_matmul_precision(
        "high" if (tf32 is True or (tf32 == "auto" and not recipe.run.deterministic)) else "highest"
    )
    torch.use_deterministic_algorithms(recipe.run.deterministic)
    return Machine(device=device, compute=compute, backend=backend, threads=count, reason=reason)


def _cores() -> set[int]:
    return os.sched_getaffinity(0) if platform.system() == "Linux" else set(range(os.cpu_count() or 1))


def _device(wanted: str, local_rank: int) -> torch.device:
    if wanted == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(kind, local_rank) if kind == "cuda" else torch.device(kind)
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise fail(
            "E-ENV-002", f'"{wanted}" is not a device', key="run.device", hint="auto, cpu, cuda, cuda:N, mps or xpu"
        ) from error
    missing = {
        "cuda": not torch.cuda.is_available(),
        "mps": not torch.backends.mps.is_available(),
        "xpu": not torch.xpu.is_available(),
    }
    if missing.get(device.type, device.type != "cpu"):
        raise fail("E-ENV-002", f"no {device.type} device here", key="run.device", hint="run.device: auto")
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", local_rank)
    return device


def _compute(wanted: str, device: torch.device) -> tuple[torch.dtype, str]:
    if wanted != "auto":
        if wanted == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
            raise fail("E-ENV-002", "this GPU has no bf16", key="precision.compute", hint="fp16 or fp32")
        return FORMATS[wanted], "as asked"
    if device.type == "cpu":
        flag = next((flag for flag in BF16_FLAGS if flag in processor_flags()), None)
        if flag is None:
            return torch.float32, "this processor has no bf16 products"
        return torch.bfloat16, f"the processor has {flag}"
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.bfloat16, "the GPU has it"
    return torch.float32, "no bf16 on this device"


def versions() -> dict[str, str]:
    """Installed versions that can change a number."""
    found: dict[str, str] = {}
    for name in ("llmtrain", "torch", "transformers", "tokenizers", "numpy", "safetensors"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def devices(machine: Machine) -> dict[str, Any]:
    """Device facts for env.json."""
    facts: dict[str, Any] = {"device": str(machine.device), "threads": machine.threads, "compute": str(machine.compute)}
    if machine.device.type == "cuda":
        facts["name"] = torch.cuda.get_device_name(machine.device)
    return facts
