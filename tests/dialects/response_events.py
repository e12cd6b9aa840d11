"""Events of a response as they are written: by DashScope without spaces, with ids and a status, and by OpenAI."""

import json
from collections.abc import Iterable
from typing import Any

ID = "863df8d9-ad8e-4d4e-9f28-1c3c5bd4f37f"


def bare(type: str, **members: Any) -> bytes:
    """Return an event as OpenAI writes it."""
    return f"event: {type}\ndata: {json.dumps({'type': type, **members})}\n\n".encode()


def dashscope(type: str, ident: int, **members: Any) -> bytes:
    """Return an event as DashScope writes it."""
    data = json.dumps({**members, "type": type}, ensure_ascii=False, separators=(",", ":"))
    return f"id:{ident}\nevent:{type}\n:HTTP_STATUS/200\ndata:{data}\n\n".encode()


def snapshot(status: str, **members: Any) -> dict[str, Any]:
    """Return a response as it is in an event."""
    return {"id": ID, "object": "response", "status": status, "model": "", "output": [], "error": None, **members}


def numbered(events: Iterable[tuple[str, dict[str, Any]]], *, by_dashscope: bool = False) -> list[bytes]:
    """Return events with sequence numbers from 0."""
    if by_dashscope:
        return [dashscope(type, at + 1, sequence_number=at, **members) for at, (type, members) in enumerate(events)]
    return [bare(type, sequence_number=at, **members) for at, (type, members) in enumerate(events)]


def message(index: int, pieces: Iterable[str]) -> list[tuple[str, dict[str, Any]]]:
    """Return the events of an item that is a message."""
    pieces = list(pieces)
    at = {"output_index": index}
    part = {**at, "item_id": f"msg_{index}", "content_index": 0}
    told = {"type": "output_text", "text": "".join(pieces), "annotations": []}
    item = {"id": f"msg_{index}", "type": "message", "role": "assistant"}
    return [
        ("response.output_item.added", {**at, "item": {**item, "status": "in_progress", "content": []}}),
        ("response.content_part.added", {**part, "part": {**told, "text": ""}}),
        *(("response.output_text.delta", {**part, "delta": piece, "logprobs": []}) for piece in pieces),
        ("response.output_text.done", {**part, "text": told["text"]}),
        ("response.content_part.done", {**part, "part": told}),
        ("response.output_item.done", {**at, "item": {**item, "status": "completed", "content": [told]}}),
    ]


def reasoning(index: int, pieces: Iterable[str]) -> list[tuple[str, dict[str, Any]]]:
    """Return the events of an item that is a summary of reasoning."""
    pieces = list(pieces)
    at = {"output_index": index}
    part = {**at, "item_id": f"rs_{index}", "summary_index": 0}
    item = {"id": f"rs_{index}", "type": "reasoning"}
    told = {"type": "summary_text", "text": "".join(pieces)}
    return [
        ("response.output_item.added", {**at, "item": {**item, "summary": []}}),
        ("response.reasoning_summary_part.added", {**part, "part": {**told, "text": ""}}),
        *(("response.reasoning_summary_text.delta", {**part, "delta": piece}) for piece in pieces),
        ("response.reasoning_summary_text.done", {**part, "text": told["text"]}),
        ("response.reasoning_summary_part.done", {**part, "part": told}),
        ("response.output_item.done", {**at, "item": {**item, "summary": [told]}}),
    ]


def call(index: int, pieces: Iterable[str]) -> list[tuple[str, dict[str, Any]]]:
    """Return the events of an item that is a function call, its arguments in pieces."""
    pieces = list(pieces)
    at = {"output_index": index, "item_id": f"fc_{index}"}
    item = {"id": f"fc_{index}", "type": "function_call", "name": "look", "call_id": f"call_{index}"}
    done = {**item, "arguments": "".join(pieces), "status": "completed"}
    return [
        ("response.output_item.added", {"output_index": index, "item": {**item, "arguments": ""}}),
        *(("response.function_call_arguments.delta", {**at, "delta": piece}) for piece in pieces),
        ("response.function_call_arguments.done", {**at, "arguments": "".join(pieces)}),
        ("response.output_item.done", {"output_index": index, "item": done}),
    ]


USAGE = {
    "input_tokens": 57,
    "output_tokens": 30,
    "total_tokens": 87,
    "input_tokens_details": {"cached_tokens": 5},
    "output_tokens_details": {"reasoning_tokens": 20},
    "x_tools": {"web_search": {"count": 1}},
}


def response(*items: list[tuple[str, dict[str, Any]]], last: str = "response.completed", **members: Any) -> Any:
    """Return the events of a response with these items, to be numbered."""
    output = [item[-1][1]["item"] for item in items]
    status = last.removeprefix("response.")
    whole = snapshot(status, output=output, model="qwen3.7-plus", usage=USAGE) | members
    return [
        ("response.created", {"response": snapshot("queued")}),
        ("response.in_progress", {"response": snapshot("in_progress")}),
        *(event for item in items for event in item),
        (last, {"response": whole}),
    ]
