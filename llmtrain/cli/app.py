"""The Typer app and the one entry point; verbs import their bodies when called, so that `--help` stays fast."""

import difflib
import importlib
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from llmtrain import __version__
from llmtrain.cli import arguments, ending, streams
from llmtrain.cli.arguments import COMPOSING, EVALUATING, REPORTING, TRAINING, Request
from llmtrain.dist import launched_world, share_processors
from llmtrain.errors import Exit, Failure, Terminated, escape, fail

app = typer.Typer(
    name="llmtrain", rich_markup_mode=None, add_completion=False, no_args_is_help=False, suggest_commands=False,
    help="Train, evaluate and run language models from YAML recipes.",
    epilog="RECIPE is a file or the name of a shipped recipe (`llmtrain recipes`). KEY=VALUE changes one value:"
    " dotted path, lists by index, KEY=null, ~KEY removes.",
)  # fmt: skip
runs = typer.Typer(rich_markup_mode=None, help="List, show and read runs.", suggest_commands=False)
checkpoint = typer.Typer(rich_markup_mode=None, help="List and verify checkpoints.", suggest_commands=False)


def _late(module: str, name: str) -> Callable[[Request], Any]:
    def body(request: Request) -> Any:  # noqa: ANN401 - exit code or None
        return importlib.import_module(f"llmtrain.cli.{module}").VERBS[name](request)

    return body


def _verb(
    owner: typer.Typer, verb: str, module: str, text: str, options: Sequence[str], *, words: str | None = None,
    words_text: str = "",
) -> None:  # fmt: skip
    arguments.command(owner, verb, _late(module, verb), text=text, options=options, words=words, words_text=words_text)


RECIPE_WORDS = "RECIPE [KEY=VALUE ...]"
_verb(
    app, "train", "training", "Train a model.", TRAINING,
    words=RECIPE_WORDS, words_text="A recipe, then values to change.",
)  # fmt: skip
_verb(
    app, "evaluate", "training", "Measure loss and perplexity of a model or a run.",
    ("run", *EVALUATING), words="[RECIPE] [KEY=VALUE ...]", words_text="A recipe; not needed with --run.",
)  # fmt: skip
_verb(
    app, "predict", "training",
    "Continue texts.",
    ("run", "model", "input", "output", "seed", "config", "quiet", "allow_code", *REPORTING),
    words="[TEXT ...] [KEY=VALUE ...]",
    words_text="Without --run and --model the newest finished run speaks. TEXT is a prompt each, `-` reads one"
    " from stdin; a word that starts with a key of the recipe and `=` sets that key.",
)  # fmt: skip
_verb(
    app, "run", "training", "Do what the recipe's run_mode says.", TRAINING,
    words=RECIPE_WORDS, words_text="A recipe, then values to change.",
)  # fmt: skip
_verb(
    app, "check", "inspection", "Validate recipes: every problem at once; nothing is started.",
    ("origin", *COMPOSING, *REPORTING), words="RECIPE ... [KEY=VALUE ...]",
    words_text="Recipes, then values to change.",
)  # fmt: skip
_verb(
    app, "plan", "inspection", "Show what would run: batch arithmetic, mesh, steps, tokens.",
    ("world", "nproc", *COMPOSING, *REPORTING), words=RECIPE_WORDS, words_text="A recipe, then values to change.",
)  # fmt: skip
_verb(
    app, "recipes", "inspection", "List shipped recipes, or print one.", REPORTING, words="[NAME]",
    words_text="A shipped recipe to print.",
)  # fmt: skip
_verb(
    app, "init", "inspection", "Copy a shipped recipe, its schema beside it.", REPORTING,
    words="NAME [PATH]", words_text="A shipped recipe, and where to put it.",
)  # fmt: skip
_verb(
    app, "schema", "inspection", "Print the JSON Schema of recipes, or the meaning of one key.", REPORTING,
    words="[KEY]", words_text="A key such as optimizer.lr.",
)  # fmt: skip
_verb(app, "doctor", "inspection", "Check this machine: versions, devices, memory, disk.", REPORTING)
_verb(
    runs, "runs list", "management", "List the runs under ./runs, or under another folder.", REPORTING,
    words="[FOLDER]", words_text="A folder that holds runs.",
)  # fmt: skip
_verb(
    runs, "runs show", "management", "Show one run: state, last step, metrics, how to go on.", REPORTING,
    words="[RUN]", words_text="Folder, id or `latest`.",
)  # fmt: skip
_verb(
    runs, "runs logs", "management", "Print the log of a run's first rank.", ("follow", *REPORTING),
    words="[RUN]", words_text="Folder, id or `latest`.",
)  # fmt: skip
_verb(
    checkpoint, "checkpoint list", "management", "List a run's checkpoints.", REPORTING,
    words="[RUN]", words_text="Folder, id or `latest`.",
)  # fmt: skip
_verb(
    checkpoint, "checkpoint verify", "management", "Check every file of a run's checkpoints against its hash.",
    REPORTING, words="[RUN]", words_text="Folder, id or `latest`.",
)  # fmt: skip
app.add_typer(runs, name="runs")
app.add_typer(checkpoint, name="checkpoint")


