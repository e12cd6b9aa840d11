"""The fixtures that all folders share, and the settings of the property tests.

A folder's own conftest.py has what only its tests need. Classes and functions that tests import stand in modules whose
names say what they are; see tests/test_tests.py.
"""

import logging
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from proxy.tools.fake.qwen import FakeQwen
from proxy.upstream import broadcast

if TYPE_CHECKING:
    from tests.certificates import Authority

# Before they are imported: then a failing assert in what tests share says what it found, as one in a test does.
_SHARED = [f"tests.{path.stem}" for path in Path(__file__).parent.glob("*.py") if path.stem != "conftest"]
pytest.register_assert_rewrite(*_SHARED)

from tests.event_loops import until  # noqa: E402
from tests.proxy_under_test import Tee, faked, teed  # noqa: E402
from tests.sampling import is_long, left_out  # noqa: E402
from tests.stage import Stage, staged  # noqa: E402

# A client of an SDK, and a process that imports aiohttp, read all authorities that the machine trusts: 16 ms each time.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).with_name("nobody.pem"))

# A shell starts what runs in the background with SIGINT ignored, and so would run what tests start to interrupt it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# `pytest --hypothesis-profile=thorough tests/test_laws.py` looks longer.
_QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("quick", max_examples=40, deadline=None, suppress_health_check=_QUIET)
settings.register_profile("thorough", max_examples=3000, deadline=None, suppress_health_check=_QUIET)
settings.register_profile(
    "fuzz", max_examples=int(os.environ.get("EXAMPLES", "20000")), deadline=None, suppress_health_check=_QUIET
)
settings.load_profile("quick")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run one process more than there are cores: many tests wait for processes and sockets more than they compute."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put long tests first, and leave out what only `make test-all` runs."""
    items.sort(key=lambda item: not is_long(item.nodeid))
    if os.environ.get("TEST_ALL"):
        return
    out = left_out(item.nodeid for item in items)
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in out])
    items[:] = [item for item in items if item.nodeid not in out]


@pytest.fixture
async def fake() -> AsyncIterator[FakeQwen]:
    """A fake Qwen that answers at once."""
    async with faked() as one:
        yield one
        await until(lambda: not one.connections)


@pytest.fixture
def background_log() -> Iterator[list[logging.LogRecord]]:
    """What is logged of background loops, for tests that have one fail: nobody else hears of it."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign, assignment]
    log = logging.getLogger("streamtee.faults")
    log.addHandler(handler)
    log.propagate = False
    yield records
    log.removeHandler(handler)
    log.propagate = True


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    """An upstream that says what the test has it say."""
    async with staged() as one:
        yield one


@pytest.fixture
def authority(tmp_path: Path) -> "Authority":
    """An authority whose certificates the test trusts."""
    from tests.certificates import Authority

    return Authority(tmp_path)


@pytest.fixture
def upstream_url(request: pytest.FixtureRequest) -> str:
    """The URL of the upstream that the test takes: of `stage`, if it does, else of `fake`."""
    upstream: Stage | FakeQwen = request.getfixturevalue("stage" if "stage" in request.fixturenames else "fake")
    return upstream.url


@pytest.fixture
async def tee(upstream_url: str) -> AsyncIterator[Tee]:
    """A proxy with the default configuration, in front of the upstream that the test takes."""
    async with teed(upstream_url) as one:
        yield one


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a broadcast ask its upstream again at once, so that no test waits."""
    monkeypatch.setattr(broadcast, "LEAST_S", 0.002)
    monkeypatch.setattr(broadcast, "RECONNECTION_S", 0.002)


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what the environment says of the configuration."""
    for name in [name for name in os.environ if name.upper().startswith("STREAMTEE_")]:
        monkeypatch.delenv(name)
