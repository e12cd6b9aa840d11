"""Answers of the Messages API: all kinds."""

import json
from typing import Any

from tests.corpus.entry import Entry
from tests.message_events import MESSAGE, PING, STOP, delta, event, finish

COUNTS: dict[str, Any] = {"input_tokens": 7, "output_tokens": 5}
BEGUN = event("message_start", message={**MESSAGE, "usage": {"input_tokens": 7, "output_tokens": 0}})
HELLO = delta("Hel") + delta("lo")
FINISH = finish(**COUNTS)
COMMENT = b": ping\n\n"
FIRST = b'"text":"Hel"'


def block(*deltas: bytes, index: int = 0, **members: Any) -> bytes:
    """Return a block, of text unless `members` say another."""
    begun = event("content_block_start", index=index, content_block=members or {"type": "text", "text": ""})
    return begun + b"".join(deltas) + event("content_block_stop", index=index)


TEXT = block(HELLO)
WHOLE = BEGUN + TEXT + FINISH + STOP


def said(body: bytes, first: bytes = FIRST, text: str = "Hello", **document: Any) -> Entry:
    """Return an answer that says hello, whatever else there is."""
    return Entry(body, text=text, first=first, document=document)


def failing(frame: bytes, why: str = "boom") -> Entry:
    """Return an answer that breaks off with an error."""
    return Entry(BEGUN + TEXT + frame, text="Hello", first=FIRST, ending="upstream_error", why=why, usage=(7, 0))


def error(kind: str = "overloaded_error") -> bytes:
    """Return the data of an error as Anthropic states it."""
    return json.dumps({"type": "error", "error": {"type": kind, "message": "boom"}}).encode()


CALLED = {"tool_calls": [{"id": "t", "function": {"name": "f", "arguments": '{"a":1}'}}]}


