"""After the last step: the final model written and opened again, the recipe's tests judged, result and summary."""

import json
import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from llmtrain.data.prompts import named_prompts
from llmtrain.dist import Ranks
from llmtrain.engine import checkpoint_plan
from llmtrain.engine.checkpoint import Checkpointer
from llmtrain.engine.events import EventBus, Notice
from llmtrain.engine.loop import Engine
from llmtrain.errors import Exit
from llmtrain.export import folder as export
from llmtrain.recipe.compose import Composed
from llmtrain.record import files, metrics
from llmtrain.record.folder import RunFolder
from llmtrain.run import RunOptions
from llmtrain.run.assembly import Assembly
from llmtrain.run.baselines import baselines
from llmtrain.run.machine import Machine
from llmtrain.run.speaking import continuations


@dataclass(frozen=True, kw_only=True)
class Ending:
    """What a run leaves to be finished."""

    composed: Composed
    options: RunOptions
    assembly: Assembly
    folder: RunFolder
    ranks: Ranks
    engine: Engine
    seconds: float
    checkpointer: Checkpointer
    bus: EventBus
    machine: Machine


def finish(ending: Ending) -> tuple[dict[str, Any], dict[str, str]]:
    """Result and summary; collective. A stopped run gets no final model, because it is not final."""
    engine, recipe = ending.engine, ending.composed.recipe
    stopped = engine.stopped
    state = "stopped" if stopped else "done"
    model = None
    if not stopped and recipe.checkpoint.final is not False:
        model = _write_model(ending)
    predicted = _predict(ending) if state == "done" and recipe.predict.after_train else None
    if not ending.ranks.is_first:
        return {"state": state, "exit_code": int(Exit.STOPPED if stopped else Exit.OK)}, {}
    result = _result(ending, state, model)
    if predicted is not None:
        result["predictions"] = str(predicted)
    code = int(Exit.STOPPED) if stopped else _judge(ending, result)
    result["exit_code"] = code
    files.write_json(ending.folder.result, result)
    ending.folder.write_status(state=state, step=engine.state.step, exit_code=code)
    ending.folder.event("run", "end", state=state, data={"exit_code": code, "step": engine.state.step}, sync=True)
    ending.folder.write_rank_exit(0, code=code, kind="own", phase="end", step=engine.state.step)
    return result, _summary(ending, result)


def _write_model(ending: Ending) -> Path | None:
    """`model/`: the last state, or the best one read back from its checkpoint; collective."""
    engine, recipe = ending.engine, ending.composed.recipe
    best = engine.tensors.extra.get("best")
    weights = export.full_weights(engine.tensors.tensors()["weights"])
    if not ending.ranks.is_first:
        return None
    if recipe.checkpoint.final == "best" and best is not None and best["step"] != engine.state.step:
        weights = _saved_weights(ending, best["step"])
    built, words = ending.assembly.built, ending.assembly.material.vocabulary
    eos = words.tokenizer.eos_id
    export.write_model(ending.folder.model, built.config, weights, eos=eos, pad=eos, save_tokenizer=words.save)
    return ending.folder.model


def _saved_weights(ending: Ending, step: int) -> dict[str, Tensor]:
    """Whole weights of the checkpoint of a step, which retention has kept as the best one."""
    found = next(c for c in ending.checkpointer.candidates() if c.step == step and c.manifest is not None)
    assert found.manifest is not None
    whole = checkpoint_plan.load_full(found.path, found.manifest, lambda name: name.startswith("weights/"))
    return {name.removeprefix("weights/"): tensor for name, tensor in whole.items()}


