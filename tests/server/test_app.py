"""The running proxy as a whole: where it listens, what it serves where, and how it comes to an end."""

import asyncio
import socket
import time
from typing import Any
from unittest.mock import Mock

import pytest

from proxy.server.app import Proxy
from proxy.stream import faults
from proxy.stream.stream import Stream
from proxy.telemetry.live_feed import LiveFeed
from proxy.wire.errors import Drained
from tests.event_loops import GUARD_S, POLL_S, until
from tests.event_streams import DONE, FINISH, blocks, chunk_frame, stamped
from tests.http_client import KEY, Client, request
from tests.proxy_under_test import CHAT, PROMPT, Tee, begun, chat_body, configured, native_body, teed
from tests.stage import Stage, staged


async def listens(url: str) -> bool:
    """Tell whether somebody answers there; False when the connection is refused."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    async with asyncio.timeout(GUARD_S):
        try:
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        except ConnectionRefusedError:
            return False
        writer.write(request("GET", "/healthz", "Connection: close"))
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    return answer.startswith(b"HTTP/1.1 200 ")


# Where it listens


async def test_free_ports_are_told_and_left(stage: Stage) -> None:
    """Two of them; after the stop, nothing listens there."""
    proxy = Proxy(configured(stage.url))
    await proxy.start()
    urls = proxy.url, proxy.admin_url
    assert len(set(urls)) == 2
    assert [await listens(url) for url in urls] == [True, True]
    await proxy.stop()
    assert [await listens(url) for url in urls] == [False, False]


async def test_without_an_admin_address_there_is_no_admin_port(stage: Stage) -> None:
    """Its URL is empty."""
    async with teed(stage.url, admin="") as tee:
        assert tee.proxy.admin_url == ""
        assert (await tee.ask("GET", "/healthz")).status == 200


async def test_ipv6_host_stands_in_brackets(stage: Stage) -> None:
    """In the configuration as in the URL."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 on this machine's loopback")
    proxy = Proxy(configured(stage.url, listen="[::1]:0", admin=""))
    await proxy.start()
    try:
        assert proxy.url.startswith("http://[::1]:")
        assert await listens(proxy.url)
    finally:
        await proxy.stop()


@pytest.mark.parametrize("taken", ["listen", "admin"])
async def test_taken_address_leaves_nothing_open(stage: Stage, taken: str) -> None:
    """OSError, and the other port is given back."""
    where = stage.url.removeprefix("http://")
    proxy = Proxy(configured(stage.url, **{taken: where}))
    with pytest.raises(OSError, match=where.rpartition(":")[2]):
        await proxy.start()
    assert not proxy.url or not await listens(proxy.url)


# What is served where


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/v1/chat/completions", "/compatible-mode/v1/chat/completions"),
        ("/compatible-mode/v1/chat/completions", "/compatible-mode/v1/chat/completions"),
        ("/api/v1/services/aigc/text-generation/generation", None),
        ("/api/v1/services/aigc/multimodal-generation/generation", None),
        ("/api/v1/apps/an-app/completion", None),
    ],
)
async def test_generation_becomes_a_stream(tee: Tee, stage: Stage, path: str, target: str | None) -> None:
    """At its path upstream, with its body; the answer has an id, and can be followed."""
    client = await tee.send("POST", path, body=chat_body())
    turn = await stage.next()
    assert turn.target.decode() == (target or path)
    assert await turn.body() == chat_body()
    turn.begin()
    turn.end(chunk_frame("word"))
    answer = await client.answer()
    assert await answer.read() == chunk_frame("word")
    assert answer.header("location") == f"/v1/streams/{answer.stream_id}"
    follower = await tee.follow(answer.stream_id, "mode=raw")
    assert await follower.read() == chunk_frame("word")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/chat/completions"),
        ("POST", "/v1/embeddings"),
        ("POST", "/v1/chat/completions/more"),
        ("POST", "/compatible-mode/v2/chat/completions"),
        ("POST", "/api/v1/apps/an-app/more/completion"),
    ],
)
async def test_anything_else_passes_through(tee: Tee, stage: Stage, method: str, path: str) -> None:
    """Even an event stream: it has no id and is not kept."""
    client = await tee.send(method, path)
    turn = await stage.next()
    turn.begin()
    turn.end(chunk_frame("word"))
    answer = await client.answer()
    assert await answer.read() == chunk_frame("word")
    assert answer.header("stream-id") is None
    assert await tee.listed() == []


