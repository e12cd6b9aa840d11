"""The optional log of requests, and the ids of requests: what they name, and that no secret is in them."""

import re
import shlex

import pytest

from proxy.telemetry.log_records import FIELDS
from tests.event_streams import DONE, FINISH
from tests.http_client import KEY
from tests.proxy_under_test import PROMPT, begun, teed
from tests.stage import Stage

pytestmark = pytest.mark.usefixtures("heard")

GIVEN = re.compile("req_[0-9a-f]{24}")


def requests(caplog: pytest.LogCaptureFixture) -> list[dict[str, str]]:
    """Return the lines of requests, as a reader of `key=value` has them."""
    said = [record.getMessage() for record in caplog.records if record.name == "streamtee"]
    lines = [line.removeprefix("request ") for line in said if line.startswith("request ")]
    return [dict(word.split("=", 1) for word in shlex.split(line)) for line in lines]


async def test_each_request_is_a_line(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """A generation when it has ended, with its stream; no query, no key of a stream, nothing that was said."""
    async with teed(stage.url, access_log=True) as tee:
        answer, turn = await begun(tee, stage, "Stream-Key: my-own", "X-Request-Id: edge-7")
        followed = await tee.follow("keys/my-own", "mode=raw&t=secret")
        turn.end(FINISH, DONE)
        await answer.read()
        await followed.read()
        await tee.wait_ended(answer.stream_id)
        assert (await tee.ask("GET", "/nowhere")).status == 404
        await tee.metrics()
    lines = requests(caplog)
    for line in lines:
        assert 0 <= float(line.pop("duration_s")) < 10
        assert line.pop("client") == "127.0.0.1"
    (generation,) = (line for line in lines if line["method"] == "POST")
    assert generation == {
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": "200",
        "request_id": "edge-7",
        "stream": answer.stream_id,
    }
    (follower,) = (line for line in lines if line["path"].startswith("/v1/keys/"))
    assert (follower["path"], follower["stream"]) == ("/v1/keys/*/stream", answer.stream_id)
    (refused,) = (line for line in lines if line["path"] == "/nowhere")
    assert refused["status"] == "404"
    assert GIVEN.fullmatch(refused["request_id"])
    assert not [line for line in lines if line["path"] == "/metrics"]
    for secret in (KEY, PROMPT, "my-own", "secret"):
        assert secret not in caplog.text


async def test_client_that_left_has_its_line(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """With the status that nginx has for it."""
    async with teed(stage.url, access_log=True) as tee:
        client = await tee.send_chat()
        turn = await stage.next()
        await client.leave()
        await turn.wait_left()
        await tee.ask("GET", "/healthz")
    assert ("/v1/chat/completions", "499") in [(line["path"], line["status"]) for line in requests(caplog)]


async def test_log_of_json_has_fields(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """Numbers are numbers."""
    async with teed(stage.url, access_log=True, log_format="json") as tee:
        await (await tee.ask("GET", "/healthz?t=secret")).read()
    (record,) = (record for record in caplog.records if record.name == "streamtee")
    fields = getattr(record, FIELDS)
    assert (record.getMessage(), fields["path"], fields["status"]) == ("request", "/healthz", 200)
    assert isinstance(fields["duration_s"], float)
    assert fields["stream"] is None


async def test_without_it_no_request_is_a_line(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """As by default."""
    async with teed(stage.url) as tee:
        await (await tee.ask("GET", "/healthz")).read()
    assert requests(caplog) == []


@pytest.mark.parametrize(("sent", "is_kept"), [("edge-7", True), ("", False), ("two words", False), ("x" * 129, False)])
async def test_refusal_has_the_id_of_its_request(stage: Stage, sent: str, is_kept: bool) -> None:
    """The client's own, or a new one, so that a complaint can be found in the log."""
    async with teed(stage.url) as tee:
        headers = (f"X-Request-Id: {sent}",) if sent else ()
        answer = await tee.ask("GET", "/v1/streams/st_none", *headers)
        assert answer.status == 404
        ident = answer.header("x-request-id")
    assert ident == sent if is_kept else GIVEN.fullmatch(ident or "")
