"""Options of all verbs in one table, and the frozen request that a verb receives.

Separate from the app so that an option is written once, however many verbs take it.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

import typer
from typer.core import TyperCommand

from llmtrain.errors import fail, quoted

SHORTCUTS: dict[str, str] = {
    "model": "model.name",
    "data": "data.train",
    "lr": "optimizer.lr",
    "steps": "budget.steps",
    "epochs": "budget.epochs",
    "seed": "run.seed",
    "batch_size": "batch.global_size",
    "max_length": "data.seq_len",
}
"""Options that only write a key of the recipe."""

WRITTEN: dict[str, str] = {"out": "run.dir", "name": "run.name", "nproc": "launch.nproc"}
"""Further options that write a key but mean a little more than that."""

MODEL = "--model=model.name"
COMPOSING = ("config", "allow_code", *SHORTCUTS)
REPORTING = ("json", "error_format", "debug")
TRAINING = (
    "resume", "out", "name", "nproc", "dry_run", "quiet", "allow_change", "verify", *COMPOSING, *REPORTING,
)  # fmt: skip

EVALUATING = ("nproc", "dry_run", "quiet", *COMPOSING, *REPORTING)

RUN_ID = re.compile(r"\d{6}-\d{6}-")
SETTING = re.compile(r"~?[A-Za-z_][\w-]*(\.[\w-]+|\[\d+\])*=|~[A-Za-z_]")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user typed after the verb; options a verb does not take keep their defaults.

    `--debug` and `--error-format` are not here: `ending.Report` reads them before parsing, which itself can fail.
    """

    verb: str
    words: Sequence[str] = ()
    """Positional arguments in order: recipes, KEY=VALUE, texts, runs."""
    config: Sequence[str] = ()
    resume: str | None = None
    out: str | None = None
    name: str | None = None
    nproc: str | None = None
    world: int | None = None
    dry_run: bool = False
    quiet: bool = False
    allow_code: bool = False
    allow_change: Sequence[str] = ()
    verify: Literal["sample"] | None = None
    json: bool = False
    origin: bool = False
    run: str | None = None
    input: str | None = None
    output: str | None = None
    follow: bool = False
    written: Mapping[str, str] = field(default_factory=dict)
    """Values by `--option=key`, for options that write a key of the recipe."""
    line: Sequence[str] = ()
    """The whole command line as typed, for ranks and for the record."""

    @property
    def settings(self) -> list[str]:
        """The positional words that set or remove a key."""
        return [word for word in self.words if is_setting(word)]

    def recipe_and_settings(self, *, required: bool) -> tuple[str | None, list[str]]:
        """Split `RECIPE KEY=VALUE ...`.

        Raises:
            Failure: E-CLI-001 for a second recipe or a missing one, E-CLI-003 for a word that is neither.
        """
        words = list(self.words)
        recipe = None if not words or is_setting(words[0]) else words.pop(0)
        if recipe is None and required:
            raise fail("E-CLI-001", f"{self.verb}: RECIPE is missing", hint="`llmtrain recipes` lists shipped ones")
        for word in words:
            if not is_setting(word):
                raise fail("E-CLI-003", f"{quoted(word)} is not KEY=VALUE", hint="one recipe, then KEY=VALUE words")
        return recipe, words


def flag(option: str) -> str:
    """How an option of the table is typed."""
    return "--" + option.replace("_", "-")


def is_setting(word: str) -> bool:
    """Whether a word is KEY=VALUE or ~KEY."""
    return SETTING.match(word) is not None


def rewrite_resume(arguments: Sequence[str]) -> list[str]:
    """Give a bare `--resume` its value `auto`, because Typer has no option whose value may be left out.

    The next word is its value when it names a run, or when a recipe stands before it and it is not KEY=VALUE.
    """
    result: list[str] = []
    for index, word in enumerate(arguments):
        result.append(word)
        if word == "--":
            return [*result, *arguments[index + 1 :]]
        if word != "--resume":
            continue
        following = arguments[index + 1] if index + 1 < len(arguments) else "-"
        # the verb is the first word; a second one that is no option is the recipe
        recipe_before = any(not word.startswith("-") and not is_setting(word) for word in arguments[1:index])
        if not _resume_value(following, recipe_before):
            result[-1] = "--resume=auto"
    return result


def without_resume(words: Sequence[str]) -> list[str]:
    """A command line as it would start the same run anew."""
    rewritten = rewrite_resume(words)
    spared = {index for index, word in enumerate(rewritten) if word == "--resume"}
    kept = [(index, word) for index, word in enumerate(rewritten) if not {index, index - 1} & spared]
    return [word for _, word in kept if not word.startswith("--resume=")]


def _resume_value(word: str, recipe_before: bool) -> bool:
    if word.startswith("-") or is_setting(word):
        return False
    if word in ("auto", "latest") or RUN_ID.match(Path(word).name) or "checkpoints/" in word:
        return True
    return recipe_before or (Path(word) / "run.json").exists()


def _option(default: object, *names: str, text: str, metavar: str | None = None) -> Any:  # noqa: ANN401
    return typer.Option(default, *names, help=text, metavar=metavar, show_default=False)