async def test_path_of_the_upstream_stands_for_the_compatible_one(stage: Stage) -> None:
    """As the coding plan's `/v1`; the native routes are not moved."""
    async with teed(f"{stage.url}/plan/v1/") as tee:
        for path, target in (
            ("/v1/models", b"/plan/v1/models"),
            ("/compatible-mode/v1/models", b"/plan/v1/models"),
            ("/compatible-mode/v2/x", b"/compatible-mode/v2/x"),
            ("/api/v1/tasks/1", b"/api/v1/tasks/1"),
        ):
            client = await tee.send("GET", path)
            turn = await stage.next()
            assert turn.target == target
            turn.reply("200 OK", body=b"{}")
            assert await (await client.answer()).read() == b"{}"


async def test_route_of_ones_own_passes_through_to_its_upstream(stage: Stage) -> None:
    """Any method, query and body as they came, the path of the upstream's URL before its own; the rest is nowhere."""
    async with staged() as other:
        routes = [{"path": "/files/", "upstream": "files"}, {"path": "/here"}]
        upstreams = {"files": {"url": f"{other.url}/base", "key": "sk-files"}}
        async with teed(f"{stage.url}/moved/v1", routes=routes, upstreams=upstreams) as tee:
            client = await tee.send("PUT", "/files/a%2Fb?c", "Cookie: d", body=b"new")
            turn = await other.next()
            assert (turn.method, turn.target, await turn.body()) == (b"PUT", b"/base/files/a%2Fb?c", b"new")
            assert (turn.all("cookie"), turn.all("authorization")) == ([b"d"], [b"Bearer sk-files"])
            turn.begin()
            turn.chunk(b"data: streamed\n\n")
            answer = await client.answer()
            await answer.until(b"streamed")
            turn.end()
            assert answer.header("stream-id") is None
            await tee.send("GET", "/here?x")
            assert (await stage.next()).target == b"/here?x"
            assert (await tee.ask("GET", "/here/below")).status == 404
            assert await tee.metric("streamtee_upstream_connections", state="active") == 1
            assert await tee.metric("streamtee_upstream_connections", state="idle") == 1


async def test_more_special_route_is_found_first(stage: Stage) -> None:
    """Whatever their order in the configuration; what is served anyway goes before."""
    routes = [{"path": "/"}, {"path": "/a/"}, {"path": "/a/b", "share": "url"}]
    async with teed(stage.url, routes=routes) as tee:
        for path, name in (("/a/b", "/a/b"), ("/a/c", "/a/"), ("/x", "/"), ("/v1/models", "chat")):
            client = await tee.send("GET", path)
            (await stage.next()).reply("200 OK", body=b"x")
            await (await client.answer()).read()
            assert await tee.metric("streamtee_requests_total", route=name) == 1
        assert (await tee.ask("GET", "/healthz")).header("content-type") == "application/json; charset=utf-8"


@pytest.mark.parametrize("path", ["/", "/v2/chat/completions", "/metrics", "/readyz", "/v1", "/admin/streams"])
async def test_unknown_path_is_not_found(tee: Tee, stage: Stage, path: str) -> None:
    """In OpenAI's shape; the upstream hears nothing of it."""
    answer = await tee.ask("GET", path)
    assert answer.status == 404
    assert (await answer.json())["error"]["code"] == "unknown_route"
    assert stage.turns == []


@pytest.mark.parametrize(
    ("path", "body"), [(CHAT, chat_body()), ("/api/v1/services/aigc/text-generation/generation", native_body())]
)
async def test_error_of_ours_has_the_dialect_of_its_route(tee: Tee, path: str, body: bytes) -> None:
    """`error.code`, or `code`: what each SDK reads."""
    told = await (await tee.ask("POST", path, "Stream-Mode: none", body=body)).json()
    assert (told["error"] if path == CHAT else told)["code"] == "unknown_mode"


async def test_admin_port_serves_its_own_and_nothing_else(tee: Tee) -> None:
    """Generations are not to be had there."""
    statuses = {path: (await tee.admin(path)).status for path in ("/metrics", "/readyz", "/healthz", "/v1/streams")}
    assert statuses == {"/metrics": 200, "/readyz": 200, "/healthz": 200, "/v1/streams": 404}


async def test_stream_is_forgotten_when_its_time_is_over(stage: Stage) -> None:
    """By the proxy's own tick."""
    async with teed(stage.url, streams={"retain_s": 0.05}) as tee:
        answer, turn = await begun(tee, stage, frames=1)
        turn.end(DONE)
        await answer.read()
        async with asyncio.timeout(GUARD_S):
            while (await tee.follow(answer.stream_id)).status != 404:
                await asyncio.sleep(POLL_S)
        assert await tee.listed() == []


