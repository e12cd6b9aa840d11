"""Everything below the API's prefixes that is not a generation: a plain reverse proxy, streamed both ways."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from proxy.tools.fake.qwen import FakeQwen
from tests.event_loops import GUARD_S, on_one_loop, until
from tests.http_client import KEY, Client, request, zipped
from tests.memory import rss_bytes
from tests.proxy_under_test import CHAT, NATIVE, Serve, chat_body, teed
from tests.stage import Stage, Turn
from tests.workers_under_test import in_one_process

MEGABYTE = 1 << 20


# What crosses, and what does not.


async def test_request_crosses_as_it_is(perform: Serve, stage: Stage) -> None:
    """Method, target, and headers with their order, case, repetitions and bytes reach the upstream."""
    tee = await perform()
    headers = [
        b"X-Case-Kept: yes",
        b"x-lower: 1",
        b"Accept: */*",
        b"X-Twice: one",
        b"Cookie: a=b; c=d",
        b"X-Twice: two",
        b"X-Latin: caf\xe9",
        b"X-UTF-8: \xe8\xb7\xaf",
        b"Accept-Encoding: br, gzip;q=0.5",
        b"User-Agent: none of yours",
        b"X-Forwarded-For: 192.0.2.7",
    ]
    client = await tee.send("PATCH", "/v1/files/a%2Fb?x=%2F&y=a+b&&z=%zz#", *headers, body=b"{}")
    turn = await stage.next()
    assert turn.head.startswith(b"PATCH /compatible-mode/v1/files/a%2Fb?x=%2F&y=a+b&&z=%zz")
    kept = [b"%b: %b" % header for header in turn.headers]
    assert kept == [
        b"Host: " + stage.url.removeprefix("http://").encode(),
        b"Authorization: Bearer " + KEY.encode(),
        *headers,
        b"Content-Length: 2",
    ]
    assert await turn.body() == b"{}"
    turn.reply("204 No Content", length=False)
    assert (await client.answer()).status == 204


async def test_response_crosses_as_it_is(perform: Serve, stage: Stage) -> None:
    """Status, reason and headers with their order, case, repetitions and bytes reach the client; nothing is added."""
    tee = await perform()
    client = await tee.send("GET", "/v1/models")
    turn = await stage.next()
    headers = [
        b"Set-Cookie: a=1; Path=/",
        b"X-Case-Kept: yes",
        b"set-cookie: b=2",
        b"Content-Type: text/plain; charset=iso-8859-1",
        b"X-Latin: caf\xe9",
        b"X-UTF-8: \xe8\xb7\xaf",
        b"Content-Encoding: br",
        b"Location: http://elsewhere.test/v1/x",
        b"Vary: Origin",
    ]
    body = b"\x00\xff not brotli"
    turn.reply("299 Quite So", *headers, body=body)
    answer = await client.answer()
    assert await answer.read() == body
    length = b"Content-Length: %d" % len(body)
    assert answer.head == b"\r\n".join([b"HTTP/1.1 299 Quite So", *headers, length, b"", b""])


async def test_hop_by_hop_headers_stay_on_their_side(perform: Serve, stage: Stage) -> None:
    """Neither the table's headers nor those that Connection names cross, in either direction."""
    tee = await perform()
    hops = [
        "Connection: keep-alive, X-Named , x-other",
        "Connection: x-third",
        "Keep-Alive: timeout=5",
        "Proxy-Authorization: Basic c2VjcmV0",
        "Proxy-Connection: keep-alive",
        "TE: trailers",
        "Trailer: X-Checksum",
        "X-Named: 1",
        "X-OTHER: 2",
        "X-Third: 3",
    ]
    client = await tee.send("GET", "/v1/models", *hops, "X-Fourth: 4")
    turn = await stage.next()
    assert [name for name, _ in turn.headers] == [b"Host", b"Authorization", b"X-Fourth"]
    turn.reply("200 OK", *hops, "Proxy-Authenticate: Basic", "X-Fourth: 4", body=b"x")
    answer = await client.answer()
    assert [name for name, _ in answer.headers] == [b"X-Fourth", b"Content-Length"]
    assert await answer.read() == b"x"


async def test_connection_that_names_the_length_leaves_the_body_delimited(perform: Serve, stage: Stage) -> None:
    """An upstream that declares its Content-Length hop-by-hop still gives the client a body with an end."""
    tee = await perform()
    client = await tee.send("GET", "/v1/models")
    (await stage.next()).reply("200 OK", "Connection: content-length", body=b"hello")
    answer = await client.answer()
    assert await answer.read() == b"hello"
    assert answer.end == "whole"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "PROPFIND"])
