"""Further inputs of each kind, made up after those that were reported: chat completions, and DashScope's own API."""

from typing import Any

from tests.corpus.entry import BASE, DONE, END, STOP, USAGE, Entry, chunk, event, native, result
from tests.corpus.texts import HEL, LO, said

HELLO = chunk({"role": "assistant", "content": "Hello"})
ERROR: dict[str, Any] = {"text": "Hello", "usage": None, "first": b"Hello", "ending": "upstream_error"}
RESET: dict[str, Any] = {"text": "Hello", "usage": None, "first": b"Hello", "ending": "upstream_reset"}
NATIVE_STOP = native({"content": ""}, "stop")
WEATHER = {"id": "call_a", "type": "function", "function": {"name": "weather", "arguments": '{"in": "Hangzhou"}'}}
TIME = {"id": "call_b", "type": "function", "function": {"name": "time", "arguments": "{}"}}
CALLED = chunk({}, "tool_calls") + USAGE + DONE


def deep(levels: int, opening: bytes = b"[", closing: bytes = b"]", inner: bytes = b"0") -> bytes:
    """Return a value that is nested so deeply."""
    return opening * levels + inner + closing * levels


def beside(value: bytes) -> bytes:
    """Return a chunk with a member that nobody knows."""
    return LO.replace(b'"index":0', b'"index":0,"extra":%b' % value)


def failing(frame: bytes, why: str = "boom") -> Entry:
    """Return an answer that breaks off with an error."""
    return Entry(HELLO + frame + DONE, why=why, **ERROR)


def heard(body: bytes, first: bytes = b"Hel", text: str = "Hello", **message: object) -> Entry:
    """Return an answer of DashScope's own API that says hello in increments."""
    return Entry(body, text=text, first=first, message=dict(message), cumulative=False)


def calls(*deltas: Any, wanted: Any = (WEATHER,), first: bytes = b"weather") -> Entry:
    """Return an answer whose deltas are calls of tools."""
    frames = b"".join(chunk({"tool_calls": delta}) for delta in deltas)
    return Entry(frames + CALLED, first=first, message={"tool_calls": list(wanted)})


def function(name: str, arguments: Any, **more: Any) -> dict[str, Any]:
    """Return a call of a function."""
    return {**more, "function": {"name": name, "arguments": arguments}}


def usage(stated: Any, expected: tuple[int, int] | None) -> Entry:
    """Return an answer whose usage is stated so."""
    return said(HEL + LO + STOP + event({"choices": [], **BASE, "usage": stated}) + DONE)._replace(usage=expected)