async def test_logs_hold_no_key_and_no_prompt(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """At the lowest level, for a stream that went wrong."""
    with caplog.at_level("DEBUG"):
        async with teed(stage.url, upstream={"key": "sk-of-the-upstream"}) as tee:
            answer, turn = await begun(tee, stage, frames=1)
            turn.reset()
            await answer.read()
            await (await tee.ask("GET", f"/nowhere?key={KEY}")).read()
    for private in (KEY, PROMPT, "sk-of-the-upstream"):
        assert private not in caplog.text


# How it ends


async def drain_begins(tee: Tee) -> asyncio.Task[None]:
    draining = asyncio.create_task(tee.proxy.drain())
    await until(lambda: tee.proxy.hub.draining)
    return draining


async def used(tee: Tee) -> Client:
    """Return a connection that has had a request."""
    client = await tee.connect()
    client.send(request("GET", "/healthz"))
    await (await client.answer()).read()
    return client


async def test_drain_without_streams_ends_at_once(stage: Stage) -> None:
    """Whatever time it would have had."""
    async with teed(stage.url, drain_s=3600) as tee:
        async with asyncio.timeout(GUARD_S):
            await tee.proxy.drain()
        assert not await listens(tee.proxy.url)
        assert not await listens(tee.proxy.admin_url)


async def test_drain_lets_streams_finish(stage: Stage) -> None:
    """With everyone who follows, and the one that comes late on an old connection; then it ends at once."""
    async with teed(stage.url, drain_s=3600) as tee:
        answer, turn = await begun(tee, stage, frames=1)
        follower = await tee.follow(answer.stream_id)
        kept = await used(tee)
        draining = await drain_begins(tee)
        kept.send(request("GET", f"/v1/streams/{answer.stream_id}?mode=raw"))
        late = await kept.answer()
        await late.bytes(1)
        turn.end(chunk_frame("last"), DONE)
        said = await answer.read()
        assert said.endswith(chunk_frame("last") + DONE)
        assert await late.read() == said
        assert await follower.read() == stamped(said, answer.epoch)
        assert (answer.end, late.end, follower.end) == ("whole", "whole", "whole")
        async with asyncio.timeout(GUARD_S):
            await draining


async def test_drain_takes_no_more(stage: Stage) -> None:
    """Not ready; no new connection; on an old one, 503 with Retry-After. The admin port still tells."""
    async with teed(stage.url, drain_s=3600) as tee:
        answer, turn = await begun(tee, stage, frames=1)
        kept = await used(tee)
        draining = await drain_begins(tee)
        ready = await tee.admin("/readyz")
        assert (ready.status, await ready.json()) == (503, {"ready": False})
        assert not await listens(tee.proxy.url)
        kept.send(request("POST", CHAT, "Stream-Key: new", body=chat_body()), method="POST")
        refused = await kept.answer()
        assert refused.status == 503
        assert refused.header("retry-after") == "1"
        assert refused.header("connection") == "close"
        assert (await refused.json())["error"]["code"] == "drained"
        await kept.wait_gone()
        assert len(stage.turns) == 1
        turn.end(DONE)
        await answer.read()
        await draining


async def test_drain_refuses_a_new_stream_without_asking_the_upstream(stage: Stage) -> None:
    """Also one without a key: tokens of a stream that is refused would be paid for nothing."""
    async with teed(stage.url, drain_s=3600) as tee:
        answer, turn = await begun(tee, stage, frames=1)
        kept = await used(tee)
        draining = await drain_begins(tee)
        kept.send(request("POST", CHAT, body=chat_body()), method="POST")
        asking = asyncio.create_task(stage.next())
        answering = asyncio.create_task(kept.answer())
        await asyncio.wait((asking, answering), return_when=asyncio.FIRST_COMPLETED)
        asked = asking.done()
        asking.cancel()
        turn.end(DONE)
        if asked:
            asking.result().reply("503 Service Unavailable")
        assert (await answering).status == 503
        await answer.read()
        await draining
        assert not asked, "the upstream was asked"


async def test_drain_that_takes_too_long_ends_the_rest(stage: Stage) -> None:
    """Raw is cut, so that it can't be taken for whole; events end with an error, since nobody else has the stream."""
    async with teed(stage.url, drain_s=0.1) as tee:
        raw, turn = await begun(tee, stage, frames=2)
        events = await tee.follow(raw.stream_id)
        said = await raw.bytes(1)
        await events.until(b"-2\n\n")
        async with asyncio.timeout(GUARD_S):
            await tee.proxy.drain()
        assert await raw.read() == said
        assert raw.end != "whole"
        assert b'"code":"drained"' in (await events.read()).removeprefix(stamped(said, raw.epoch))
        assert events.end == "whole"
        await turn.wait_left()


async def test_stop_ends_everything_now(stage: Stage) -> None:
    """Streams in mid-air, requests the upstream has not answered, what passes through, and who waits for a key."""
    async with teed(stage.url, drain_s=3600) as tee:
        raw, turn = await begun(tee, stage, frames=1)
        unanswered = await tee.send_chat()
        hanging = await stage.next()
        passing = await tee.send("GET", "/v1/files")
        other = await stage.next()
        other.begin()
        other.chunk(b"part")
        partly = await passing.answer()
        await partly.until(b"part")
        waiting = await tee.follow("keys/none", "wait=60")
        async with asyncio.timeout(GUARD_S):
            await tee.proxy.stop()
            for client in (raw.client, unanswered, passing, waiting.client):
                await client.lost.wait()
        await raw.read()
        await partly.read()
        assert (raw.end, partly.end) != ("whole", "whole")
        for one in (turn, hanging, other):
            await one.wait_left()


async def test_stop_ends_streams_that_nobody_follows(stage: Stage) -> None:
    """One that goes on for later followers does not go on for ever."""
    async with teed(stage.url) as tee:
        answer, turn = await begun(tee, stage, "Stream-On-Disconnect: continue", frames=1)
        await answer.client.leave()
        await tee.wait_followers(0)
        await tee.proxy.stop()
        await turn.wait_left()


async def test_stop_of_a_proxy_that_never_started_is_no_error(stage: Stage) -> None:
    """As after a start that failed; it begins no stream any more."""
    proxy = Proxy(configured(stage.url))
    await proxy.stop()
    with pytest.raises(Drained):
        proxy.hub.check_room()


async def test_kept_streams_are_no_reason_to_wait(stage: Stage) -> None:
    """A drain waits for those that run."""
    async with teed(stage.url, drain_s=3600) as tee:
        answer, turn = await begun(tee, stage, frames=1)
        turn.end(DONE)
        assert len(blocks(await answer.read())) == 2
        async with asyncio.timeout(GUARD_S):
            await tee.proxy.drain()


async def test_two_proxies_stand_side_by_side(tee: Tee, stage: Stage) -> None:
    """Nothing is shared within a process: not the streams, not the metrics."""
    other = Tee(Proxy(configured(stage.url)))
    await other.proxy.start()
    try:
        answer, turn = await begun(tee, stage, frames=1)
        assert (await other.follow(answer.stream_id)).status == 404
        turn.end(DONE)
        await answer.read()
        assert await tee.metric("streamtee_streams_ended_total") == 1
        assert await other.metric("streamtee_streams_ended_total") == 0
    finally:
        for client in other.clients:
            await client.leave()
        await other.proxy.stop()


async def answered(url: str, sent: bytes) -> Any:
    client = await Client.connect(url)
    client.send(sent)
    answer = await client.answer()
    await answer.read()
    await client.leave()
    return answer


async def test_health_needs_no_key(stage: Stage) -> None:
    """A health check has none, also where callers hold keys of ours."""
    auth = {"mode": "keys", "keys": ["0" * 64]}
    async with teed(stage.url, auth=auth, upstream={"key": "sk-of-the-upstream"}) as tee:
        assert (await answered(tee.proxy.url, request("GET", "/healthz", "Authorization:"))).status == 200
        assert (await answered(tee.proxy.url, request("GET", "/v1/streams", "Authorization:"))).status == 401


async def test_observer_that_breaks_is_logged_and_hurts_nobody(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it broke, not what it said, which may be a secret."""

    def broken(feed: LiveFeed, stream: Stream) -> None:
        raise ValueError("a secret")

    logged = Mock()
    monkeypatch.setattr(LiveFeed, "begun", broken)
    monkeypatch.setattr(faults, "_log", logged)
    async with teed(stage.url) as tee:
        answer, turn = await begun(tee, stage)
        turn.end(FINISH)
        await answer.read()
        assert answer.end == "whole"
        assert await tee.metric("streamtee_streams_ended_total", ending="complete") == 1
    (_, fault), _ = logged.error.call_args
    assert " failed: ValueError in " in fault
    assert fault.endswith(" in broken")
    assert "secret" not in fault


async def test_freed_memory_is_looked_at_now_and_then(stage: Stage) -> None:
    """With the time, by which it is known whether the process is idle."""
    async with teed(stage.url) as tee:
        looked = tee.proxy.trim.tick = Mock()  # type: ignore[method-assign]
        await until(lambda: looked.called)
        assert 0 <= time.monotonic() - looked.call_args.args[0] < GUARD_S
