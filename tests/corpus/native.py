"""Answers of DashScope's own API: all kinds."""

from tests.corpus.entry import Entry, native, result

STOP = native({"content": ""}, "stop")
HEL, LO = native({"role": "assistant", "content": "Hel"}), native({"content": "lo"})
NULL = {"incremental": True}


def said(body: bytes, first: bytes = b"Hel", text: str = "Hello", **message: object) -> Entry:
    """Return an answer of increments that says hello."""
    return Entry(body, text=text, first=first, message=dict(message), cumulative=False)


def failing(frame: bytes, why: str) -> Entry:
    """Return an answer that breaks off with an error."""
    return Entry(HEL + frame, text="Hel", first=b"Hel", ending="upstream_error", why=why, cumulative=False)


def lines(body: bytes) -> bytes:
    """Return frames without the blank lines between them."""
    return body.replace(b"\n\n", b"\n")


A = {"index": 0, "id": "call_a", "type": "function", "function": {"name": "time", "arguments": "{"}}
B = {"index": 0, "id": "", "type": "function", "function": {"arguments": "}"}}
TIME = {"id": "call_a", "type": "function", "function": {"name": "time", "arguments": "{}"}}

ENTRIES = {
    "increments": said(HEL + LO + STOP),
    "all so far": Entry(
        HEL + native({"content": "Hello"}) + native({"content": "Hello"}, "stop"), text="Hello", first=b"Hel"
    ),
    "all so far, one token a text": Entry(
        b"".join(native({"content": "Hello you"[:n]}) for n in range(1, 10)) + native({"content": "Hello you"}, "stop"),
        text="Hello you",
        first=b'"H"',
    ),
    "increments, though not asked for": said(HEL + LO + STOP)._replace(cumulative=None),
    "text": said(result({"text": "Hel", "finish_reason": "null"}) + result({"text": "lo", "finish_reason": "stop"})),
    "content in the output": said(
        result({"content": "Hel", "finish_reason": "null"}) + result({"content": "lo", "finish_reason": "stop"})
    ),
    "text beside choices null": said(
        result({"text": "Hel", "choices": None, "finish_reason": "null"})
        + result({"text": "lo", "choices": None, "finish_reason": "stop"})
    ),
    "text null beside choices": said(
        result({"text": None, "choices": [{"message": {"content": "Hel"}, "finish_reason": "null"}]})
        + result({"text": None, "choices": [{"message": {"content": "lo"}, "finish_reason": "stop"}]})
    ),
    "finish reason null": said(native({"content": "Hel"}, None) + native({"content": "lo"}, None) + STOP),
    "finish reason with the text": said(HEL + native({"content": "lo"}, "stop")),
    "parts": said(
        native({"content": [{"text": "Hel"}]}) + native({"content": [{"text": "lo"}]}) + native({"content": []}, "stop")
    ),
    "parts, then text": said(native({"content": [{"text": "Hel"}]}) + LO + STOP),
    "reasoning": said(
        native({"content": "", "reasoning_content": "Hm"}) + HEL + LO + STOP, b"Hm", reasoning_content="Hm"
    ),
    "reasoning, content in parts": said(
        native({"content": [], "reasoning_content": "Hm"})
        + native({"content": [{"text": "Hello"}]})
        + native({"content": []}, "stop"),
        b"Hm",
        reasoning_content="Hm",
    ),
    "message": said(
        result({"message": {"role": "assistant", "content": "Hel", "status": "typing"}})
        + result({"message": {"role": "assistant", "content": "lo", "status": "finished"}})
    ),
    "workflow": said(
        result(
            {
                "workflow_message": {"node_id": "n", "message": {"role": "assistant", "content": "Hel"}},
                "finish_reason": "null",
            }
        )
        + result(
            {
                "workflow_message": {"node_id": "n", "message": {"role": "assistant", "content": "lo"}},
                "finish_reason": "stop",
            }
        )
    ),
    "session of an application": said(
        result({"text": "Hel", "session_id": "s", "finish_reason": "null"})
        + result({"text": "lo", "session_id": "s", "finish_reason": "stop"})
    ),
    "thoughts": said(
        result({"thoughts": [{"thought": "Hm"}], "text": "", "finish_reason": "null"})
        + result({"text": "Hel", "finish_reason": "null"})
        + result({"text": "lo", "finish_reason": "stop"}),
        b"Hm",
    ),
    "tool call": said(
        native({"content": "", "tool_calls": [A]})
        + native({"content": "", "tool_calls": [B]})
        + native({"content": ""}, "tool_calls"),
        b"time",
        "",
        tool_calls=[TIME],
    ),
    "search": said(
        result(
            {
                "search_info": {"search_results": [{"url": "u"}]},
                "choices": [{"message": {"content": "Hel"}, "finish_reason": "null"}],
            }
        )
        + LO
        + STOP
    )._replace(document={"output": {"search_info": {"search_results": [{"url": "u"}]}}, "request_id": "r-1"}),
    "index as text": said(
        result({"choices": [{"index": "0", "message": {"content": "Hel"}, "finish_reason": "null"}]}) + LO + STOP
    ),
    "message null": said(result({"choices": [{"message": None, "finish_reason": "null"}]}) + HEL + LO + STOP),
    "content null": said(native({"role": "assistant", "content": None}) + HEL + LO + STOP),
    "finish reason missing": said(
        result({"choices": [{"message": {"content": "Hel"}}]})
        + result({"choices": [{"message": {"content": "lo"}}]})
        + STOP
    ),
    "flag in place of a finish reason": said(
        result({"text": "Hel", "finished": False}) + result({"text": "lo", "finished": True})
    ),
    "tool call, all so far": Entry(
        native({"content": "", "tool_calls": [A]})
        + native({"content": "", "tool_calls": [{**A, "function": {"name": "time", "arguments": "{}"}}]}, "tool_calls"),
        first=b"time",
        message={"tool_calls": [TIME]},
    ),
    "workflow, all so far": Entry(
        result({"workflow_message": {"message": {"content": "Hel"}}, "finish_reason": "null"})
        + result({"workflow_message": {"message": {"content": "Hello"}}, "finish_reason": "stop"}),
        text="Hello",
        first=b"Hel",
    ),
    "same text so far": Entry(
        native({"content": "ha"}) + native({"content": "ha"}) + native({"content": "haha"}, "stop"),
        text="haha",
        first=b"ha",
    ),
    "audio in parts": said(
        native({"content": [{"audio": {"data": "AAAA"}}]}) + native({"content": [{"text": "Hello"}]}) + STOP, b"AAAA"
    ),
    "documents of an application": said(
        result({"text": "Hel", "finish_reason": "null", "doc_references": [{"index_id": "1"}]})
        + result({"text": "lo", "finish_reason": "stop", "doc_references": [{"index_id": "1"}]})
    )._replace(document={"output": {"doc_references": [{"index_id": "1"}]}}),
    "pings": said(b'data:{"type":"ping"}\n\n' + HEL + b"event:ping\ndata:{}\n\n" + LO + STOP),
    "[DONE] of a gateway": said(HEL + LO + STOP + b"data:[DONE]\n\n"),
    "output null": said(b'data:{"output":null,"request_id":"r-1"}\n\n' + HEL + LO + STOP),
    # Errors
    "error, name behind the data": failing(b'data:{"code":"X","message":"boom"}\nevent:error\n\n', "boom"),
    "error, status in a field": failing(b'event:error\nstatus:429\ndata:{"code":"X","message":"boom"}\n\n', "boom"),
    "error beside output null": failing(b'data:{"code":"X","message":"boom","output":null}\n\n', "boom"),
    "error after the end": said(HEL + LO + STOP + b'event:error\ndata:{"code":"X","message":"boom"}\n\n')._replace(
        ending="upstream_error", why="boom"
    ),
    "error by name": failing(
        b'id:2\nevent:error\n:HTTP_STATUS/429\ndata:{"code":"Throttling","message":"boom"}\n\n', "boom"
    ),
    "error by name, a space": failing(b'event: error\ndata: {"code":"Throttling","message":"boom"}\n\n', "boom"),
    "error by status": failing(
        b'id:2\nevent:result\n:HTTP_STATUS/500\ndata:{"code":"InternalError","message":"boom"}\n\n', "boom"
    ),
    "flat": failing(b'data:{"code":"DataInspectionFailed","message":"boom","request_id":"r"}\n\n', "boom"),
    "code beside an empty output": failing(
        b'data:{"code":"InvalidParameter","message":"boom","output":{},"usage":{}}\n\n', "boom"
    ),
    "OpenAI's": failing(b'data: {"error":{"message":"boom","code":"internal_error"}}\n\n', "boom"),
    "in the output": failing(result({"error": {"message": "boom"}}), "boom"),
    "in a choice": failing(result({"choices": [{"error": {"message": "boom"}, "message": {}}]}), "boom"),
    "status_code": failing(b'data:{"status_code":500,"code":"InternalError","message":"boom"}\n\n', "boom"),
    "HTML": failing(b"<html><head><title>502 boom</title></head></html>\n", "502 boom"),
    "text in place of an event": failing(b"upstream connect error: boom\n\n", "boom"),
    "text as data": failing(b"data:Internal Server Error\n\n", "Internal Server Error"),
    "in a list": failing(b'data:[{"error":{"message":"boom"}}]\n\n', "boom"),
    "success": said(HEL + LO.replace(b'"request_id"', b'"code":"","message":"","status_code":200,"request_id"') + STOP),
    "finish reason error": failing(native({"content": ""}, "error"), "error"),
    # The last word
    "no finish reason": said(HEL)._replace(text="Hel", ending="upstream_reset"),
    "nothing": Entry(b"", ending="upstream_reset", usage=None),
    "comments alone": Entry(b":ping\n\n" * 9, ending="upstream_reset", usage=None),
    "comments after the end": said(HEL + LO + STOP + b":ping\n\n" * 9),
    "no blank line at the end": said(HEL + LO + STOP[:-1]),
    # JSON, framing
    "NaN": said(HEL + LO.replace(b'"request_id"', b'"score":NaN,"request_id"') + STOP),
    "half a character": said(
        HEL
        + native({"content": "@"}).replace(b"@", b"\\ud83d")
        + native({"content": "@"}).replace(b"@", b"\\ude00")
        + STOP,
        text="Hel\U0001f600",
    ),
    "CRLF": said((HEL + LO + STOP).replace(b"\n", b"\r\n")),
    "no blank lines": said(lines(HEL + LO + STOP)),
    "no blank lines, data alone": said(b"".join(one[one.index(b"data:") :] for one in map(lines, (HEL, LO, STOP)))),
    "no status": said((HEL + LO + STOP).replace(b":HTTP_STATUS/200\n", b"")),
    "no id, no name": said(b"".join(one[one.index(b"data:") :] for one in (HEL, LO, STOP))),
    "data first": said(
        b"".join(b"data:%b\nevent:result\n\n" % one[one.index(b"data:") + 5 : -2] for one in (HEL, LO, STOP))
    ),
    "blank lines and comments": said(b"\n\n:ok\n\n" + HEL + b":ping\n\n\n" + LO + STOP),
    # Usage
    "usage per model": said(
        HEL
        + result(
            {"text": "", "choices": [{"message": {"content": "lo"}, "finish_reason": "stop"}]},
            usage={
                "models": [
                    {"model_id": "m", "input_tokens": 3, "output_tokens": 2},
                    {"input_tokens": 4, "output_tokens": 3},
                ]
            },
        )
    ),
    "usage as floats": said(
        HEL + LO + native({"content": ""}, "stop", usage={"input_tokens": 7.0, "output_tokens": 5.0})
    ),
    "usage, then zeros": said(
        HEL + LO + native({"content": ""}, "stop", usage={"input_tokens": 0, "output_tokens": 0})
    ),
    "usage, then null": said(HEL + LO + native({"content": ""}, "stop", usage=None)),
    "usage grows": said(
        native({"content": "Hel"}, usage={"input_tokens": 7, "output_tokens": 1})
        + native({"content": "lo"}, usage={"input_tokens": 7, "output_tokens": 3})
        + STOP
    ),
    "usage in the output": said(
        native({"content": "Hel"}, usage=None)
        + result(
            {
                "usage": {"input_tokens": 7, "output_tokens": 5},
                "choices": [{"message": {"content": "lo"}, "finish_reason": "stop"}],
            },
            usage=None,
        )
    )._replace(usage=None),
    "two choices": said(
        result(
            {
                "choices": [
                    {"index": 0, "message": {"content": "Hel"}, "finish_reason": "null"},
                    {"index": 1, "message": {"content": "Bye"}, "finish_reason": "null"},
                ]
            }
        )
        + result(
            {
                "choices": [
                    {"index": 0, "message": {"content": "lo"}, "finish_reason": "stop"},
                    {"index": 1, "message": {"content": "!"}, "finish_reason": "stop"},
                ]
            }
        )
    ),
}