CHAT = {
    # 1 and 6: any depth, integers of any size, the wrong type
    "40 levels": said(HEL + beside(deep(40)) + END),
    "1,100 levels": said(HEL + beside(deep(1100)) + END),
    "2,000 levels": said(HEL + beside(deep(2000)) + END),
    "2,000 levels of objects": said(HEL + beside(deep(2000, b'{"a":', b"}")) + END),
    "5,000 levels": said(HEL + beside(deep(5000)) + END),
    "2,000 levels of both": said(HEL + beside(deep(1000, b'[{"a":', b"}]")) + END),
    "2,000 levels with values between": said(HEL + beside(deep(2000, b"[", b",1]")) + END),
    "2,000 levels with white space": said(HEL + beside(deep(2000, b"[ ", b"\t]")) + END),
    "2,000 levels around brackets in a text": said(HEL + beside(deep(2000, inner=b'"]}]\\"]"')) + END),
    "2,000 levels before the choices": said(HEL + LO.replace(b"{", b'{"first":%b,' % deep(2000), 1) + END),
    "2,000 levels in the logprobs": said(
        HEL + LO.replace(b'"logprobs":null', b'"logprobs":{"content":null,"x":%b}' % deep(2000)) + END
    ),
    "many brackets side by side": said(HEL + beside(b"[%b]" % b",".join([b"[[]]"] * 300)) + END),
    "brackets in a text": said(HEL + chunk({"content": "]" * 400}) + END, text="Hel" + "]" * 400),
    "numbers in place of everything": said(
        HEL + LO + event({"choices": 7, "id": 7, "model": 7, "usage": 7, "object": 7, "error": 0}) + END
    ),
    "true in place of objects": said(HEL + LO + event({"choices": [True, None, 7, "x", []], **BASE}) + END),
    "integer beyond 64 bits as an index": said(HEL + LO.replace(b'"index":0', b'"index":0,"n":%b' % (b"1" * 25)) + END),
    # 3: errors
    "error of a name with a dash": failing(event({"error-code": "E1", "error-message": "boom"})),
    "error in an object of the error": failing(event({"error": {"error": {"message": "boom", "code": "x"}}})),
    "error in an event of type error": failing(event({"type": "error", "message": "boom"})),
    "error of a failed status": failing(event({"status": "failed", "message": "boom"})),
    "error of an exception's name": failing(event({"InternalServerException": {"message": "boom"}})),
    "error event without a space": failing(b'event:error\ndata:{"msg":"boom"}\n\n'),
    "error event after its data": failing(b'data: {"message":"boom"}\nevent: error\n\n'),
    "error event in CRLF": failing(b'event: error\r\ndata: {"detail":"boom"}\r\n\r\n'),
    "error of a status alone": failing(event({"status": 500, "msg": "boom"})),
    "error in data of several lines": failing(b'data: {"error":\ndata: {"message":"boom"}}\n\n'),
    "error as an integer with a message": failing(event({"error": 1, "message": "boom"})),
    "finish reason error in an object": failing(chunk({}, {"type": "error"}), "error"),
    "error of a function of AWS": failing(event({"errorMessage": "boom", "errorType": "Sandbox.Timedout"})),
    "error of a number": failing(event({"errno": 7, "errmsg": "boom"})),
    "error in short": failing(event({"err": "boom"})),
    "exception as a text": failing(event({"exception": "boom"})),
    "error of a number that says success": said(HEL + event({"errno": 0, "errmsg": "ok"}) + LO + END),
    "event of another API's failure": failing(
        b"event: response.failed\n"
        + event({"type": "response.failed", "response": {"status": "failed", "error": {"message": "boom"}}}),
        "",
    ),
    "type of a tool's failure is no error": said(
        HEL + event({"type": "tool.failed", "message": "no such file"}) + LO + END
    ),
    "finish reason of a lack": failing(chunk({}, "insufficient_quota"), "insufficient_quota"),
    "finish reason of a time-out": failing(chunk({}, "request_timed_out"), "request_timed_out"),
    "finish reason of a failed request": failing(chunk({}, "request_failed"), "request_failed"),
    "HTML in capitals": failing(b"data: <HTML><TITLE>boom</TITLE></HTML>\n\n"),
    # 4: what was said is known when it is said
    "finish reason before 300 comments": said(HEL + LO + STOP + b": x\n\n" * 300)._replace(usage=None),
    "usage before 300 comments": said(HEL + LO + STOP + USAGE + b":\n\n" * 300 + DONE),
    "error before 300 comments": Entry(
        HELLO + event({"error": {"message": "boom"}}) + b": x\n\n" * 300, why="boom", **ERROR
    ),
    "[DONE] before 300 blank lines": said(HEL + LO + END + b"\n" * 300),
    "usage before pings": said(HEL + LO + STOP + USAGE + event({"type": "ping"}) * 300 + DONE),
    # 5 and 16: the last word
    "[DONE] without its blank line": said(HEL + LO + STOP + USAGE + b"data: [DONE]\n"),
    "[DONE] without a line end": said(HEL + LO + STOP + USAGE + b"data:[DONE]"),
    "[DONE] in CR": said(HEL + LO + STOP + USAGE + b"data: [DONE]\r\r"),
    "[DONE] with an id": said(HEL + LO + STOP + USAGE + b"id: 9\ndata: [DONE]\n\n"),
    "[DONE] with white space": said(HEL + LO + STOP + USAGE + b"data: [DONE] \n\n"),
    "[DONE] cut off": Entry(HELLO + b"data: [DON", ends_properly=False, **RESET),
    "no finish reason of the second choice": Entry(
        HELLO + chunk({"content": "x"}, index=1) + chunk({}, "stop"), **RESET
    ),
    "finish reason as an empty object": Entry(HELLO + chunk({}, {}), **RESET),
    "finish reason as an object without a reason": Entry(HELLO + chunk({}, {"x": 1}), **RESET),
    "finish reason as a list": Entry(HELLO + chunk({}, []), **RESET),
    "finish reason in an object": said(HEL + LO + chunk({}, {"type": "stop"}) + USAGE),
    "finish reason in an object's reason": said(HEL + LO + chunk({}, {"reason": "length"}) + USAGE),
    # 7: texts
    "parts of text and more": said(
        chunk({"role": "assistant", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]}) + END
    ),
    "part as an object": said(chunk({"content": {"type": "text", "text": "Hello"}}) + END),
    "parts as strings": said(chunk({"content": ["Hel", "lo"]}) + END, first=b"Hel"),
    "reasoning beside content": said(
        chunk({"reasoning": "Hm"}) + HEL + LO + END, first=b"Hm", reasoning="Hm"
    ),
    "refusal": Entry(chunk({"refusal": "No."}) + END, first=b"No.", message={"refusal": "No."}),
    "choices of floats as indexes": said(
        HEL.replace(b'"index":0', b'"index":0.0') + LO.replace(b'"index":0', b'"index":"0"') + END
    ),
    # 8: calls
    "call as an object": calls(function("weather", '{"in": "Hangzhou"}', id="call_a", type="function", index=0)),
    "call as an object in pieces": calls(
        function("weather", '{"in": ', id="call_a", type="function", index=0),
        {"index": 0, "function": {"arguments": '"Hangzhou"}'}},
    ),
    "calls as an object, then as a list": calls(
        function("weather", '{"in": "Hangzhou"}', id="call_a", type="function", index=0),
        [function("time", "{}", id="call_b", type="function", index=1)],
        wanted=(WEATHER, TIME),
    ),
    "call without a type": calls([function("weather", '{"in": "Hangzhou"}', id="call_a", index=0)], wanted=(
        {"id": "call_a", "function": WEATHER["function"]},
    )),
    "index as a text": calls([function("weather", '{"in": "Hangzhou"}', id="call_a", type="function", index="0")]),
    "calls null, then one": calls(
        None, [function("weather", '{"in": "Hangzhou"}', id="call_a", type="function", index=0)]
    ),
    "calls in the reverse order": calls(
        [function("time", "{}", id="call_b", type="function", index=1)],
        [function("weather", '{"in": "Hangzhou"}', id="call_a", type="function", index=0)],
        wanted=(WEATHER, TIME),
        first=b"time",
    ),
    # 9: nothing is guessed
    "table": said(b"".join(chunk({"content": "|a|b|\n"}) for _ in range(40)) + END, b"|a|b|", "|a|b|\n" * 40),
    "row of dashes that grows": said(
        b"".join(chunk({"content": "-" * n}) for n in range(1, 12)) + END, b"-", "-" * 66
    ),
    "same token again": said(b"".join(chunk({"content": "ha"}) for _ in range(60)) + END, b"ha", "ha" * 60),
    "prime numbers": said(
        b"".join(chunk({"content": text}) for text in ("2", "23", "2", "23", "235")) + END, b'"2"', "223223235"
    ),
    # 10: only what the dialect defines
    "object of something else": said(HEL + event({"object": "trace", "id": "t", "span": [1, 2]}) + LO + END),
    "fields at the top": said(
        HEL + LO.replace(b"{", b'{"provider":"x","warnings":[],"role":"system",', 1) + END,
    )._replace(document={"id": "chatcmpl-1", "model": "qwen-plus", "provider": None, "role": None}),
    "no role": said(LO.replace(b"lo", b"Hello") + END, role="assistant"),
    "another id in the middle": said(HEL + LO.replace(b"chatcmpl-1", b"chatcmpl-2") + END)._replace(
        document={"id": "chatcmpl-1"}
    ),
    "usage of another id": said(
        HEL + LO + STOP + USAGE.replace(b"chatcmpl-1", b"usage-1").replace(b"qwen-plus", b"x") + DONE
    )._replace(document={"id": "chatcmpl-1", "model": "qwen-plus", "usage": {"prompt_tokens": 7}}),
    # 11 and 12: lines
    "line separators": said(
        chunk({"content": "a\u2028b\u0085c\u2029"}) + END, "a\u2028".encode(), "a\u2028b\u0085c\u2029"
    ),
    "three line feeds after an id": said(b"id: 1\n" + HEL + b"\n" + LO + END),
    "fields that nobody knows": said(HEL + b"x-trace: 1\nfoo\n\n" + LO + END),
    "no blank lines in CRLF": said((HEL + LO + STOP + USAGE).replace(b"\n\n", b"\r\n") + b"data: [DONE]\r\n"),
    "no blank lines in CR": said((HEL + LO + STOP + USAGE).replace(b"\n\n", b"\r") + b"data: [DONE]\r"),
    # 14: usage
    "usage as texts": usage({"prompt_tokens": "7", "completion_tokens": "5"}, (7, 5)),
    "usage as floats": usage({"prompt_tokens": 7.0, "completion_tokens": 5.0}, (7, 5)),
    "usage as texts of floats": usage({"prompt_tokens": "7.0", "completion_tokens": "5.0"}, (7, 5)),
    "usage in camel case": usage({"promptTokens": 7, "completionTokens": 5}, (7, 5)),
    "usage beyond all": usage({"prompt_tokens": 7, "completion_tokens": 10**30}, (7, 0)),
    "usage below zero": usage({"prompt_tokens": -7, "completion_tokens": 5}, (0, 5)),
    "usage in other words": usage({"input_tokens": 7, "output_tokens": 5}, (7, 5)),
    "usage with the finish": said(
        HEL + LO + chunk({}, "stop", usage={"prompt_tokens": 7, "completion_tokens": 5}) + DONE
    ),
    "usage of a deep value": usage({"prompt_tokens": 7, "completion_tokens": 5, "details": [[[[[]]]]]}, (7, 5)),
}  # fmt: skip

