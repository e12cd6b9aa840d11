"""Limits of callers with keys of ours, before the whole proxy: what is refused and how, and what is counted."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.access import accounts
from proxy.access.accounts import Accounts
from proxy.access.limits import CallerLimits
from proxy.wire.errors import Overloaded
from tests.access.clock import NOON, Clock
from tests.access.keys import OURS, digest
from tests.access.named import NamedCallers
from tests.event_loops import until
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.http_client import Answer
from tests.proxy_under_test import CHAT, NATIVE, RESPONSES, Tee, chat_body, native_body, response_body, teed
from tests.stage import Stage, Turn

MESSAGES = "/v1/messages"


def test_accounts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that use nothing make room; if all do use something, a new caller is refused, and no count is lost."""
    monkeypatch.setattr(accounts, "_MOST", 3)
    clock = Clock()
    all_of_them = Accounts(lambda name: CallerLimits(), clock)
    for number in range(3):
        all_of_them.account(f"caller{number}", bytes([number])).take().give_back()
    with pytest.raises(Overloaded):
        all_of_them.account("caller3", b"3")
    clock.unix_s += 86400
    assert all_of_them.account("caller3", b"3").requests_total == 0
    assert [one.name for one in all_of_them] == ["caller3"]


# The whole proxy.


@asynccontextmanager
async def limited(url: str, **tables: Any) -> AsyncIterator[Tee]:
    """Run a proxy whose windows do not end while a test runs."""
    async with teed(url, **tables) as tee:
        assert tee.proxy.identification is not None
        tee.proxy.identification.accounts.clock = lambda: NOON
        yield tee


async def refused(answer: Answer) -> tuple[int, str]:
    body = await answer.json()
    return answer.status, body.get("error", body)["code"]


async def asked(tee: Tee, stage: Stage, *headers: str, path: str = CHAT, body: bytes = b"") -> tuple[Answer, Turn]:
    """Have a caller ask, and the upstream begin a stream."""
    client = await tee.send("POST", path, *headers, body=body or chat_body())
    turn = await stage.next()
    await turn.body()
    turn.begin()
    turn.chunk(chunk_frame("a"))
    answer = await client.answer()
    return answer, turn


USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":30,"completion_tokens":12,"total_tokens":42}}\n\n'


@pytest.mark.parametrize(
    ("path", "body", "prefix"),
    [
        (CHAT, chat_body(), "x-ratelimit"),
        (RESPONSES, response_body(), "x-ratelimit"),
        (NATIVE, native_body(), "x-ratelimit"),
        (MESSAGES, b'{"model":"m","stream":true,"messages":[]}', "anthropic-ratelimit"),
    ],
)
async def test_limit_is_told_in_the_words_of_each_api(
    stage: Stage, tmp_path: Path, path: str, body: bytes, prefix: str
) -> None:
    """Streams, errors of the upstream and the refusal itself have the headers; the upstream's own give way to them."""
    callers = NamedCallers(tmp_path, alice={"requests_per_minute": 2, "tokens_per_day": 5000})
    theirs = f"{prefix}-requests-limit" if path == MESSAGES else f"{prefix}-limit-requests"
    async with limited(stage.url, **callers.tables()) as tee:
        for left in (1, 0):
            client = await tee.send("POST", path, callers.header("alice"), body=body)
            turn = await stage.next()
            await turn.body()
            turn.reply("400 Bad Request", f"{theirs}: 99999", body=b"{}")
            answer = await client.answer()
            await answer.read()
            lines = [line for line in answer.headers if line[0].startswith(prefix.encode())]
            told = dict(lines)
            assert len(told) == len(lines) == 6
            if prefix == "x-ratelimit":
                assert told[b"x-ratelimit-limit-requests"] == b"2"
                assert told[b"x-ratelimit-remaining-requests"] == b"%d" % left
                assert told[b"x-ratelimit-reset-requests"].endswith(b"s")
                assert told[b"x-ratelimit-remaining-tokens"] == b"5000"
            else:
                assert told[b"anthropic-ratelimit-requests-limit"] == b"2"
                assert told[b"anthropic-ratelimit-requests-remaining"] == b"%d" % left
                assert told[b"anthropic-ratelimit-tokens-reset"].endswith(b"T00:00:00Z")
        answer = await tee.ask("POST", path, callers.header("alice"), body=body)
        assert answer.status == 429
        assert answer.all(f"{prefix}-remaining-requests") or answer.all(f"{prefix}-requests-remaining")
        assert 1 <= int(answer.header("retry-after") or 0) <= 60
        said = await answer.json()
        if path == MESSAGES:
            assert (said["type"], said["error"]["type"]) == ("error", "rate_limit_error")
        assert said.get("error", said)["code"] == "rate_limit_exceeded"
        assert len(stage.turns) == 2


