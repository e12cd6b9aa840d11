"""Tests of the whole proxy with raw clients: each on both event loops, and with any configuration."""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest

from proxy.tools.fake.qwen import FakeQwen
from tests.event_loops import LOOPS
from tests.proxy_under_test import Serve, serving
from tests.stage import Stage


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, Callable[[], Any]]:
    """Run every test here on both event loops; `@on_one_loop` names the exceptions."""
    return LOOPS


@pytest.fixture
async def serve(fake: FakeQwen) -> AsyncIterator[Serve]:
    """Start a proxy in front of `fake`, with these tables of its configuration."""
    async with serving(fake.url) as start:
        yield start


@pytest.fixture
async def perform(stage: Stage) -> AsyncIterator[Serve]:
    """Start a proxy in front of `stage`, with these tables of its configuration."""
    async with serving(stage.url) as start:
        yield start
