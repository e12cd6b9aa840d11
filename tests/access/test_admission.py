"""Who is let in, and with which keys what goes upstream: with real sockets."""

import ast

import pytest

from tests import source
from tests.access.keys import BASIC, BASIC_HEADER, NOBODY, OURS, SECRET, THEIRS, UPSTREAMS, act, code, in_mode_keys
from tests.event_streams import FINISH, stamped
from tests.proxy_under_test import CHAT, NATIVE, Tee, begun, chat_body, native_body, teed
from tests.stage import Stage

QUESTIONS = {"caller", "caller_with", "check_room", "check_room_to_follow"}


@source.reads_source
def test_only_the_door_asks_who_is_there_and_whether_there_is_room() -> None:
    """So a quota beside them has one place; the hub asks itself once more, when it begins a stream."""
    found = {
        path
        for path in source.trees()
        for call in source.nodes(path)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in QUESTIONS
    }
    assert found == {"access/admission.py", "stream/hub.py"}


async def exchange(tee: Tee, stage: Stage, method: str, path: str, *headers: str, body: bytes = b"") -> list[bytes]:
    """Have a request go up and an answer come down; return what the upstream got as Authorization."""
    client = await tee.send(method, path, *headers, body=body)
    turn = await stage.next()
    await turn.body()
    turn.reply("200 OK")
    assert (await client.answer()).status == 200
    return turn.all("authorization")


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
        turn.end(FINISH)
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


# Every header that holds a key, on every route.


KEY_HEADERS = ("Authorization: Bearer {}", "x-api-key: {}", "api-key: {}")


def showing(header: str, key: str) -> list[str]:
    """Return the headers that show a key in one of them, and in no other."""
    return [header.format(key)] if header.startswith("Authorization") else [NOBODY, header.format(key)]


@pytest.mark.parametrize("asked", KEY_HEADERS)
@pytest.mark.parametrize("mode", ["pass", "keys"])
async def test_stream_is_its_callers_in_whatever_header_it_shows_its_key(stage: Stage, mode: str, asked: str) -> None:
    """To follow, list, cancel and share; to another key, to the same beside another, and without one there is none."""
    tables = in_mode_keys(OURS, THEIRS) if mode == "keys" else {}
    async with teed(stage.url, capabilities={"secrets": [SECRET]}, **tables) as tee:
        answer, turn = await begun(tee, stage, *showing(asked, OURS), "Stream-Key: k")
        turn.end(FINISH)
        await answer.read()
        found = ("/v1/keys/k", "/v1/keys/k/stream", f"/v1/streams/{answer.stream_id}/info")
        for header in KEY_HEADERS:
            mine, theirs = showing(header, OURS), showing(header, THEIRS)
            both = [KEY_HEADERS[0].format(OURS), f"x-api-key: {THEIRS}"]
            assert [(await tee.ask("GET", path, *mine)).status for path in found] == [200] * 3
            assert (await act(tee, "share", answer.stream_id, "", *mine)).status == 200
            assert len(await tee.listed(*mine)) == 1
            for others in (theirs, both):
                assert [(await tee.ask("GET", path, *others)).status for path in found] == [404] * 3
                assert (await act(tee, "delete", answer.stream_id, "", *others)).status == 404
                assert await tee.listed(*others) == []
        assert (await act(tee, "delete", answer.stream_id, "", NOBODY)).status == (401 if mode == "keys" else 404)


@pytest.mark.parametrize("share", ["none", "body"])
async def test_call_is_shared_within_a_caller_only(stage: Stage, share: str) -> None:
    """By Idempotency-Key as by body: another key in x-api-key makes an upstream call of its own."""
    async with teed(stage.url, generations={"share": share}) as tee:
        idempotency = [] if share == "body" else ["Idempotency-Key: 1"]
        one = await tee.send_chat("Authorization:", "x-api-key: alice", *idempotency)
        first = await stage.next()
        same = await tee.send_chat("Authorization: Bearer alice", *idempotency)
        other = await tee.send_chat("Authorization:", "x-api-key: bob", *idempotency)
        second = await stage.next()
        for turn in (first, second):
            await turn.body()
            turn.begin()
            turn.end(FINISH)
        idents = [(await client.answer()).stream_id for client in (one, same, other)]
        assert idents[0] == idents[1] != idents[2]
        assert len(stage.turns) == 2


@pytest.mark.parametrize("mode", ["pass", "keys"])
@pytest.mark.parametrize("header", KEY_HEADERS)
async def test_no_key_of_a_caller_goes_where_ours_does(stage: Stage, mode: str, header: str) -> None:
    """By no route, in no header, and ours is there once."""
    tables = in_mode_keys(OURS) if mode == "keys" else {"upstream": {"key": UPSTREAMS}}
    routes = [{"path": "/own/", "key_header": "X-Own-Key"}]
    async with teed(stage.url, routes=routes, **tables) as tee:
        for method, path, body in (("POST", CHAT, chat_body()), ("GET", "/v1/models", b""), ("GET", "/own/x", b"")):
            client = await tee.send(method, path, *showing(header, OURS), "X-Own-Key: mine", body=body)
            turn = await stage.next()
            await turn.body()
            turn.reply("200 OK")
            assert (await client.answer()).status == 200
            shown = {name: turn.all(name) for name in ("authorization", "x-api-key", "api-key", "x-own-key")}
            own = path == "/own/x"
            assert shown == {
                "authorization": [] if own else [f"Bearer {UPSTREAMS}".encode()],
                "x-api-key": [],
                "api-key": [],
                "x-own-key": [UPSTREAMS.encode()] if own else [],
            }


