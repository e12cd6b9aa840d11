"""Endings (law 7): what failed never looks complete, in no mode and no dialect, and says how it failed."""

import json
import re
from typing import Any, NamedTuple

import pytest

from proxy.tools.fake.qwen import FakeQwen
from tests.event_loops import on_one_loop
from tests.event_streams import DONE, FINISH, blocks, chunk_frame, stamped
from tests.http_client import KEY, request
from tests.proxy_under_test import CHAT, NATIVE, PROMPT, Serve, Tee, begun, chat_body, native_body
from tests.stage import Stage

TIMEOUTS = {"first_byte_s": 0.2, "idle_s": 0.2, "total_s": 0.6}
FAST = {"first_byte_s": 0.3, "idle_s": 0.2}


class Failure(NamedTuple):
    """A fault in mid-stream, and the word for the ending it makes."""

    fault: str
    reason: str


FAILURES = (
    Failure("cut_mid_frame", "upstream_reset"),
    Failure("cut_mid_chunk", "upstream_reset"),
    Failure("cut_clean_half_frame", "upstream_reset"),
    Failure("reset", "upstream_reset"),
    Failure("reset; after=0", "upstream_reset"),
    Failure("close_delimited; cut=reset", "upstream_reset"),
    Failure("bad_chunk", "garbled"),
    Failure("bad_chunk; after=0", "garbled"),
    Failure("hang", "timeout_idle"),
    Failure("hang; after=0", "timeout_idle"),
    Failure("cut_mid_frame, crlf", "upstream_reset"),
)


def failed(event: bytes, dialect: str) -> dict[str, Any]:
    """Return the error an error event of that dialect tells."""
    if dialect == "chat":
        data = re.fullmatch(rb"data: (\{.*\})\nid: \S+\n\n", event)
        assert data is not None, event
        error = json.loads(data[1])["error"]
        assert error["type"] == "stream_error"
        return error
    if dialect == "responses":
        data = re.fullmatch(rb"event: response.failed\ndata: (\{.*\})\nid: \S+\n\n", event)
        assert data is not None, event
        return json.loads(data[1])["response"]["error"]
    data = re.fullmatch(rb"event:error\nstatus:5\d\d\ndata:(\{.*\})\nid:\S+\n\n", event)
    assert data is not None, event
    error = json.loads(data[1])
    assert "request_id" in error
    return error


def refused(body: Any, dialect: str) -> tuple[str, str]:
    """Return code and message of an error response's body, which has the shape of that dialect."""
    if dialect == "chat":
        assert set(body) == {"error"}
        assert set(body["error"]) == {"message", "type", "param", "code"}
        return body["error"]["code"], body["error"]["message"]
    assert set(body) == {"code", "message", "request_id"}
    return body["code"], body["message"]


@pytest.mark.parametrize("dialect", ["chat", "native", "responses"])
@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.fault)
@pytest.mark.fault("upstream", "within_frame")
async def test_failed_stream_never_looks_complete(serve: Serve, fake: FakeQwen, failure: Failure, dialect: str) -> None:
    """Raw: all bytes, then no end. Events: all blocks, then one error event in the dialect. Live and replayed alike."""
    tee = await serve(timeouts=FAST)
    originator = await tee.generate(dialect, "Stream-Mode: events", fault=failure.fault)
    follower = await tee.follow(originator.stream_id, "mode=raw")
    events, sent = await originator.read(), await follower.read()
    assert sent == bytes(fake.requests[0].sent)
    assert DONE not in sent + events
    late = [await tee.follow(originator.stream_id, f"mode={mode}") for mode in ("raw", "events")]
    assert [await late[0].read(), await late[1].read()] == [sent, events]
    assert {follower.end, late[0].end} <= {"cut", "reset"}
    assert (originator.end, late[1].end) == ("whole", "whole")
    *said, last = blocks(events)
    whole = sent[: sum(map(len, re.findall(rb".*?(?:\r\n\r\n|\n\n)", sent, re.DOTALL)))]
    assert b"".join(said) == stamped(whole, originator.epoch)
    error = failed(last, dialect)
    assert error["code"] == failure.reason
    info = await tee.info(originator.stream_id)
    assert (info["state"], info["ending"]["reason"]) == ("failed", failure.reason)
    assert error["message"] == info["ending"]["message"] != ""


