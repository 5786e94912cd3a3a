"""A lazy module costs nothing before its first attribute, and a look-up once."""

import sys

import pytest

from llmtrain.lazy import Lazy


def test_the_import_waits_for_the_first_attribute() -> None:
    sys.modules.pop("wave", None)
    wave = Lazy("wave")
    assert "wave" not in sys.modules
    assert wave.Error is sys.modules["wave"].Error
    assert wave.__dict__["Error"] is wave.Error


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError):
        _ = Lazy("wave").nothing_of_that_name
    with pytest.raises(ModuleNotFoundError):
        _ = Lazy("no_module_of_that_name").thing
