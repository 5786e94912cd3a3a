"""Contradictions that the recipe alone shows; what needs data, a model or ranks is found by the plan.

Separate from the checker because each rule speaks about several keys.
"""

from collections.abc import Callable, Iterator

from llmtrain.errors import Problem, quoted
from llmtrain.recipe.check import Checker, place_of
from llmtrain.recipe.nodes import Path, dotted
from llmtrain.recipe.schema import Recipe

Found = tuple[str, Path, str, str | None]
"""Error id, path, message, hint."""


def contradictions(recipe: Recipe, checker: Checker) -> list[Problem]:
    """Every rule that the recipe breaks."""
    return [
        Problem(id=id, message=message, key=dotted(path), place=place_of(checker, path), hint=hint)
        for rule in _RULES
        for id, path, message, hint in rule(recipe, checker)
    ]


def _model(recipe: Recipe, _: Checker) -> Iterator[Found]:
    model, here = recipe.model, ("model",)
    if recipe.run_mode == "train" and model.name is None and model.config is None and model.factory is None:
        hint = "from scratch: extends: [_base/model/llama-14m]; continued: model.name=FOLDER"
        yield "E-RECIPE-006", here, "no model: one of `name`, `config` and `factory` is required", hint
    if model.factory is not None and model.name is not None:
        yield "E-RECIPE-009", (*here, "factory"), "a factory builds the model; `model.name` cannot be given too", None
    if model.config is not None and model.name is not None and model.init != "random":
        message = "a model is taken by `name` or built from `config`; both are given"
        yield "E-RECIPE-009", (*here, "config"), message, "keep one, or set model.init: random"
    if model.init == "pretrained" and model.name is None:
        yield (
            "E-RECIPE-009",
            (*here, "init"),
            "pretrained weights need `model.name`",
            "give model.name, or init: random",
        )
    if model.config is not None and model.factory is None and "model_type" not in model.config and model.name is None:
        message = "`model_type` is required: which architecture the other keys describe"
        yield "E-RECIPE-006", (*here, "config"), message, "add model_type: llama"
    if model.trust_remote_code and model.revision is None:
        message = "code of a hub model needs `model.revision`: a pinned commit"
        yield "E-SEC-003", (*here, "trust_remote_code"), message, "set model.revision to a commit"
    if model.trust_remote_code and model.name is None:
        yield "E-RECIPE-009", (*here, "trust_remote_code"), "no `model.name` whose code could be trusted", None
    if model.revision is not None and model.name is None:
        yield "E-RECIPE-009", (*here, "revision"), "a revision needs `model.name`", None


def _tokenizer(recipe: Recipe, _: Checker) -> Iterator[Found]:
    tokenizer = recipe.tokenizer
    if tokenizer.name is not None and tokenizer.train is not None:
        message = "a tokenizer is taken by `name` or trained; both are given"
        yield "E-RECIPE-009", ("tokenizer", "train"), message, "keep one; unset the other with null"
    none = tokenizer.name is None and tokenizer.train is None and recipe.model.name is None
    if recipe.run_mode == "train" and none and (recipe.model.config is not None or recipe.model.factory is not None):
        message = "no tokenizer: a model from scratch brings none"
        yield (
            "E-RECIPE-006",
            ("tokenizer",),
            message,
            "tokenizer: {train: {vocab_size: 4096}}, or tokenizer.name=FOLDER",
        )


def _data(recipe: Recipe, _: Checker) -> Iterator[Found]:
    data = recipe.data
    if recipe.run_mode == "train" and not data.train:
        yield "E-RECIPE-006", ("data", "train"), "no training data", "data.train=FILE, or builtin:python-docs"
    sources = [("train", data.train), ("eval", data.eval if isinstance(data.eval, list) else [])]
    for name, listed in sources:
        seen: dict[str, int] = {}
        for index, source in enumerate(listed):
            if not source.path.strip():
                yield "E-RECIPE-005", ("data", name, index, "path"), "an empty path", "name a file, folder or glob"
            if source.name is not None and source.name in seen:
                message = f"two sources are named {quoted(source.name)}"
                yield "E-RECIPE-009", ("data", name, index, "name"), message, None
            seen.setdefault(source.name or "", index)
    for index, pair in enumerate(data.skip_steps):
        if len(pair) != 2 or not 1 <= pair[0] <= pair[1]:
            message = f"{pair} is not [first, last] with 1 <= first <= last"
            yield "E-RECIPE-005", ("data", "skip_steps", index), message, "data.skip_steps: [[100, 120]]"
    if data.packing is True and data.padding == "max_length":
        yield "E-RECIPE-009", ("data", "padding"), "packed rows are full; `padding` needs packing: false", None


def _evaluation(recipe: Recipe, _: Checker) -> Iterator[Found]:
    data = recipe.data
    if recipe.run_mode == "evaluate":
        nothing = not data.eval if isinstance(data.eval, list) else data.eval.fraction == 0 or not data.train
        if nothing:
            yield "E-RECIPE-006", ("data", "eval"), "no data to evaluate on", "data.eval=[FILE], or --run RUN"


