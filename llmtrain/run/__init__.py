"""The composition root: recipe to plan to run, for each run mode; it passes everything by name.

Importing it costs no torch; calling a mode does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from llmtrain.engine.events import EventBus
    from llmtrain.recipe.compose import Composed


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What the command line says about a run beside its recipe."""

    resume: str | None = None
    """None: a new run; `auto`, a run or a checkpoint: go on with it."""
    allow_change: tuple[str, ...] = ()
    """Keys whose change at a resume is accepted although the run is not the same any more."""
    verify: Literal["full", "sample"] = "full"
    """How much of a checkpoint is hashed before it is used."""
    command: tuple[str, ...] = ()
    """The words of the command line without `--resume`, for the message that tells how to go on."""


def train(composed: "Composed", options: RunOptions, bus: "EventBus") -> dict[str, Any]:
    """Train; returns the content of result.json.

    Raises:
        Failure: anything the user can mend; its exit code tells the kind.
    """
    from llmtrain.run.training import train as body

    return body(composed, options, bus)


def evaluate(composed: "Composed", options: RunOptions, bus: "EventBus") -> dict[str, Any]:
    """Evaluate a model on the recipe's held-out rows; the numbers of training's own evaluation.

    Raises:
        Failure: anything the user can mend.
    """
    from llmtrain.run.evaluating import evaluate as body

    return body(composed, options, bus)


def predict(
    composed: "Composed", options: RunOptions, bus: "EventBus", prompts: Sequence[str],
    speak: Callable[[int, str], None] | None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Continue prompts; one result per prompt, in order.

    Args:
        prompts: the texts.
        speak: called with (prompt number, new text) as soon as text is certain; None waits for the end.

    Raises:
        Failure: anything the user can mend.
    """
    from llmtrain.run.speaking import predict as body

    return body(composed, options, bus, prompts, speak)