async def test_concurrent_streams_are_limited_also_those_that_outlive_their_clients(
    stage: Stage, tmp_path: Path
) -> None:
    """A stream that goes on without its client keeps its place, until it ends; another caller has places of its own."""
    callers = NamedCallers(tmp_path, alice={"streams": 2}, bob={})
    alice = callers.header("alice")
    async with limited(stage.url, **callers.tables()) as tee:
        answer, detached = await asked(tee, stage, alice, "Stream-On-Disconnect: continue")
        await answer.client.leave()
        await until(lambda: tee.proxy.hub.followers == 0)
        second, turn = await asked(tee, stage, alice)
        assert await refused(await tee.ask("POST", CHAT, alice, body=chat_body())) == (429, "rate_limit_exceeded")
        _, others = await asked(tee, stage, callers.header("bob"))
        detached.end(FINISH, DONE)
        await tee_ended(tee, 2)
        third, last = await asked(tee, stage, alice)
        for one in (turn, others, last):
            one.end(FINISH, DONE)
        await second.read()
        await third.read()
        await tee_ended(tee, 0)
        assert {one.name: one.streams for one in tee.proxy.identification.accounts} == {"alice": 0, "bob": 0}


async def tee_ended(tee: Tee, running: int) -> None:
    """Wait until only so many streams run, and the requests of all others have given back their places."""
    assert tee.proxy.identification is not None
    await until(lambda: tee.proxy.hub.running == running)
    await until(lambda: sum(one.streams for one in tee.proxy.identification.accounts) == running)


@pytest.mark.parametrize("how", ["refused", "broken", "cancelled", "left", "unreachable"])
async def test_place_comes_back_however_a_request_ends(stage: Stage, tmp_path: Path, how: str) -> None:
    """Whoever ends it, and before or after it has begun."""
    callers = NamedCallers(tmp_path, alice={"streams": 1})
    alice = callers.header("alice")
    async with limited(stage.url, **callers.tables()) as tee:
        for _ in range(2):
            client = await tee.send("POST", CHAT, alice, body=chat_body())
            turn = await stage.next()
            await turn.body()
            if how == "refused":
                turn.reply("400 Bad Request", body=b"{}")
            elif how == "unreachable":
                turn.reset()
            elif how == "left":
                await client.leave()
            else:
                turn.begin()
                turn.chunk(chunk_frame("a"))
                answer = await client.answer()
                if how == "broken":
                    turn.reset()
                    await answer.read()
                else:
                    cancel = await tee.ask("POST", f"/v1/streams/{answer.stream_id}/cancel", alice)
                    assert cancel.status == 200
            await tee_ended(tee, 0)


async def test_lookups_and_cancels_are_served_while_all_places_are_taken(stage: Stage, tmp_path: Path) -> None:
    """So that a caller at its limit can see its response and end it."""
    callers = NamedCallers(tmp_path, alice={"streams": 1, "requests_per_minute": 2})
    alice = callers.header("alice")
    async with limited(stage.url, **callers.tables()) as tee:
        answer, _ = await asked(tee, stage, alice, path=RESPONSES, body=response_body())
        client = await tee.send("GET", "/v1/models", alice)
        (await stage.next()).reply("200 OK", body=b"{}")
        assert (await client.answer()).status == 200
        assert (await tee.ask("GET", "/v1/models", alice)).status == 429
        ident = answer.stream_id
        assert (await tee.ask("GET", f"{RESPONSES}/{ident}", alice)).status == 200
        assert (await tee.ask("POST", f"{RESPONSES}/{ident}/cancel", alice)).status == 200
        await tee_ended(tee, 0)


