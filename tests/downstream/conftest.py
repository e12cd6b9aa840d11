"""The proxy before which requests are sent that it can't read."""

from collections.abc import AsyncIterator

import pytest

from tests.downstream.refusals import LIMIT
from tests.proxy_under_test import Tee, teed
from tests.stage import Stage


@pytest.fixture
async def tee(stage: Stage) -> AsyncIterator[Tee]:
    """A proxy with small limits on heads."""
    async with teed(stage.url, limits={"header_bytes": LIMIT, "headers": 30}) as one:
        yield one
