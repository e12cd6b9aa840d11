"""What a follower asks for, read from its query."""

from urllib.parse import quote

import pytest
from aiohttp.test_utils import make_mocked_request

from proxy.server.configuration.settings import StreamsConfig
from proxy.server.following.request import Cursor, FollowRequest, read_follow_request, without_last_event_id
from proxy.stream.modes.projection import View
from proxy.stream.modes.projections import FLUSH_BYTES, FLUSH_MS, MODES, view_of
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
    epoch = "abcdef"

    def cursor(query: str, **headers: str) -> Cursor:
        return read_follow_request(make_mocked_request("GET", f"/?{query}", headers=headers), StreamsConfig()).cursor

    assert cursor(f"a=b&{name}={epoch}-7") == Cursor(7, epoch)
    assert cursor(f"{name}=") == Cursor()
    assert cursor(f"{name}=7&after=9") == Cursor(7)
    assert cursor(f"{name}=7", **{"Last-Event-ID": "8"}) == Cursor(8)
    with pytest.raises(BadRequest, match="nine"):
        cursor(f"{name}=nine")
    for target in (f"/e?{name}=7", f"/e?{name.replace('e', '%65')}=7&{name}"):
        assert without_last_event_id(target) == "/e"
    assert without_last_event_id(f"/e?a=b&{name}=7&c") == "/e?a=b&c"
    assert without_last_event_id(f"/{name}=7?") == f"/{name}=7?"


# Cursors


def asked(target: str = "/", streams: StreamsConfig | None = None, **headers: str) -> FollowRequest:
    """Return what a follower by HTTP asks for; `_` in a header's name stands for `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return read_follow_request(make_mocked_request("GET", target, headers=named), streams or StreamsConfig())


@pytest.mark.parametrize(
    ("text", "cursor"),
    [("3", Cursor(3)), ("0", Cursor(0)), ("-1", Cursor(0)), ("now", Cursor(-1)), ("gen234-3", Cursor(3, "gen234"))],
)
@pytest.mark.parametrize("way", ["header", "last_event_id", "after", "starting_after"])
def test_cursor_is_read(way: str, text: str, cursor: Cursor) -> None:
    """A number, an event id, -1 for the start, or now for the end; the header wins."""
    if way == "header":
        assert asked("/?after=7", Last_Event_ID=text).cursor == cursor
    else:
        assert asked(f"/?{way}={text}").cursor == cursor


@pytest.mark.parametrize(
    "cursor",
    ["x", "1.5", "-2", "+1", "1-", "-", "-x", "gen-", "gen-x", "1 ", "0x1", "\u0661", "1" * 19, "1e3", "NOW", "a b"],
)
@pytest.mark.parametrize("way", ["header", "last_event_id", "after", "starting_after"])
def test_cursor_that_is_none_is_refused(way: str, cursor: str) -> None:
    """With what was given and what is allowed."""
    with pytest.raises(BadRequest) as refused:
        asked("/", Last_Event_ID=cursor) if way == "header" else asked(f"/?{way}={quote(cursor, safe='')}")
    assert all(word in refused.value.message for word in (repr(cursor[:60]), "cursor", "id", "number", "-1", "now"))


def test_cursor_that_is_long_is_not_repeated_whole() -> None:
    """A message does not grow with what a client sends."""
    with pytest.raises(BadRequest) as refused:
        asked("/?after=" + "x" * 5000)
    assert len(refused.value.message) < 200


@pytest.mark.parametrize("query", ["", "after=", "last_event_id=", "mode=", "mode=events", "after=&starting_after="])
def test_empty_word_is_none(query: str) -> None:
    """It gives what leaving it out gives: events, from the start."""
    wanted = asked(f"/?{query}")
    assert (wanted.view, wanted.cursor) == (View("events"), Cursor())
    assert not wanted.cursor.given


@pytest.mark.parametrize("mode", ["cooked", "RAW", "event", "raw,events", "\0"])
def test_mode_that_is_none_is_refused(mode: str) -> None:
    """With those there are."""
    with pytest.raises(UnknownMode, match="raw, events"):
        asked(f"/?mode={quote(mode)}")


@pytest.mark.parametrize("offset", ["-1", "x", "1.5", "", "1e3", "\u00b2", "+1", " 1"])
def test_offset_that_is_none_is_refused(offset: str) -> None:
    """Bytes are counted in whole numbers from 0."""
    with pytest.raises(BadRequest, match="offset"):
        asked(f"/?mode=raw&offset={quote(offset)}")


@pytest.mark.parametrize("query", ["offset=5", "mode=events&offset=5"])
def test_offset_goes_with_raw(query: str) -> None:
    """In events the bytes are others; the message says what to use."""
    with pytest.raises(BadRequest, match="mode=raw"):
        asked(f"/?{query}")
    assert asked("/?mode=raw&offset=5").cursor == Cursor(offset_bytes=5)


# Seconds


@pytest.mark.parametrize("name", ["heartbeat", "wait"])
@pytest.mark.parametrize("seconds", ["x", "-1", "nan", "inf", "1e9", "", "1s"])
def test_seconds_that_are_none_are_refused(name: str, seconds: str) -> None:
    """With the name and the range."""
    with pytest.raises(BadRequest, match=rf"{name} .* from 0 to 86400"):
        asked(f"/?{name}={seconds}")


@pytest.mark.parametrize("seconds", ["0", "0.5", "15", "86400"])
def test_seconds_are_numbers(seconds: str) -> None:
    """Parts of one, too; the wait is no longer than configured."""
    streams = StreamsConfig(wait_max_s=10)
    wanted = asked(f"/?heartbeat={seconds}&wait={seconds}", streams)
    assert (wanted.heartbeat_s, wanted.wait_s) == (float(seconds), min(float(seconds), 10))
    assert (asked("/", streams).heartbeat_s, asked("/", streams).wait_s) == (streams.heartbeat_s, 0)


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
