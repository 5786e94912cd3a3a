"""A module resolved at its first attribute, so that files which describe options stay importable without torch."""

import importlib
from typing import Any


class Lazy:
    """Stand-in for a module that is imported when an attribute is first read.

    Attributes are cached on the instance, so a second read costs a plain attribute look-up
    and `torch.compile` traces through it without a graph break.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:  # noqa: ANN401 - a module attribute can be anything
        value = getattr(importlib.import_module(self._name), attribute)
        self.__dict__[attribute] = value
        return value