@pytest.mark.parametrize("dialect", ["chat", "native", "responses"])
@pytest.mark.parametrize(
    "fault",
    ["", "close_delimited", "no_blank_line", "crlf", "burst", "error_inside", "error_inside; done=1", "no_done", "bom"],
)
async def test_stream_that_says_its_own_end_ends_properly(serve: Serve, dialect: str, fault: str) -> None:
    """Its last frames are all there is to say, an error event of the upstream's too: nothing is added in any mode."""
    tee = await serve()
    originator = await tee.generate(dialect, fault=fault)
    sent = await originator.read()
    follower = await tee.follow(originator.stream_id)
    events = await follower.read()
    if "no_blank_line" not in fault:
        assert events == stamped(sent, originator.epoch)
    assert len(blocks(events)) == len(re.findall(rb"(?:^|\n\r?\n)(?=.)", sent))
    assert (originator.end, follower.end) == ("whole", "whole")
    info = await tee.info(originator.stream_id)
    assert info["ending"]["reason"] == ("upstream_error" if "error" in fault else "complete")
    assert info["state"] == ("failed" if "error" in fault else "complete")


async def test_done_comes_only_from_the_upstream(serve: Serve, fake: FakeQwen) -> None:
    """A stream that ends properly without [DONE] gets none from us."""
    tee = await serve()
    answer = await tee.chat("Stream-Mode: events", fault="no_done")
    assert b"[DONE]" not in await answer.read()
    assert answer.end == "whole"


@pytest.mark.fault("upstream", "after_end")
async def test_bytes_after_done_do_not_unmake_the_end(perform: Serve, stage: Stage) -> None:
    """Once the last word was said nothing can be missing: a connection that breaks then is a complete stream."""
    tee = await perform()
    answer, turn = await begun(tee, stage)
    turn.chunk(FINISH + DONE)
    await answer.until(DONE)
    turn.reset()
    await answer.read()
    assert answer.end == "whole"
    assert (await tee.info(answer.stream_id))["state"] == "complete"


@pytest.mark.parametrize("end", ["close", "reset"])
async def test_body_without_an_end_of_its_own_needs_the_last_word(perform: Serve, stage: Stage, end: str) -> None:
    """A close-delimited stream that was not finished did not end, it broke off, also between two frames."""
    tee = await perform()
    client = await tee.send_chat()
    turn = await stage.next()
    turn.say(b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + chunk_frame())
    answer = await client.answer()
    await answer.bytes(10)
    (turn.close if end == "close" else turn.reset)()
    assert await answer.read() == chunk_frame()
    assert answer.end != "whole"
    assert (await tee.info(answer.stream_id))["ending"]["reason"] == "upstream_reset"


async def test_empty_stream_is_an_empty_response_and_a_failure(perform: Serve, stage: Stage) -> None:
    """An upstream that properly ends a body without a frame: mode raw ends so, too, and nothing else does."""
    tee = await perform()
    client = await tee.send_chat()
    turn = await stage.next()
    turn.begin()
    turn.end()
    answer = await client.answer()
    assert await answer.read() == b""
    assert answer.end == "whole"
    assert (await tee.info(answer.stream_id))["ending"]["reason"] == "upstream_reset"
    assert b"stream_error" in await (await tee.follow(answer.stream_id, "after=0")).read()


# Before the first byte.


@on_one_loop
@pytest.mark.parametrize("dialect", ["chat", "native"])
@pytest.mark.parametrize("headers", [(), ("Stream-Key: k",), ("Stream-On-Disconnect: continue",)])
@pytest.mark.parametrize(
    ("fault", "status", "code"), [("hang_before_head", 504, "upstream_timeout"), ("garbage", 502, "upstream_garbled")]
)
@pytest.mark.fault("upstream", "head")
async def test_failure_before_the_head_is_an_error_response(
    serve: Serve, fault: str, status: int, code: str, headers: tuple[str, ...], dialect: str
) -> None:
    """In the route's dialect, with the limit in force; no stream is kept."""
    tee = await serve(timeouts=FAST)
    answer = await tee.generate(dialect, *headers, fault=fault)
    assert answer.status == status
    said, message = refused(await answer.json(), dialect)
    assert said == code
    assert status != 504 or "0.3 s" in message
    assert answer.header("stream-id") is None
    assert await tee.listed() == []
    assert await tee.metric("streamtee_rejected_total", reason=code) == 1


@on_one_loop
@pytest.mark.parametrize(("path", "dialect"), [("/v1/models", "chat"), ("/api/v1/tasks/1", "native")])
async def test_failure_of_what_passes_through_is_told_in_its_dialect(serve: Serve, path: str, dialect: str) -> None:
    """Time-outs of the plain reverse proxy too."""
    tee = await serve(timeouts=FAST)
    answer = await tee.ask("GET", path, "Fake-Fault: hang_before_head")
    assert answer.status == 504
    assert refused(await answer.json(), dialect)[0] == "upstream_timeout"
    answer = await tee.ask("GET", path, "Fake-Fault: garbage")
    assert answer.status == 502
    assert refused(await answer.json(), dialect)[0] == "upstream_garbled"


