"""Requests that go upstream: the options a client may set, and where a target leads."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.server.app import prefixes
from proxy.server.forward import Route
from proxy.tools.fake_qwen import FakeQwen
from proxy.wire.chat import ChatCompletions
from proxy.wire.errors import BadRequest
from tests.end_to_end.conftest import (
    CHAT,
    DONE,
    NATIVE,
    Stage,
    Tee,
    begun,
    chat_body,
    configured,
    faked,
    native_body,
    staged,
    stamped,
    teed,
)

ROUTE = Route("chat", "/v1/", "/compatible-mode/v1/", ChatCompletions())


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with staged() as one:
        yield one


@pytest.fixture
async def fake() -> AsyncIterator[FakeQwen]:
    async with faked() as one:
        yield one


@pytest.fixture
async def tee(fake: FakeQwen) -> AsyncIterator[Tee]:
    async with teed(fake.url) as one:
        yield one


# Targets.


@pytest.mark.parametrize(
    ("target", "upstream"),
    [
        ("/v1/models", b"/compatible-mode/v1/models"),
        ("/v1/", b"/compatible-mode/v1/"),
        ("/v1/a%2Fb%20c?d=%2F&e=/../f#g", b"/compatible-mode/v1/a%2Fb%20c?d=%2F&e=/../f#g"),
        ("/v1/models?", b"/compatible-mode/v1/models?"),
        ("/v1//x//", b"/compatible-mode/v1//x//"),
        ("/v1/...", b"/compatible-mode/v1/..."),
        ("/v1/.hidden/..double/trailing.", b"/compatible-mode/v1/.hidden/..double/trailing."),
        ("/v1/%2e%2e%2fx", b"/compatible-mode/v1/%2e%2e%2fx"),
        ("/v1/\udce9", b"/compatible-mode/v1/\xe9"),
        ("http://elsewhere.test/v1/models", b"/compatible-mode/v1/models"),
        ("HTTPS://a:b@elsewhere.test:1/v1/models?x", b"/compatible-mode/v1/models?x"),
    ],
)
def test_target_keeps_its_bytes_below_the_prefix(target: str, upstream: bytes) -> None:
    """Escapes, queries and bytes that are not UTF-8 are the upstream's to read; a host is dropped."""
    assert ROUTE.target(target) == upstream


@pytest.mark.parametrize(
    "target",
    [
        "/v1/..",
        "/v1/.",
        "/v1/../x",
        "/v1/./x",
        "/v1/x/../y",
        "/v1/x/..?q",
        "/v1/%2e%2E/x",
        "/v1/.%2e/x",
        "/v1/%2E./x",
        "/v1/%2e",
        "http://elsewhere.test/v1/../x",
        "/v2/models",
        "/v1",
        "//elsewhere.test/v1/models",
        "http://elsewhere.test",
        "http:///v1/../x",
        "*",
        "",
    ],
)
def test_target_that_would_lead_elsewhere_is_refused(target: str) -> None:
    """Dot segments however escaped, and what is not below the prefix at all."""
    with pytest.raises(BadRequest):
        ROUTE.target(target)


@pytest.mark.parametrize("url", ["http://upstream.test", "http://upstream.test/v1", "http://upstream.test/a/b/"])
def test_prefixes_stand_for_paths_of_the_upstream(url: str) -> None:
    """Of two that fit, the longer comes first; the base of the OpenAI routes is configured."""
    routes = prefixes(configured(url))
    seen: list[str] = []
    for route in routes:
        assert not any(route.prefix.startswith(before) for before in seen)
        seen.append(route.prefix)
        base = url.removeprefix("http://upstream.test").rstrip("/") or "/compatible-mode/v1"
        assert route.upstream_prefix == (
            f"{base}/" if route.prefix.endswith("/v1/") and route.name == "chat" else route.prefix
        )


# Options.


@pytest.mark.parametrize(("path", "body"), [(CHAT, chat_body()), (NATIVE, native_body())], ids=["chat", "native"])
@pytest.mark.parametrize(
    ("header", "code", "words"),
    [
        ("Stream-Mode: cooked", "unknown_mode", ["'cooked'", "raw", "events"]),
        ("Stream-Mode: RAW", "unknown_mode", ["'RAW'", "raw", "events"]),
        ("Stream-Mode:", "unknown_mode", ["raw", "events"]),
        ("Stream-Key:", "bad_request", ["Stream-Key", "1 to 200", "ASCII"]),
        ("Stream-Key: two words", "bad_request", ["Stream-Key", "1 to 200", "ASCII"]),
        ("Stream-Key: " + "k" * 201, "bad_request", ["Stream-Key", "1 to 200", "ASCII"]),
        ("Stream-Key: caf\xe9", "bad_request", ["Stream-Key", "1 to 200", "ASCII"]),
        ("Stream-Retain: soon", "bad_request", ["Stream-Retain", "'soon'", "seconds"]),
        ("Stream-Retain: -1", "bad_request", ["Stream-Retain", "'-1'", "seconds"]),
        ("Stream-Retain: \xb2", "bad_request", ["Stream-Retain", "seconds"]),
        ("Stream-On-Disconnect: stay", "bad_request", ["'stay'", "cancel", "continue", "grace=SECONDS"]),
        ("Stream-On-Disconnect: grace", "bad_request", ["'grace'", "grace=SECONDS"]),
        ("Stream-On-Disconnect: grace=", "bad_request", ["grace=SECONDS"]),
        ("Stream-On-Disconnect: grace=-1", "bad_request", ["grace=SECONDS"]),
        ("Stream-On-Disconnect: grace=nan", "bad_request", ["grace=SECONDS"]),
        ("Stream-On-Disconnect: grace=inf", "bad_request", ["grace=SECONDS"]),
        ("Stream-On-Disconnect: grace=999999", "bad_request", ["grace=SECONDS"]),
        ("Stream-On-Disconnect: Grace=1", "bad_request", ["grace=SECONDS"]),
    ],
)
async def test_option_that_is_wrong_is_refused(
    tee: Tee, fake: FakeQwen, path: str, body: bytes, header: str, code: str, words: list[str]
) -> None:
    """400 with what was given and what is allowed, and nothing is sent upstream."""
    answer = await tee.ask("POST", path, header.encode("latin-1"), body=body)
    told = await answer.json()
    error = told.get("error", told)
    assert (answer.status, error["code"]) == (400, code)
    assert [word for word in words if word not in error["message"]] == []
    assert fake.requests == []


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ("Stream-Mode: raw",),
        ("Stream-Key: !~" + "k" * 198,),
        ("Stream-Retain: 0",),
        ("Stream-Retain: 99999999999999999999",),
        ("Stream-On-Disconnect: cancel",),
        ("Stream-On-Disconnect: continue",),
        ("Stream-On-Disconnect: grace=0",),
        ("Stream-On-Disconnect: grace=0.5",),
        ("stream-mode: raw", "STREAM-KEY: k"),
    ],
)
async def test_option_that_is_right_stays_here(tee: Tee, fake: FakeQwen, headers: tuple[str, ...]) -> None:
    """It is taken, and does not cross."""
    answer = await tee.chat(*headers)
    assert await answer.read() == bytes(fake.requests[0].sent)
    assert [name for name, _ in fake.requests[0].headers if name.lower().startswith(b"stream-")] == []