def _options() -> dict[str, tuple[Any, Any]]:
    formats = Literal["text", "json"]
    table: dict[str, tuple[Any, Any]] = {
        "config": (
            list[str],
            _option([], "--config", metavar="FILE", text="A recipe laid over RECIPE; may be repeated."),
        ),
        "resume": (
            str | None,
            _option(None, "--resume", metavar="[auto|RUN|CHECKPOINT]", text="Go on with a run; bare: the newest one."),
        ),
        "out": (str | None, _option(None, "--out", metavar="DIR", text="The run's folder (run.dir).")),
        "name": (str | None, _option(None, "--name", metavar="NAME", text="Label of the run (run.name).")),
        "nproc": (str | None, _option(None, "--nproc", metavar="N", text="Local processes (launch.nproc).")),
        "world": (int | None, typer.Option(None, "--world", min=1, metavar="N", help="Processes to plan for.")),
        "dry_run": (bool, _option(False, "--dry-run", text="Print the resolved recipe and its plan; start nothing.")),
        "debug": (bool, _option(False, "--debug", text="Show tracebacks.")),
        "quiet": (bool, _option(False, "--quiet", text="No header, progress and summary.")),
        "allow_code": (bool, _option(False, "--allow-code", text="Run the code that the recipe names.")),
        "allow_change": (
            list[str],
            _option([], "--allow-change", metavar="KEY", text="With --resume: a key that may differ; repeatable."),
        ),
        "verify": (
            Literal["sample"] | None,
            _option(None, "--verify", metavar="sample", text="With --resume: check a sample of the files' hashes."),
        ),
        "error_format": (formats, _option("text", "--error-format", metavar="text|json", text="Form of errors.")),
        "json": (bool, _option(False, "--json", text="The result as one JSON object on stdout.")),
        "origin": (bool, _option(False, "--origin", text="Show where each value came from.")),
        "run": (str | None, _option(None, "--run", metavar="RUN", text="A run: folder, id or `latest`.")),
        "input": (str | None, _option(None, "--input", metavar="FILE", text="Prompts: .txt (one a line) or .jsonl.")),
        "output": (str | None, _option(None, "--output", metavar="FILE", text="Write results as JSON lines.")),
        "follow": (bool, _option(False, "--follow", text="Go on printing as the run writes.")),
    }
    for name, key in SHORTCUTS.items():
        table[name] = (str | None, _option(None, flag(name), metavar="VALUE", text=f"Writes {key}."))
    return table


OPTIONS = _options()


class Verb(TyperCommand):
    """A command whose usage line shows its words as we write them, and whose values are converted here.

    Typer would build a pydantic adapter for every option, given or not: 0.12 s, more than all the rest of `--help`.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - Typer's own context
        """Fill the context's parameters; raises E-CLI-001 for a value outside its choices."""
        given, rest, _ = self.make_parser(ctx).parse_args(args=list(args))
        for parameter in self.get_params(ctx):
            if parameter.is_eager and parameter.name in given:
                parameter.handle_parse_result(ctx, given, rest)
            elif parameter.name in given:
                ctx.params[parameter.name] = converted(parameter.name, given[parameter.name])
        if rest:
            raise fail("E-CLI-001", f"unexpected word {quoted(rest[0])}", hint=f"llmtrain {self.name} --help")
        return rest

    def collect_usage_pieces(self, ctx: Any) -> list[str]:  # noqa: ANN401 - Typer's own context
        """What stands after the verb in the usage line."""
        return [self.options_metavar] if self.options_metavar else []


def converted(name: str, value: Any) -> Any:  # noqa: ANN401 - as the parser gives it, as the request holds it
    """The value of an option or of the words in the type that the table gives it.

    Raises:
        Failure: E-CLI-001.
    """
    kind = OPTIONS[name][0] if name in OPTIONS else list[str]
    if kind in (bool, list[str]):
        return value
    if kind == int | None:
        if not value.isascii() or not value.isdecimal() or int(value) < 1:
            raise fail("E-CLI-001", f"{flag(name)}: {quoted(value)} is not a whole number of at least 1")
        return int(value)
    choices = [choice for part in get_args(kind) or () for choice in get_args(part) or (part,)]
    if str not in choices and value not in choices:
        known = " or ".join(str(choice) for choice in choices if isinstance(choice, str))
        raise fail("E-CLI-001", f"{flag(name)}: {quoted(value)} is not {known}")
    return value


def command(
    app: typer.Typer, verb: str, body: Callable[[Request], Any], *, text: str, options: Sequence[str],
    words: str | None = None, words_text: str = "",
) -> None:  # fmt: skip
    """Add a verb whose options come from the table; `words` is the form of its positional arguments."""

    def call(context: typer.Context, **given: Any) -> Any:  # noqa: ANN401 - values as Typer parsed them
        written = {
            f"{flag(option)}={key}": str(value)
            for option, key in (SHORTCUTS | WRITTEN).items()
            if (value := given.get(option)) is not None
        }
        known = {item.name for item in fields(Request)}
        direct = {name: value for name, value in given.items() if name in known and value is not None}
        return body(Request(verb=verb, written=written, line=context.obj, **direct))

    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=OPTIONS[name][1], annotation=OPTIONS[name][0])
        for name in options
    ]
    context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    if words is not None:
        default = typer.Argument(None, hidden=True)
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters.insert(0, inspect.Parameter("words", kind, default=default, annotation=list[str]))
    call.__signature__ = inspect.Signature([context, *parameters])  # type: ignore[attr-defined]
    usage = f"{words} [OPTIONS]" if words else "[OPTIONS]"
    help_text = f"{text}\n\n{words_text}"
    app.command(verb.rsplit(maxsplit=1)[-1], cls=Verb, options_metavar=usage, help=help_text, short_help=text)(call)
