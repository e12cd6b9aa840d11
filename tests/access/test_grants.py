"""What a token for a stream is good for, and what becomes of it: with real sockets."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from proxy.access.capabilities import RIGHTS, Capabilities
from proxy.stream.endings import CAPABILITY_EXPIRED
from tests.access.keys import (
    NOBODY,
    OURS,
    SECRET,
    THEIRS,
    act,
    code,
    in_mode_keys,
    token,
)
from tests.event_loops import GUARD_S
from tests.event_streams import FINISH, stamped
from tests.proxy_under_test import CHAT, NATIVE, Tee, begun, chat_body, native_body, teed
from tests.stage import Stage


@pytest.fixture
async def tee(stage: Stage) -> AsyncIterator[Tee]:
    """A proxy that gives follow URLs."""
    async with teed(stage.url, capabilities={"secrets": [SECRET]}) as one:
        yield one


async def test_answer_names_where_it_can_be_followed(tee: Tee, stage: Stage) -> None:
    """By whoever has the URL: to read and for its numbers, not to cancel; in both dialects; not the upstream's own."""
    answer, turn = await begun(tee, stage, frames=1)
    native = await tee.send("POST", NATIVE, "X-DashScope-SSE: enable", body=native_body())
    other = await stage.next()
    await other.body()
    other.begin("Stream-Follow-URL: /elsewhere")
    for given in (answer, await native.answer()):
        url = given.header("stream-follow-url") or ""
        path, _, query = url.partition("?")
        assert path == f"/v1/streams/{given.stream_id}"
        assert (await tee.ask("GET", url, NOBODY)).status == 200
        assert (await act(tee, "state", given.stream_id, query, NOBODY)).status == 200
        assert (await act(tee, "info", given.stream_id, query, NOBODY)).status == 200
        assert await code(await act(tee, "cancel", given.stream_id, query, NOBODY)) == (403, "missing_right")
    turn.end()
    other.end()


async def test_answer_that_is_no_stream_names_no_url(tee: Tee, stage: Stage) -> None:
    """There is nothing to follow."""
    client = await tee.send_chat(stream=False)
    turn = await stage.next()
    await turn.body()
    turn.reply("200 OK", body=b"{}")
    assert (await client.answer()).header("stream-follow-url") is None


@pytest.mark.parametrize("way", ["query", "bearer", "cookie", "one of the cookies"])
@pytest.mark.parametrize("mode", ["pass", "keys"])
async def test_capability_alone_is_enough(stage: Stage, mode: str, way: str) -> None:
    """In each of the ways to bring it, also where callers hold keys of ours."""
    tables = in_mode_keys(OURS) if mode == "keys" else {}
    async with teed(stage.url, capabilities={"secrets": [SECRET]}, **tables) as tee:
        answer, turn = await begun(tee, stage, f"Authorization: Bearer {OURS}")
        turn.end(FINISH)
        said = await answer.read()
        ident = answer.stream_id
        query, header = {
            "query": (f"t={token(ident)}", NOBODY),
            "bearer": ("", f"authorization: bearer {token(ident)}"),
            "cookie": ("", f"Cookie: stream_token={token(ident)}"),
            "one of the cookies": ("", f"Cookie: a=b; stream_token={token(ident)}; c=d"),
        }[way]
        headers = [header] if way in ("query", "bearer") else [NOBODY, header]
        follower = await act(tee, "read", ident, query, *headers)
        assert await follower.read() == stamped(said, answer.epoch)
        assert (await act(tee, "cancel", ident, query, *headers)).status == 200
        assert (await act(tee, "info", ident, query, *headers)).status == 200


@pytest.mark.parametrize("right", RIGHTS)
async def test_capability_is_for_the_rights_it_names(tee: Tee, stage: Stage, right: str) -> None:
    """The others are refused with 403; to delete and to share is none, and its caller's alone."""
    answer, _ = await begun(tee, stage)
    ident = answer.stream_id
    allowed = {"read": {"read", "state"}, "info": {"info"}, "cancel": {"cancel"}}[right]
    for other in ("read", "state", "info", "cancel", "delete", "share"):
        got = await act(tee, other, ident, f"t={token(ident, right)}", NOBODY)
        assert got.status == (200 if other in allowed else 403), other
    assert (await tee.info(ident))["id"] == ident


async def test_capability_is_for_one_stream(tee: Tee, stage: Stage) -> None:
    """Another is as unknown to who holds it as one that never was."""
    one, _ = await begun(tee, stage)
    other, _ = await begun(tee, stage)
    given = token(one.stream_id)
    assert await code(await act(tee, "read", other.stream_id, f"t={given}", NOBODY)) == (404, "stream_not_found")
    assert await code(await act(tee, "read", "st_none", f"t={given}", NOBODY)) == (404, "stream_not_found")
    none = await act(tee, "read", "st_none", f"t={token('st_none')}", NOBODY)
    assert await code(none) == (404, "stream_not_found")
    for path in ("/v1/streams", "/v1/keys/k/stream", "/v1/models"):
        assert await code(await tee.ask("GET", path, f"Authorization: Bearer {given}")) == (403, "missing_right")
    refused = await tee.ask("POST", CHAT, f"Authorization: Bearer {given}", body=chat_body())
    assert await code(refused) == (403, "missing_right")
    assert len(stage.turns) == 2


