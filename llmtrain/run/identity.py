"""What makes two runs the same run: compared when one is resumed, recorded when one is saved."""

from collections.abc import Iterable, Mapping
from typing import Any

from llmtrain.errors import Failure, Problem, quoted
from llmtrain.recipe.compose import Composed
from llmtrain.run.assembly import Assembly
from llmtrain.run.machine import Machine, versions

EXACT = (
    "run.seed", "model", "tokenizer", "data.train", "data.eval", "data.seq_len", "data.packing", "data.overflow",
    "data.order", "data.drop_last", "data.seed", "data.skip_steps", "data.padding", "data.on_bad_row", "objective",
    "optimizer.name", "batch.global_size", "precision",
)  # fmt: skip
"""Keys whose change makes it another run; `--allow-change KEY` accepts one."""
SILENT = (
    "run",
    "log",
    "checkpoint",
    "evaluate",
    "predict",
    "launch",
    "tests",
    "allow_code",
    "offline",
    "run_mode",
    "plugins",
)
"""Sections whose change touches no number of the training."""


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def identity(composed: Composed, assembly: Assembly, machine: Machine) -> dict[str, Any]:
    """JSON for the manifest; interpolations stay as written, so no secret gets in."""
    prepared = assembly.material.prepared
    plan = assembly.plan
    return {
        "recipe": flatten(composed.tree),
        "data": prepared.fingerprint,
        "tokenizer": assembly.material.vocabulary.tokenizer.fingerprint,
        "layout": {"world": plan.world, "dp_replicate": plan.dp_replicate, "dp_shard": plan.dp_shard},
        "versions": versions(),
        "threads": machine.threads,
        "compute": str(machine.compute),
        "device": machine.device.type,
    }


def _within(key: str, names: Iterable[str]) -> bool:
    return any(key == name or key.startswith((f"{name}.", f"{name}[")) for name in names)


def compare(saved: Mapping[str, Any], now: Mapping[str, Any], allowed: Iterable[str]) -> list[str]:
    """Differences worth a line, the recipe's first; the recipe wins in each of them.

    Raises:
        Failure: a difference that makes it another run and was not allowed.
    """
    lines: list[str] = []
    problems: list[Problem] = []
    explained = False
    before, after = saved.get("recipe", {}), now["recipe"]
    for key in sorted(set(before) | set(after)):
        old, new = before.get(key), after.get(key)
        if old == new or (_within(key, SILENT) and key != "run.seed"):
            continue
        shown = f"{key}: checkpoint {quoted(old)} -> recipe {quoted(new)}"
        explained |= _within(key, EXACT)
        if _within(key, EXACT) and not _within(key, allowed):
            problems.append(_refusal(key, shown))
        lines.append(shown)
    problems.extend(
        _refusal(part, f"the {part}'s content is not that of the checkpoint")
        for part in ("data", "tokenizer")
        if saved.get(part) != now[part] and not explained and not _within(part, allowed)
    )
    if problems:
        raise Failure(*problems)
    lines.extend(
        f"{part}: checkpoint {saved.get(part)} -> now {now[part]}; numbers may differ in the last digits"
        for part in ("layout", "versions", "threads", "compute", "device")
        if saved.get(part) != now[part]
    )
    return lines


def _refusal(key: str, message: str) -> Problem:
    hint = f"--allow-change {key} goes on as another run; without --resume a new one starts"
    return Problem(id="E-RUN-007", message=message, key=None if message.startswith(key) else key, hint=hint)
