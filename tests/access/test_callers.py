"""Who the caller is, and what goes upstream in its name."""

import asyncio
import time
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

import pytest

from proxy.access.capabilities import RIGHTS, Capabilities, Capability
from proxy.server.app import auth_of
from proxy.server.config import Config
from proxy.stream.endings import CAPABILITY_EXPIRED
from proxy.wire.errors import MissingRight, Unauthorised
from tests.event_loops import GUARD_S
from tests.event_streams import DONE, FINISH, stamped
from tests.http_client import Answer
from tests.proxy_under_test import CHAT, NATIVE, Tee, begun, chat_body, configured, native_body, teed
from tests.stage import Stage

OURS, THEIRS, UPSTREAMS = "key-of-one", "key-of-two", "sk-upstream"
BASIC = "Basic dXNlcjpwdw=="
BASIC_HEADER = f"Authorization: {BASIC}"
SECRET = "a secret of thirty-two characters"
NOBODY = "Authorization:"
SIGNER = Capabilities([SECRET])


def digest(key: str) -> str:
    return sha256(key.encode()).hexdigest()


def in_mode_keys(*keys: str) -> dict[str, Any]:
    return {"auth": {"mode": "keys", "keys": [digest(key) for key in keys]}, "upstream": {"key": UPSTREAMS}}


def config(**tables: Any) -> Config:
    return configured("http://127.0.0.1:1", **tables)


def token(ident: str, *rights: str, expires_at: int = 10**11, signer: Capabilities = SIGNER) -> str:
    return signer.sign(Capability(ident, rights or RIGHTS, expires_at))


async def code(answer: Answer) -> tuple[int, str]:
    """Return what a refusal says."""
    return answer.status, (await answer.json())["error"]["code"]


async def exchange(tee: Tee, stage: Stage, method: str, path: str, *headers: str, body: bytes = b"") -> list[bytes]:
    """Have a request go up and an answer come down; return what the upstream got as Authorization."""
    client = await tee.send(method, path, *headers, body=body)
    turn = await stage.next()
    await turn.body()
    turn.reply("200 OK")
    assert (await client.answer()).status == 200
    return turn.all("authorization")


# Callers.


def test_callers_are_told_apart_by_their_authorization() -> None:
    """In mode pass: the same header is the same caller, another one another; none is one, too."""
    auth = auth_of(config())
    texts = ["Bearer a", "Bearer b", BASIC, "", "Bearer caf\udce9"]
    callers = [auth.caller(text) for text in texts]
    assert len(set(callers)) == len(texts)
    assert [auth.caller(text) for text in texts] == callers


def test_digest_tells_nothing_of_the_key() -> None:
    """It is another one in each process, and holds neither the key nor its plain digest."""
    one, other = auth_of(config()), auth_of(config())
    caller = one.caller(f"Bearer {OURS}")
    assert caller != other.caller(f"Bearer {OURS}")
    assert OURS.encode() not in caller
    assert caller not in bytes.fromhex(digest(OURS) + digest(f"Bearer {OURS}"))


@pytest.mark.parametrize("spelled", ["Bearer {}", "bearer {}", "BEARER {}", "Bearer  {}", "Bearer {} "])
def test_key_is_known_however_the_scheme_is_spelled(spelled: str) -> None:
    """RFC 9110 section 11.1: the scheme is case-insensitive; and whoever holds the key is one caller."""
    auth = auth_of(config(**in_mode_keys(OURS, THEIRS)))
    assert auth.caller(spelled.format(OURS)) == auth.caller(f"Bearer {OURS}")
    assert auth.caller(spelled.format(OURS)) != auth.caller(f"Bearer {THEIRS}")


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        OURS,
        f"Basic {OURS}",
        f"Bearer {OURS}x",
        f"Bearer {OURS[:-1]}",
        f"Bearer {digest(OURS)}",
        f"Bearer {UPSTREAMS}",
        f"Bearer {OURS},{OURS}",
        "Bearer caf\udce9",
        BASIC,
    ],
)
def test_key_that_is_not_listed_is_refused(authorization: str) -> None:
    """Its digest as a key, and the upstream's own key, are none either; the message tells nothing of what was given."""
    auth = auth_of(config(**in_mode_keys(OURS)))
    with pytest.raises(Unauthorised) as raised:
        auth.caller(authorization)
    for word in (OURS, UPSTREAMS, "caf"):
        assert word not in raised.value.message


