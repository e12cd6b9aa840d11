"""Errors within a stream, in every shape that is seen, and what is none."""

from typing import Any

import orjson
import pytest

from proxy.dialects.failure import reported
from proxy.dialects.messages import MESSAGES


def frame(value: Any, before: bytes = b"") -> bytes:
    return before + b"data: " + orjson.dumps(value) + b"\n\n"


CHUNK = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "x"}}]}


@pytest.mark.parametrize(
    ("given", "message", "code", "status"),
    [
        (frame({"error": {"message": "m", "code": "c", "type": "t"}}), "m", "c", None),
        (frame({"error": {"message": "m", "type": "t", "code": None}}), "m", "t", None),
        (frame({"error": {"message": "m", "code": 502}}), "m", None, 502),
        (frame({"error": {"message": "m", "code": "429"}}), "m", None, 429),
        (frame({"error": {"msg": "m"}}), "m", None, None),
        (frame({"error": "m"}), "m", None, None),
        (frame({"error": "m", "code": "c"}), "m", "c", None),
        (frame({"error": True, "message": "m"}), "m", None, None),
        (frame({**CHUNK, "choices": [], "error": {"message": "m"}}), "m", None, None),
        (frame({**CHUNK, "error": {"message": "m"}}), "m", None, None),
        (frame({"object": "error", "message": "m", "type": "BadRequest", "code": 400}), "m", "BadRequest", 400),
        (frame({"type": "error", "error": {"type": "overloaded", "message": "m"}}), "m", "overloaded", None),
        (frame({"detail": "m"}), "m", None, None),
        (frame({"detail": [{"loc": ["body"], "msg": "m", "type": "missing"}]}), "m", None, None),
        (frame({"title": "m", "status": 503}), "m", None, 503),
        (frame({"code": "DataInspectionFailed", "message": "m", "request_id": "r"}), "m", "DataInspectionFailed", None),
        (frame({"code": 1301, "msg": "m"}), "m", None, None),
        (frame({"error_code": 18, "error_msg": "m"}), "m", None, None),
        (frame({"success": False, "errors": [{"code": 10000, "message": "m"}]}), "m", None, None),
        (frame({"base_resp": {"status_code": 1008, "status_msg": "m"}}), "m", None, None),
        (frame({"status": "error", "message": "m"}), "m", None, None),
        (frame({"code": "c", "message": "m"}, b"id:1\nevent:error\n:HTTP_STATUS/429\n"), "m", "c", 429),
        (frame({"code": "c", "message": "m"}, b"event:error\nstatus:502\n"), "m", "c", 502),
        (b"event: error\ndata: upstream timed out\n\n", "upstream timed out", None, None),
        (b"event: error\ndata:\n\n", "no reason was given", None, None),
        (b"event: error\n\n", "no reason was given", None, None),
        (b"event: error\r\ndata: [1]\r\n\r\n", "[1]", None, None),
        (frame([{"error": {"message": "m", "code": 429}}]), "m", None, 429),
        (frame({"error": [{"message": "m"}]}), "m", None, None),
        (b"data: {broken\n\n", "the upstream sent an event that is not JSON", None, None),
        (b'data: data: {"a":1}\n\n', "the upstream sent an event that is not JSON", None, None),
        (b"data: [ERROR] m\n\n", "the upstream sent an event that is not JSON: [ERROR] m", None, None),
        (b"data: Bad Gateway\n\n", "the upstream sent an event that is not JSON: Bad Gateway", None, None),
        (
            b"data: <html><title>Bad</title>\n\n",
            "the upstream sent HTML in place of events: Bad", None, None,
        ),
        (b"error: m\n\n", "the upstream sent text in place of events: error: m", None, None),
        (b'{"error":{"message":"m","code":"c"}}', "m", "c", None),
        (b'\xef\xbb\xbf{\n  "error": {\n    "message": "m"\n  }\n}\n', "m", None, None),
        (b'{"detail":"m"}\n\n', "m", None, None),
        (b'{"choices":[]}\n\n', "the upstream sent JSON in place of events", None, None),
        (b'{"error":{"mess', "the upstream sent JSON in place of events", None, None),
        (
            b"<html>\n<head><title>502 Bad Gateway</title></head>\n</html>\n",
            "the upstream sent HTML in place of events: 502 Bad Gateway", None, None,
        ),
        (b'{"error":{"message":"m"}}\ndata: [DONE]\n\n', "m", None, None),
        (b"<!DOCTYPE html>\n\n", "the upstream sent HTML in place of events", None, None),
        (b"Internal Server Error", "the upstream sent text in place of events: Internal Server Error", None, None),
        (
            b"upstream connect error or disconnect/reset before headers. reset reason: overflow\n\n",
            "the upstream sent text in place of events: upstream connect error or disconnect/reset before headers. "
            "reset reason: overflow", None, None,
        ),
    ],
)  # fmt: skip
def test_error_is_told_with_its_reason(given: bytes, message: str, code: str | None, status: int | None) -> None:
    """Message, code and status from wherever they stand."""
    found = reported(given)
    assert found is not None
    assert (found.message, found.code, found.status) == (message, code, status)
    assert found.reason == (f"{code}: {message}" if code else message)


