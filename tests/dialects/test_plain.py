"""The dialect of routes of the user's own: nothing is taken for generated text, and errors can be told from events."""

import orjson
import pytest

from proxy.dialects.plain import PLAIN
from proxy.wire.errors import BadRequest, Overloaded
from proxy.wire.sse import fields
from tests.cuts import messages
from tests.noted import noted

CHAT = (
    b'data: {"model":"m","choices":[{"delta":{"content":"x"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1}}\n\n'
)


@pytest.mark.parametrize("frame", [CHAT, b"data: [DONE]\n\n", b": ping\n\n", b"\xff\n\n", b"event: error\ndata: x\n\n"])
def test_no_frame_means_anything(frame: bytes) -> None:
    """Also not one that looks like a chat completion's."""
    said = noted(PLAIN, frame)
    assert (said.model, said.finish_reason, said.usage, said.failure) == (None, None, None, None)
    assert not PLAIN.frames.reader().ordinary(frame)


def test_stream_is_complete_when_its_response_has_ended_properly() -> None:
    """There is no last word, and nothing that must have been said."""
    said = PLAIN.frames.reader()
    assert (said.finished, said.ended) == (True, False)


def test_error_frame_is_an_event_of_its_own_type() -> None:
    """`event: error`, so that no listener for messages takes it for one; with the last id."""
    frame = PLAIN.frames.reader().error_frame("it broke\noff", "upstream_reset", b"gen234-7")
    assert messages(frame) == [(b"error", fields(frame).data, b"gen234-7")]
    error = {"message": "it broke\noff", "type": "stream_error", "code": "upstream_reset"}
    assert orjson.loads(fields(frame).data or b"") == {"error": error}


def test_error_body_says_whose_fault_it_is() -> None:
    """In OpenAI's shape."""
    told = PLAIN.frames.error_body(BadRequest("no"))["error"]
    assert told == {"message": "no", "type": "invalid_request_error", "param": None, "code": "bad_request"}
    assert PLAIN.frames.error_body(Overloaded("full"))["error"]["type"] == "server_error"
