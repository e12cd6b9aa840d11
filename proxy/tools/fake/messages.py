"""Anthropic's Messages, as the fake Qwen speaks them: in DashScope's framing, without spaces (`spaced` adds them).

Events are those of documentation and of partial captures; no whole stream of Qwen's was recorded. An answer is a block
of thinking, blocks of a search that the service ran itself, and text or calls of tools, as asked.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from proxy.tools.fake.api import Api
from proxy.tools.fake.refusals import Refusal, Refused
from proxy.tools.fake.text import NO_MESSAGES, NO_MODEL, Ask, Call, Choice, Piece, Spent, Stamp, joined, origin_of

_MOST_TOKENS = 240  # no answer of a length of the model's own is longer: a limit above this is none
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_REASONS = {"tool_calls": "tool_use", "length": "max_tokens", "stop": "end_turn"}
_FOUND = {
    "type": "web_search_result",
    "url": "https://example.com/1",
    "title": "溪流",
    "encrypted_content": "",
    "page_age": None,
}
_CITATION = {
    "type": "web_search_result_location",
    "url": "https://example.com/1",
    "title": "溪流",
    "encrypted_index": "",
    "cited_text": "溪水绕过石头",
}


def read_messages(body: Mapping[str, Any], seed: int) -> Ask:
    """Read a request for a message. Raises Refused."""
    model, messages = body.get("model"), body.get("messages")
    if not model:
        raise Refused(NO_MODEL)
    if not messages:
        raise Refused(NO_MESSAGES)
    thinking, most = body.get("thinking") or {}, int(body.get("max_tokens") or 0)
    tools = body.get("tools") or ()
    return Ask(
        kind="messages",
        stream=bool(body.get("stream")),
        thinking=thinking.get("type") in ("enabled", "adaptive"),
        thinking_budget=min(int(thinking.get("budget_tokens") or 0), _MOST_TOKENS),
        tools=_calls(tools, body.get("tool_choice") or {}, messages),
        declares_tools=bool(tools),
        search=any(str(tool.get("type")).startswith("web_search") for tool in tools),
        max_tokens=most if most <= _MOST_TOKENS else 0,
        **origin_of(seed, model, messages),
    )


def _calls(tools: Any, choice: Mapping[str, Any], messages: list[Any]) -> tuple[Mapping[str, Any], ...]:
    """Return the tools an answer calls: the first two of the client's own; none once a tool has answered."""
    own = [{"name": tool["name"], "parameters": tool["input_schema"]} for tool in tools if "input_schema" in tool]
    content = messages[-1].get("content")
    answered = isinstance(content, list) and any(part.get("type") == "tool_result" for part in content)
    if answered or choice.get("type") == "none":
        return ()
    if choice.get("type") == "tool":
        own = [tool for tool in own if tool["name"] == choice["name"]]
    return tuple(own[: 1 if choice.get("disable_parallel_tool_use") else 2])


class Block(NamedTuple):
    """A content block: as it starts, the type and field of its deltas, its text in pieces, and its last delta."""

    opening: dict[str, Any]
    delta: str = ""
    field: str = ""
    pieces: Iterator[Piece] = iter(())
    last: dict[str, Any] | None = None

    def deltas(self) -> Iterator[dict[str, Any]]:
        """Yield the deltas; that of a tool's input begins with an empty one."""
        if self.delta == "input_json_delta":
            yield {"type": self.delta, self.field: ""}
        for piece in self.pieces:
            yield {"type": self.delta, self.field: piece.text}
        if self.last is not None:
            yield self.last

    def whole(self) -> dict[str, Any]:
        """Return the complete block."""
        text = joined(self.pieces)
        if self.delta == "input_json_delta":
            return {**self.opening, "input": orjson.loads(text)}
        found = {**self.opening, self.field: text} if self.field else self.opening
        if self.last is not None and "citation" in self.last:
            found["citations"] = [self.last["citation"]]
        return found


