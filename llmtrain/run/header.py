"""The header of a run: one fact a line, measured from the loaded objects, not echoed from the recipe."""

from llmtrain.recipe.compose import Composed
from llmtrain.recipe.nodes import dotted
from llmtrain.record.folder import RunFolder
from llmtrain.run.assembly import Assembly
from llmtrain.run.machine import Machine

SHORT = {"torch.float32": "fp32", "torch.bfloat16": "bf16", "torch.float16": "fp16"}


def header(composed: Composed, assembly: Assembly, machine: Machine, folder: RunFolder, total: int) -> dict[str, str]:
    """Label -> text."""
    recipe, plan, prepared = composed.recipe, assembly.plan, assembly.material.prepared
    parameters = list(assembly.built.model.parameters())
    count = sum(p.numel() for p in parameters)
    compute = SHORT[str(machine.compute)]
    size = plan.global_size * plan.tokens_per_row
    lines = {
        "model": f"{assembly.built.label}  {amount(count)} parameters, {SHORT[str(parameters[0].dtype)]}",
        "compute": f"{compute} on {machine.device}, {machine.threads} threads ({machine.reason})",
        "data": _data(assembly),
        "batch": f"{plan.global_size} rows = {_product(assembly)}  about {size:,.0f} tokens a step",
        "budget": _budget(composed, assembly, total),
    }
    if recipe.memory.recompute != "none" or assembly.stage.hidden:
        parts = ["recompute"] * (recipe.memory.recompute != "none") + [
            "loss without full logits"
        ] * assembly.stage.hidden
        lines["memory"] = ", ".join(parts)
    if composed.code:
        lines["code"] = ", ".join(f"{dotted(named.path)}: {named.value}" for named in composed.code)
    for notice in prepared.ledger.notices:
        lines["note"] = f"{lines['note']}; {notice}" if "note" in lines else notice
    lines["out"] = str(folder.path)
    return lines


def amount(count: float) -> str:
    """A count in thousands, millions or billions."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count:.0f}"


def _data(assembly: Assembly) -> str:
    prepared = assembly.material.prepared
    names = ", ".join(dict.fromkeys(entry.source for entry in prepared.ledger.sources if entry.split == "train"))
    held = sum(len(rows) for rows in prepared.evals.values())
    tokens = prepared.ledger.total("raw")
    truncated = prepared.ledger.total("truncated") / tokens if tokens else 0.0
    supervised = prepared.ledger.total("supervised") / max(1, tokens)
    where = "from the cache" if prepared.from_cache else f"read in {prepared.seconds:.1f} s"
    return (
        f"{names}  {len(prepared.train):,} train + {held:,} eval rows, {amount(prepared.train.tokens)} tokens, "
        f"{supervised:.1%} supervised, {truncated:.1%} truncated, {where}"
    )


def _product(assembly: Assembly) -> str:
    plan = assembly.plan
    ranks = f" x {plan.data_ranks} ranks" if plan.data_ranks > 1 else ""
    return f"{plan.micro_size} x {plan.micro_count}{ranks}"


def _budget(composed: Composed, assembly: Assembly, total: int) -> str:
    recipe, plan = composed.recipe, assembly.plan
    epochs = f" ({total / plan.steps_per_epoch:.2f} epochs)" if plan.steps_per_epoch else ""
    optimizer, schedule = recipe.optimizer, recipe.schedule
    groups = assembly.update.groups if assembly.update is not None else []
    decay = ", ".join(
        f"{group.label} {amount(group.size)} decay {group.weight_decay:g}"
        + (f" lr {group.lr:g}" if group.lr != optimizer.lr else "")
        for group in groups
    )
    return f"{total:,} steps{epochs}  {optimizer.name} lr {optimizer.lr:g}, {schedule.name}; {decay}"
