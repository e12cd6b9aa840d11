"""What a browser needs to let a page of another origin ask, and read what is answered: by raw sockets."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy.server.cors import METHODS
from proxy.server.headers import EXPOSED
from tests.event_streams import DONE, FINISH
from tests.http_client import Answer
from tests.proxy_under_test import CHAT, NATIVE, Tee, begun, chat_body, native_body, teed
from tests.stage import Stage

PAGE, OTHER, STRANGER = "https://page.test", "http://localhost:3000", "https://evil.test"
SECRET = "a secret of thirty-two characters"


@pytest.fixture
async def tee(stage: Stage) -> AsyncIterator[Tee]:
    """A proxy that lets two origins ask."""
    async with allowing(stage, PAGE, OTHER) as one:
        yield one


def allowing(stage: Stage, *origins: str, credentials: bool = False, **tables: Any) -> Any:
    return teed(stage.url, cors={"origins": list(origins), "credentials": credentials, "max_age_s": 7}, **tables)


def from_page(origin: str = PAGE) -> str:
    return f"Origin: {origin}"


def said(answer: Answer) -> dict[str, str]:
    """Return what an answer says of access; each may be said once."""
    names = [name.decode().lower() for name, _ in answer.headers]
    return {name: answer.header(name) or "" for name in names if name.startswith("access-control-")}


def readable(origin: str = PAGE, **more: str) -> dict[str, str]:
    return {"access-control-allow-origin": origin, "access-control-expose-headers": EXPOSED} | more


async def preflight(tee: Tee, path: str, *headers: str, method: str = "POST", origin: str = PAGE) -> Answer:
    return await tee.ask(
        "OPTIONS", path, "Authorization:", from_page(origin), f"Access-Control-Request-Method: {method}", *headers
    )


# Preflights.


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", CHAT),
        ("POST", NATIVE),
        ("GET", "/v1/models"),
        ("DELETE", "/api/v1/tasks/1"),
        ("GET", "/v1/streams"),
        ("GET", "/v1/streams/st_x?mode=raw&t=x"),
        ("DELETE", "/v1/streams/st_x"),
        ("POST", "/v1/streams/st_x/cancel"),
        ("POST", "/v1/streams/st_x/share"),
        ("GET", "/v1/keys/k/stream"),
        ("GET", "/healthz"),
    ],
)
async def test_preflight_is_answered_at_every_route(tee: Tee, stage: Stage, method: str, path: str) -> None:
    """By us, with nothing sent upstream: no key is needed, as browsers send none."""
    answer = await preflight(tee, path, method=method)
    assert (answer.status, answer.header("content-length")) == (204, None)
    assert said(answer) == readable() | {"access-control-allow-methods": METHODS, "access-control-max-age": "7"}
    assert method in METHODS.split(", ")
    assert answer.header("vary") == "Origin"
    assert stage.turns == []


async def test_preflight_needs_no_key_in_mode_keys(stage: Stage) -> None:
    """Nor a stream that is there."""
    auth = {"mode": "keys", "keys": ["0" * 64]}
    async with allowing(stage, PAGE, auth=auth, upstream={"key": "sk-of-the-upstream"}) as tee:
        assert (await preflight(tee, "/v1/streams/st_x", method="GET")).status == 204
        refused = await tee.ask("GET", "/v1/streams/st_x", from_page())
        assert (refused.status, said(refused)) == (401, readable())


async def test_headers_of_the_sdks_are_allowed_and_no_others(tee: Tee) -> None:
    """Those that are asked for, as they are spelled."""
    wanted = [
        "authorization", "Content-Type", "last-event-id", "idempotency-key", "stream-key", "Stream-On-Disconnect",
        "prefer", "if-match", "x-stainless-os", "x-stainless-retry-count", "x-dashscope-sse", "openai-organization",
        "user-agent", "x-api-key", "Api-Key",
    ]  # fmt: skip
    unwanted = ["x-forwarded-for", "host", "streams", "x-stainless", "stream-", "cookie", "authorization2", "", "*"]
    asked = ",".join([*wanted[:5], *unwanted]) + " ,  " + ", ".join(wanted[5:])
    answer = await preflight(tee, CHAT, f"Access-Control-Request-Headers: {asked}")
    assert (answer.header("access-control-allow-headers") or "").split(", ") == wanted
    none = await preflight(tee, CHAT, "Access-Control-Request-Headers: x-forwarded-for")
    assert none.status == 204
    assert "access-control-allow-headers" not in said(none)


async def test_key_header_of_a_route_is_allowed(stage: Stage) -> None:
    """A page must be able to show its key as any client does."""
    async with allowing(stage, PAGE, routes=[{"path": "/other/", "key_header": "X-Other-Key"}]) as tee:
        answer = await preflight(tee, "/other/x", "Access-Control-Request-Headers: x-other-key")
        assert answer.header("access-control-allow-headers") == "x-other-key"


@pytest.mark.parametrize(
    "origin", [STRANGER, "null", "http://page.test", "https://page.test:444", "https://page.test.", "*"]
)
async def test_origin_that_is_not_listed_is_refused(tee: Tee, origin: str) -> None:
    """403 which says so to who looks, in the route's dialect, and no leave; any other request is answered without."""
    for path in (CHAT, NATIVE):
        answer = await preflight(tee, path, origin=origin)
        told = await answer.json()
        assert (answer.status, said(answer), answer.header("vary")) == (403, {}, "Origin")
        assert (told["error"] if path == CHAT else told)["code"] == "origin_not_allowed"
    answer = await tee.ask("GET", "/healthz", from_page(origin))
    assert (answer.status, said(answer), answer.header("vary")) == (200, {}, "Origin")


