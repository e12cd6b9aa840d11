"""Answers of the Responses API: all kinds."""

import json
from typing import Any

from tests.corpus.entry import Entry
from tests.dialects.response_events import ID, bare, call, dashscope, message, reasoning, snapshot

COUNTS = {"input_tokens": 7, "output_tokens": 5, "total_tokens": 12}
PING = b": ping\n\n"
BOOM = {"code": "server_error", "message": "boom"}
Events = list[tuple[str, dict[str, Any]]]


def item(text: str = "Hello") -> dict[str, Any]:
    """Return a finished message."""
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"id": "msg_0", "type": "message", "role": "assistant", "status": "completed", "content": content}


def events(*told: tuple[str, dict[str, Any]]) -> list[bytes]:
    """Return events as DashScope writes them, numbered."""
    return [dashscope(kind, at + 1, sequence_number=at, **members) for at, (kind, members) in enumerate(told)]


BEGUN: Events = [("response.created", {"response": snapshot("queued")})]
HELLO = message(0, ["Hel", "lo"])


def last(text: str = "Hello", kind: str = "completed", **more: Any) -> tuple[str, dict[str, Any]]:
    """Return the event that ends a response."""
    return f"response.{kind}", {"response": snapshot(kind, output=[item(text)], usage=COUNTS) | more}


WHOLE = b"".join(events(*BEGUN, *HELLO, last()))
UNFINISHED = b"".join(events(*BEGUN, *HELLO))


def said(body: bytes, first: bytes = b'"delta": "Hel"', text: str = "Hello", **document: Any) -> Entry:
    """Return an answer that says hello, whatever else there is."""
    return Entry(body, text=text, first=first.replace(b": ", b":"), document=document)


def failing(frame: bytes, why: str = "boom", usage: tuple[int, int] | None = None) -> Entry:
    """Return an answer that breaks off with an error."""
    return Entry(
        UNFINISHED + frame, text="Hello", first=b'"delta":"Hel"', ending="upstream_error", why=why, usage=usage
    )


def deep(levels: int) -> bytes:
    """Return a list that is nested so deeply."""
    return b"[" * levels + b"0" + b"]" * levels


def with_data(kind: str, **members: Any) -> bytes:
    """Return an event of this type as OpenAI writes it."""
    return bare(kind, sequence_number=99, **members)