async def test_followers_are_limited_by_the_caller_whose_stream_it_is(stage: Stage, tmp_path: Path) -> None:
    """By key, by id, by token and several on one connection; the client that asked does not count."""
    callers = NamedCallers(tmp_path, alice={"followers": 2})
    alice = callers.header("alice")
    secrets = {"capabilities": {"secrets": ["a secret of thirty-two characters"]}}
    async with limited(stage.url, **callers.tables(), **secrets) as tee:
        answer, turn = await asked(tee, stage, alice, "Stream-Key: k")
        ident = answer.stream_id
        shared = await (await tee.ask("POST", f"/v1/streams/{ident}/share", alice)).json()
        first = await tee.ask("GET", "/v1/keys/k/stream", alice)
        second = await tee.ask("GET", shared["url"], "Authorization:")
        assert (first.status, second.status) == (200, 200)
        for path in (f"/v1/streams/{ident}", "/v1/keys/k/stream", f"/v1/follow?stream={ident}"):
            assert await refused(await tee.ask("GET", path, alice)) == (429, "rate_limit_exceeded"), path
        assert await refused(await tee.ask("GET", shared["url"], "Authorization:")) == (429, "rate_limit_exceeded")
        await first.client.leave()
        await until(lambda: tee.proxy.hub.followers == 2)
        third = await tee.ask("GET", f"/v1/streams/{ident}", alice)
        assert third.status == 200
        turn.end(FINISH, DONE)
        for one in (answer, second, third):
            assert b"[DONE]" in await one.read()


async def test_followers_that_wait_for_a_stream_count(stage: Stage, tmp_path: Path) -> None:
    """Else a caller could have any number of connections wait."""
    callers = NamedCallers(tmp_path, alice={"followers": 1})
    async with limited(stage.url, **callers.tables()) as tee:
        waiting = await tee.ask("GET", "/v1/keys/k/stream?wait=60", callers.header("alice"))
        assert waiting.status == 200
        answer = await tee.ask("GET", "/v1/keys/other/stream?wait=60", callers.header("alice"))
        assert await refused(answer) == (429, "rate_limit_exceeded")


async def test_tokens_of_streams_count_though_nobody_asked_for_usage(stage: Stage, tmp_path: Path) -> None:
    """The usage is requested then; the client, that did not, is not sent it."""
    callers = NamedCallers(tmp_path, alice={"tokens_per_minute": 40})
    alice = callers.header("alice")
    async with limited(stage.url, **callers.tables()) as tee:
        client = await tee.send("POST", CHAT, alice, body=chat_body())
        turn = await stage.next()
        assert json.loads(await turn.body())["stream_options"] == {"include_usage": True}
        turn.begin()
        turn.end(chunk_frame("a"), FINISH, USAGE, DONE)
        assert await (await client.answer()).read() == chunk_frame("a") + FINISH + DONE
        await tee_ended(tee, 0)
        answer = await tee.ask("POST", CHAT, alice, body=chat_body())
        assert await refused(answer) == (429, "rate_limit_exceeded")
        assert answer.header("x-ratelimit-remaining-tokens") == "0"


async def test_stream_that_is_broken_off_counts_its_events(stage: Stage, tmp_path: Path) -> None:
    """Whoever leaves before the usage comes does not read for nothing."""
    callers = NamedCallers(tmp_path, alice={"tokens_per_minute": 3})
    alice = callers.header("alice")
    async with limited(stage.url, **callers.tables()) as tee:
        answer, turn = await asked(tee, stage, alice)
        turn.chunk(chunk_frame("b") + chunk_frame("c"))
        await answer.until(b'"c"')
        await answer.client.leave()
        await tee_ended(tee, 0)
        assert (await tee.ask("POST", CHAT, alice, body=chat_body())).status == 429


