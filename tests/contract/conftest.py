"""The fixtures of the contract with the SDKs: an upstream that plays streams back, and the SDKs in two majors."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.contract.playback import Playback, played
from tests.contract.sdks import PYTHONS, Sdks


@pytest.fixture(scope="session")
def _processes() -> Iterator[dict[str, Sdks]]:
    """One process for each major, begun when it is first needed: to start takes them 2 s."""
    running: dict[str, Sdks] = {}
    yield running
    for one in running.values():
        one.stop()


@pytest.fixture
def sdks(request: pytest.FixtureRequest, _processes: dict[str, Sdks]) -> Sdks:
    """The SDKs of a major, "newer" or "older". The older one's test is skipped, or fails with CI=true, without them."""
    name = request.param
    if name not in _processes:
        if not Path(PYTHONS[name]).exists():
            reason = "the older SDKs are not installed; tests/system_tools.sh installs them"
            pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
        _processes[name] = Sdks(PYTHONS[name])
    return _processes[name]


@pytest.fixture
async def fake() -> AsyncIterator[Playback]:
    """A fake Qwen that plays recordings back."""
    async with played() as one:
        yield one