async def test_preflight_of_nothing_is_not_found(tee: Tee) -> None:
    """As any other request there."""
    assert (await preflight(tee, "/nowhere")).status == 404


async def test_preflights_are_counted(tee: Tee) -> None:
    """At the route they ask for, and when they are refused."""
    await preflight(tee, CHAT)
    await preflight(tee, CHAT, origin=STRANGER)
    for status in ("204", "403"):
        assert await tee.metric("streamtee_requests_total", route="chat", method="OPTIONS", status=status) == 1
    assert await tee.metric("streamtee_rejected_total", reason="origin_not_allowed") == 1


@pytest.mark.parametrize("headers", [(from_page(),), ("Access-Control-Request-Method: POST",)])
async def test_options_that_is_no_preflight_passes_through(tee: Tee, stage: Stage, headers: tuple[str, ...]) -> None:
    """It is meant for the upstream."""
    client = await tee.send("OPTIONS", "/v1/models", *headers)
    turn = await stage.next()
    turn.reply("204 No Content", "Allow: GET", length=False)
    answer = await client.answer()
    assert (answer.status, answer.header("allow")) == (204, "GET")


# Answers.


@pytest.mark.parametrize("origin", [PAGE, OTHER])
async def test_stream_and_followers_can_be_read_by_the_page(tee: Tee, stage: Stage, origin: str) -> None:
    """With the headers that tell how to follow it; its end, 204, can be told from an error."""
    answer, turn = await begun(tee, stage, from_page(origin))
    follower = await tee.follow(answer.stream_id, "", from_page(origin))
    turn.end(FINISH, DONE)
    assert await answer.read() == FINISH + DONE
    await follower.read()
    over = await tee.follow(answer.stream_id, "after=2", from_page(origin))
    assert over.status == 204
    waited = await tee.follow("keys/none", "wait=0.01", from_page(origin))
    for one in (answer, follower, over, waited):
        assert said(one) == readable(origin)
        assert one.header("vary") == "Origin"


async def test_what_the_upstream_says_of_access_is_dropped(tee: Tee, stage: Stage) -> None:
    """Two Access-Control-Allow-Origin are none to a browser; its Vary stays, and its own origin is no matter here."""
    theirs = (
        "Access-Control-Allow-Origin: *", "access-control-allow-credentials: true", "ACCESS-CONTROL-EXPOSE-HEADERS: *",
        "Vary: Accept-Encoding",
    )  # fmt: skip
    for origin, expected in ((PAGE, readable()), (STRANGER, {})):
        client = await tee.send("GET", "/v1/models", from_page(origin))
        turn = await stage.next()
        turn.reply("200 OK", *theirs, body=b"{}")
        passed = await client.answer()
        assert said(passed) == expected
        assert passed.all("vary") == [b"Accept-Encoding", b"Origin"]
        client = await tee.send_chat(from_page(origin))
        turn = await stage.next()
        await turn.body()
        turn.begin(*theirs)
        turn.end(DONE)
        assert said(await client.answer()) == expected


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/streams/st_none", b"", 404),
        ("GET", "/v1/streams/st_none?t=x", b"", 401),
        ("GET", "/nowhere", b"", 404),
        ("POST", CHAT, b"", 400),
        ("POST", NATIVE, native_body(), 400),
        ("HEAD", "/v1/streams/st_none", b"", 404),
        ("GET", "/v1/streams", b"", 200),
    ],
)
async def test_refusal_can_be_read_by_the_page(stage: Stage, method: str, path: str, body: bytes, status: int) -> None:
    """Else a browser would only tell that something failed."""
    async with allowing(stage, PAGE, capabilities={"secrets": [SECRET]}) as tee:
        answer = await tee.ask(method, path, from_page(), "Stream-Mode: none", body=body)
        assert (answer.status, said(answer), answer.header("vary")) == (status, readable(), "Origin")


