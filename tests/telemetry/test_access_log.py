"""The line that is logged of a stream: what it names, and that nothing that was said, asked or secret is in it."""

import logging
import shlex
import time

import pytest

from proxy.stream.endings import CLIENT_GONE, COMPLETE, Ending
from proxy.telemetry import access_log
from proxy.telemetry.log_records import FIELDS
from proxy.tools.fake.qwen import FakeQwen
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.http_client import KEY
from tests.proxy_under_test import NATIVE, PROMPT, begun, native_body, teed
from tests.stage import Stage
from tests.streams import IDENT, new_stream

pytestmark = pytest.mark.usefixtures("heard")

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"traceparent: 00-{TRACE}-00f067aa0ba902b7-01"


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, str]]:
    """Return what was logged, as a reader of `key=value` has it."""
    records = [record for record in caplog.records if record.name == "streamtee"]
    assert {record.levelname for record in records} <= {"INFO"}
    return [dict(word.split("=", 1) for word in shlex.split(record.getMessage())) for record in records]


async def test_one_line_ties_a_stream_to_its_upstreams_call_and_its_trace(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, at its end; the same ids are in its info, and on the admin port for everybody's."""
    async with teed(stage.url) as tee:
        answer, turn = await begun(tee, stage, PARENT, "Stream-Key: chat-42")
        follower = await tee.follow(answer.stream_id)
        running = await tee.info(answer.stream_id)
        assert not lines(caplog)
        usage = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5}}\n\n'
        body = chunk_frame() + FINISH + usage + DONE
        turn.end(body)
        await answer.read()
        await follower.read()
        info = await tee.wait_ended(answer.stream_id)
        everybodys = await (await tee.admin("/admin/streams")).json()
    (line,) = lines(caplog)
    assert 0 <= float(line.pop("ttft_s")) <= float(line.pop("duration_s")) < 10
    assert line == {
        "stream": answer.stream_id,
        "request_id": "-",
        "client_request_id": "-",
        "trace_id": TRACE,
        "client": "127.0.0.1",
        "route": "chat",
        "model": "qwen3-max",
        "upstream": "default",
        "ending": "complete",
        "events": "4",
        "bytes": str(len(body)),
        "prompt_tokens": "7",
        "completion_tokens": "5",
    }
    for told in (running, info, everybodys["data"][0]):
        assert (told["upstream_request_id"], told["trace_id"]) == (None, TRACE)


@pytest.mark.parametrize("trusted", [(), ("127.0.0.0/8",)], ids=["nobody", "edge"])
async def test_forwarded_address_is_logged_of_a_trusted_proxy_alone(
    stage: Stage, caplog: pytest.LogCaptureFixture, trusted: tuple[str, ...]
) -> None:
    """From anybody else it is what the client likes to be."""
    async with teed(stage.url, trusted_proxies=trusted) as tee:
        answer, turn = await begun(tee, stage, "X-Forwarded-For: 6.6.6.6, 203.0.113.9")
        turn.end(FINISH, DONE)
        await answer.read()
        await tee.wait_ended(answer.stream_id)
    (line,) = lines(caplog)
    assert line["client"] == ("203.0.113.9" if trusted else "127.0.0.1")


@pytest.mark.parametrize("apart", [(), ("Stream-On-Disconnect: continue",)], ids=["alone", "apart"])
@pytest.mark.parametrize("dialect", ["chat", "native"])
async def test_upstreams_request_id_is_kept(
    fake: FakeQwen, caplog: pytest.LogCaptureFixture, dialect: str, apart: tuple[str, ...]
) -> None:
    """That of the header; it reaches the client, too."""
    async with teed(fake.url) as tee:
        answer = await tee.generate(dialect, *apart)
        ident = answer.header("x-request-id")
        await answer.read()
        assert ident
        assert (await tee.wait_ended(answer.stream_id))["upstream_request_id"] == ident
    assert [line["request_id"] for line in lines(caplog)] == [ident]