def _batch(recipe: Recipe, checker: Checker) -> Iterator[Found]:
    batch = recipe.batch
    if batch.accumulate is not None and batch.micro_size == "auto":
        message = f"accumulate {batch.accumulate} needs a number in `batch.micro_size`"
        yield "E-RECIPE-009", ("batch", "accumulate"), message, "set batch.micro_size"
    if isinstance(batch.micro_size, int) and batch.micro_size > batch.global_size and batch.accumulate is None:
        message = f"{batch.micro_size} rows a forward, but {batch.global_size} rows a step"
        yield "E-RECIPE-009", ("batch", "micro_size"), message, f"at most {batch.global_size}"
    both = [checker.spots.get(("batch", name)) for name in ("accumulate", "global_size")]
    if batch.accumulate is not None and both[0] and both[1] and both[0].layer == both[1].layer:
        rows = batch.micro_size * batch.accumulate if isinstance(batch.micro_size, int) else 0
        if rows and batch.global_size % rows:
            message = f"{batch.global_size} rows a step are not a multiple of {batch.micro_size} x {batch.accumulate}"
            yield "E-RECIPE-009", ("batch", "accumulate"), message, "give one of accumulate and global_size"


def _budget(recipe: Recipe, checker: Checker) -> Iterator[Found]:
    budget = recipe.budget
    none = budget.steps is None and budget.epochs is None and budget.tokens is None
    if recipe.run_mode == "train" and none:
        message = "no budget: one of `steps`, `epochs` and `tokens` is required"
        yield "E-PLAN-005", ("budget",), message, "budget.epochs=1, or --steps 1000"
    warmup = recipe.schedule.warmup
    if warmup >= 1 and warmup != int(warmup):
        message = f"{warmup:g} is neither a share below 1 nor a whole number of steps"
        yield "E-RECIPE-005", ("schedule", "warmup"), message, None
    if warmup >= 1 and budget.steps is not None and warmup > budget.steps:
        message = f"{warmup:g} warm-up steps in a run of {budget.steps} steps"
        yield "E-PLAN-004", ("schedule", "warmup"), message, f"at most {budget.steps}, or a share below 1"


def _precision(recipe: Recipe, checker: Checker) -> Iterator[Found]:
    precision = recipe.precision
    path = ("precision", "loss_scale")
    unscaled = precision.compute not in ("fp16", "auto") and precision.loss_scale != 32768.0
    if unscaled and path in checker.spots:
        message = f"only fp16 is scaled; compute is {precision.compute}"
        yield "E-RECIPE-009", path, message, "remove it, or precision.compute: fp16"
    if precision.params in ("bf16", "fp16") and precision.compute == "fp32":
        message = f"parameters in {precision.params} cannot be computed with in fp32"
        yield "E-RECIPE-009", ("precision", "params"), message, "params: fp32, or compute: auto"


def _speed(recipe: Recipe, _: Checker) -> Iterator[Found]:
    span = recipe.speed.profile
    if span is not None and (len(span) != 2 or not 1 <= span[0] <= span[1]):
        message = f"{span} is not [first, last] with 1 <= first <= last"
        yield "E-RECIPE-005", ("speed", "profile"), message, "speed.profile: [10, 12]"
    compile = recipe.speed.compile
    if isinstance(compile, dict):
        for name in compile:
            if name not in ("backend", "mode"):
                yield "E-RECIPE-001", ("speed", "compile", name), "unknown key", "known here: backend, mode"


def _checkpoint(recipe: Recipe, checker: Checker) -> Iterator[Found]:
    checkpoint, evaluate = recipe.checkpoint, recipe.evaluate
    no_eval = isinstance(recipe.data.eval, list) and not recipe.data.eval
    no_eval = no_eval or (not isinstance(recipe.data.eval, list) and recipe.data.eval.fraction == 0)
    never = evaluate.every is None and not evaluate.at_start and evaluate.min_times is None
    why = "data.eval holds nothing" if no_eval else "evaluate.every is null"
    if recipe.run_mode == "train" and (no_eval or never):
        for name, value in (("final", checkpoint.final), ("every", checkpoint.every)):
            if value == "best":
                message = f"the best checkpoint needs an evaluation, but {why}"
                yield "E-RECIPE-009", ("checkpoint", name), message, "give data.eval and evaluate.every"
    if no_eval and evaluate.at_start:
        yield "E-RECIPE-009", ("evaluate", "at_start"), f"nothing to evaluate: {why}", "give data.eval"
    if no_eval and evaluate.min_times is not None:
        yield "E-RECIPE-009", ("evaluate", "min_times"), f"nothing to evaluate: {why}", "give data.eval"


def _rest(recipe: Recipe, _: Checker) -> Iterator[Found]:
    if recipe.predict.after_train and recipe.predict.input is None:
        yield "E-RECIPE-009", ("predict", "after_train"), "nothing to predict: `predict.input` is null", None
    for index, test in enumerate(recipe.tests):
        if test.max is None and test.min is None:
            yield (
                "E-RECIPE-006",
                ("tests", index),
                "one of `max` and `min` is required",
                "{metric: eval_loss, max: 3.2}",
            )
        if test.max is not None and test.min is not None and test.min > test.max:
            yield "E-RECIPE-009", ("tests", index), f"min {test.min:g} is above max {test.max:g}", None
    if recipe.offline and recipe.model.trust_remote_code:
        message = "code cannot be fetched while `offline` is true"
        yield "E-RECIPE-009", ("model", "trust_remote_code"), message, None


_RULES: tuple[Callable[[Recipe, Checker], Iterator[Found]], ...] = (
    _model, _tokenizer, _data, _evaluation, _batch, _budget, _precision, _speed, _checkpoint, _rest,
)  # fmt: skip
