"""Who the caller is, and what goes upstream in its name."""

from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

import pytest

from proxy.server.auth import Auth
from proxy.server.config import Config
from proxy.wire.errors import Unauthorised
from tests.end_to_end.conftest import (
    CHAT,
    DONE,
    NATIVE,
    Stage,
    Tee,
    chat_body,
    configured,
    native_body,
    staged,
    teed,
)

OURS, THEIRS, UPSTREAMS = "key-of-one", "key-of-two", "sk-upstream"
BASIC = "Basic dXNlcjpwdw=="


def digest(key: str) -> str:
    return sha256(key.encode()).hexdigest()


def in_mode_keys(*keys: str) -> dict[str, Any]:
    return {"auth": {"mode": "keys", "keys": [digest(key) for key in keys]}, "upstream": {"key": UPSTREAMS}}


def config(**tables: Any) -> Config:
    return configured("http://127.0.0.1:1", **tables)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with staged() as one:
        yield one


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
    auth = Auth(config())
    texts = ["Bearer a", "Bearer b", BASIC, "", "Bearer caf\udce9"]
    callers = [auth.caller(text) for text in texts]
    assert len(set(callers)) == len(texts)
    assert [auth.caller(text) for text in texts] == callers


def test_digest_tells_nothing_of_the_key() -> None:
    """It is another one in each process, and holds neither the key nor its plain digest."""
    one, other = Auth(config()), Auth(config())
    caller = one.caller(f"Bearer {OURS}")
    assert caller != other.caller(f"Bearer {OURS}")
    assert OURS.encode() not in caller
    assert caller not in bytes.fromhex(digest(OURS) + digest(f"Bearer {OURS}"))


@pytest.mark.parametrize("spelled", ["Bearer {}", "bearer {}", "BEARER {}", "Bearer  {}", "Bearer {} "])
def test_key_is_known_however_the_scheme_is_spelled(spelled: str) -> None:
    """RFC 9110 section 11.1: the scheme is case-insensitive; and whoever holds the key is one caller."""
    auth = Auth(config(**in_mode_keys(OURS, THEIRS)))
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
    auth = Auth(config(**in_mode_keys(OURS)))
    with pytest.raises(Unauthorised) as raised:
        auth.caller(authorization)
    for word in (OURS, UPSTREAMS, "caf"):
        assert word not in raised.value.message


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
            ("POST", "/api/v1/tasks", b"{}"),
        ):
            got = await exchange(tee, stage, method, path, f"AUTHORIZATION: Bearer {OURS}", body=body)
            assert got == [f"Bearer {UPSTREAMS}".encode()]


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
