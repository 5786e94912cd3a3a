"""Verbs that start a run: train, evaluate, predict, run."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtrain.cli import ending, prompts, streams
from llmtrain.cli.arguments import MODEL, Request, without_resume
from llmtrain.dist import launched_world
from llmtrain.errors import Exit, Failure, fail

if TYPE_CHECKING:
    from llmtrain.engine.events import EventBus
    from llmtrain.recipe.compose import Composed
    from llmtrain.run import RunOptions


def compose_request(
    request: Request, run_mode: str, *, required: bool = True, import_plugins: bool = True,
    recipe: str | None = None, settings: Sequence[str] = (),
) -> "Composed":  # fmt: skip
    """The request's recipe with all its layers; `recipe` and `settings` stand below what the user typed."""
    named, typed = request.recipe_and_settings(required=required and recipe is None)
    from llmtrain.recipe.compose import compose

    written = dict(request.written)
    if request.quiet:
        written["--quiet=log.progress"] = "none"
    return compose(
        named or recipe, overrides=[*settings, *typed], configs=list(request.config), shortcuts=written,
        run_mode=run_mode, allow_code=request.allow_code, import_plugins=import_plugins,
    )  # fmt: skip


def options_of(request: Request) -> "RunOptions":
    """What the command line says about a run beside its recipe."""
    from llmtrain.run import RunOptions

    return RunOptions(
        resume=request.resume, allow_change=tuple(request.allow_change), verify=request.verify or "full",
        command=tuple(without_resume(request.line)),
    )  # fmt: skip


def refuse_stray_options(request: Request, mode: str) -> None:
    """Nothing that is accepted is ignored.

    Raises:
        Failure: E-CLI-004, an option that means nothing here.
    """
    if mode != "train" and (request.resume or request.out or request.name):
        raise fail("E-CLI-004", f"--resume, --out and --name belong to training; this recipe's mode is {mode}")
    if request.resume is None and (request.allow_change or request.verify):
        raise fail("E-CLI-004", "--allow-change and --verify need --resume")


def train(request: Request) -> int:
    """Train, here or on several local ranks."""
    refuse_stray_options(request, "train")
    return _run(request, compose_request(request, "train", import_plugins=not request.dry_run), "train")


def evaluate(request: Request) -> int:
    """Evaluate a recipe's model, or a run with the recipe and the held-out rows it was trained with."""
    if request.run is None:
        return _run(request, compose_request(request, "evaluate"), "evaluate")
    if MODEL in request.written:
        raise fail("E-CLI-004", "--run and --model both name a model; give one")
    from llmtrain.record import index

    folder = index.resolve(request.run, Path("runs"))
    settings = [
        f"model.name={prompts.run_name(request.run, folder.path)}", "model.config=null",
        "model.init=pretrained", "tokenizer.train=null", "tokenizer.name=null",
    ]  # fmt: skip
    recipe = str(folder.path / "recipe.resolved.yaml")
    return _run(request, compose_request(request, "evaluate", recipe=recipe, settings=settings), "evaluate")


def run(request: Request) -> int:
    """Do what the recipe's own `run_mode` says."""
    named, typed = request.recipe_and_settings(required=True)
    from llmtrain.recipe.compose import compose

    first = compose(
        named, overrides=typed, configs=list(request.config), shortcuts=request.written, run_mode=None,
        allow_code=request.allow_code, import_plugins=False,
    )  # fmt: skip
    mode = first.recipe.run_mode
    refuse_stray_options(request, mode)
    if mode == "predict":
        return prompts.predict_composed(request, compose_request(request, mode), _screen)
    return _run(request, compose_request(request, mode), mode)


def predict(request: Request) -> int:
    """Continue texts with a run, a model, or the newest finished run."""
    return prompts.predict(request, _screen)


def _run(request: Request, composed: "Composed", mode: str) -> int:
    from llmtrain.cli import inspection

    if request.dry_run:
        return inspection.show_dry_run(request, composed)
    missing = inspection.missing_files(composed)
    if missing:
        raise Failure(*missing)
    count = local_processes(composed)
    if count > 1:
        from llmtrain.launch.local import launch

        section = composed.recipe.launch
        return launch(request.line, nproc=count, timeout=section.timeout, grace=section.grace)
    from llmtrain import run as runs

    modes: Mapping[str, Callable[..., Mapping[str, Any]]] = {"train": runs.train, "evaluate": runs.evaluate}
    with _screen(request, composed) as bus:
        result = modes[mode](composed, options_of(request), bus)
    if launched_world()[0] == 0:
        _show_result(request, mode, result)
    return exit_code_of(result)


def exit_code_of(result: Mapping[str, Any]) -> int:
    """A run that saved and stopped early ends with 75; its result says so."""
    return int(Exit.STOPPED) if result.get("state") == "stopped" else int(result.get("exit_code") or 0)


def local_processes(composed: "Composed") -> int:
    """How many ranks to start here; 1 when someone else's launcher started this process."""
    if "WORLD_SIZE" in os.environ:
        return 1
    wanted = composed.recipe.launch.nproc
    if wanted != "auto":
        return int(wanted)
    device = composed.recipe.run.device
    if device in ("auto", "cuda"):
        import torch

        return max(1, torch.cuda.device_count())
    return 1


def _screen(request: Request, composed: "Composed") -> "Screen":
    return Screen(request, composed)


class Screen:
    """The event bus of a run with the first rank's screen on it; closes the live line however the run ends."""

    def __init__(self, request: Request, composed: "Composed") -> None:
        self.request, self.composed = request, composed
        self.view: Any = None

    def __enter__(self) -> "EventBus":
        from llmtrain.engine.events import EventBus, RunStart

        bus = EventBus()
        bus.on(RunStart, lambda event: ending.crash_folder.append(Path(event.folder)) if event.folder else None)
        if launched_world()[0] == 0:
            from llmtrain.cli import console

            title = (self.request.verb, self.composed.shown or self.composed.name, self.composed.recipe.run.seed)
            self.view = console.attach(bus, progress=self.composed.recipe.log.progress, title=title)
        return bus

    def __exit__(self, *_: object) -> None:
        if self.view is not None:
            self.view.close()


def _show_result(request: Request, mode: str, result: Mapping[str, Any]) -> None:
    if request.json:
        streams.result_json(result)
    elif mode == "evaluate":
        from llmtrain.cli import console

        streams.result(console.metrics_table(result))


VERBS: dict[str, Callable[[Request], int]] = {"train": train, "evaluate": evaluate, "predict": predict, "run": run}
