"""What monitoring is answered: the handlers by themselves."""

import json
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from prometheus_client import CollectorRegistry, Counter

from proxy.access.callers import Caller
from proxy.server.admin.probes import Probes, described, healthy

NOBODY = Caller(b"")
PROBE = make_mocked_request("GET", "/")


class Page:
    """A page of metrics with one of them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        Counter("made_up", "For this test.", registry=self.registry).inc(3)


@pytest.mark.parametrize(
    ("readiness", "status"),
    [({"ready": True}, 200), ({"ready": True, "store": "down"}, 200), ({"ready": False, "store": "down"}, 503)],
)
async def test_readiness_is_the_status_of_readyz(readiness: dict[str, object], status: int) -> None:
    """Load balancers look at no more; the body says why. It is asked anew each time."""
    now: dict[str, object] = {"ready": False}
    page: Any = Page()
    probes = Probes(page, lambda: now)
    assert (await probes.ready(PROBE, NOBODY)).status == 503
    now = readiness
    response = await probes.ready(PROBE, NOBODY)
    assert response.body is not None
    assert (response.status, json.loads(bytes(response.body))) == (status, readiness)


async def test_metrics_are_those_of_the_page() -> None:
    """In Prometheus' text format."""
    page: Any = Page()
    response: Any = await Probes(page, lambda: {"ready": True}).metrics(PROBE, NOBODY)
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    assert b"\nmade_up_total 3.0\n" in response.body


async def test_health_is_told_whatever_the_readiness() -> None:
    """It says that the event loop turns, and no more."""
    response = await healthy(PROBE, NOBODY)
    assert (response.status, response.body) == (200, b'{"status":"ok"}')


async def test_openapi_document_is_json() -> None:
    """What it says is tested in test_openapi.py."""
    response = await described(PROBE, NOBODY)
    assert response.body is not None
    assert json.loads(bytes(response.body))["openapi"].startswith("3.")
