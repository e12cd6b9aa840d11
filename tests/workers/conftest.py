"""Tests of several workers: each on both event loops."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.event_loops import LOOPS


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, Callable[[], Any]]:
    """Run every test here on both event loops; `@on_one_loop` names the exceptions."""
    return LOOPS
