"""The Responses API, as the fake Qwen speaks it: in DashScope's framing, or in OpenAI's.

DashScope writes no spaces, an id and a status comment in each block, no name of a model before the last event, and
calls of functions whole. What stands in both is from OpenAI's API reference. Not recorded: how DashScope reports an
error within a stream.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import orjson

from proxy.tools.fake import chat, native
from proxy.tools.fake.api import Api
from proxy.tools.fake.refusals import Refusal, Refused, invalid
from proxy.tools.fake.text import Ask, Call, Choice, Piece, Spent, Stamp, joined, origin_of, shared

_NO_INPUT = invalid("<400> InternalError.Algo.InvalidParameter: The input field is a required field")
_SEARCH = {"type": "search", "query": "溪流"}
_SEARCHED = '{"at":"1"}'


def read_responses(body: Mapping[str, Any], seed: int) -> Ask:
    """Read a request for a response. Raises Refused."""
    model, asked = body.get("model"), body.get("input")
    if not model:
        raise Refused(invalid("you must provide a model parameter"))
    if not asked:
        raise Refused(_NO_INPUT)
    items = asked if isinstance(asked, list) else [{"role": "user", "content": asked}]
    tools = [tool for tool in body.get("tools") or () if tool["type"] in ("function", "custom")]
    answered = str(items[-1].get("type", "")).endswith("_output")
    options = {
        "tools": [] if answered else [{"function": tool} for tool in tools],
        "parallel_tool_calls": len(tools) > 1,
        "tool_choice": body.get("tool_choice") if body.get("tool_choice") == "none" else None,
        "enable_thinking": (body.get("reasoning") or {}).get("effort", "none") != "none",
        "max_tokens": body.get("max_output_tokens"),
    }
    ask = Ask(
        kind="responses",
        stream=bool(body.get("stream")),
        **origin_of(seed, model, [body.get("instructions"), items]),
        **shared(options, model, items),
    )
    search = any(str(tool["type"]).startswith("web_search") for tool in body.get("tools") or ())
    return replace(ask, search=search, mcp=any(tool["type"] == "mcp" for tool in body.get("tools") or ()))


def count_input(body: Mapping[str, Any]) -> bytes:
    """Return the answer to a request that asks how many tokens the input of another would have. Raises Refused."""
    return orjson.dumps({"object": "response.input_tokens", "input_tokens": read_responses(body, 0).prompt_tokens})


def compact(body: Mapping[str, Any]) -> bytes:
    """Return the answer to a request that asks for a shorter input of the same meaning. Raises Refused."""
    prompt_tokens = read_responses(body, 0).prompt_tokens
    usage = {
        "input_tokens": prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 1,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt_tokens + 1,
    }
    item = {"id": "cmp_0", "type": "compaction", "encrypted_content": "compact"}
    answer = {"id": "cmp", "object": "response.compaction", "created_at": 0, "output": [item], "usage": usage}
    return orjson.dumps(answer)


class Event(NamedTuple):
    """One event, without its number."""

    type: str
    members: dict[str, Any]


@dataclass(slots=True)
class _Output:
    """The items of a response so far, with their final form."""

    spent: Spent = field(default_factory=Spent)
    items: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ResponseAnswer:
    """A response as a stream of events, or as one object, which is that of its last event."""

    ask: Ask
    stamp: Stamp

    def frames(self) -> Iterator[bytes]:
        for number, event in enumerate(self._events(_Output())):
            yield self._frame(number, event)

    def whole(self) -> bytes:
        output = _Output()
        for _ in self._items(output):
            pass
        return orjson.dumps(self._finished(output))

    def _frame(self, number: int, event: Event) -> bytes:
        if self.ask.spaced:
            return spaced(event.type, {"type": event.type, "sequence_number": number, **event.members})
        members = event.members
        if event.type.endswith(".delta") and self.ask.sparse:
            members = {key: value for key, value in members.items() if key in ("delta", "output_index")}
        # Recorded: of snapshots the number comes first, of deltas the type.
        first = {"sequence_number": number} if "response" in members else {"type": event.type}
        data = {**first, **members, "type": event.type, "sequence_number": number}
        return tight(number + 1, event.type, 200, orjson.dumps(data))

    def _events(self, output: _Output) -> Iterator[Event]:
        yield Event("response.created", {"response": self._response("queued")})
        yield Event("response.in_progress", {"response": self._response("in_progress")})
        yield from self._items(output)
        finished = self._finished(output)
        yield Event(f"response.{finished['status']}", {"response": finished})

    def _items(self, output: _Output) -> Iterator[Event]:
        choice = Choice(self.ask, 0)
        if self.ask.search:
            yield from self._search(output)
        if self.ask.mcp:
            yield from self._mcp(output)
        if self.ask.thinking:
            yield from self._reasoning(output, choice)
        calls = choice.calls()
        for call in calls:
            yield from self._call(output, call)
        if not calls:
            yield from self._message(output, choice)

    def _search(self, output: _Output) -> Iterator[Event]:
        index, ident = len(output.items), self._ident("ws", output)
        at, item = {"output_index": index, "item_id": ident}, {"id": ident, "type": "web_search_call"}
        yield Event("response.output_item.added", {"output_index": index, "item": {**item, "status": "in_progress"}})
        for step in ("in_progress", "searching", "completed"):
            yield Event(f"response.web_search_call.{step}", at)
        yield self._done(output, {**item, "status": "completed", "action": _SEARCH})

    def _mcp(self, output: _Output) -> Iterator[Event]:
        """Yield a call of a server's tool; DashScope sends its arguments before the item that they belong to."""
        index, ident = len(output.items), self._ident("mcp", output)
        at = {"item_id": ident, "output_index": index}
        item = {"id": ident, "type": "mcp_call", "name": "look", "server_label": "streams", "arguments": ""}
        added = Event("response.output_item.added", {"output_index": index, "item": {**item, "status": "in_progress"}})
        said = [Event("response.mcp_call_arguments.delta", {**at, "delta": piece}) for piece in ('{"at":', '"1"}')]
        yield from [added, *said] if self.ask.spaced else [*said, added]
        yield Event("response.mcp_call_arguments.done", {**at, "arguments": _SEARCHED})
        yield Event("response.mcp_call.completed", at)
        yield self._done(output, {**item, "arguments": _SEARCHED, "output": "溪流", "status": "completed"})

    def _reasoning(self, output: _Output, choice: Choice) -> Iterator[Event]:
        """Yield the reasoning: a text where it is DashScope's, a summary where it is OpenAI's."""
        name, place, key = ("reasoning_text", "content_index", "content")
        if self.ask.spaced:
            name, place, key = ("reasoning_summary_text", "summary_index", "summary")
        kind = name.replace("reasoning_summary", "summary")
        part_of = "reasoning_summary_part" if self.ask.spaced else "content_part"
        index, ident = len(output.items), self._ident("rs", output)
        item: dict[str, Any] = {"id": ident, "type": "reasoning", "summary": []}
        at = {"item_id": ident, "output_index": index, place: 0}
        yield Event("response.output_item.added", {"output_index": index, "item": {**item, key: []}})
        yield Event(f"response.{part_of}.added", {**at, "part": {"type": kind, "text": ""}})
        said = []
        for piece in output.spent.count(choice.reasoning(), reasoning=True):
            said.append(piece)
            yield Event(f"response.{name}.delta", {**at, "delta": piece.text})
        part = {"type": kind, "text": joined(said)}
        yield Event(f"response.{name}.done", {**at, "text": part["text"]})
        yield Event(f"response.{part_of}.done", {**at, "part": part})
        yield self._done(output, {**item, key: [part]})

    def _message(self, output: _Output, choice: Choice) -> Iterator[Event]:
        index, ident = len(output.items), self._ident("msg", output)
        item = {"id": ident, "type": "message", "role": "assistant"}
        part: dict[str, Any] = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        at = {"item_id": ident, "output_index": index, "content_index": 0}
        added = {**item, "status": "in_progress", "content": []}
        yield Event("response.output_item.added", {"output_index": index, "item": added})
        yield Event("response.content_part.added", {**at, "part": part})
        said = []
        for piece in output.spent.count(choice.content(frames_before=4)):
            said.append(piece)
            yield Event("response.output_text.delta", {"delta": piece.text, **at, "logprobs": []})
        part = {**part, "text": joined(said)}
        yield Event("response.output_text.done", {**at, "text": part["text"], "logprobs": []})
        yield Event("response.content_part.done", {**at, "part": part})
        yield self._done(output, {**item, "status": "completed", "content": [part]})

    def _call(self, output: _Output, call: Call) -> Iterator[Event]:
        """Yield a call of a function: whole where it is DashScope's, its arguments in pieces where it is OpenAI's."""
        index, pieces = len(output.items), list(output.spent.count(call.pieces))
        custom = self.ask.tools[call.index]["type"] == "custom"
        kind, key = ("custom_tool_call", "input") if custom else ("function_call", "arguments")
        item = {"id": self._ident("fc", output), "type": kind, "call_id": call.id, "name": call.name}
        done = {**item, key: joined(pieces), "status": "completed"}
        if not (self.ask.spaced or custom):
            yield Event("response.output_item.added", {"output_index": index, "item": done})
        else:
            added = {**item, key: "", "status": "in_progress"}
            yield Event("response.output_item.added", {"output_index": index, "item": added})
            yield from self._arguments(item["id"], index, pieces, custom=custom)
        yield self._done(output, done)

    def _arguments(self, ident: str, index: int, pieces: Iterable[Piece], *, custom: bool) -> Iterator[Event]:
        name, key = ("custom_tool_call_input", "input") if custom else ("function_call_arguments", "arguments")
        at = {"item_id": ident, "output_index": index}
        for piece in pieces:
            yield Event(f"response.{name}.delta", {**at, "delta": piece.text})
        yield Event(f"response.{name}.done", {**at, key: joined(pieces)})

    def _done(self, output: _Output, item: dict[str, Any]) -> Event:
        output.items.append(item)
        return Event("response.output_item.done", {"output_index": len(output.items) - 1, "item": item})

    def _ident(self, kind: str, output: _Output) -> str:
        return f"{kind}_{self.stamp.request_id}-{len(output.items)}"

    def _finished(self, output: _Output) -> dict[str, Any]:
        cut_off = Choice(self.ask, 0).finish_reason == "length"
        found = self._response("incomplete" if cut_off else "completed", model=self.ask.model, output=output.items)
        if cut_off:
            found["incomplete_details"] = {"reason": "max_output_tokens"}
        return {**found, "usage": self._usage(output.spent)}

    def _response(self, status: str, **members: Any) -> dict[str, Any]:
        return response_of(self.stamp, status, self.ask.model if self.ask.spaced else "") | members

    def _usage(self, spent: Spent) -> dict[str, Any]:
        usage: dict[str, Any] = {
            "input_tokens": self.ask.prompt_tokens,
            "output_tokens": spent.output,
            "total_tokens": self.ask.prompt_tokens + spent.output,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": spent.reasoning},
        }
        if self.ask.search and not self.ask.spaced:
            usage["x_tools"] = {"web_search": {"count": 1}}
        return usage