async def test_every_method_crosses(perform: Serve, stage: Stage, method: str) -> None:
    """The proxy has no opinion about methods."""
    tee = await perform()
    client = await tee.send(method, "/v1/files")
    turn = await stage.next()
    assert (turn.method, turn.target) == (method.encode(), b"/compatible-mode/v1/files")
    turn.reply("200 OK")
    assert (await client.answer()).status == 200


async def test_post_without_a_body_says_so_upstream(perform: Serve, stage: Stage) -> None:
    """Content-Length: 0 stays, so that the upstream need not guess; a GET gets none."""
    tee = await perform()
    client = await tee.send("POST", "/v1/batches")
    turn = await stage.next()
    assert turn.all("content-length") == [b"0"]
    turn.reply("200 OK")
    await client.answer()
    client = await tee.send("GET", "/v1/batches")
    turn = await stage.next()
    assert turn.all("content-length") == turn.all("transfer-encoding") == []
    turn.reply("200 OK")
    await client.answer()


@pytest.mark.parametrize(
    ("path", "upstream"),
    [
        ("/v1/models", "/compatible-mode/v1/models"),
        ("/compatible-mode/v1/models", "/compatible-mode/v1/models"),
        ("/compatible-mode/v2/x", "/compatible-mode/v2/x"),
        ("/api/v1/tasks/1", "/api/v1/tasks/1"),
        ("/v1/", "/compatible-mode/v1/"),
        ("/v1/?", "/compatible-mode/v1/?"),
        ("/v1/a//b/", "/compatible-mode/v1/a//b/"),
        ("/v1/a;b=c,d", "/compatible-mode/v1/a;b=c,d"),
        ("/v1/%E8%B7%AF?q=%E8%B7%AF", "/compatible-mode/v1/%E8%B7%AF?q=%E8%B7%AF"),
        ("/v1/%252e%252e/x", "/compatible-mode/v1/%252e%252e/x"),
        ("/v1/a..b/...", "/compatible-mode/v1/a..b/..."),
    ],
)
async def test_paths_stand_for_the_upstreams(serve: Serve, fake: FakeQwen, path: str, upstream: str) -> None:
    """The OpenAI prefixes stand for the compatible mode's, the others for themselves; escapes are untouched."""
    tee = await serve()
    assert (await tee.ask("GET", path)).status == 200
    assert fake.requests[-1].target == upstream


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/compatible-api/v1/reranks"),
        ("POST", "/compatible-mode/v1/completions"),
        ("POST", "/compatible-mode/v1/embeddings"),
        ("POST", "/compatible-mode/v1/conversations"),
        ("DELETE", "/compatible-mode/v1/conversations/conv_1"),
        ("POST", "/compatible-mode/v1/files"),
        ("GET", "/compatible-mode/v1/files/file-1/content"),
        ("POST", "/compatible-mode/v1/batches"),
        ("POST", "/compatible-mode/v1/batches/batch_1/cancel"),
        ("POST", "/api/v1/services/aigc/text2image/image-synthesis"),
        ("GET", "/api/v1/tasks/task-1"),
        ("GET", "/api/v1/uploads?action=getPolicy&model=qwen-vl-plus"),
        ("GET", "/api/v1/mcps/WebSearch/sse"),
        ("POST", "/api/v1/mcps/WebSearch/message?sessionId=1"),
    ],
)
@on_one_loop
async def test_every_other_path_passes(serve: Serve, fake: FakeQwen, method: str, path: str) -> None:
    """With the caller's key, its body and its headers as they came."""
    tee = await serve()
    body = b'{"model": "m"}' if method == "POST" else b""
    answer = await tee.ask(method, path, "X-DashScope-Async: enable", body=body)
    told = await answer.json()
    assert (told["method"], told["target"], told["body_bytes"]) == (method, path, len(body))
    assert ["Authorization", f"Bearer {KEY}"] in told["headers"]
    assert ["X-DashScope-Async", "enable"] in told["headers"]


async def test_url_with_a_path_stands_for_the_compatible_base(fake: FakeQwen, serve: Serve) -> None:
    """The configured path replaces /compatible-mode/v1 of the OpenAI routes; the native ones keep theirs."""
    tee = await serve(url=f"{fake.url}/v1/proxied/")
    for path in ("/v1/models", "/compatible-mode/v1/models", "/api/v1/tasks/1"):
        await (await tee.ask("GET", path)).read()
    targets = [received.target for received in fake.requests]
    assert targets == ["/v1/proxied/models", "/v1/proxied/models", "/api/v1/tasks/1"]