async def test_native_frames_name_the_request_where_no_header_does(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """Known at the end."""
    async with teed(stage.url) as tee:
        client = await tee.send("POST", NATIVE, "X-DashScope-SSE: enable", body=native_body())
        turn = await stage.next()
        turn.begin()
        turn.end(b'data:{"output":{"text":"x","finish_reason":"stop"},"usage":{},"request_id":"5b441aa7"}\n\n')
        answer = await client.answer()
        await answer.read()
        assert (await tee.wait_ended(answer.stream_id))["upstream_request_id"] == "5b441aa7"
    assert [(line["request_id"], line["model"]) for line in lines(caplog)] == [("5b441aa7", "qwen-max")]


async def test_failed_shared_and_unanswered_streams_have_their_line(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """What is no stream has none."""
    routes = [{"path": "/events", "share": "url"}]
    async with teed(stage.url, routes=routes, timeouts={"first_byte_s": 0.1}) as tee:
        answer, turn = await begun(tee, stage, frames=1)
        turn.reset()
        await answer.read()
        client = await tee.send("GET", "/events?secret=hunter2")
        turn = await stage.next()
        turn.begin("x-request-id: e-1")
        await client.answer()
        await client.leave()
        await turn.wait_left()
        assert (await tee.chat("Stream-Key: k")).status == 504
        models = await tee.send("GET", "/v1/models")
        while (turn := await stage.next()).target != b"/compatible-mode/v1/models":
            pass
        turn.reply("200 OK", body=b"{}")
        await (await models.answer()).read()
    told = [(line["route"], line["ending"], line["request_id"], line["upstream"]) for line in lines(caplog)]
    assert told == [
        ("chat", "upstream_reset", "-", "default"),
        ("/events", "client_gone", "e-1", "default"),
        ("chat", "timeout_first_byte", "-", "-"),
    ]
    assert "hunter2" not in caplog.text


async def test_line_tells_no_secret_and_no_text(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """Nor does an upstream's id that is none."""
    async with teed(stage.url) as tee:
        client = await tee.send_chat("Stream-Key: my-own", "Idempotency-Key: idem")
        turn = await stage.next()
        turn.begin("x-request-id: two words")
        turn.end(chunk_frame("the answer"), FINISH, DONE)
        await (await client.answer()).read()
    (line,) = lines(caplog)
    assert line["request_id"] == "-"
    for secret in (KEY, PROMPT, "the answer", "my-own", "idem", "two words"):
        assert secret not in caplog.text


def test_records_are_loggings_with_a_time_of_their_own(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever formats them finds all that he asks for; one record does not change with the next."""
    began = time.time()
    for ending in (COMPLETE, CLIENT_GONE):
        stream = new_stream()
        stream.seal(ending)
        access_log.ended(stream)
    first, second = (record for record in caplog.records if record.name == "streamtee")
    assert ["ending=complete" in record.getMessage() for record in (first, second)] == [True, False]
    assert began <= first.created <= second.created <= time.time()
    assert 0 <= first.created % 1 * 1000 - first.msecs < 1
    assert vars(logging.makeLogRecord({})).keys() <= vars(first).keys()


@pytest.mark.parametrize("model", ["a b", 'a"b', "a=b", "a\nstream=st_forged", "ü", "x" * 1000, ""])
def test_line_stays_one_line_of_words(model: str) -> None:
    """A model's name comes from outside."""
    stream = new_stream()
    stream.vitals.model = model
    stream.seal(COMPLETE)
    line = access_log.line(stream)
    assert line.isascii()
    assert line.isprintable()
    assert len(line) < 400
    words = dict(word.split("=", 1) for word in shlex.split(line))
    assert words["stream"] == IDENT
    assert words["ending"] == "complete"
    assert words["completion_tokens"] == "-"


@pytest.mark.parametrize(
    "value",
    [
        f"ff-{TRACE}-00f067aa0ba902b7-01",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-00f067aa0ba902b7-01",
        f"00-{TRACE}-00f067aa0ba902b7-01x",
        "nonsense",
    ],
)
async def test_traceparent_crosses_as_it_is_and_names_a_trace_only_if_it_is_valid(fake: FakeQwen, value: str) -> None:
    """The upstream may see in it what we do not; tracestate goes with it."""
    async with teed(fake.url) as tee:
        for named in (value, f"00-{TRACE}-00f067aa0ba902b7-01", f"cc-{TRACE}-00f067aa0ba902b7-01-later"):
            answer = await tee.chat(f"traceparent: {named}", "tracestate: congo=t61rcWkgMzE,rojo=00")
            await answer.read()
            headers = {name.lower().decode(): text.decode() for name, text in fake.requests[-1].headers}
            assert (headers["traceparent"], headers["tracestate"]) == (named, "congo=t61rcWkgMzE,rojo=00")
            expected = None if named == value else TRACE
            assert (await tee.info(answer.stream_id))["trace_id"] == expected


async def test_clients_own_request_id_is_logged_beside_the_upstreams(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """It goes upstream, too; what is no id is not logged."""
    async with teed(stage.url) as tee:
        for ident in ("edge-7", "two words", "x" * 129):
            answer, turn = await begun(tee, stage, f"X-Request-Id: {ident}")
            assert turn.all("x-request-id") == [ident.encode()]
            turn.end(FINISH, DONE)
            await answer.read()
            await tee.wait_ended(answer.stream_id)
    assert [line["client_request_id"] for line in lines(caplog)] == ["edge-7", "-", "-"]


@pytest.mark.parametrize("ending", [COMPLETE, CLIENT_GONE])
def test_fields_are_those_of_the_line(ending: Ending) -> None:
    """The same names in the same order, and the same values; what is missing is null."""
    stream = new_stream()
    stream.vitals.model = "a model"
    stream.seal(ending)
    words = dict(word.split("=", 1) for word in shlex.split(access_log.line(stream)))
    fields = access_log.fields(stream)
    assert list(fields) == list(words)
    for name, value in fields.items():
        told = "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
        assert told == words[name], name


async def test_log_of_json_has_fields(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """Beside a message that says what they are of."""
    async with teed(stage.url, log_format="json") as tee:
        answer, turn = await begun(tee, stage)
        turn.end(FINISH, DONE)
        await answer.read()
        await tee.wait_ended(answer.stream_id)
    (record,) = (record for record in caplog.records if record.name == "streamtee")
    assert record.getMessage() == "stream ended"
    assert getattr(record, FIELDS)["stream"] == answer.stream_id