def response_of(stamp: Stamp, status: str, model: str) -> dict[str, Any]:
    """Return a response as it is in an event."""
    return {
        "id": stamp.request_id,
        "object": "response",
        "created_at": stamp.created,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": model,
        "output": [],
        "parallel_tool_calls": False,
        "temperature": None,
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "usage": None,
    }


def spaced(name: str, members: dict[str, Any]) -> bytes:
    """Return an event in OpenAI's framing."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps(members))


def tight(number: int, name: str, status: int, data: bytes) -> bytes:
    """Return an event in DashScope's framing."""
    return b"id:%d\nevent:%b\n:HTTP_STATUS/%d\ndata:%b\n\n" % (number, name.encode(), status, data)


def error_frame(refusal: Refusal, stamp: Stamp, model: str, number: int = 1) -> bytes:
    """Return the event of a response that failed."""
    error = {"code": refusal.code, "message": refusal.says(model)}
    failed = response_of(stamp, "failed", model) | {"error": error}
    data = {"type": "response.failed", "sequence_number": number - 1, "response": failed}
    return tight(number, "response.failed", 200, orjson.dumps(data))


RESPONSES = Api(
    ResponseAnswer,
    chat.refusal_body,
    error_frame,
    flat_error_frame=native.error_frame,
    last=b"",
    refusal_frame=native.error_frame,
    refuses_streams_with=200,
)