@pytest.mark.parametrize(
    ("path", "usage"),
    [
        (CHAT, {"prompt_tokens": 30, "completion_tokens": 12, "total_tokens": 42}),
        ("/v1/embeddings", {"prompt_tokens": 42, "total_tokens": 42}),
        (MESSAGES, {"input_tokens": 30, "output_tokens": 12}),
        (RESPONSES, {"input_tokens": 30, "output_tokens": 12, "total_tokens": 42}),
        (NATIVE, {"input_tokens": 30, "output_tokens": 12}),
    ],
)
@pytest.mark.parametrize("idempotent", [False, True])
async def test_tokens_of_whole_responses_count(
    stage: Stage, tmp_path: Path, path: str, usage: dict[str, int], idempotent: bool
) -> None:
    """Of each API, kept here or not; the response is the upstream's, byte for byte."""
    callers = NamedCallers(tmp_path, alice={"tokens_per_day": 1000})
    alice = callers.header("alice")
    body = json.dumps({"id": "x", "usage": usage}).encode()
    more = ["Idempotency-Key: i"] if idempotent else []
    async with limited(stage.url, **callers.tables()) as tee:
        client = await tee.send("POST", path, alice, *more, body=b'{"model": "m"}')
        turn = await stage.next()
        await turn.body()
        turn.reply("200 OK", "Content-Type: application/json", body=body)
        assert await (await client.answer()).read() == body
        await tee_ended(tee, 0)
        told = await (await tee.ask("GET", "/v1/usage", alice)).json()
        assert told["tokens"]["day"]["used"] == 42


async def test_routes_modes_and_models_are_limited(stage: Stage, tmp_path: Path) -> None:
    """Each by 403 that names what is allowed, before anything goes upstream."""
    limits = {"routes": ["chat"], "modes": ["raw", "events"], "models": ["qwen-plus"]}
    callers = NamedCallers(tmp_path, alice=limits)
    alice = callers.header("alice")
    plus = chat_body(model="qwen-plus")
    async with limited(stage.url, **callers.tables()) as tee:
        for path, body, headers in (
            (RESPONSES, response_body(model="qwen-plus"), ()),
            (CHAT, chat_body(), ()),
            (CHAT, plus, ("Stream-Mode: text",)),
            ("/v1/embeddings", b'{"model": "text-embedding-v4"}', ()),
            ("/v1/embeddings", b"{}", ()),
        ):
            answer = await tee.ask("POST", path, alice, *headers, body=body)
            assert await refused(answer) == (403, "not_allowed_for_key"), path
        assert stage.turns == []
        answer, turn = await asked(tee, stage, alice, "Stream-Mode: events", body=plus)
        for query, status in (("mode=text", 403), ("mode=json", 403), ("mode=raw", 200)):
            assert (await tee.follow(answer.stream_id, query, alice)).status == status
        turn.end(FINISH, DONE)
        await answer.read()