def _show_version(value: bool) -> None:
    if value:
        streams.result(f"llmtrain {__version__}\n")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    del version
    if context.invoked_subcommand is None:
        streams.result(context.get_help() + "\n")


def usage_failure(error: typer.TyperException, words: Sequence[str]) -> Failure:
    """A Typer usage error as our one line, with the nearest verb or option as its hint."""
    message = error.format_message().split("\n")[0].rstrip(".")
    message = re.sub(r" \(Possible options: .*\)$", "", message)
    message = message[:1].lower() + message[1:]
    wanted = re.search(r"[Nn]o such (option: |command ')([^'\s]+)", message)
    hint = _nearest(wanted[2], words) if wanted else None
    return fail("E-CLI-001", escape(message)[:180], hint=hint or "`llmtrain --help`, `llmtrain VERB --help`")


def _nearest(wrong: str, words: Sequence[str]) -> str | None:
    command, _, _ = _leaf(list(words))
    if wrong.startswith("-"):
        options = [name for parameter in command.params for name in parameter.opts]
        known = ["--help", *(name for name in options if name.startswith("-"))]
        if "." in wrong:
            return f"keys of the recipe are written without dashes: `{wrong.lstrip('-')}=VALUE`"
    else:
        known = list(command.commands) if isinstance(command, TyperGroup) else []
    close = difflib.get_close_matches(wrong, known, n=1, cutoff=0.5)
    return f"did you mean `{close[0]}`?" if close else None


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; never raises for anything a user can cause.

    Args:
        argv: the words after the program's name; default: those of this process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    streams.prepare()
    share_processors()
    report = ending.Report.of(words)
    try:
        code = _invoke(words)
    except Failure as failure:
        code = report.failure(failure)
    except KeyboardInterrupt:
        code = report.interrupted(Exit.INTERRUPTED, "interrupted")
    except Terminated:
        code = report.interrupted(Exit.TERMINATED, "terminated before there was anything to save")
    except streams.ReaderLeft:
        code = int(Exit.OK)
    except Exception as error:  # noqa: BLE001 - the last resort: a bug of ours becomes one line and a crash file
        code = report.crash(error)
    return streams.finish(code)


def _invoke(words: list[str]) -> int:
    """Parse and run; not through Typer's own `main`, which answers a broken pipe anywhere in a run with exit code 1."""
    command, path, rest = _leaf(arguments.rewrite_resume(words))
    try:
        with command.make_context(" ".join(path), rest, obj=tuple(words)) as context:
            code = int(command.invoke(context) or 0)
    except typer.Exit as end:
        code = end.exit_code
    except typer.TyperException as error:
        raise usage_failure(error, words) from error
    ending.leave(code)
    return code


def _leaf(words: list[str]) -> tuple[Any, list[str], list[str]]:
    """The command that the first words name, its path, and the other words; a group's own parsing costs 0.1 s."""
    command: Any = typer.main.get_command(app)
    path, rest = ["llmtrain"], list(words)
    while rest and isinstance(command, TyperGroup) and rest[0] in command.commands:
        path.append(rest[0])
        command, rest = command.commands[rest[0]], rest[1:]
    return command, path, rest


def entry() -> NoReturn:
    """The console script, and `python -m llmtrain`."""
    code = main()
    if code != Exit.OK and launched_world()[2] > 1:
        logging.shutdown()
        os._exit(code)  # peers may be gone: finalisers of the process group would wait for them
    sys.exit(code)