async def test_upstream_that_is_not_there_can_be_read_by_the_page(tee: Tee, stage: Stage) -> None:
    """502, with Retry-After or without."""
    client = await tee.send("POST", CHAT, from_page(), body=chat_body())
    turn = await stage.next()
    turn.reset()
    answer = await client.answer()
    assert (answer.status, said(answer)) == (502, readable())


async def test_without_an_origin_an_answer_still_varies(tee: Tee) -> None:
    """A cache must not give it to a page."""
    answer = await tee.ask("GET", "/healthz")
    assert (answer.header("vary"), said(answer)) == ("Origin", {})


async def test_answers_on_one_connection_are_of_their_own_origins(tee: Tee) -> None:
    """Nothing of one request is left for the next."""
    client = await tee.connect()
    for origin in (PAGE, None, STRANGER, OTHER):
        lines = "" if origin is None else f"{from_page(origin)}\r\n"
        client.send(f"GET /v1/streams/st_x HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())
        answer = await client.answer()
        await answer.read()
        assert said(answer) == (readable(origin) if origin in (PAGE, OTHER) else {})


async def test_every_origin_is_one_word(stage: Stage) -> None:
    """With "*" whoever asks is told so; credentials are never allowed then."""
    async with allowing(stage, "*") as tee:
        for origin in (PAGE, "null"):
            answer = await tee.ask("GET", "/healthz", from_page(origin))
            assert said(answer) == readable("*")
        assert (await preflight(tee, CHAT)).status == 204


async def test_credentials_are_allowed_by_name_only(stage: Stage) -> None:
    """In the preflight and in the answer."""
    async with allowing(stage, PAGE, credentials=True) as tee:
        for answer in (await tee.ask("GET", "/healthz", from_page()), await preflight(tee, CHAT)):
            assert said(answer)["access-control-allow-credentials"] == "true"
        stranger = await tee.ask("GET", "/healthz", from_page(STRANGER))
        assert said(stranger) == {}


async def test_page_follows_by_a_shared_url(stage: Stage) -> None:
    """As EventSource does: a plain GET of another origin, without Authorization, resumed, until 204."""
    async with allowing(stage, PAGE, capabilities={"secrets": [SECRET]}) as tee:
        answer, turn = await begun(tee, stage, frames=1)
        url = answer.header("stream-follow-url") or ""
        first = await tee.ask("GET", url, "Authorization:", from_page())
        got = await first.until(b"\n\n")
        await first.client.leave()
        turn.end(DONE)
        ident = got.rpartition(b"id: ")[2].split()[0].decode()
        resumed = await tee.ask("GET", url, "Authorization:", from_page(), f"Last-Event-ID: {ident}")
        assert (await resumed.read()).startswith(b"data: [DONE]")
        over = await tee.ask("GET", url, "Authorization:", from_page(), f"Last-Event-ID: {ident[:6]}-2")
        assert (over.status, said(over)) == (204, readable())


async def test_off_everything_passes(stage: Stage) -> None:
    """Preflights go upstream, what it says of access comes back, and nothing is added."""
    async with teed(stage.url) as tee:
        client = await tee.send("OPTIONS", CHAT, from_page(), "Access-Control-Request-Method: POST")
        turn = await stage.next()
        turn.reply("200 OK", "Access-Control-Allow-Origin: *")
        answer = await client.answer()
        assert said(answer) == {"access-control-allow-origin": "*"}
        assert answer.header("vary") is None
        assert said(await tee.ask("GET", "/healthz", from_page())) == {}
        assert (await preflight(tee, "/nowhere")).status == 404