# Where it goes is not the client's to choose.


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("http://elsewhere.test/v1/models?x=1", ()),
        ("https://elsewhere.test:99/v1/models?x=1", ()),
        ("http://user:pw@elsewhere.test/v1/models?x=1", ()),
        ("/v1/models?x=1", ("Host: elsewhere.test",)),
        ("/v1/models?x=1", ("X-Forwarded-Host: elsewhere.test", "X-Forwarded-Proto: https", "X-Forwarded-Port: 99")),
        ("/v1/models?x=1", ("Forwarded: host=elsewhere.test;proto=https", "X-Original-URL: /admin")),
    ],
)
async def test_request_does_not_choose_the_host(
    perform: Serve, stage: Stage, target: str, headers: tuple[str, ...]
) -> None:
    """Absolute-form targets, Host and forwarding headers leave origin, path and Host header as configured."""
    tee = await perform(hosts=["elsewhere.test"])
    client = await tee.send("GET", target, *headers)
    turn = await stage.next()
    assert turn.target == b"/compatible-mode/v1/models?x=1"
    assert turn.all("host") == [stage.url.removeprefix("http://").encode()]
    turn.reply("200 OK")
    assert (await client.answer()).status == 200


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "target",
    [
        "/v1/../api/v1/apps",
        "/v1/./models",
        "/v1/x/..",
        "/v1/x/.",
        "/v1/%2e%2e/%2E%2E/admin",
        "/v1/.%2e/admin",
        "/v1/%2E./admin",
        "/v1/x/%2e",
        "/v1/../v1/chat/completions",
        "/v1/chat/../chat/completions",
        "/v1/x/../chat/completions",
        "/compatible-mode/v1/../../admin",
        "http://elsewhere.test/v1/../admin",
        "http://elsewhere.test/v1/%2e%2e/admin",
    ],
)
async def test_dot_segments_are_refused(serve: Serve, fake: FakeQwen, method: str, target: str) -> None:
    """However they are written, no request with dot segments reaches the upstream."""
    tee = await serve()
    answer = await tee.ask(method, target, body=chat_body() if method == "POST" else b"")
    assert answer.status in (400, 404)
    assert (await answer.json())["error"]["type"] == "invalid_request_error"
    assert fake.requests == []


@pytest.mark.parametrize("target", ["//elsewhere.test/v1/models", "/", "/v2/models", "/metrics", "/v1", "*"])
async def test_what_is_not_below_a_prefix_is_unknown(serve: Serve, fake: FakeQwen, target: str) -> None:
    """Nothing but the listed prefixes goes upstream, and the admin port's paths are not on the data port."""
    tee = await serve()
    answer = await tee.ask("OPTIONS" if target == "*" else "GET", target)
    assert 400 <= answer.status < 500
    assert fake.requests == []


async def test_proxy_answers_for_its_own_health(serve: Serve, fake: FakeQwen) -> None:
    """/healthz does not depend on the upstream."""
    tee = await serve()
    assert await (await tee.ask("GET", "/healthz")).json() == {"status": "ok"}
    assert fake.requests == []


# Bodies up.


async def test_compressed_request_body_crosses_compressed(serve: Serve, fake: FakeQwen) -> None:
    """Content-Encoding is end to end, bad gzip included."""
    tee = await serve()
    for body in (zipped(b"some text"), b"not gzip at all"):
        answer = await tee.ask("POST", "/v1/files", "Content-Encoding: gzip", body=body)
        assert answer.status == 200
        assert fake.requests[-1].body == body
        assert fake.requests[-1].header("content-encoding") == "gzip"


async def test_chunked_upload_streams(perform: Serve, stage: Stage) -> None:
    """The upstream has the first piece before the client has sent the second; extensions and trailers are dropped."""
    tee = await perform()
    client = await tee.connect()
    head = request("POST", "/v1/files", "Transfer-Encoding: chunked")
    client.send(head + b"5;ext=1\r\nfirst\r\n")
    turn = await stage.next()
    assert turn.all("transfer-encoding") == [b"chunked"]
    assert turn.all("content-length") == []
    assert await turn.body_chunk() == b"first"
    client.send(b"6\r\nsecond\r\n0\r\nX-Trailer: 1\r\n\r\n")
    assert await turn.body() == b"second"
    turn.reply("200 OK", body=b"thanks")
    assert await (await client.answer()).read() == b"thanks"


