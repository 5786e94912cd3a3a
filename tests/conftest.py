"""Fixtures of tests that run the whole tool: one warm process and one cache for all of them."""

from collections.abc import Iterator

import pytest

from tests.tiny import Tool
from tests.torture.zygote import MODULES, Zygote


@pytest.fixture(scope="session")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tool]:
    """The command line without its start-up cost."""
    with Zygote(modules=(*MODULES, "llmtrain.run.training", "llmtrain.cli.console")) as zygote:
        yield Tool(zygote, tmp_path_factory.mktemp("cache"))