@pytest.mark.parametrize(("path", "dialect"), [(CHAT, "chat"), (NATIVE, "native"), ("/v1/files", "chat")])
@pytest.mark.fault("upstream", "connect")
async def test_upstream_that_is_not_there(serve: Serve, fake: FakeQwen, path: str, dialect: str) -> None:
    """502, told in the dialect; the proxy goes on."""
    tee = await serve()
    await fake.stop()
    answer = await tee.ask("POST", path, body=chat_body())
    assert answer.status == 502
    assert refused(await answer.json(), dialect)[0] == "upstream_unreachable"
    assert (await tee.ask("GET", "/healthz")).status == 200


@pytest.mark.parametrize("dialect", ["chat", "native"])
@pytest.mark.fault("upstream", "connect")
async def test_connection_that_is_not_made_in_time(stage: Stage, perform: Serve, dialect: str) -> None:
    """504: the address takes the connection, but never says hello; TLS counts into the time for connecting."""
    tee = await perform(url=stage.url.replace("http:", "https:"), timeouts={"connect_s": 0.2})
    path, body = (CHAT, chat_body()) if dialect == "chat" else (NATIVE, native_body())
    answer = await tee.ask("POST", path, body=body)
    assert answer.status == 504
    code, message = refused(await answer.json(), dialect)
    assert code == "upstream_timeout"
    assert "0.2 s" in message


async def test_connection_that_is_not_free_in_time(perform: Serve, stage: Stage) -> None:
    """With all connections taken a request waits as long as it may for connecting, and goes up when one is free."""
    tee = await perform(upstream={"max_connections": 1}, timeouts={"connect_s": 0.2})
    taken, turn = await begun(tee, stage)
    answer = await tee.chat()
    assert answer.status == 504
    assert refused(await answer.json(), "chat")[0] == "upstream_timeout"
    client = await tee.send_chat()
    turn.end(DONE)
    await taken.read()
    turn = await stage.next()
    assert stage.connections == 1
    await turn.body()
    turn.begin()
    turn.end(DONE)
    assert await (await client.answer()).read() == DONE


# Time.


@pytest.mark.parametrize("mode", ["raw", "events"])
async def test_total_time_ends_a_stream_that_still_speaks(serve: Serve, mode: str) -> None:
    """It is an ending of its own, and named as such."""
    tee = await serve(timeouts={"total_s": 0.3})
    answer = await tee.chat(f"Stream-Mode: {mode}", fault="stall; seconds=30")
    body = await answer.read()
    info = await tee.info(answer.stream_id)
    assert info["ending"]["reason"] == "timeout_total"
    if mode == "raw":
        assert answer.end != "whole"
    else:
        assert failed(blocks(body)[-1], "chat")["code"] == "timeout_total"


async def test_total_time_holds_before_the_head_too(serve: Serve) -> None:
    """An upstream without a limit to its first byte is still within that of the whole response."""
    tee = await serve(timeouts={"total_s": 0.3, "first_byte_s": 0})
    answer = await tee.chat(fault="hang_before_head")
    assert answer.status == 504
    assert refused(await answer.json(), "chat")[0] == "upstream_timeout"


@on_one_loop
async def test_stall_shorter_than_the_time_out_is_none(serve: Serve, fake: FakeQwen) -> None:
    """Each read begins the idle time anew: it may add up to more than the limit."""
    tee = await serve(timeouts={"idle_s": 0.4})
    fault = "stall; after=2; seconds=0.15, stall; after=4; seconds=0.15, stall; after=6; seconds=0.15"
    answer = await tee.chat(fault=fault + ", stall; after=8; seconds=0.15")
    assert await answer.read() == bytes(fake.requests[0].sent)
    assert answer.end == "whole"


async def test_truncation_by_time_of_what_passes_through(serve: Serve, fake: FakeQwen) -> None:
    """The idle time-out holds for the plain reverse proxy, whose body is then aborted."""
    tee = await serve(timeouts=FAST)
    answer = await tee.ask("GET", "/v1/files/1", "Fake-Fault: cut_mid_chunk")
    await answer.read()
    assert answer.end != "whole"
    answer = await tee.ask("GET", "/v1/files/1", "Fake-Fault: bad_chunk")
    await answer.read()
    assert answer.end != "whole"


# Counting, and keeping quiet.


async def test_endings_are_counted_by_name(serve: Serve) -> None:
    """Each stream once, under how it ended."""
    tee = await serve(timeouts={"idle_s": 0.2})
    for fault in ("", "", "cut_mid_frame", "hang", "error_inside"):
        await (await tee.chat(fault=fault)).read()
    for reason, count in (("complete", 2), ("upstream_reset", 1), ("timeout_idle", 1), ("upstream_error", 1)):
        assert await tee.metric("streamtee_streams_ended_total", ending=reason) == count
    assert await tee.metric("streamtee_streams_ended_total") == 5
    assert await tee.metric("streamtee_streams_active") == 0