def _predict(ending: Ending) -> Path:
    """`predictions.jsonl`: the recipe's `predict.input`, continued by the trained model; collective."""
    recipe = ending.composed.recipe
    found = continuations(recipe, ending.assembly, named_prompts(recipe.predict.input))
    path = ending.folder.path / "predictions.jsonl"
    if ending.ranks.is_first:
        files.write_atomic(path, "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in found).encode())
    return path


def _result(ending: Ending, state: str, model: Path | None) -> dict[str, Any]:
    engine = ending.engine
    steps = list(metrics.read(ending.folder.metrics, "step"))
    evals = list(metrics.read(ending.folder.metrics, "eval"))
    train = {"first_loss": steps[0]["loss"], "loss": steps[-1]["loss"]} if steps else {}
    evaluation = {k: v for k, v in evals[-1].items() if k not in ("event", "step")} if evals else {}
    return {
        "run": str(ending.folder.path), "id": ending.folder.id, "state": state, "steps": engine.state.step,
        "total_steps": engine.total_steps, "tokens": engine.state.tokens, "seconds": ending.seconds,
        "train": train, "eval": evaluation, "best": engine.tensors.extra.get("best"),
        "baselines": baselines(ending.composed.recipe, ending.assembly.material) if state == "done" else {},
        "model": None if model is None else str(model),
    }  # fmt: skip


def _judge(ending: Ending, result: dict[str, Any]) -> int:
    """The recipe's `tests`; 3 when one is missed."""
    values = {**result["train"], **result["eval"]}
    code = Exit.OK
    for test in ending.composed.recipe.tests:
        value = values.get(test.metric)
        low, high = test.min, test.max
        missed = (
            value is None
            or not math.isfinite(value)
            or (high is not None and value > high)
            or (low is not None and value < low)
        )
        if missed:
            bound = f"at most {high:g}" if high is not None else f"at least {low:g}"
            text = f"tests: {test.metric} is {value}, expected {bound}"
            ending.bus.emit(Notice(message=text, level="warning", id="E-RUN-004"))
            code = Exit.UNHEALTHY
    return int(code)


def _summary(ending: Ending, result: dict[str, Any]) -> dict[str, str]:
    engine = ending.engine
    folder = ending.folder.path
    rate = result["tokens"] / max(1e-9, result["seconds"])
    word = "step" if result["steps"] == 1 else "steps"
    done = f"{result['steps']:,} {word}, {result['tokens']:,} tokens"
    lines = {"trained": f"{done} in {_clock(result['seconds'])} ({rate:,.0f} tokens/s)"}
    if result["train"]:
        lines["loss"] = f"{result['train']['first_loss']:.4f} first, {result['train']['loss']:.4f} last"
    if result["eval"]:
        evaluation = result["eval"]
        bits = f", {evaluation['eval_bits_per_byte']:.3f} bits a byte" if "eval_bits_per_byte" in evaluation else ""
        lines["held out"] = (
            f"{evaluation['eval_loss']:.4f} nats a token, perplexity {evaluation['eval_perplexity']:.2f}{bits}"
        )
    for name, values in result["baselines"].items():
        below = "below" if result["eval"] and result["eval"]["eval_loss"] < values["loss"] else "not below"
        lines[f"{name}"] = f"{values['loss']:.4f} nats a token, {values['bits_per_byte']:.3f} bits a byte ({below})"
    lines["memory"] = f"{engine.memory():.2f} GiB at most"
    if result["model"] is not None:
        lines["saved"] = f"{result['model']}, opened again and equal"
        lines["next"] = f'llmtrain predict "The " --run {folder}'
    if "predictions" in result:
        lines["predicted"] = result["predictions"]
    if result["state"] == "stopped":
        control = engine.control
        name = control.signals.name or ("launch.deadline" if control.past_deadline else "another rank's signal")
        words = ending.options.command or ("train", ending.composed.shown or ending.composed.name)
        command = shlex.join(["llmtrain", *words, "--resume", str(folder)])
        lines["stopped"] = f"by {name}: step {result['steps']} saved; continue with: {command}"
    return lines


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return (
        f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
        if whole >= 3600
        else f"{whole // 60}:{whole % 60:02d}"
    )