@dataclass(frozen=True, slots=True)
class MessagesAnswer:
    """An answer as events of a message, or as one `message`."""

    ask: Ask
    stamp: Stamp

    def frames(self) -> Iterator[bytes]:
        spent, ask = Spent(), self.ask
        # As reported of the service: message_start tells another number of tokens than message_delta.
        estimated = {"input_tokens": 1 + ask.prompt_tokens // 5, "output_tokens": 0}
        yield _event("message_start", message={**self._envelope(), "content": [], "usage": estimated})
        for index, block in enumerate(self._blocks(spent)):
            yield _event("content_block_start", index=index, content_block=block.opening)
            for delta in block.deltas():
                yield _event("content_block_delta", index=index, delta=delta)
            yield _event("content_block_stop", index=index)
        yield _event("message_delta", delta=self._ending(), usage=self._usage(spent))
        yield LAST

    def whole(self) -> bytes:
        spent = Spent()
        content = [block.whole() for block in self._blocks(spent)]
        message = {**self._envelope(), "content": content, **self._ending(), "usage": self._usage(spent)}
        return orjson.dumps(message)

    def _envelope(self) -> dict[str, Any]:
        ident = f"msg_{self.stamp.request_id}"
        return {"id": ident, "type": "message", "role": "assistant", "model": self.ask.model}

    def _ending(self) -> dict[str, Any]:
        return {"stop_reason": _REASONS[Choice(self.ask, 0).finish_reason], "stop_sequence": None}

    def _usage(self, spent: Spent) -> dict[str, Any]:
        usage = {"input_tokens": self.ask.prompt_tokens, "output_tokens": spent.output}
        caches = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
        searches = {"server_tool_use": {"web_search_requests": 1, "web_fetch_requests": 0}} if self.ask.search else {}
        return usage | caches | searches

    def _blocks(self, spent: Spent) -> Iterator[Block]:
        choice, frames = Choice(self.ask, 0), 2
        if self.ask.thinking:
            reasoning = list(choice.reasoning())
            frames += len(reasoning) + 3
            opening = {"type": "thinking", "thinking": "", "signature": ""}
            signature = {"type": "signature_delta", "signature": ""}  # always empty
            yield Block(opening, "thinking_delta", "thinking", spent.count(reasoning, reasoning=True), signature)
        if self.ask.search:
            yield from self._searched()
            frames += 6
        if not self.ask.tools:
            opening, cited = {"type": "text", "text": ""}, {"type": "citations_delta", "citation": _CITATION}
            last = cited if self.ask.search else None
            yield Block(opening, "text_delta", "text", spent.count(choice.content(frames)), last)
        for call in choice.calls():
            yield _called(call, spent)

    def _searched(self) -> Iterator[Block]:
        """Yield the blocks of a search that the service has run itself."""
        ident = f"srvtoolu_{self.stamp.request_id}"
        opening = {"type": "server_tool_use", "id": ident, "name": "web_search", "input": {}}
        yield Block(opening, "input_json_delta", "partial_json", iter([Piece('{"query": "溪流"}', 0)]))
        yield Block({"type": "web_search_tool_result", "tool_use_id": ident, "content": [_FOUND]})


def _called(call: Call, spent: Spent) -> Block:
    ident = call.id.replace("call_", "toolu_")
    opening = {"type": "tool_use", "id": ident, "name": call.name, "input": {}}
    return Block(opening, "input_json_delta", "partial_json", spent.count(call.pieces))


def _event(kind: str, **fields: Any) -> bytes:
    return b"event:%b\ndata:%b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **fields}))


LAST = _event("message_stop")


def count_tokens(body: Mapping[str, Any]) -> bytes:
    """Return the answer to a request that asks how many tokens another would have."""
    return orjson.dumps({"input_tokens": origin_of(0, str(body.get("model")), body.get("messages"))["prompt_tokens"]})


def refusal_body(refusal: Refusal, stamp: Stamp, model: str) -> bytes:
    """Return the JSON body of an HTTP 4xx or 5xx; Anthropic's format, as the service's own was not recorded."""
    error = {"type": _TYPES.get(refusal.status, "api_error"), "message": refusal.says(model)}
    return orjson.dumps({"type": "error", "error": error, "request_id": stamp.request_id})


def error_frame(refusal: Refusal, stamp: Stamp, model: str, number: int = 1) -> bytes:
    """Return the frame that tells of an error inside a stream."""
    return b"event:error\ndata:%b\n\n" % refusal_body(refusal, stamp, model)


def flat_error_frame(refusal: Refusal, stamp: Stamp, model: str, number: int = 1) -> bytes:
    """Return the variant without an event field, which Anthropic's clients skip."""
    return b"data:%b\n\n" % refusal_body(refusal, stamp, model)


MESSAGES = Api(MessagesAnswer, refusal_body, error_frame, flat_error_frame, LAST)