async def _everything(tee: Tee) -> None:
    """Do what there is to do, well and badly."""
    for dialect in ("chat", "native"):
        for fault in ("", "cut_mid_frame", "hang", "hang_before_head", "garbage", "status; status=401"):
            await (await tee.generate(dialect, fault=fault)).read()
    originator = await tee.chat("Stream-Key: k", fault="hang")
    await (await tee.follow("keys/k")).read()
    await originator.read()
    for method, target, body in (
        ("POST", f"{CHAT}?api_key={KEY}", b"{" + PROMPT.encode()),
        ("POST", "/v1/files", PROMPT.encode()),
        ("GET", f"/v1/streams/{KEY}", b""),
        ("GET", f"/v1/keys/{KEY}/stream", b""),
        ("GET", f"/nowhere/{KEY}", b""),
        ("GET", f"/v1/../{KEY}", b""),
    ):
        await (await tee.ask(method, target, body=body)).read()


MALFORMED = (
    f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\x00\r\n\r\n",
    f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization : Bearer {KEY}\r\n\r\n",
    f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {KEY}\r\n\r\n",
    f"POST {CHAT}?key={KEY} HTTP/9.9\r\nHost: x\r\n\r\n",
    f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{PROMPT}\r\n",
    f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}{PROMPT}\r\n\r\n",
    f"{PROMPT}\r\n\r\n",
)


@on_one_loop
async def test_neither_prompt_nor_key_is_logged_or_counted(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """At level debug, with requests that go well, that fail, and that are no HTTP: not in logs, not in metrics."""
    caplog.set_level("DEBUG")
    tee = await serve(timeouts=FAST)
    await _everything(tee)
    for wire in MALFORMED:
        client = await tee.connect()
        client.send(wire.encode())
        await client.wait_gone()
    metrics = await tee.metrics()
    told = caplog.text + "".join(str(record.exc_info) for record in caplog.records) + metrics
    for secret in (KEY, PROMPT):
        assert secret not in told


@pytest.mark.parametrize("wire", ["this is no HTTP\r\n\r\n", MALFORMED[0]], ids=["line", "header"])
async def test_malformed_request_is_no_error_of_ours(serve: Serve, caplog: pytest.LogCaptureFixture, wire: str) -> None:
    """Anybody can send garbage to a port: it is answered with 400, and fills no log with tracebacks."""
    tee = await serve()
    client = await tee.connect()
    client.send(wire.encode())
    assert (await client.answer()).status == 400
    assert [record for record in caplog.records if record.exc_info or record.levelname == "ERROR"] == []


@pytest.mark.parametrize("headers", [(), ("Stream-Mode: events",)])
async def test_head_is_given_when_not_a_byte_of_the_body_came(
    perform: Serve, stage: Stage, headers: tuple[str, ...]
) -> None:
    """A client whose stream broke off at once still learns its id, and that it was a stream."""
    tee = await perform()
    client = await tee.send_chat(*headers)
    turn = await stage.next()
    turn.begin()
    turn.close()
    answer = await client.answer()
    await answer.read()
    assert answer.status == 200
    assert (await tee.info(answer.stream_id))["ending"]["reason"] == "upstream_reset"


async def test_requests_are_counted_by_route_and_status(serve: Serve) -> None:
    """Those refused here by their code, too; nothing a client can invent becomes a label."""
    tee = await serve()
    await (await tee.chat()).read()
    await (await tee.native()).read()
    await (await tee.ask("GET", "/v1/models")).read()
    await (await tee.chat(fault="status; status=429")).read()
    await (await tee.follow("st_unknown")).read()
    await (await tee.ask("GET", "/nowhere/at/all")).read()
    client = await tee.connect()
    client.send(request("INVENTED", "/v1/models"), method="INVENTED")
    await (await client.answer()).read()
    name = "streamtee_requests_total"
    assert await tee.metric(name, route="chat", method="POST", status="200") == 1
    assert await tee.metric(name, route="chat", method="POST", status="429") == 1
    assert await tee.metric(name, route="chat", method="GET", status="200") == 1
    assert await tee.metric(name, route="dashscope", method="POST", status="200") == 1
    assert await tee.metric(name, route="streams", status="404") == 1
    assert await tee.metric("streamtee_rejected_total", reason="stream_not_found") == 1
    assert await tee.metric("streamtee_rejected_total", reason="unknown_route") == 1
    assert "INVENTED" not in await tee.metrics()
