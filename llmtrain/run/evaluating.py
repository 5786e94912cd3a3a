"""`evaluate`: the held-out numbers of a model, by the code and the rows that training itself evaluates with."""

import time
from typing import Any

from llmtrain import dist
from llmtrain.doors import transformers as door
from llmtrain.engine.events import EventBus, Notice, RunEnd
from llmtrain.errors import fail
from llmtrain.recipe.compose import Composed
from llmtrain.run import RunOptions
from llmtrain.run.assembly import assemble, gather_material
from llmtrain.run.baselines import baselines
from llmtrain.run.machine import choose


def evaluate(composed: Composed, options: RunOptions, bus: EventBus) -> dict[str, Any]:
    """Evaluate; see `llmtrain.run.evaluate`."""
    recipe = composed.recipe
    door.hush()
    machine = choose(recipe)
    material = gather_material(recipe, progress=None)
    ranks = dist.start(backend=machine.backend, timeout=recipe.launch.timeout)
    assembly = assemble(
        composed, material, machine, ranks, training=False,
        notice=lambda text: bus.emit(Notice(message=text, level="warning")),
    )  # fmt: skip
    if assembly.evaluator is None:
        raise fail("E-DATA-008", "there are no evaluation rows", key="data.eval", hint="data.eval: {fraction: 0.05}")
    begun = time.perf_counter()
    values = assembly.evaluator.evaluate()
    assert values is not None
    seconds = time.perf_counter() - begun
    rows = sum(len(rows) for rows in material.prepared.evals.values())
    dist.stop(ranks)
    result = {
        "model": recipe.model.name,
        **values,
        "eval_rows": rows,
        "seconds": seconds,
        "samples_per_second": rows / seconds,
        "baselines": baselines(recipe, material) if ranks.is_first else {},
    }
    bus.emit(RunEnd(result=result))
    return result
