"""What a follower asks for, read from its query."""

import pytest
from aiohttp.test_utils import make_mocked_request

from proxy.server.config import StreamsConfig
from proxy.server.follow_request import Cursor, FollowRequest, read_follow_request, without_last_event_id
from proxy.stream.projections import FLUSH_BYTES, FLUSH_MS, MODES, View, view_of
from proxy.wire.errors import BadRequest, OriginNotAllowed, UnknownMode

PACED = [name for name, projection in MODES.items() if projection.paced]
PROMPT = [name for name, projection in MODES.items() if not projection.paced]


@pytest.mark.parametrize("mode", PROMPT)
def test_mode_without_a_pace_takes_none(mode: str) -> None:
    """A parameter that would do nothing is refused, and the message says where it means something."""
    assert view_of(mode) == View(mode)
    with pytest.raises(BadRequest, match=mode):
        view_of(mode, "50")


@pytest.mark.parametrize("mode", PACED)
def test_mode_with_a_pace_has_a_default(mode: str) -> None:
    """And takes another, 0 for none."""
    assert view_of(mode) == View(mode, FLUSH_MS, FLUSH_BYTES)
    assert view_of(mode, "20", "100") == View(mode, 20, 100)
    assert view_of(mode, "0", "100") == View(mode)


@pytest.mark.parametrize("mode", PACED)
@pytest.mark.parametrize("number", ["", "-1", "x", "60001", "1e3", "9" * 40])
def test_pace_that_is_no_number_is_refused(mode: str, number: str) -> None:
    """The message names what is allowed."""
    with pytest.raises(BadRequest, match="60000"):
        view_of(mode, number)


def test_unknown_mode_is_refused() -> None:
    """The message names those there are."""
    with pytest.raises(UnknownMode, match="raw, events"):
        view_of("loud")


@pytest.mark.parametrize(
    "name",
    ["lastEventId", "Last-Event-ID", "last-event-id", "last_event_id", "lastEventID", "lasteventid"],
)
def test_last_event_id_may_stand_in_the_query(name: str) -> None:
    """Polyfills that can't send the header spell it so; the header counts where both are."""
    generation = "abcdef"

    def cursor(query: str, **headers: str) -> Cursor:
        return read_follow_request(make_mocked_request("GET", f"/?{query}", headers=headers), StreamsConfig()).cursor

    assert cursor(f"a=b&{name}={generation}-7") == Cursor(7, generation)
    assert cursor(f"{name}=") == Cursor()
    assert cursor(f"{name}=7&after=9") == Cursor(7)
    assert cursor(f"{name}=7", **{"Last-Event-ID": "8"}) == Cursor(8)
    with pytest.raises(BadRequest, match="nine"):
        cursor(f"{name}=nine")
    for target in (f"/e?{name}=7", f"/e?{name.replace('e', '%65')}=7&{name}"):
        assert without_last_event_id(target) == "/e"
    assert without_last_event_id(f"/e?a=b&{name}=7&c") == "/e?a=b&c"
    assert without_last_event_id(f"/{name}=7?") == f"/{name}=7?"


# WebSockets


def wished(target: str = "/", **headers: str) -> FollowRequest:
    """Return what the handshake of a WebSocket asks for."""
    handshake = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    handshake["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="
    return read_follow_request(make_mocked_request("GET", target, headers={**handshake, **headers}), StreamsConfig())


def test_handshake_asks_for_messages() -> None:
    """In the same view as another request with this query, from the same cursor."""
    wanted = wished("/?after=3&heartbeat=2")
    assert wanted.view == View("events", websocket=True)
    assert (wanted.cursor.seq, wanted.heartbeat_s) == (3, 2)
    assert wanted.accept == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert not wished("/", Upgrade="").view.websocket


@pytest.mark.parametrize("query", ["mode=raw", "mode=raw&offset=3"])
def test_bytes_are_no_messages(query: str) -> None:
    """Neither are they begun within."""
    with pytest.raises(BadRequest, match="WebSocket"):
        wished(f"/?{query}")


@pytest.mark.parametrize("origin", ["https://proxy.example", "http://Proxy.example"])
def test_page_of_this_host_may_open_a_websocket(origin: str) -> None:
    """TLS may have ended before us; and who is no browser has no origin."""
    assert wished(Host="proxy.example", Origin=origin).accept
    assert wished(Host="proxy.example").accept


@pytest.mark.parametrize(
    "origin", ["", "null", "proxy.example", "https://proxy.example:444", "https://evil.example", "http://[", "é"]
)
def test_page_of_another_host_may_not_open_a_websocket(origin: str) -> None:
    """Pages elsewhere, sandboxed ones, and what is no origin; by HTTP they may ask, if CORS lets them read."""
    with pytest.raises(OriginNotAllowed):
        wished(Host="proxy.example", Origin=origin)
    assert wished(Host="proxy.example", Origin=origin, Upgrade="").view == View("events")
