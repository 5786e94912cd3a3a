"""stub"""
import json
from llmtrain.cli import streams
from llmtrain.errors import render, Problem
from collections.abc import Sequence


def show_problems(problems: Sequence[Problem], *, as_json: bool, started: bool) -> None:
    for p in problems:
        streams.say(render(p))