@pytest.mark.parametrize(
    "given",
    [
        frame(CHUNK),
        frame({**CHUNK, "error": None}),
        frame({**CHUNK, "error": {}}),
        frame({**CHUNK, "error": ""}),
        frame({**CHUNK, "error": {"code": None, "message": ""}}),
        frame({**CHUNK, "code": 0, "message": "ok"}),
        frame({"choices": [], "usage": {"prompt_tokens": 1}}),
        frame({"output": {"text": "x"}, "code": "", "message": "", "request_id": "r"}),
        frame({"output": {"text": "x"}, "status_code": 200, "message": "fine"}),
        frame({"code": 200, "message": "success"}),
        frame({"status": "in_progress", "message": "queued"}),
        frame({"type": "ping"}),
        frame({"object": "ping", "message": "still here"}),
        frame({"base_resp": {"status_code": 0, "status_msg": "success"}}),
        frame({}),
        frame({"choices": [{"delta": {"content": '{"error":{"message":"m"}}'}}]}),
        b"data: [DONE]\n\n",
        b"data: {cut off",
        b"data: Internal Server Err",
        b"data: keep-alive\n\n",
        b"data: : keep alive\n\n",
        frame([1, {"a": 1}]),
        frame("a text"),
        b"data: error\n\n",
        b": error\n\n",
        b": <html>\n\n",
        b"\n\n",
        b"",
        b"retry: 1000\n\n",
        b"id: 7\n\n",
        b"event: ping\n\n",
        b"vendor-field: Internal Server Error\n\n",
        b"keepalive\n\n",
        b"data",
    ],
)
def test_what_is_no_error_is_none(given: bytes) -> None:
    """Chunks, states, pings, comments, fields of SSE, known or not."""
    assert reported(given) is None


def test_message_is_bounded() -> None:
    """However much the upstream has to say."""
    found = reported(frame({"error": {"message": "x" * 10_000}}))
    assert found is not None
    assert len(found.message) == 500


@pytest.mark.parametrize("before", [b"", b"event: error\n"])
def test_type_of_an_error_stands_for_a_status_where_an_api_says_so(before: bytes) -> None:
    """One that is stated counts more; in place of an event, too."""
    error = {"type": "error", "error": {"type": "rate_limit_error", "message": "m"}}
    told = reported(frame(error, before), MESSAGES.status_of)
    in_place = reported(orjson.dumps(error) + b"\n\n", MESSAGES.status_of)
    assert [found and (found.status, found.code) for found in (told, in_place)] == [(429, "rate_limit_error")] * 2
    stated = reported(frame(error, before + b":HTTP_STATUS/503\n"), MESSAGES.status_of)
    assert stated is not None
    assert stated.status == 503
    unknown = reported(frame(error, before))
    assert unknown is not None
    assert unknown.status is None