async def test_model_of_a_web_socket_is_limited(stage: Stage, tmp_path: Path) -> None:
    """It is in the query, or not known before messages come: then it is refused."""
    callers = NamedCallers(tmp_path, alice={"models": ["qwen-omni-*"]})
    handshake = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
    more = (*handshake, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", callers.header("alice"))
    async with limited(stage.url, **callers.tables()) as tee:
        for path in ("/api-ws/v1/realtime?model=qwen-tts", "/api-ws/v1/inference"):
            assert (await tee.ask("GET", path, *more)).status == 403
        assert stage.turns == []


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings"])
async def test_bodies_are_limited_however_they_are_framed(
    stage: Stage, tmp_path: Path, path: str, framing: str
) -> None:
    """By their length before they come, else when too much has come."""
    callers = NamedCallers(tmp_path, alice={"body_bytes": 100})
    body = b'{"model": "m", "padding": "%b"}' % (b"x" * 100)
    async with limited(stage.url, **callers.tables()) as tee:
        if framing == "length":
            answer = await tee.ask("POST", path, callers.header("alice"), body=body)
        else:
            chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            answer = await tee.ask("POST", path, callers.header("alice"), "Transfer-Encoding: chunked", body=chunked)
        assert await refused(answer) == (413, "too_large")
        assert stage.turns == []


async def test_keys_of_the_list_have_no_limits_and_no_usage(stage: Stage, tmp_path: Path) -> None:
    """auth.keys goes on beside the file."""
    callers = NamedCallers(tmp_path, alice={})
    ours = f"Authorization: Bearer {OURS}"
    async with limited(stage.url, **callers.tables(keys=[digest(OURS)])) as tee:
        answer, turn = await asked(tee, stage, ours)
        assert [name for name, _ in answer.headers if b"ratelimit" in name.lower()] == []
        turn.end(FINISH, DONE)
        await answer.read()
        assert (await tee.ask("GET", "/v1/usage", ours)).status == 404
        assert (await tee.ask("GET", "/v1/usage", "Authorization: Bearer nobody")).status == 401


async def test_usage_tells_a_caller_its_own(stage: Stage, tmp_path: Path) -> None:
    """Before the first request, too; never another's."""
    callers = NamedCallers(tmp_path, alice={"requests_per_day": 9, "models": ["qwen*"]}, bob={})
    async with limited(stage.url, **callers.tables()) as tee:
        answer, turn = await asked(tee, stage, callers.header("alice"))
        told = await (await tee.ask("GET", "/v1/usage", callers.header("alice"))).json()
        assert (told["name"], told["streams"]["now"]) == ("alice", 1)
        assert told["requests"]["day"]["used"] == told["requests"]["total"] == 1
        assert told["requests"]["day"]["limit"] == 9
        assert told["allowed"]["models"] == ["qwen*"]
        others = await (await tee.ask("GET", "/v1/usage", callers.header("bob"))).json()
        assert (others["name"], others["requests"]["total"], others["streams"]["now"]) == ("bob", 0, 0)
        turn.end(FINISH, DONE)
        await answer.read()


async def test_in_mode_pass_the_path_of_usage_is_the_apis(stage: Stage) -> None:
    """Nothing of limits is there: handlers are called as they are."""
    async with teed(stage.url) as tee:
        assert tee.proxy.identification is tee.proxy.admission.accounts is None
        client = await tee.send("GET", "/v1/usage")
        (await stage.next()).reply("200 OK", body=b"theirs")
        assert await (await client.answer()).read() == b"theirs"


async def test_metrics_tell_the_usage_of_each_caller_with_bounded_names(stage: Stage, tmp_path: Path) -> None:
    """The names of all beyond the limit are one, `other`."""
    names = [f"caller{number}" for number in range(4)]
    callers = NamedCallers(tmp_path, **{name: {"requests_per_minute": 1} for name in names})
    async with limited(stage.url, limits={"caller_labels": 2}, **callers.tables()) as tee:
        for name in names:
            answer, turn = await asked(tee, stage, callers.header(name))
            turn.end(FINISH, DONE)
            await answer.read()
            assert (await tee.ask("POST", CHAT, callers.header(name), body=chat_body())).status == 429
        await tee_ended(tee, 0)
        assert await tee.metric("streamtee_caller_requests_total", caller="caller0") == 1
        assert await tee.metric("streamtee_caller_requests_total", caller="other") == 2
        assert await tee.metric("streamtee_caller_tokens_total") > 0
        assert await tee.metric("streamtee_caller_refused_total", limit="requests_per_minute") == 4
        page = await tee.metrics()
        assert not any(key in page for key in callers.keys.values())


async def test_windows_are_one_for_all_connections(stage: Stage, tmp_path: Path) -> None:
    """Requests that come at once are counted one by one: no more than the limit go upstream."""
    callers = NamedCallers(tmp_path, alice={"requests_per_minute": 3})
    async with limited(stage.url, **callers.tables()) as tee:
        clients = [await tee.send("POST", CHAT, callers.header("alice"), body=chat_body()) for _ in range(8)]
        turns = [await stage.next() for _ in range(3)]
        for turn in turns:
            await turn.body()
            turn.reply("200 OK", body=b"{}")
        answers = await asyncio.gather(*(client.answer() for client in clients))
        assert sorted(answer.status for answer in answers) == [200] * 3 + [429] * 5
        assert len(stage.turns) == 3
