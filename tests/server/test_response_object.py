"""The object of a response at any time: queued, going on, complete, failed, cancelled, or as the upstream stated it."""

import json
from typing import Any

import pytest

from proxy.dialects.responses import RESPONSES
from proxy.server.response_object import answer_object, described
from proxy.stream.endings import CANCELLED, COMPLETE, UPSTREAM_RESET
from proxy.stream.stream import Stream
from proxy.wire.http import Head
from tests.dialects.response_events import ID, bare, message, numbered, response, snapshot
from tests.streams import new_stream

FRAMES = numbered(response(message(0, ["one ", "two"])))


def stream_of(*frames: bytes, ending: Any = None) -> Stream:
    """Return the stream of a response that has said this."""
    stream = new_stream(RESPONSES)
    for frame in frames:
        stream.reader.note(frame)
    if frames:
        stream.extend(list(frames))
    if ending is not None:
        stream.seal(ending)
    return stream


def told(stream: Stream) -> Any:
    return json.loads(described(stream))


def test_response_that_has_not_begun_is_queued() -> None:
    """Under the stream's own id, as the upstream's is not known."""
    stream = stream_of()
    said = told(stream)
    assert (said["id"], said["status"], said["object"]) == (stream.id, "queued", "response")


def test_response_that_goes_on_is_as_its_last_snapshot() -> None:
    """Under the upstream's id."""
    said = told(stream_of(*FRAMES[:3]))
    assert (said["id"], said["status"]) == (ID, "in_progress")


def test_response_that_is_complete_is_as_its_last_event() -> None:
    """With its output."""
    said = told(stream_of(*FRAMES, ending=COMPLETE))
    assert (said["status"], said["error"]) == ("completed", None)
    assert said == json.loads(FRAMES[-1].split(b"data: ")[1])["response"]


@pytest.mark.parametrize(("ending", "status"), [(UPSTREAM_RESET, "failed"), (CANCELLED, "cancelled")])
@pytest.mark.parametrize("count", [0, 3])
def test_response_that_was_ended_says_how(ending: Any, status: str, count: int) -> None:
    """Whatever the last snapshot said; also before the first one."""
    said = told(stream_of(*FRAMES[:count], ending=ending))
    assert said["status"] == status
    assert (said.get("error") or {}).get("message", "") == ("" if ending is CANCELLED else ending.message)


def test_failure_that_the_upstream_states_itself_is_left_as_it_is() -> None:
    """Its words, not the proxy's."""
    error = {"code": "server_error", "message": "of the upstream"}
    failed = bare("response.failed", sequence_number=3, response=snapshot("failed", error=error))
    stream = stream_of(*FRAMES[:2], failed, ending=UPSTREAM_RESET)
    assert told(stream)["error"] == error


def test_document_in_place_of_a_stream_is_the_object() -> None:
    """Byte for byte; unless its status is an error's."""
    document = b'{"id": "resp_1",  "object": "response", "status": "completed"}'
    stream = stream_of()
    stream.kept_head = Head(200, b"OK", [])
    stream.extend([document])
    stream.seal(COMPLETE)
    assert described(stream) == document


def test_object_is_sent_with_the_stream_and_is_not_kept_by_caches() -> None:
    """It may be another one in a moment."""
    stream = stream_of(*FRAMES[:2])
    answer = answer_object(stream)
    assert (answer.headers["Stream-Id"], answer.headers["Cache-Control"]) == (stream.id, "no-store")
    assert answer.content_type == "application/json"
