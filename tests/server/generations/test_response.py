"""How a generation's client is answered: the headers that say where its stream is found, and when it is not."""

from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from proxy.access.admission import Admission
from proxy.server.callers.identification import access_of
from proxy.server.generations.options import read_options
from proxy.server.generations.response import GenerationResponses
from proxy.stream.hub import Hub
from proxy.stream.modes.projection import View
from proxy.telemetry.metrics import Metrics
from proxy.wire.errors import OffsetGone
from proxy.wire.http import Head
from tests.proxy_under_test import configured
from tests.streams import hub_stream as new_stream
from tests.streams import new_hub

CONFIG = configured("http://upstream.test")


def responses(hub: Hub) -> GenerationResponses:
    callers, grants = access_of(CONFIG)
    return GenerationResponses(CONFIG, hub, Admission(callers, grants, hub), grants, Metrics(1))


@pytest.mark.parametrize(
    ("headers", "late", "replayed"),
    [
        ({}, False, False),
        ({}, True, False),
        ({"Idempotency-Key": "k"}, False, False),
        ({"Idempotency-Key": "k"}, True, True),
    ],
)
def test_handle_says_where_the_stream_is_found(headers: dict[str, str], late: bool, replayed: bool) -> None:
    """A retry under a key is told that the call was made before; who shares by body is not."""
    hub = new_hub()
    stream = new_stream(hub)
    answer = responses(hub).accept(stream, read_options(CIMultiDict(headers), CONFIG), late=late)
    assert (answer.status, answer.headers["Preference-Applied"]) == (202, "respond-async")
    assert (answer.headers["Stream-Id"], answer.headers["Location"]) == (stream.id, f"/v1/streams/{stream.id}")
    assert ("Idempotency-Replayed" in answer.headers) == replayed


async def test_late_client_is_refused_what_is_not_held_from_its_start() -> None:
    """It would be given less than it asked for; it is told which frame is the earliest."""
    hub = new_hub()
    stream = new_stream(hub, max_log_bytes=100)
    for _ in range(10):
        stream.extend([b"data: %b\n\n" % (b"x" * 40)])
    request: Any = make_mocked_request("POST", "/")
    with pytest.raises(OffsetGone) as caught:
        await responses(hub).send(request, stream, Head(200, b"OK", []), View("raw"), "key")
    assert caught.value.earliest == stream.log.start + 1