ITEMS = {
    "as DashScope": said(WHOLE, id=ID, status="completed"),
    "as OpenAI": Entry(
        b"".join(bare(kind, sequence_number=at, **more) for at, (kind, more) in enumerate([*BEGUN, *HELLO, last()])),
        text="Hello",
        first=b'"delta": "Hel"',
    ),
    # 1 and 6: any depth, integers of any size, numbers that JSON lacks, the wrong type
    "3,000 levels": said(WHOLE.replace(b'"delta":"lo"', b'"x":%b,"delta":"lo"' % deep(3000))),
    "number of 30 digits": said(WHOLE.replace(b'"sequence_number":5', b'"sequence_number":' + b"9" * 30)),
    "NaN beside a delta": said(WHOLE.replace(b'"delta":"lo"', b'"score":NaN,"delta":"lo"')),
    "Infinity in the last event": said(WHOLE.replace(b'"total_tokens":12', b'"total_tokens":12,"x":-Infinity')),
    "halves of a character": said(
        b"".join(events(*BEGUN, *message(0, ["Hel", "@", "#"]), last("Hel\U0001f600")))
        .replace(b'"delta":"@"', b'"delta":"\\ud83d"')
        .replace(b'"delta":"#"', b'"delta":"\\ude00"'),
        text="Hel\U0001f600",
    ),
    "items and responses of other types": said(
        b"".join(
            events(
                *BEGUN,
                ("response.in_progress", {"response": [1]}),
                ("response.output_item.added", {"output_index": 1, "item": 7}),
                *HELLO,
                ("response.output_item.done", {"output_index": [], "item": [1]}),
                last(),
            )
        )
    ),
    "type that is a number": said(WHOLE.replace(b"id:4", b'data:{"type":7,"sequence_number":{}}\n\nid:4', 1)),
    # 3: errors
    "error": failing(with_data("error", **BOOM, param=None)),
    "flat": failing(b'data:{"code":"InternalError","message":"boom","request_id":"r"}\n\n'),
    "of DashScope": failing(b'id:9\nevent:error\n:HTTP_STATUS/500\ndata:{"code":"X","message":"boom"}\n\n'),
    "HTML": failing(b"<html><title>boom</title></html>\n\n"),
    "OpenAI's error object": failing(b'data: {"error":{"message":"boom"}}\n\n'),
    "response.error": failing(with_data("response.error", error=BOOM)),
    "failed": failing(with_data("response.failed", response=snapshot("failed", error=BOOM))),
    "completed, but failed": failing(with_data("response.completed", response=snapshot("failed", error=BOOM))),
    "cancelled": failing(with_data("response.cancelled", response=snapshot("cancelled")), "cancelled"),
    "usage of a failure": failing(
        with_data("response.failed", response=snapshot("failed", error=BOOM, usage=COUNTS)), usage=(7, 5)
    ),
    "item that failed, and no last word": Entry(
        UNFINISHED
        + with_data("response.output_item.done", output_index=0, item={"type": "message", "status": "failed"}),
        text="Hello",
        first=b'"delta":"Hel"',
        ending="upstream_reset",
        usage=None,
    ),
    # 4, 5 and 16: the last word
    "error before 300 comments": failing(with_data("error", **BOOM) + PING * 300),
    "completed before 300 pings": said(WHOLE + b'event: ping\ndata: {"type":"ping"}\n\n' * 300),
    "[DONE] after it": said(WHOLE + b"data: [DONE]\n\n"),
    "response.done in its place": said(
        b"".join(events(*BEGUN, *HELLO, ("response.done", {"response": snapshot("completed", usage=COUNTS)})))
    )._replace(document={"status": "completed"}),
    "no blank line at the end": said(WHOLE[:-1]),
    "incomplete": said(
        b"".join(
            events(*BEGUN, *HELLO, last("Hello", "incomplete", incomplete_details={"reason": "max_output_tokens"}))
        ),
        status="incomplete",
    ),
    "no last word": Entry(UNFINISHED, text="Hello", first=b'"delta":"Hel"', ending="upstream_reset", usage=None),
    "nothing": Entry(b"", ending="upstream_reset", usage=None),
    "comments alone": Entry(PING * 9, ending="upstream_reset", usage=None),
    # 7: texts that come whole, or beside others
    "text of an item alone": said(
        b"".join(events(*BEGUN, ("response.output_item.done", {"output_index": 0, "item": item()}), last())),
        first=b'"text":"Hello"',
    ),
    "text of a part alone": said(
        b"".join(events(*BEGUN, ("response.output_text.done", {"output_index": 0, "text": "Hello"}), last())), b""
    ),
    "text of the last event alone": said(b"".join(events(*BEGUN, last())), b""),
    "empty deltas, then the item": said(
        b"".join(
            events(
                *BEGUN,
                *message(0, ["", ""])[:-3],
                ("response.output_item.done", {"output_index": 0, "item": item()}),
                last(),
            )
        ),
        first=b'"text":"Hello"',
    ),
    "thoughts before": said(
        b"".join(events(*BEGUN, *reasoning(0, ["Hm"]), *message(1, ["Hel", "lo"]), last())), b'"delta":"Hm"'
    ),
    "call after": said(b"".join(events(*BEGUN, *HELLO, *call(1, ["{", "}"]), last())))._replace(
        message={"tool_calls": [{"id": "call_1", "function": {"name": "look", "arguments": "{}"}}]}
    ),
    "no item_id, no content_index": said(WHOLE.replace(b'"item_id":"msg_0",', b"").replace(b'"content_index":0,', b"")),
    "looks cumulative": said(
        b"".join(events(*BEGUN, *message(0, ["He", "Hel", "Hello"]), last("HeHelHello"))), b'"delta":"He"', "HeHelHello"
    ),
    # 10: only what the dialect defines
    "events that nobody knows": said(
        b"".join(events(*BEGUN, ("response.custom.thing", {"x": 1}), *HELLO, ("ping", {}), last())), id=ID
    ),
    "another response in between": said(
        b"".join(events(*BEGUN, ("response.in_progress", {"response": {**snapshot("x"), "id": "y"}}), *HELLO, last())),
        id=ID,
    ),
    # 11 and 12: lines
    "CRLF": said(WHOLE.replace(b"\n", b"\r\n")),
    "data lines alone": said(b"".join(line + b"\n" for line in WHOLE.split(b"\n") if line.startswith(b"data:"))),
    "blocks without data": said(WHOLE.replace(b"id:4", b"\n\nevent: ping\n\nretry: 3000\n\nid: 3\n\nid:4", 1)),
    # 14: usage
    "usage before the end": said(
        b"".join(
            events(
                *BEGUN,
                *HELLO,
                ("response.in_progress", {"response": snapshot("in_progress", usage=COUNTS)}),
                last(usage=None),
            )
        )
    ),
    "usage of floats": said(WHOLE.replace(b'"input_tokens":7', b'"input_tokens":7.0')),
    "usage below zero": said(WHOLE.replace(b'"input_tokens":7', b'"input_tokens":-7'))._replace(usage=(0, 5)),
    "usage that is a list": said(WHOLE.replace(json.dumps(COUNTS, separators=(",", ":")).encode(), b"[1]"))._replace(
        usage=None
    ),
}