def called(body: bytes) -> Entry:
    """Return an answer that is a call."""
    content = [{"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}]
    return Entry(
        BEGUN + body + finish("tool_use", **COUNTS) + STOP,
        first=b'"name":"f"',
        message=CALLED,
        document={"content": content},
    )


def deep(levels: int) -> bytes:
    """Return a list that is nested so deeply."""
    return b"[" * levels + b"0" + b"]" * levels


RESET: dict[str, Any] = {"text": "Hello", "first": FIRST, "ending": "upstream_reset", "usage": (7, 0)}

BLOCKS = {
    "as DashScope": said(WHOLE, role="assistant", stop_reason="end_turn", usage=COUNTS),
    "as Anthropic": Entry(WHOLE.replace(b"event:", b"event: ").replace(b"data:", b"data: "), text="Hello", first=FIRST),
    # 1 and 6: any depth, integers of any size, numbers that JSON lacks, the wrong type
    "3,000 levels": said(WHOLE.replace(b'"text":"lo"', b'"x":%b,"text":"lo"' % deep(3000))),
    "index as a text": said(WHOLE.replace(b'"index":0', b'"index":"0"')),
    "index as a float": said(WHOLE.replace(b'"index":0', b'"index":0.0')),
    "NaN beside a text": said(WHOLE.replace(b'"text":"lo"', b'"score":NaN,"text":"lo"')),
    "integer of 40 digits": said(WHOLE.replace(b'"output_tokens":5', b'"output_tokens":5,"x":' + b"7" * 40)),
    "halves of a character": said(
        BEGUN
        + block(delta("Hel"), delta("@").replace(b"@", b"\\ud83d"), delta("@").replace(b"@", b"\\ude00"))
        + FINISH
        + STOP,
        text="Hel\U0001f600",
    ),
    "bytes that are no UTF-8": said(
        BEGUN + block(delta("Hel"), delta("@lo").replace(b"@", b"\xff")) + FINISH + STOP, text="Hel\ufffdlo"
    ),
    "usage that is a list": said(
        BEGUN + TEXT + event("message_delta", delta={"stop_reason": "end_turn"}, usage=[1]) + STOP
    )._replace(usage=(7, 0)),
    # 3: errors
    "error": failing(b"event: error\ndata: " + error() + b"\n\n"),
    "error without a name": failing(b"data: " + error() + b"\n\n"),
    "error of DashScope": failing(b'event:error\n:HTTP_STATUS/500\ndata:{"code":"X","message":"boom"}\n\n'),
    "flat": failing(b'data:{"code":"X","message":"boom"}\n\n'),
    "OpenAI's": failing(b'data: {"error":{"message":"boom"}}\n\n'),
    "HTML": failing(b"<html><title>boom</title></html>\n\n"),
    "error in a list": failing(b'event:error\ndata:[{"message":"boom"}]\n\n'),
    "reason that is an error": failing(finish("error", input_tokens=7, output_tokens=0) + STOP, "error"),
    # 4, 5 and 16: the last word
    "error before 300 comments": failing(b"event: error\ndata: " + error() + b"\n\n" + COMMENT * 300),
    "usage before 300 pings": said(BEGUN + TEXT + FINISH + PING * 300 + STOP),
    "pings everywhere": said(
        PING + BEGUN + PING + TEXT.replace(b"event:", PING + b"event:") + FINISH + STOP + PING * 9
    ),
    "no blank line at the end": said(WHOLE[:-1]),
    "no last word": Entry(BEGUN + TEXT + FINISH, **{**RESET, "usage": (7, 5)}),
    "no reason": said(BEGUN + TEXT + STOP)._replace(usage=(7, 0)),
    "[DONE] in its place": Entry(BEGUN + TEXT + b"data: [DONE]\n\n", **RESET),
    "nothing": Entry(b"", ending="upstream_reset", usage=None),
    "pings alone": Entry(PING * 9, ending="upstream_reset", usage=None),
    # 7: texts that come whole, or beside others
    "text in the start of a block": said(BEGUN + block(delta("lo"), type="text", text="Hel") + FINISH + STOP),
    "text in the start of the message": said(
        event("message_start", message={**MESSAGE, "content": [{"type": "text", "text": "Hello"}], "usage": COUNTS})
        + FINISH
        + STOP,
        b"",
    ),
    "no start of a block": said(BEGUN + HELLO + FINISH + STOP),
    "thoughts before": said(
        BEGUN
        + block(delta("Hm", kind="thinking"), type="thinking", thinking="", signature="")
        + block(delta("Hel", 1), delta("lo", 1), index=1)
        + FINISH
        + STOP,
        b'"thinking":"Hm"',
        content=[{"type": "thinking", "thinking": "Hm"}, {"type": "text", "text": "Hello"}],
    ),
    "deltas that nobody knows": said(
        BEGUN
        + block(event("content_block_delta", index=0, delta={"type": "foo_delta", "foo": "x"}), HELLO)
        + FINISH
        + STOP
    ),
    "looks cumulative": said(
        BEGUN + block(delta("H"), delta("He"), delta("Hel")) + FINISH + STOP, b'"text":"H"', "HHeHel"
    ),
    # 8: calls
    "input in pieces": called(
        block(
            delta('{"a":', kind="tool_use"), delta("1}", kind="tool_use"), type="tool_use", id="t", name="f", input={}
        )
    ),
    "input at once": called(block(type="tool_use", id="t", name="f", input={"a": 1})),
    # 10: only what the dialect defines
    "events that nobody knows": said(
        BEGUN + TEXT + event("vertex_event", message={"x": 1}) + FINISH + STOP, id="msg_1"
    ),
    "no role": said(WHOLE.replace(b'"role":"assistant",', b"")),
    # 11 and 12: lines
    "CRLF": said(WHOLE.replace(b"\n", b"\r\n")),
    "data lines alone": said(b"".join(line + b"\n" for line in WHOLE.split(b"\n") if line.startswith(b"data:"))),
    "ids of its own": said(WHOLE.replace(b"event:", b"id: 1\nevent:")),
    # 14: usage
    "usage of floats and texts": said(BEGUN + TEXT + finish(input_tokens=7.0, output_tokens="5") + STOP),
    "usage of the last event": said(BEGUN.replace(b'"input_tokens":7', b'"input_tokens":56') + TEXT + FINISH + STOP),
    "usage null in the last event": said(BEGUN + TEXT + finish(input_tokens=None, output_tokens=5) + STOP),
}