NATIVE = {
    "delta in place of message": heard(
        result({"choices": [{"delta": {"role": "assistant", "content": "Hel"}, "finish_reason": "null"}]})
        + result({"choices": [{"delta": {"content": "lo"}, "finish_reason": "null"}]})
        + NATIVE_STOP
    ),
    "delta beside message null": heard(
        result({"choices": [{"message": None, "delta": {"content": "Hello"}, "finish_reason": "null"}]}) + NATIVE_STOP
    ),
    "2,000 levels": heard(
        native({"content": "Hel"})
        + native({"content": "lo"}).replace(b'"request_id"', b'"x":%b,"request_id"' % deep(2000))
        + NATIVE_STOP
    ),
    "call as an object": Entry(
        native({"content": "", "tool_calls": {**WEATHER, "index": 0}}) + native({"content": ""}, "tool_calls"),
        first=b"weather",
        message={"tool_calls": [WEATHER]},
        cumulative=False,
    ),
    "finish reason in an object": heard(native({"content": "Hello"}) + native({"content": ""}, {"type": "stop"})),
    "half a character as a finish reason beside logprobs": heard(
        native({"content": "Hello"})
        + result({"choices": [{"message": {}, "finish_reason": "@", "logprobs": {"content": [None]}}]}).replace(
            b"@", b"\\ud800"
        )
    ),
    "finish reason as an empty object": Entry(
        native({"content": "Hello"}) + native({"content": ""}, {}), text="Hello", first=b"Hello", cumulative=False,
        ending="upstream_reset",
    ),
    "finish without its blank line": heard(native({"content": "Hello"}) + NATIVE_STOP[:-1]),
    "number in place of the output": heard(
        native({"content": "Hello"}) + b'data:{"output":7,"request_id":"r"}\n\n' + NATIVE_STOP
    ),
    "error in a code of the status": Entry(
        native({"content": "Hello"})
        + b'id:2\nevent:result\n:HTTP_STATUS/429\ndata:{"code":"Throttling","message":"boom"}\n\n',
        text="Hello", first=b"Hello", ending="upstream_error", why="boom", cumulative=False,
    ),
    "error in the output": Entry(
        native({"content": "Hello"}) + result({"task_status": "FAILED", "code": "X", "message": "boom"}),
        text="Hello", first=b"Hello", ending="upstream_error", why="boom", cumulative=False,
    ),
    "usage of floats": heard(
        native({"content": "Hello"}, usage={"input_tokens": 7.0, "output_tokens": 5.0})
        + native({"content": ""}, "stop", usage={"input_tokens": 7.0, "output_tokens": 5.0})
    ),
}  # fmt: skip
