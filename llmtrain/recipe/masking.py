"""Masks secrets in whatever is written or shown (reliability.md 5, P3); separate because every writer needs it."""

import re
from dataclasses import replace

from llmtrain.errors import Problem

MASK = "<masked>"
_NAME = (
    r"(?:[\w-]*[_-])?(?:api[_-]?key|password|passwd|secret(?:[_-]?key)?|access[_-]?key"
    r"|(?:hf|hub|auth|access|api|bearer)[_-]token)|token"
)
_NAMED = re.compile(
    rf"""(?i)(?<![\w-])(["']?(?:{_NAME})["']?\s*[:=]\s*)(?!\s*\$\{{)("[^"\n]*"|'[^'\n]*'|[^\s,}}\]#]+)"""
)
_SECRET_KEY = re.compile(rf"(?i)(?:{_NAME})")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/\s:@\"']+:[^/\s@\"']+@")
_BARE = re.compile(r"\b(?:hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|AKIA[A-Z0-9]{16})\b")


def is_secret_key(name: str) -> bool:
    """Whether values under this key are secrets by its name."""
    return _SECRET_KEY.fullmatch(name) is not None


def mask(text: str) -> str:
    """The text with literals under secret names, passwords in addresses and well-known token forms replaced.

    Interpolations stay: they name a secret without holding it.
    """
    text = _NAMED.sub(lambda match: match[1] + MASK if match[2] not in ("null", "~") else match[0], text)
    return _BARE.sub(MASK, _URL.sub(rf"\1{MASK}@", text))


def mask_problem(problem: Problem) -> Problem:
    """The problem with masked message, excerpt and hint."""
    place = problem.place
    return replace(
        problem,
        message=mask(problem.message),
        hint=None if problem.hint is None else mask(problem.hint),
        place=replace(place, text=None if place.text is None else mask(place.text)),
    )