@pytest.mark.parametrize("body", [b"", b"whole"])
async def test_chunked_upload_that_came_with_its_head_stays_chunked(perform: Serve, stage: Stage, body: bytes) -> None:
    """One write holds it all, its end too."""
    tee = await perform()
    client = await tee.connect()
    framed = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    client.send(request("POST", "/v1/files", "Transfer-Encoding: chunked") + framed + b"0\r\n\r\n")
    turn = await stage.next()
    assert (turn.all("transfer-encoding"), turn.all("content-length")) == ([b"chunked"], [])
    assert await turn.body() == body
    turn.reply("200 OK", body=b"thanks")
    assert await (await client.answer()).read() == b"thanks"


@in_one_process("each has connections of its own to the upstream")
@pytest.mark.parametrize("path", [CHAT, NATIVE, "/v1/embeddings", "/v1/files"])
async def test_request_on_a_connection_that_closes_is_sent_once(perform: Serve, stage: Stage, path: str) -> None:
    """It may have been worked on: the client is told, whether it generates or passes through."""
    tee = await perform()
    for closes in (False, True):
        asking = await tee.send("POST", path, body=b"{}")
        turn = await stage.next()
        assert await turn.body() == b"{}"
        turn.close() if closes else turn.reply("200 OK", body=b"{}")
        answer = await asking.answer()
        await answer.read()
    assert (answer.status, len(stage.turns), stage.connections) == (502, 2, 1)