def test_capability_is_no_key() -> None:
    """It is for one stream: in either mode it makes nobody a caller, expired or not."""
    for tables in ({}, in_mode_keys(OURS)):
        auth = auth_of(config(capabilities={"secrets": [SECRET]}, **tables))
        for expires_at in (1, 10**11):
            with pytest.raises(MissingRight):
                auth.caller(f"Bearer {token('st_x', expires_at=expires_at)}")
    assert auth_of(config()).caller(f"Bearer {token('st_x')}")


# On the wire.


async def test_callers_authorization_goes_upstream(stage: Stage) -> None:
    """In mode pass, as it is, bytes that are not UTF-8 included, and none if there was none."""
    async with teed(stage.url) as tee:
        for method, path, body in (("POST", CHAT, chat_body()), ("GET", "/v1/models", b"")):
            assert await exchange(tee, stage, method, path, f"authorization: {BASIC}", body=body) == [BASIC.encode()]
        client = await tee.connect()
        client.send(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer caf\xe9\r\n\r\n")
        turn = await stage.next()
        assert turn.all("authorization") == [b"Bearer caf\xe9"]
        turn.reply("200 OK")
        await client.answer()
        client.send(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
        turn = await stage.next()
        assert turn.all("authorization") == []
        turn.reply("200 OK")
        await client.answer()


@pytest.mark.parametrize("mode", ["pass", "keys"])
async def test_our_key_goes_upstream_instead(stage: Stage, mode: str) -> None:
    """Once it is configured no caller's goes there, by whatever route."""
    tables = in_mode_keys(OURS) if mode == "keys" else {"upstream": {"key": UPSTREAMS}}
    async with teed(stage.url, **tables) as tee:
        for method, path, body in (
            ("POST", CHAT, chat_body()),
            ("POST", NATIVE, native_body()),
            ("GET", "/v1/models", b""),
            ("POST", "/v1/embeddings", b"{}"),
        ):
            got = await exchange(tee, stage, method, path, f"AUTHORIZATION: Bearer {OURS}", body=body)
            assert got == [f"Bearer {UPSTREAMS}".encode()]


@pytest.mark.parametrize("mode", ["pass", "keys"])
async def test_our_key_opens_what_is_listed_and_no_more(stage: Stage, mode: str) -> None:
    """Else 403 in the route's dialect, with nothing sent upstream; by no spelling, at no route."""
    tables = in_mode_keys(OURS) if mode == "keys" else {"upstream": {"key": UPSTREAMS}}
    bearer = f"Authorization: Bearer {OURS}"
    async with teed(stage.url, **tables) as tee:
        for method, path in (
            ("GET", "/v1/files"),
            ("GET", "/compatible-mode/v1/files/file-of-another/content"),
            ("GET", "/compatible-mode/files"),
            ("DELETE", "/v1/batches/b1?x"),
            ("GET", "http://proxy/v1/files"),
            ("PUT", "/v1/streams/st_x"),
            ("POST", "/api/v1/tokens?expire_in_seconds=1800"),
            ("POST", "/api/v1/tasks/t/cancel"),
            ("POST", "/api/v1/apps/..%2f..%2ftokens/completion"),
            ("GET", "/v1/models/%2e%2e/files"),
            ("GET", "/v1/models/../files"),
        ):
            answer = await tee.ask(method, path, bearer)
            body = await answer.json()
            error = body.get("error", body)
            assert (answer.status, error["code"]) == (403, "path_not_allowed"), path
            assert "upstream.paths" in error["message"]
            assert ("error" in body) == (not path.startswith("/api/"))
        assert stage.turns == []


async def test_paths_can_be_added_to_what_our_key_opens(stage: Stage) -> None:
    """All below a folder, at both of its prefixes; routes of the operator's own need no word more."""
    tables = in_mode_keys(OURS)
    tables["upstream"]["paths"] = ["/v1/files/"]
    bearer = f"Authorization: Bearer {OURS}"
    async with teed(stage.url, routes=[{"path": "/rest/"}], **tables) as tee:
        for path in ("/v1/files/f1", "/compatible-mode/v1/files/f1/content?a=%2f..", "/rest/anything"):
            assert await exchange(tee, stage, "GET", path, bearer) == [f"Bearer {UPSTREAMS}".encode()]
        assert (await tee.ask("GET", "/v1/files/..%2fbatches", bearer)).status == 403
        assert len(stage.turns) == 3


async def test_callers_own_key_opens_whatever_it_opens(stage: Stage) -> None:
    """What is asked for with it is its holder's."""
    async with teed(stage.url) as tee:
        for path in ("/v1/files", "/api/v1/tasks/1", "/v1/models/a%2fb"):
            assert await exchange(tee, stage, "GET", path, BASIC_HEADER) == [BASIC.encode()]


@pytest.mark.parametrize("authorization", ["Authorization: Bearer nobody", "X-None: 1", f"Authorization: {BASIC}"])
async def test_nobody_gets_in_without_a_key(stage: Stage, authorization: str) -> None:
    """In mode keys: 401 at every route, in its dialect, with nothing sent upstream; health needs no key."""
    async with teed(stage.url, **in_mode_keys(OURS)) as tee:
        for method, path in (
            ("POST", CHAT),
            ("POST", NATIVE),
            ("GET", "/v1/models"),
            ("DELETE", "/api/v1/tasks/1"),
            ("GET", "/v1/streams"),
            ("GET", "/v1/streams/st_x"),
            ("POST", "/v1/streams/st_x/cancel"),
            ("GET", "/v1/keys/k/stream?wait=10"),
        ):
            answer = await tee.ask(method, path, authorization, body=b"{}" if method == "POST" else b"")
            body = await answer.json()
            assert answer.status == 401, path
            assert body.get("error", body)["code"] == "invalid_api_key"
            assert ("error" in body) == (not path.startswith("/api/"))
        assert (await tee.ask("GET", "/healthz", authorization)).status == 200
        assert stage.turns == []


async def test_streams_are_their_callers_own(stage: Stage) -> None:
    """In mode keys: who holds another key sees nothing of them; who holds the same does, spelled as they like."""
    async with teed(stage.url, **in_mode_keys(OURS, THEIRS)) as tee:
        client = await tee.send_chat(f"Authorization: Bearer {OURS}")
        turn = await stage.next()
        await turn.body()
        turn.begin()
        turn.end(DONE)
        answer = await client.answer()
        await answer.read()
        assert (await tee.follow(answer.stream_id, "", f"Authorization: Bearer {THEIRS}")).status == 404
        assert (await tee.follow(answer.stream_id, "", f"Authorization: Bearer {OURS}")).status == 200
        assert (await tee.follow(answer.stream_id, "", f"Authorization: bearer {OURS}")).status == 200


async def test_second_authorization_does_not_count(stage: Stage) -> None:
    """The header that is checked is the one that counts: a listed key behind another gets nobody in."""
    async with teed(stage.url, **in_mode_keys(OURS)) as tee:
        answer = await tee.ask("GET", "/v1/models", "Authorization: Bearer nobody", f"Authorization: Bearer {OURS}")
        assert 400 <= answer.status < 500
        assert stage.turns == []


# Capabilities.


@pytest.fixture
async def tee(stage: Stage) -> AsyncIterator[Tee]:
    """A proxy that gives follow URLs."""
    async with teed(stage.url, capabilities={"secrets": [SECRET]}) as one:
        yield one


async def act(tee: Tee, right: str, ident: str, query: str, *headers: str) -> Answer:
    """Make the request that a right is for."""
    method, path = {
        "read": ("GET", ""),
        "state": ("HEAD", ""),
        "info": ("GET", "/info"),
        "cancel": ("POST", "/cancel"),
        "delete": ("DELETE", ""),
        "share": ("POST", "/share"),
    }[right]
    return await tee.ask(method, f"/v1/streams/{ident}{path}?{query}", *headers)


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
        assert cancelled.status == (200 if counts else 404)


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
    turn.end(DONE)
    assert await answer.read() == said + DONE
    assert await owner.read() == stamped(said + DONE, answer.epoch)
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


# Other upstreams.


@pytest.mark.parametrize(
    ("tables", "key", "authorization"),
    [
        ({}, "", None),
        ({"upstream": {"key": UPSTREAMS}}, "", None),
        ({}, "sk-other", b"Bearer sk-other"),
        (in_mode_keys(OURS), "sk-other", b"Bearer sk-other"),
        (in_mode_keys(OURS), "", b""),
    ],
)
def test_another_upstream_is_sent_its_own_key(tables: dict[str, Any], key: str, authorization: bytes | None) -> None:
    """Without one: the caller's own (None), but no key of ours (empty). Callers are the same to all upstreams."""
    auth = auth_of(config(**tables))
    mine = auth.upstream_authorization
    other = auth.towards(key)
    assert other.upstream_authorization == authorization
    assert other.caller(f"Bearer {OURS}") == auth.caller(f"Bearer {OURS}")
    assert auth.upstream_authorization == mine