async def test_capability_that_is_over_is_told_so(tee: Tee, stage: Stage) -> None:
    """401, by whatever way it comes. Who made it up is told nothing but that it is none, stream or no stream."""
    answer, _ = await begun(tee, stage)
    ident = answer.stream_id
    over = token(ident, expires_at=int(time.time()))
    for query, header in ((f"t={over}", NOBODY), ("", f"Authorization: Bearer {over}")):
        assert await code(await act(tee, "read", ident, query, header)) == (401, "capability_expired")
    forged = token(ident, signer=Capabilities(["another secret"]), expires_at=1)
    told = []
    for given in (forged, token(ident)[:-1], "", "x", "x.y", "%FF", "a" * 3000):
        for stream in (ident, "st_none"):
            refused = await act(tee, "read", stream, f"t={given}", NOBODY)
            assert refused.status == 401
            told.append(await refused.read())
    assert len(set(told)) == 1
    assert b"invalid_capability" in told[0]


async def test_caller_needs_no_capability(tee: Tee, stage: Stage) -> None:
    """One that is over, or of another stream, takes nothing from it."""
    answer, _ = await begun(tee, stage)
    ident = answer.stream_id
    for query in (f"t={token(ident, expires_at=1)}", "t=x", f"t={token('st_x', 'info')}"):
        assert (await act(tee, "read", ident, query)).status == 200
    assert (
        await act(tee, "read", ident, "", f"Authorization: Bearer {THEIRS}", "Cookie: stream_token=x")
    ).status == 401
    good = f"Cookie: stream_token={token(ident)}"
    assert (await act(tee, "delete", ident, "", good, "Authorization: Bearer sk-the-caller")).status == 200


@pytest.mark.parametrize(
    ("origin", "counts"),
    [
        ("", True), ("http://proxy", True), ("https://proxy", True), ("http://listed.test", True), ("null", False),
        ("http://evil.test", False), ("http://proxy.evil.test", False), ("http://proxy:81", False), ("http://[", False),
    ],
)  # fmt: skip
async def test_cookie_counts_for_pages_that_may_use_it_only(stage: Stage, origin: str, counts: bool) -> None:
    """A browser sends it for any page, a cancel too: of another origin than ours it counts if that is listed."""
    cors = {"origins": ["http://listed.test"], "credentials": True}
    async with teed(stage.url, capabilities={"secrets": [SECRET]}, cors=cors) as tee:
        answer, _ = await begun(tee, stage)
        headers = [
            NOBODY,
            f"Cookie: stream_token={token(answer.stream_id)}",
            *([f"Origin: {origin}"] if origin else []),
        ]
        cancelled = await act(tee, "cancel", answer.stream_id, "", *headers)
        assert cancelled.status == (200 if counts else 403)


async def test_followers_of_a_capability_are_closed_when_it_expires(tee: Tee, stage: Stage) -> None:
    """Events end with an error that says so, raw is cut; its caller and the stream go on. To resume takes a new one."""
    answer, turn = await begun(tee, stage, frames=2)
    ident = answer.stream_id
    until = int(time.time()) + 2
    query = f"t={token(ident, 'read', expires_at=until)}"
    events = await act(tee, "read", ident, query, NOBODY)
    raw = await act(tee, "read", ident, f"{query}&mode=raw", NOBODY)
    owner = await act(tee, "read", ident, query)
    async with asyncio.timeout(GUARD_S):
        told, cut = await events.read(), await raw.read()
    assert time.time() >= until
    said = bytes(answer.body)
    assert told.startswith(stamped(said, answer.epoch))
    assert CAPABILITY_EXPIRED.reason.encode() in told
    assert f"id: {answer.epoch}-2\n".encode() in told.rpartition(b"data:")[2]
    assert (events.end, cut, raw.end) == ("whole", said, "cut")
    again = await act(tee, "read", ident, query, NOBODY, f"Last-Event-ID: {answer.epoch}-2")
    assert await code(again) == (401, "capability_expired")
    turn.end(FINISH)
    assert await answer.read() == said + FINISH
    assert await owner.read() == stamped(said + FINISH, answer.epoch)
    assert await tee.metric("streamtee_subscriptions_ended_total", reason=CAPABILITY_EXPIRED.reason) == 2


# What becomes of tokens.


@pytest.mark.parametrize(("path", "body"), [(CHAT, chat_body()), ("/v1/files", b""), ("/api/v1/tasks/1", b"")])
async def test_token_does_not_go_upstream(tee: Tee, stage: Stage, path: str, body: bytes) -> None:
    """Whatever the route; the rest of the query and the other cookies do."""
    cookies = "Cookie: a=b; stream_token=x.y; c=d"
    client = await tee.send("POST" if body else "GET", f"{path}?a=%20&t=x.y&b", cookies, body=body)
    turn = await stage.next()
    await turn.body()
    turn.reply("200 OK")
    assert (await client.answer()).status == 200
    assert turn.target.partition(b"?")[2] == b"a=%20&b"
    assert turn.all("cookie") == [b"a=b; c=d"]
    client = await tee.send("GET", "/v1/files", "Cookie: stream_token=x.y")
    turn = await stage.next()
    turn.reply("200 OK")
    await client.answer()
    assert turn.all("cookie") == []


async def test_without_secrets_queries_and_cookies_pass_as_they_are(stage: Stage) -> None:
    """`t` is the upstream's then."""
    async with teed(stage.url) as tee:
        client = await tee.send("GET", "/v1/files?t=1", "Cookie: stream_token=x")
        turn = await stage.next()
        turn.reply("200 OK")
        await client.answer()
        assert (turn.target, turn.all("cookie")) == (b"/compatible-mode/v1/files?t=1", [b"stream_token=x"])
