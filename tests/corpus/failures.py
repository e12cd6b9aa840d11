"""Chat completions that fail, or do not end: numbers 3, 4, 5 and 16 of what is reported."""

from typing import Any

from tests.corpus.entry import BASE, DONE, END, STOP, USAGE, Entry, chunk, event

HELLO = chunk({"role": "assistant", "content": "Hello"})
PINGS = b": ping\n\n" * 12
HALF = {"text": "Hello", "usage": None, "first": b"Hello"}
ERROR = {**HALF, "ending": "upstream_error"}
RESET: dict[str, Any] = {**HALF, "ending": "upstream_reset"}


def failing(frame: bytes, why: str, last: bytes = DONE) -> Entry:
    """Return an answer that breaks off with an error."""
    return Entry(HELLO + frame + last, text="Hello", usage=None, first=b"Hello", ending="upstream_error", why=why)


LITELLM = {"message": "litellm.MidStreamFallbackError: boom", "type": None, "param": None, "code": "500"}
PYTHONS = b"data: {'error': {'message': 'boom', 'code': 500}}\n\n"

ENTRIES = {
    # An error in every shape
    "litellm, code as text": failing(event({"error": LITELLM}), "boom"),
    "new-api, empty message": failing(
        event({"error": {"message": "", "type": "new_api_error", "param": "", "code": "bad_response"}}), "bad_response"
    ),
    "OpenRouter, beside choices": failing(
        event(
            {
                **BASE,
                "error": {"code": "server_error", "message": "boom"},
                "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}],
            }
        ),
        "boom",
    ),
    "OpenRouter, in a choice": failing(
        event({**BASE, "choices": [{"index": 0, "delta": {}, "error": {"code": 502, "message": "boom"}}]}), "boom"
    ),
    "vLLM": failing(event({"object": "error", "message": "boom", "type": "InternalServerError", "code": 500}), "boom"),
    "SGLang": failing(event({"error": {"object": "error", "message": "boom", "code": 400}}), "boom"),
    "FastAPI": failing(event({"detail": [{"loc": ["body"], "msg": "boom", "type": "missing"}]}), "boom"),
    "Gemini, in a list": failing(event([{"error": {"code": 429, "message": "boom", "status": "RESOURCE"}}]), "boom"),
    "MiniMax": failing(event({"base_resp": {"status_code": 1002, "status_msg": "boom"}}), "boom"),
    "Baidu": failing(event({"error_code": 18, "error_msg": "boom", "id": "x"}), "boom"),
    "Anthropic's": failing(
        b"event: error\n" + event({"type": "error", "error": {"type": "overloaded_error", "message": "boom"}}), "boom"
    ),
    "RFC 9457": failing(event({"type": "about:blank", "title": "boom", "status": 503}), "boom"),
    "Spring": failing(event({"timestamp": "2026-01-01", "status": 500, "error": "boom", "path": "/v1"}), "boom"),
    "GraphQL's": failing(event({"errors": [{"message": "boom"}]}), "boom"),
    "success false": failing(event({"success": False, "message": "boom"}), "boom"),
    "error as a list": failing(event({"error": [{"message": "boom"}]}), "boom"),
    "error true": failing(event({"error": True, "message": "boom"}), "boom"),
    "error null, then one": failing(
        event({**BASE, "choices": [], "error": None}) + event({"error": {"message": "boom"}}), "boom"
    ),
    "error in text": failing(b"event: error\ndata: boom and bust\n\n", "boom and bust"),
    "error without data": failing(b"event: error\n\n", "no reason"),
    "error of several lines": failing(b'event: error\ndata: {"error":\ndata: {"message": "boom"}}\n\n', "boom"),
    "error, name after the data": failing(b'data: {"message": "boom"}\nevent: error\n\n', "boom"),
    "field named error": failing(b'error: {"message": "boom"}\n\n', "boom"),
    "field named Error, text": failing(b"Error: boom and bust\n\n", "boom"),
    "text as data": failing(b"data: Internal Server Error\n\n", "Internal Server Error"),
    "HTML as data": failing(b"data: <html><title>502 Bad Gateway</title></html>\n\n", "502 Bad Gateway"),
    "Python's way to write": failing(PYTHONS, "is not JSON"),
    "[ERROR]": failing(b"data: [ERROR] boom\n\n", "boom"),
    "envoy": failing(b"upstream connect error or disconnect/reset before headers\n\n", "upstream connect error"),
    "nginx": failing(
        b"<html>\r\n<head><title>504 Gateway Time-out</title></head>\r\n<body>\r\n</body>\r\n</html>\r\n", "504", b""
    ),
    "Go's http.Error": failing(b"context deadline exceeded\n", "context deadline exceeded", b""),
    "API Gateway": failing(b'{"message": "Endpoint request timed out"}', "JSON in place of events", b""),
    "JSON that is cut off": failing(b'data: {"choices": [{"delta": {"content": "l\n\n', "is not JSON"),
    "error within an event that was cut off": failing(
        b'data: {"choices": [{"delta": {"con\n' + event({"type": "error", "error": {"message": "boom"}}), "is not JSON"
    ),
    "two objects in a line": failing(b"data: {}{}\n\n", "is not JSON"),
    "data within data": failing(b"data: " + STOP, "is not JSON"),
    "lines of JSON": Entry(
        b"".join(one.removeprefix(b"data: ")[:-1] for one in (HELLO, STOP)),
        ending="upstream_error",
        why="JSON in place of events",
        usage=None,
    ),
    "finish reason error": failing(chunk({}, "error"), "error"),
    "finish reason of a service": failing(chunk({}, "server_error"), "server_error"),
    "error after the finish reason": failing(STOP + event({"error": {"message": "boom"}}), "boom"),
    "error first": Entry(event({"error": {"message": "boom"}}) + DONE, ending="upstream_error", why="boom", usage=None),
    "error after [DONE] is not looked for": Entry(
        HELLO + END + event({"error": {"message": "boom"}}), text="Hello", first=b"Hello"
    ),
    "error within an error": failing(event({"error": {"error": {"message": "boom"}}}), "boom"),
    "errors as an object": failing(event({"errors": {"message": "boom"}}), "boom"),
    "event named exception": failing(b"event: exception\n" + event({"message": "boom"}), "boom"),
    "event named Error": failing(b"event: Error\n" + event({"message": "boom"}), "boom"),
    "event named stream_error": failing(b"event: stream_error\n" + event({"message": "boom"}), "boom"),
    "event named fatal, text": failing(b"event:fatal\ndata:boom\n\n", "boom"),
    "type exception": failing(event({"type": "exception", "message": "boom"}), "boom"),
    "type of Python": failing(event({"type": "RuntimeError", "message": "boom"}), "boom"),
    "Alibaba Cloud's gateway": failing(event({"Code": "Throttling", "Message": "boom", "RequestId": "r"}), "boom"),
    "Error in capitals": failing(event({"Error": {"Code": "Throttling", "Message": "boom"}}), "boom"),
    "Tencent's": failing(event({"ret_code": 1, "err_msg": "boom"}), "boom"),
    "AWS": failing(event({"internalServerException": {"message": "boom"}}), "boom"),
    "finish reason failed": failing(chunk({}, "failed"), "failed"),
    "finish reason ERROR": failing(chunk({}, "ERROR"), "ERROR"),
    "finish reason cancelled": failing(chunk({}, "cancelled"), "cancelled"),
    "error in a delta": failing(
        event({**BASE, "choices": [{"index": 0, "delta": {"error": {"message": "boom"}}}]}), "boom"
    ),
    "vLLM's abort": failing(chunk({}, "abort"), "abort"),
    "DeepSeek's lack of resources": failing(chunk({}, "insufficient_system_resource"), "insufficient"),
    "Cloudflare": failing(event({"success": False, "errors": [{"code": 10000, "message": "boom"}]}), "boom"),
    "Ollama": failing(event({"error": "boom: no such model"}), "boom: no such model"),
    "XML": failing(b'<?xml version="1.0"?><Error><Code>X</Code></Error>\n\n', "HTML"),
    "finish reason false": Entry(HELLO + chunk({}, False), **RESET),
    "finish reason in capitals": Entry(HELLO + chunk({}, "STOP"), text="Hello", usage=None, first=b"Hello"),
    "finish reason of a filter": Entry(HELLO + chunk({}, "sensitive"), text="Hello", usage=None, first=b"Hello"),
    # Words that are no error
    "apology": Entry(
        chunk({"content": "error: I am sorry, 500 Internal Server Error"}) + END,
        text="error: I am sorry, 500 Internal Server Error",
        first=b"error: I",
    ),
    "code of a success": Entry(
        chunk({"content": "Hello"}, code=0, message="") + chunk({}, "stop", code=200, message="ok") + USAGE + DONE,
        text="Hello",
        first=b"Hello",
    ),
    "error null in every chunk": Entry(
        chunk({"content": "Hello"}, error=None) + chunk({}, "stop", error={}) + USAGE + DONE,
        text="Hello",
        first=b"Hello",
    ),
    "fields that end with error, and are none": Entry(
        chunk({"content": "Hello"}, last_error=None, mean_error=0.1)
        + event({**BASE, "choices": [], "validation_error": {}})
        + event({"type": "terror", "level": 1})
        + END,
        text="Hello",
        first=b"Hello",
    ),
    "event named error-free": Entry(b"event: errorless\n" + HELLO + END, text="Hello", first=b"Hello"),
    # No windows of last frames
    "comments after an error": failing(event({"error": {"message": "boom"}}) + PINGS, "boom", PINGS + DONE + PINGS),
    "comments after the end": Entry(HELLO + STOP + PINGS + USAGE + PINGS + DONE + PINGS, text="Hello", first=b"Hello"),
    "blank lines everywhere": Entry(
        b"\n\n" + HELLO + b"\n\n\n\n" + STOP + b"\n\n" * 9 + USAGE + b"\n\n" + DONE + b"\n\n",
        text="Hello",
        first=b"Hello",
    ),
    "chunks without choices after the end": Entry(
        HELLO + STOP + USAGE + event({**BASE, "choices": []}) * 9 + DONE, text="Hello", first=b"Hello"
    ),
    # The last word
    "finish reason alone": Entry(HELLO + STOP, text="Hello", usage=None, first=b"Hello"),
    "[DONE] alone": Entry(HELLO + DONE, text="Hello", usage=None, first=b"Hello"),
    "[DONE] without its blank line": Entry(HELLO + b"data: [DONE]", text="Hello", usage=None, first=b"Hello"),
    "[DONE] without a space": Entry(HELLO + b"data:[DONE]\r\n\r\n", text="Hello", usage=None, first=b"Hello"),
    "[DONE] by name": Entry(HELLO + b"event: done\ndata: [DONE]\n\n", text="Hello", usage=None, first=b"Hello"),
    "[DONE] twice": Entry(HELLO + DONE + DONE, text="Hello", usage=None, first=b"Hello"),
    "neither": Entry(HELLO, **RESET),
    "neither, and usage": Entry(HELLO + USAGE, **{**RESET, "usage": (7, 5)}),
    "finish reason empty": Entry(HELLO + chunk({}, ""), **RESET),
    "finish reason null": Entry(HELLO + chunk({}, "null"), **RESET),
    "one of two choices unfinished": Entry(HELLO + chunk({"content": "Hi"}, index=1) + chunk({}, "stop"), **RESET),
    "half a frame at the end": Entry(HELLO + b'data: {"choices":[{"ind', **RESET, ends_properly=False),
    "nothing": Entry(b"", ending="upstream_reset", usage=None),
    "comments alone": Entry(PINGS, ending="upstream_reset", usage=None),
    "[DONE] and nothing": Entry(DONE, ending="upstream_reset", usage=None),
    "pings and [DONE]": Entry(event({"type": "ping"}) + DONE, ending="upstream_reset", usage=None),
    "length": Entry(HELLO + chunk({}, "length") + DONE, text="Hello", usage=None, first=b"Hello"),
    "content filter": Entry(HELLO + chunk({}, "content_filter"), text="Hello", usage=None, first=b"Hello"),
    "finish reason, then text": Entry(
        chunk({"content": "Hel"}, "stop") + chunk({"content": "lo"}, "stop"), text="Hello", usage=None, first=b"Hel"
    ),
}