@asynccontextmanager
async def refusing(*, lingers: bool) -> AsyncIterator[str]:
    """An upstream that refuses each request as soon as it has its head, and reads its body to the end or not at all."""

    running: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        running.add(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 8\r\n\r\ntoo much")
        with contextlib.suppress(ConnectionError):
            await writer.drain()
            if lingers:
                writer.write_eof()
                while await reader.read(1 << 20):
                    pass
        writer.close()
        running.remove(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await until(lambda: not running)
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("lingers", [True, False])
@pytest.mark.parametrize("path", [CHAT, NATIVE, "/v1/files"])
@pytest.mark.parametrize("size", [70_000, 300_000, 8_000_000])
@pytest.mark.parametrize("chunked", [True, False])
async def test_refusal_comes_while_the_body_goes_up(path: str, size: int, chunked: bool, lingers: bool) -> None:
    """It reaches the client, also when the upstream resets the connection on which nobody reads the body."""
    body = bytes(size)
    if chunked:
        cut = [body[at : at + 65536] for at in range(0, size, 65536)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in cut) + b"0\r\n\r\n"
    headers = ("Transfer-Encoding: chunked",) if chunked else ()
    async with refusing(lingers=lingers) as url, teed(url) as tee:
        for _ in range(3):
            answer = await tee.ask("POST", path, *headers, body=body)
            assert (answer.status, await answer.read()) == (413, b"too much")


async def test_upload_with_a_length_streams(perform: Serve, stage: Stage) -> None:
    """It keeps its length, and the upstream has the first piece before the client has sent the second."""
    tee = await perform()
    client = await tee.connect()
    client.send(request("POST", "/v1/files", "Content-Length: 11") + b"first")
    turn = await stage.next()
    assert turn.all("content-length") == [b"11"]
    assert turn.all("transfer-encoding") == []
    assert await turn.reader.readexactly(5) == b"first"
    client.send(b"second")
    assert await turn.reader.readexactly(6) == b"second"
    turn.reply("200 OK", body=b"thanks")
    assert await (await client.answer()).read() == b"thanks"


@on_one_loop
@pytest.mark.parametrize("chunked", [False, True])
async def test_large_upload_is_whole(serve: Serve, fake: FakeQwen, chunked: bool) -> None:
    """32 MiB arrive, more than what a body may have that is generated from: these pass through as they come."""
    tee = await serve(limits={"body_bytes": 1000})
    body = hashlib.shake_256(b"large").digest(32 * MEGABYTE)
    client = await tee.connect()
    if chunked:
        client.send(request("POST", "/v1/files", "Transfer-Encoding: chunked"))
        for start in range(0, len(body), 300_000):
            piece = body[start : start + 300_000]
            client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        client.send(b"0\r\n\r\n")
    else:
        client.send(request("POST", "/v1/files", body=body))
    answer = await client.answer()
    assert (await answer.json())["body_sha256"] == hashlib.sha256(body).hexdigest()


@on_one_loop
async def test_stalled_upstream_holds_an_upload_back(perform: Serve, stage: Stage) -> None:
    """An upload is read from the client no faster than the upstream takes it; memory does not grow."""
    tee = await perform()
    client = await tee.connect()
    total = 64 * MEGABYTE
    client.send(request("POST", "/v1/files", f"Content-Length: {total}"))
    turn = await stage.next()  # and reads no more of it than its own buffers take
    body = bytes(total)
    held_before = rss_bytes()
    client.send(body)
    left = await tee.settled(client.transport.get_write_buffer_size)
    assert left > total // 2
    assert rss_bytes() - held_before < 16 * MEGABYTE
    await client.leave()
    assert len(await turn.reader.read()) < total
    await turn.wait_left()


async def test_answer_may_come_before_the_upload_has_ended(perform: Serve, stage: Stage) -> None:
    """An upstream that refuses a large upload at its head is heard at once."""
    tee = await perform()
    client = await tee.connect()
    client.send(request("POST", "/v1/files", "Content-Length: 1000000") + b"some")
    turn = await stage.next()
    turn.reply("413 Too Much", body=b"no more")
    answer = await client.answer()
    assert answer.status == 413
    assert await answer.read() == b"no more"
    await turn.wait_left()


async def test_upload_that_breaks_off_ends_the_exchange(perform: Serve, stage: Stage) -> None:
    """The upstream never takes half a body for a whole one."""
    tee = await perform()
    client = await tee.connect()
    client.send(request("POST", "/v1/files", "Transfer-Encoding: chunked") + b"5\r\nfirst\r\n")
    turn = await stage.next()
    assert await turn.body_chunk() == b"first"
    await client.leave()
    await turn.wait_left()
    assert await turn.reader.read() == b""


@pytest.mark.parametrize("path", ["/v1/files", CHAT])
async def test_expect_is_answered_here(serve: Serve, fake: FakeQwen, path: str) -> None:
    """A client that waits for 100 Continue gets it before it sends its body; the expectation does not cross."""
    tee = await serve()
    client = await tee.connect()
    body = chat_body()
    client.send(request("POST", path, "Expect: 100-continue", f"Content-Length: {len(body)}"))
    assert await client.wait_bytes(lambda buffer: buffer.startswith(b"HTTP/1.1 100 Continue\r\n\r\n"))
    client.send(body)
    answer = await client.answer()
    assert answer.status == 200
    await answer.read()
    assert fake.requests[-1].header("expect") == ""
    assert fake.requests[-1].body == body


# Bodies down.


async def test_download_streams(perform: Serve, stage: Stage) -> None:
    """The client has the first piece before the upstream has sent the second, with a length and without."""
    tee = await perform()
    client = await tee.send("GET", "/v1/files/1")
    turn = await stage.next()
    turn.say(b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nfirst")
    answer = await client.answer()
    assert answer.header("content-length") == "11"
    assert await answer.bytes(5) == b"first"
    turn.say(b"second")
    turn.done.set()
    assert await answer.read() == b"firstsecond"
    client.send(request("GET", "/v1/files/2"))
    turn = await stage.next()
    turn.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nfirst\r\n")
    answer = await client.answer()
    assert await answer.bytes(5) == b"first"
    turn.say(b"6\r\nsecond\r\n0\r\nX-Trailer: 1\r\n\r\n")
    turn.done.set()
    assert await answer.read() == b"firstsecond"


async def test_body_that_ends_with_the_connection_is_delimited_anew(perform: Serve, stage: Stage) -> None:
    """The client of an upstream of HTTP/1.0 keeps its connection."""
    tee = await perform()
    client = await tee.send("GET", "/v1/files/1")
    turn = await stage.next()
    turn.say(b"HTTP/1.0 200 OK\r\nContent-Type: a/b\r\n\r\nall there is")
    turn.close()
    answer = await client.answer()
    assert answer.header("transfer-encoding") == "chunked"
    assert await answer.read() == b"all there is"
    client.send(request("GET", "/healthz"))
    assert (await client.answer()).status == 200


async def _pour(turn: Turn, piece: bytes, pieces: int) -> None:
    """Send a body of so many pieces, as fast as the proxy takes it."""
    try:
        for _ in range(pieces):
            await turn.pour(piece)
        turn.done.set()
    except ConnectionError:
        return


@on_one_loop
@pytest.mark.parametrize("chunked", [False, True])
async def test_large_download_is_whole(perform: Serve, stage: Stage, chunked: bool) -> None:
    """64 MiB arrive in order."""
    tee = await perform()
    client = await tee.send("GET", "/v1/files/1")
    turn = await stage.next()
    piece, pieces = hashlib.shake_256(b"large").digest(MEGABYTE), 64
    if chunked:
        turn.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        pouring = asyncio.create_task(_pour(turn, b"%x\r\n%b\r\n" % (MEGABYTE, piece), pieces))
    else:
        turn.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (pieces * MEGABYTE))
        pouring = asyncio.create_task(_pour(turn, piece, pieces))
    answer = await client.answer()
    digest, seen = hashlib.sha256(), 0
    async with asyncio.timeout(GUARD_S):
        while seen < pieces * MEGABYTE:
            data = await answer.bytes(1)
            seen += len(data)
            digest.update(data)
            answer.body.clear()
    await pouring
    if chunked:
        turn.say(b"0\r\n\r\n")
    await answer.read()
    assert (answer.end, digest.digest()) == ("whole", hashlib.sha256(piece * pieces).digest())


@on_one_loop
async def test_stalled_client_holds_a_download_back(perform: Serve, stage: Stage) -> None:
    """The upstream is read no faster than the client reads; memory does not grow; then the rest comes whole."""
    tee = await perform()
    client = await tee.send("GET", "/v1/files/1")
    turn = await stage.next()
    pieces = 96
    turn.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (pieces * MEGABYTE))
    answer = await client.answer()
    client.stall()
    held_before = rss_bytes()
    pouring = asyncio.create_task(_pour(turn, bytes(MEGABYTE), pieces))
    said = await tee.settled(lambda: turn.said)
    assert said < pieces * MEGABYTE // 2
    assert rss_bytes() - held_before < 16 * MEGABYTE
    client.read_on()
    seen = 0
    async with asyncio.timeout(GUARD_S):
        while seen < pieces * MEGABYTE:
            seen += len(await answer.bytes(1))
            answer.body.clear()
    await pouring
    assert seen == pieces * MEGABYTE


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("ending", ["close", "reset"])
async def test_truncated_download_looks_truncated(perform: Serve, stage: Stage, framing: str, ending: str) -> None:
    """When the upstream breaks off, so does the response: the client gets all that came, and no proper end."""
    tee = await perform()
    client = await tee.send("GET", "/v1/files/1")
    turn = await stage.next()
    head = b"Content-Length: 100" if framing == "length" else b"Transfer-Encoding: chunked"
    turn.say(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % head)
    turn.say(b"half of it" if framing == "length" else b"a\r\nhalf of it\r\n")
    answer = await client.answer()
    await answer.bytes(10)
    (turn.close if ending == "close" else turn.reset)()
    assert await answer.read() == b"half of it"
    assert answer.end in ("cut", "reset")


async def test_client_that_leaves_ends_the_exchange(perform: Serve, stage: Stage) -> None:
    """Before the response's head and within its body, the upstream's connection is closed."""
    tee = await perform()
    client = await tee.send("GET", "/v1/files/1")
    turn = await stage.next()
    await client.leave()
    await turn.wait_left()
    client = await tee.send("GET", "/v1/files/1")
    turn = await stage.next()
    turn.say(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nfirst")
    answer = await client.answer()
    await answer.bytes(5)
    await client.leave()
    await turn.wait_left()


# Framing.


async def test_head_request_has_no_body_but_its_headers(perform: Serve, stage: Stage) -> None:
    """The length of what GET would give crosses, and the connection serves the next request."""
    tee = await perform()
    client = await tee.send("HEAD", "/v1/files/1")
    (await stage.next()).say(b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\nX-A: b\r\n\r\n")
    answer = await client.answer()
    assert answer.head == b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\nX-A: b\r\n\r\n"
    client.send(request("GET", "/healthz"))
    assert await (await client.answer()).json() == {"status": "ok"}


@pytest.mark.parametrize("head", [b"204 No Content\r\nX-A: b", b"304 Not Modified\r\nContent-Length: 12345\r\nX-A: b"])
async def test_response_without_a_body_keeps_the_connections(perform: Serve, stage: Stage, head: bytes) -> None:
    """204 and 304 cross as they are; both connections serve the next request."""
    tee = await perform()
    client = await tee.connect()
    for _ in range(2):
        client.send(request("GET", "/v1/files/1", 'If-None-Match: "x"'))
        turn = await stage.next()
        turn.say(b"HTTP/1.1 " + head + b"\r\n\r\n")
        turn.done.set()
        assert (await client.answer()).head == b"HTTP/1.1 " + head + b"\r\n\r\n"
    assert stage.connections == 1


async def test_interim_responses_are_dropped(perform: Serve, stage: Stage) -> None:
    """100 and 103 of the upstream's precede its answer, and do not take its place."""
    tee = await perform()
    client = await tee.send("GET", "/v1/files/1")
    turn = await stage.next()
    turn.say(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
    turn.reply("201 Created", "X-A: b", body=b"done")
    answer = await client.answer()
    assert (answer.status, answer.reason, answer.header("link")) == (201, b"Created", None)
    assert await answer.read() == b"done"


async def test_pipelined_requests_are_answered_in_order(serve: Serve, fake: FakeQwen) -> None:
    """Requests sent at once on one connection are all answered, in their order, streams between plain ones."""
    tee = await serve()
    client = await tee.connect()
    body = chat_body(max_tokens=20)
    client.send(
        request("GET", "/v1/first")
        + request("POST", CHAT, body=body)
        + request("HEAD", "/v1/third")
        + request("POST", CHAT, body=body)
        + request("GET", "/v1/last")
    )
    for number, method in enumerate(("GET", "POST", "HEAD", "POST", "GET")):
        client._methods[:] = [method]
        answer = await client.answer()
        data = await answer.read()
        assert (answer.status, answer.end) == (200, "whole")
        assert data == bytes(fake.requests[number].sent)
        assert fake.requests[number].method == method
    assert len(fake.requests) == 5


async def test_client_of_http_1_0_gets_a_body_that_ends_with_the_connection(perform: Serve, stage: Stage) -> None:
    """No chunks for it; a length stays one."""
    tee = await perform()
    client = await tee.send("GET", "/v1/files/1", version="1.0")
    turn = await stage.next()
    assert turn.head.startswith(b"GET /compatible-mode/v1/files/1 HTTP/1.1\r\n")
    turn.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    turn.end(b"some", b"thing")
    answer = await client.answer()
    assert answer.header("transfer-encoding") is None
    assert await answer.read() == b"something"
    client = await tee.send("GET", "/v1/files/1", "Connection: keep-alive", version="1.0")
    (await stage.next()).reply("200 OK", body=b"something")
    answer = await client.answer()
    assert await answer.read() == b"something"
    assert answer.header("connection") == "keep-alive"


async def test_truncation_is_a_reset_for_a_client_of_http_1_0(perform: Serve, stage: Stage) -> None:
    """A body that ends with the connection can only be broken by a reset."""
    tee = await perform()
    client = await tee.send("GET", "/v1/files/1", version="1.0")
    turn = await stage.next()
    turn.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n")
    answer = await client.answer()
    await answer.bytes(4)
    turn.close()
    assert await answer.read() == b"some"
    assert answer.end == "reset"


@in_one_process("each has connections of its own to the upstream")
async def test_close_is_between_client_and_proxy(perform: Serve, stage: Stage) -> None:
    """A client that asks for the connection to be closed has it closed; the upstream's stays for the next."""
    tee = await perform()
    for _ in range(2):
        client = await tee.send("GET", "/v1/files/1", "Connection: close")
        turn = await stage.next()
        assert turn.all("connection") == []
        turn.reply("200 OK", body=b"x")
        answer = await client.answer()
        assert answer.header("connection") == "close"
        assert await answer.read() == b"x"
        assert await client.wait_gone() == "fin"
    assert stage.connections == 1


async def test_upgrade_is_not_passed_on(perform: Serve, stage: Stage) -> None:
    """The upstream is asked to switch to WebSocket only; one that switches all the same is a bad gateway."""
    tee = await perform()
    client = await tee.send("GET", "/v1/realtime", "Connection: Upgrade", "Upgrade: h2c")
    turn = await stage.next()
    assert turn.all("upgrade") == turn.all("connection") == []
    turn.reply("101 Switching Protocols", "Upgrade: h2c", "Connection: Upgrade", length=False)
    answer = await client.answer()
    assert answer.status == 502
    assert (await answer.json())["error"]["code"] == "upstream_garbled"


async def test_length_beside_chunks_goes_no_further(perform: Serve, stage: Stage) -> None:
    """The chunks override it (RFC 9112 section 6.3), and whoever forwards them has to remove it."""
    tee = await perform()
    client = await tee.send("GET", "/v1/files/1")
    turn = await stage.next()
    turn.say(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n")
    turn.end(b"hello")
    answer = await client.answer()
    assert (answer.header("content-length"), answer.header("transfer-encoding")) == (None, "chunked")
    assert (await answer.read(), answer.end) == (b"hello", "whole")


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: deflate, chunked",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6",
        b"HTTP/1.1 200 OK\r\nContent-Length: five",
        b"HTTP/1.1 200 OK\r\nno colon at all",
        b"SIP/2.0 200 OK\r\nContent-Length: 5",
    ],
)
async def test_ambiguous_response_is_a_bad_gateway(perform: Serve, stage: Stage, head: bytes) -> None:
    """What can be read in two ways is not passed on to be read in a third."""
    tee = await perform()
    client = await tee.send("GET", "/v1/files/1")
    turn = await stage.next()
    turn.say(head + b"\r\n\r\nhello")
    answer = await client.answer()
    assert answer.status == 502
    assert (await answer.json())["error"]["code"] == "upstream_garbled"
    await turn.wait_left()


@pytest.mark.parametrize(
    "headers",
    [
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Content-Length: 5", "Content-Length: 6"),
        ("Transfer-Encoding: chunked, identity",),
        ("Content-Length: +5",),
    ],
)
async def test_ambiguous_request_is_refused(serve: Serve, fake: FakeQwen, headers: tuple[str, ...]) -> None:
    """A request that two servers might cut differently reaches no second one."""
    tee = await serve()
    client = await tee.connect()
    client.send(request("POST", "/v1/files", *headers) + b"hello0\r\n\r\n")
    answer = await client.answer()
    assert answer.status == 400
    await client.wait_gone()
    assert fake.requests == []


async def test_response_with_bytes_after_it_poisons_no_connection(perform: Serve, stage: Stage) -> None:
    """What follows a response on the upstream's connection is never given to the next client."""
    tee = await perform()
    client = await tee.send("GET", "/v1/files/1")
    turn = await stage.next()
    turn.say(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    answer = await client.answer()
    assert await answer.read() == b"hello"
    await turn.wait_left()
    client.send(request("GET", "/v1/files/2"))
    (await stage.next()).reply("200 OK", body=b"good")
    assert await (await client.answer()).read() == b"good"
    assert stage.connections == 2


@in_one_process("each has connections of its own to the upstream")
async def test_concurrent_clients_do_not_wait_for_each_other(perform: Serve, stage: Stage) -> None:
    """A response that hangs delays no other."""
    tee = await perform()
    slow: Client = await tee.send("GET", "/v1/slow")
    held = await stage.next()
    for _ in range(3):
        client = await tee.send("GET", "/v1/fast")
        (await stage.next()).reply("200 OK", body=b"x")
        assert await (await client.answer()).read() == b"x"
    held.reply("200 OK", body=b"at last")
    assert await (await slow.answer()).read() == b"at last"
    await until(lambda: stage.connections == 2)


FILE_ID = b'{"messages":[{"content":[{"type":"document","source":{"type":"file","file_id":"file_1"}}]}]}'
OSS = b'{"input":{"contents":[{"image":"oss://somewhere/x.png"}]}}'


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages/count_tokens", FILE_ID),
        ("/apps/anthropic/v1/messages/count_tokens", FILE_ID),
        ("/v1/embeddings", OSS),
        ("/api/v1/services/embeddings/multimodal-embedding/multimodal-embedding", OSS),
        ("/compatible-api/v1/reranks", b'{"documents":[{"file_id":"file-1"}]}'),
    ],
)
async def test_body_that_passes_through_refers_to_no_file_with_a_key_of_ours(
    perform: Serve, stage: Stage, path: str, body: bytes
) -> None:
    """Whatever its length is said to be; another body goes up as it is, and at a path that was added any does."""
    tee = await perform(upstream={"key": "sk-ours", "paths": ["/v1/audio/"]})
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    for sent in (request("POST", path, body=body), request("POST", path, "Transfer-Encoding: chunked") + chunked):
        client = await tee.connect()
        client.send(sent)
        refused = await client.answer()
        assert (refused.status, b"file_not_allowed" in await refused.read()) == (403, True)
    assert (await tee.ask("POST", path, "Content-Encoding: gzip", body=b"zipped")).status == 415
    for target, other in ((path, b'{"input":"file_id"}'), ("/v1/audio/x", body + b"\0\xff")):
        client = await tee.send("POST", target, body=other)
        turn = await stage.next()
        assert await turn.body() == other
        turn.reply("200 OK", body=b"{}")
        assert (await client.answer()).status == 200
