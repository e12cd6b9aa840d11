"""Streams of generation requests begin with the limits and settings that are in force, and a pump to write them."""

import pytest

from proxy.dialects.chat import CHAT
from proxy.dialects.dashscope import DASHSCOPE
from proxy.dialects.route import Route
from proxy.server.configuration.settings import LimitsConfig
from proxy.server.generations.options import GenerationOptions
from proxy.server.generations.pumps import Pumps
from proxy.server.generations.request import GenerationRequest
from proxy.stream.hub import Hub
from proxy.stream.modes.projection import View
from proxy.telemetry.metrics import Metrics
from proxy.upstream.on_disconnect import OnDisconnect
from proxy.wire.errors import Overloaded
from tests.streams import new_hub

ME = b"me"
OPTIONS = GenerationOptions(View("raw"), "key", 7, OnDisconnect(3), "trace", None, respond_async=False)


def pumps(hub: Hub, *, cumulative: bool | None = None, empty_events: bool = False) -> Pumps:
    limits = LimitsConfig(log_bytes=1000, frame_bytes=100)
    return Pumps(hub, Metrics(10), limits, cumulative=cumulative, empty_events=empty_events)


def asked(route: Route | None = None, body: bytes = b'{"stream":true}') -> GenerationRequest:
    """Return a request; its client's address is shown where the stream is."""
    route = route or Route("chat", "/v1/", "/v1/", CHAT)
    generation = GenerationRequest(route, ME, OPTIONS, b"/v1/chat/completions", [], body, 5.0, "1.2.3.4")
    generation.hides_usage = True
    return generation


def test_stream_is_of_its_request() -> None:
    """Caller, route, key, time and trace; it is found in the hub, with the pump as its writer."""
    hub = new_hub()
    pump = pumps(hub).begin(asked())
    info = pump.stream.info
    assert (info.caller, info.route, info.key, info.retain_s, info.trace_id) == (ME, "chat", "key", 7, "trace")
    assert (info.client, info.max_log_bytes, pump.stream.vitals.started_at) == ("1.2.3.4", 1000, 5.0)
    assert hub.find(info.id, ME) is pump.stream
    assert pump.stream.writer is pump


def test_stream_has_the_id_that_was_promised() -> None:
    """Else one of the hub's."""
    hub = new_hub()
    ident = hub.new_id()
    made = pumps(hub)
    assert made.begin(asked(), ident=ident).stream.id == ident
    assert made.begin(asked()).stream.id != ident


def test_limits_hold_from_the_next_stream_on() -> None:
    """A reload changes them; what runs keeps its own."""
    hub = new_hub()
    made = pumps(hub)
    before = made.begin(asked()).stream
    made.limit(LimitsConfig(log_bytes=2000, frame_bytes=200))
    assert (before.max_log_bytes, made.begin(asked()).stream.max_log_bytes) == (1000, 2000)
    assert made.max_frame_bytes == 200


@pytest.mark.parametrize("configured", [None, True, False])
@pytest.mark.parametrize("said", [None, True, False])
def test_request_decides_whether_events_repeat_the_text(configured: bool | None, said: bool | None) -> None:
    """Where it says so; else the configuration does."""
    native = Route("native", "/api/v1/", "/api/v1/", DASHSCOPE)
    parameters = b"" if said is None else b'"incremental_output":%b' % (b"false" if said else b"true")
    hub = new_hub()
    of_chat = pumps(hub, cumulative=configured, empty_events=True).begin(asked()).stream.info
    assert (of_chat.cumulative, of_chat.empty_events) == (configured, True)
    of_native = pumps(hub, cumulative=configured).begin(asked(native, b'{"parameters":{%b}}' % parameters))
    assert of_native.stream.info.cumulative in ((said,) if said is not None else (configured, True))


def test_stream_takes_the_place_that_was_reserved_for_it() -> None:
    """Nobody else may have it meanwhile; without a place there is no stream."""
    hub = new_hub(max_streams=1)
    places = hub.reserve(streams=1, followers=1)
    with pytest.raises(Overloaded):
        pumps(hub).begin(asked())
    pumps(hub).begin(asked(), places)
    assert (hub.running, hub.promised_streams) == (1, 0)