@pytest.mark.parametrize("header", KEY_HEADERS)
async def test_key_of_ours_goes_to_no_upstream_without_one(stage: Stage, header: str) -> None:
    """In mode keys: also to one that is sent none instead."""
    upstreams = {"other": {"url": stage.url}}
    routes = [{"path": "/other/", "upstream": "other"}]
    async with teed(stage.url, upstreams=upstreams, routes=routes, **in_mode_keys(OURS)) as tee:
        client = await tee.send("GET", "/other/x", *showing(header, OURS))
        turn = await stage.next()
        turn.reply("200 OK")
        assert (await client.answer()).status == 200
        assert [turn.all(name) for name in ("authorization", "x-api-key", "api-key")] == [[], [], []]


@pytest.mark.parametrize("header", KEY_HEADERS)
async def test_callers_key_goes_upstream_in_its_own_header(stage: Stage, header: str) -> None:
    """In mode pass, without a key of ours."""
    async with teed(stage.url) as tee:
        client = await tee.send("GET", "/v1/models", *showing(header, OURS))
        turn = await stage.next()
        turn.reply("200 OK")
        assert (await client.answer()).status == 200
        name, _, value = header.format(OURS).partition(": ")
        assert turn.all(name.lower()) == [value.encode()]


# Without a key.


async def test_callers_without_a_key_share_nothing(stage: Stage) -> None:
    """Where they are not one caller: they are answered, and refused by name whatever would take a stream of theirs."""
    async with teed(stage.url, auth={"anonymous": "none"}, generations={"share": "body"}) as tee:
        answer, turn = await begun(tee, stage, NOBODY)
        other, other_turn = await begun(tee, stage, NOBODY)  # the same body
        for method, path in (
            ("GET", f"/v1/streams/{answer.stream_id}"),
            ("HEAD", f"/v1/streams/{answer.stream_id}"),
            ("GET", f"/v1/streams/{answer.stream_id}/info"),
            ("POST", f"/v1/streams/{answer.stream_id}/cancel"),
            ("POST", f"/v1/streams/{answer.stream_id}/share"),
            ("DELETE", f"/v1/streams/{answer.stream_id}"),
            ("GET", "/v1/streams"),
            ("GET", "/v1/keys/k/stream?wait=10"),
            ("GET", "/v1/keys/k"),
            ("POST", "/v1/keys/k/cancel"),
        ):
            refused = await tee.ask(method, path, NOBODY)
            assert refused.status == 401, path
            if method != "HEAD":
                assert "auth.anonymous" in (await refused.json())["error"]["message"]
        for option in ("Stream-Key: k", "Idempotency-Key: 1", "Prefer: respond-async"):
            refused = await tee.ask("POST", CHAT, NOBODY, option, body=chat_body())
            assert await code(refused) == (401, "invalid_api_key"), option
        assert len(stage.turns) == 2
        for one, its_turn in ((answer, turn), (other, other_turn)):
            its_turn.end(FINISH)
            assert (await one.read()).endswith(FINISH)


async def test_callers_without_a_key_have_what_a_token_is_for(stage: Stage) -> None:
    """Their stream, by the URL that its answer names; also of one that is answered later."""
    async with teed(stage.url, auth={"anonymous": "none"}, capabilities={"secrets": [SECRET]}) as tee:
        answer, turn = await begun(tee, stage, NOBODY)
        follower = await tee.ask("GET", answer.header("stream-follow-url") or "", NOBODY)
        turn.end(FINISH)
        assert await follower.read() == stamped(await answer.read(), answer.epoch)
        handle = await tee.ask("POST", CHAT, NOBODY, "Prefer: respond-async", body=chat_body())
        assert handle.status == 202
        later = await stage.next()
        await later.body()
        later.begin()
        later.end(FINISH)
        late = await tee.ask("GET", handle.header("stream-follow-url") or "", NOBODY)
        assert b'"finish_reason":"stop"' in await late.read()


async def test_callers_without_a_key_are_one_on_loopback(stage: Stage) -> None:
    """So that a key is no trouble where nobody else is; whoever shows one is another."""
    async with teed(stage.url) as tee:
        answer, turn = await begun(tee, stage, NOBODY, "Stream-Key: k")
        turn.end(FINISH)
        said = await answer.read()
        assert await (await tee.ask("GET", "/v1/keys/k/stream", NOBODY)).read() == stamped(said, answer.epoch)
        assert (await tee.ask("GET", "/v1/keys/k/stream", "Authorization: Bearer a")).status == 404