async def test_options_are_not_those_of_what_passes_through(tee: Tee, fake: FakeQwen) -> None:
    """They neither matter nor cross there."""
    answer = await tee.ask("GET", "/v1/models", "Stream-Mode: cooked", "Stream-Key: two words")
    assert answer.status == 200
    assert [name for name, _ in fake.requests[0].headers if name.lower().startswith(b"stream-")] == []


async def test_errors_of_options_come_before_the_body(tee: Tee, fake: FakeQwen) -> None:
    """A client need not send a large prompt to hear that its option is wrong."""
    client = await tee.send("POST", CHAT, "Stream-Mode: cooked", "Content-Length: 1000000", body=b"")
    assert (await client.answer()).status == 400
    assert fake.requests == []


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_only_post_generates(tee: Tee, fake: FakeQwen, method: str) -> None:
    """Other methods at a generation's path pass through."""
    answer = await tee.ask(method, CHAT)
    assert answer.status == 200
    assert answer.header("stream-id") is None
    assert fake.requests[0].method == method


async def test_mode_of_the_answer_is_chosen(tee: Tee, fake: FakeQwen) -> None:
    """Raw unless it is asked for otherwise."""
    raw = await tee.chat()
    assert await raw.read() == bytes(fake.requests[0].sent)
    events = await tee.chat("Stream-Mode: events")
    assert await events.read() == stamped(bytes(fake.requests[1].sent), events.generation)


@pytest.mark.parametrize(
    ("status", "kind", "is_stream"),
    [
        ("200 OK", "text/event-stream", True),
        ("200 OK", "text/event-stream;charset=UTF-8", True),
        ("200 OK", "Text/Event-Stream ; charset=utf-8", True),
        ("200 OK", "application/json", False),
        ("200 OK", "text/plain", False),
        ("201 Created", "text/event-stream", False),
        ("400 Bad Request", "text/event-stream", False),
        ("500 Oh No", "text/event-stream", False),
    ],
)
async def test_event_stream_with_status_200_is_a_stream(stage: Stage, status: str, kind: str, is_stream: bool) -> None:
    """And nothing else is; all of it comes back as it is."""
    async with teed(stage.url) as tee:
        client = await tee.send_chat()
        turn = await stage.next()
        await turn.body()
        turn.reply(status, f"Content-Type: {kind}", body=DONE)
        answer = await client.answer()
        assert f"{answer.status} {answer.reason.decode()}" == status
        assert await answer.read() == DONE
        assert answer.header("content-type") == kind
        assert (answer.header("stream-id") is not None) == is_stream
        assert len(await tee.listed()) == int(is_stream)
        assert answer.end == "whole"


async def test_stream_with_a_length_is_a_stream(stage: Stage) -> None:
    """Its length is the upstream's framing, not ours; too little of it is a truncation."""
    async with teed(stage.url) as tee:
        client = await tee.send_chat()
        turn = await stage.next()
        turn.say(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 100\r\n\r\n: half\n\n")
        answer = await client.answer()
        assert answer.header("content-length") is None
        await answer.until(b"half")
        turn.close()
        await answer.read()
        assert answer.end != "whole"


async def test_refused_stream_lets_go_of_its_upstream(stage: Stage) -> None:
    """If the upstream was asked for a stream that there is no room for, it is not left to speak to nobody."""
    async with teed(stage.url, limits={"streams": 1}) as tee:
        _, first = await begun(tee, stage)
        client = await tee.send_chat()
        asked, refused = asyncio.create_task(stage.next()), asyncio.create_task(client.wait_bytes(bool))
        await asyncio.wait({asked, refused}, return_when=asyncio.FIRST_COMPLETED)
        if asked.done():
            asked.result().begin()
            await asked.result().wait_left()
        asked.cancel()
        await refused
        assert (await client.answer()).status == 503
        assert not first.left.is_set()
