"""DashScope's own API, as the fake Qwen speaks it: generations and applications."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

import orjson

from proxy.tools.fake.api import Api
from proxy.tools.fake.refusals import BAD_KEY, Refusal, Refused, invalid
from proxy.tools.fake.text import (
    NO_MESSAGES,
    NO_MODEL,
    Ask,
    Call,
    Choice,
    Spent,
    Stamp,
    alternating,
    check_thinking,
    origin_of,
    shared,
)

_CUMULATIVE_THINKING = invalid('The incremental_output parameter must be "true" when enable_thinking is true')
_TEXT_THINKING = invalid('The result_format parameter must be "message" when enable_thinking is true')
_WRONG_URL = invalid("url error, please check url！")


def read_native(body: Mapping[str, Any], seed: int, *, stream: bool, multimodal: bool) -> Ask:
    """Read a native generation request; cumulative unless incremental_output is true. Raises Refused."""
    model, source, options = body.get("model"), body.get("input") or {}, body.get("parameters") or {}
    messages = source.get("messages", [{"role": "user", "content": source.get("prompt")}])
    if not model:
        raise Refused(NO_MODEL)
    if not messages or not messages[-1].get("content"):
        raise Refused(NO_MESSAGES)
    if "-vl" in model and not multimodal:
        raise Refused(_WRONG_URL)
    more = shared(options, model, messages)
    newer = model.startswith(("qwen3", "qwq", "qvq"))
    result_format = options.get("result_format") or ("message" if newer or more["thinking"] else "text")
    ask = Ask(
        kind="text" if result_format == "text" and not multimodal else "message",
        stream=stream,
        # The newer models' thinking knows only increments, and takes them for granted.
        incremental=bool(options.get("incremental_output", newer and more["thinking"])),
        in_parts=multimodal,
        **origin_of(seed, model, messages),
        **more,
    )
    check_thinking(ask)
    if ask.thinking and not ask.incremental:
        raise Refused(_CUMULATIVE_THINKING)
    if ask.thinking and ask.kind == "text":
        raise Refused(_TEXT_THINKING)
    return ask


def read_app(body: Mapping[str, Any], seed: int, *, stream: bool) -> Ask:
    """Read an application's completion request. Raises Refused."""
    source, options = body.get("input") or {}, body.get("parameters") or {}
    said = source.get("messages") or source.get("prompt")
    if not said:
        raise Refused(NO_MESSAGES)
    origin = origin_of(seed, "qwen-max-latest", said)
    session = source.get("session_id") or origin["origin"][:32]
    return Ask(
        kind="app",
        stream=stream,
        incremental=bool(options.get("incremental_output")),
        session_id=session,
        max_tokens=int(options.get("max_tokens") or 0),
        **origin,
    )


_FOUND = {
    "search_results": [
        {"icon": "", "site_name": "示例网", "index": 1, "title": "溪流", "url": "https://example.com/1"},
        {"icon": "", "site_name": "Example", "index": 2, "title": "Streams", "url": "https://example.com/2"},
    ]
}
_FOUND_BEFORE: dict[str, list[Any]] = {"extra_tool_info": [], "search_results": []}


class Moment(NamedTuple):
    """What one native frame adds to one choice."""

    choice: int
    tokens: int = 0
    reasoning: str = ""
    text: str = ""
    call: Call | None = None
    arguments: str = ""
    opens: bool = False
    finish_reason: str = "null"


def _ended(moments: Iterator[Moment], finish_reason: str) -> Iterator[Moment]:
    last = next(moments)
    for moment in moments:
        yield last
        last = moment
    yield last._replace(finish_reason=finish_reason)


@dataclass(slots=True)
class Heard:
    """One choice as one frame tells it: the increment alone, or everything up to it."""

    reasoning: str = ""
    text: str = ""
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    finish_reason: str = "null"

    def add(self, moment: Moment) -> "Heard":
        self.reasoning += moment.reasoning
        self.text += moment.text
        self.finish_reason = moment.finish_reason
        if (call := moment.call) is not None:
            fragment = call.spelled("") if moment.opens else call.continued("")
            self.calls.setdefault(call.index, fragment)["function"]["arguments"] += moment.arguments
        return self


@dataclass(frozen=True, slots=True)
class NativeAnswer:
    """An answer of DashScope's own API: id/event/status/data frames, or one body, which is the last cumulative one."""

    ask: Ask
    stamp: Stamp

    def frames(self) -> Iterator[bytes]:
        for number, event in enumerate(self._events(), 1):
            yield b"id:%d\nevent:result\n:HTTP_STATUS/200\ndata:%b\n\n" % (number, orjson.dumps(event))

    def whole(self) -> bytes:
        spent, heard = Spent(), [Heard() for _ in range(self.ask.n)]
        for moment in chain.from_iterable(map(self._moments, self._choices())):
            heard[moment.choice].add(moment)
            spent.add(moment.tokens, reasoning=bool(moment.reasoning))
        return orjson.dumps(self._event(list(enumerate(heard)), spent, _FOUND))

    def _choices(self) -> list[Choice]:
        return [Choice(self.ask, index) for index in range(self.ask.n)]

    def _events(self) -> Iterator[dict[str, Any]]:
        spent, heard = Spent(), [Heard() for _ in range(self.ask.n)]
        if self.ask.search:
            yield {**self._event([(0, heard[0])], spent, _FOUND), "usage": {}}
        for moment in alternating(map(self._moments, self._choices())):
            before = Heard() if self.ask.incremental else heard[moment.choice]
            spent.add(moment.tokens, reasoning=bool(moment.reasoning))
            yield self._event([(moment.choice, before.add(moment))], spent, _FOUND_BEFORE)

    def _moments(self, choice: Choice) -> Iterator[Moment]:
        at, reasoning, calls = choice.index, list(choice.reasoning()), choice.calls()
        content = choice.content(frames_before=len(reasoning) + self.ask.search)
        # Recorded: the last text of a multimodal answer and the last fragment of a call carry the finish_reason
        # themselves; after a text model's text comes a frame of its own.
        finish = [] if calls or self.ask.in_parts else [Moment(at)]
        moments = chain(
            (Moment(at, piece.tokens, reasoning=piece.text) for piece in reasoning),
            (Moment(at, piece.tokens, text=piece.text) for piece in content),
            (
                Moment(at, piece.tokens, call=call, arguments=piece.text, opens=place == 0)
                for call in calls
                for place, piece in enumerate(call.pieces)
            ),
            finish,
        )
        return _ended(moments, choice.finish_reason)

    def _event(self, choices: list[tuple[int, Heard]], spent: Spent, found: dict[str, Any]) -> dict[str, Any]:
        output = _OUTPUTS[self.ask.kind](self, choices)
        if self.ask.search:
            output["search_info"] = found
        return {"output": output, "usage": self._usage(spent), "request_id": self.stamp.request_id}

    def _messages(self, choices: list[tuple[int, Heard]]) -> dict[str, Any]:
        return {"choices": [self._message_choice(index, heard) for index, heard in choices]}

    def _message_choice(self, index: int, heard: Heard) -> dict[str, Any]:
        message: dict[str, Any] = {"content": [{"text": heard.text}] if self.ask.in_parts else heard.text}
        if self.ask.thinking:
            message["reasoning_content"] = heard.reasoning
        if heard.calls:
            message["tool_calls"] = list(heard.calls.values())
        choice: dict[str, Any] = {"message": message | {"role": "assistant"}}
        if self.ask.declares_tools or self.ask.n > 1:
            choice["index"] = index
        return choice | {"finish_reason": heard.finish_reason}

    def _text(self, choices: list[tuple[int, Heard]]) -> dict[str, Any]:
        _, heard = choices[0]
        return {"finish_reason": heard.finish_reason, "text": heard.text}

    def _app_text(self, choices: list[tuple[int, Heard]]) -> dict[str, Any]:
        return {"session_id": self.ask.session_id, **self._text(choices)}

    def _usage(self, spent: Spent) -> dict[str, Any]:
        ask, into, out = self.ask, self.ask.prompt_tokens, spent.output
        if ask.kind == "app":
            return {"models": [{"input_tokens": into, "output_tokens": out, "model_id": ask.model}]}
        rows = (
            (not ask.in_parts, "total_tokens", into + out),
            (ask.thinking or ask.declares_tools or ask.search, "output_tokens", out),
            (True, "input_tokens", into),
            (True, "output_tokens", out),
            (ask.image, "image_tokens", 1247),
            (ask.thinking, "output_tokens_details", {"reasoning_tokens": spent.reasoning}),
            (ask.search, "plugins", {"search": {"count": 1, "strategy": "standard"}}),
            (ask.declares_tools or ask.search, "prompt_tokens_details", {"cached_tokens": 0}),
        )
        return {key: value for present, key, value in rows if present}


_OUTPUTS: dict[str, Callable[[NativeAnswer, list[tuple[int, Heard]]], dict[str, Any]]] = {
    "message": NativeAnswer._messages,
    "text": NativeAnswer._text,
    "app": NativeAnswer._app_text,
}


def refusal_body(refusal: Refusal, stamp: Stamp, model: str) -> bytes:
    """Return the JSON body of an HTTP 4xx or 5xx."""
    message = "Invalid API-key provided." if refusal is BAD_KEY else refusal.says(model)
    return orjson.dumps({"code": refusal.native_code, "message": message, "request_id": stamp.request_id})


def error_frame(refusal: Refusal, stamp: Stamp, model: str, number: int = 1) -> bytes:
    """Return the frame that tells of an error inside a stream; `number` is its id."""
    body = refusal_body(refusal, stamp, model)
    return b"id:%d\nevent:error\n:HTTP_STATUS/%d\ndata:%b\n\n" % (number, refusal.status, body)


NATIVE = Api(
    NativeAnswer,
    refusal_body,
    error_frame,
    flat_error_frame=error_frame,
    last=b"",
    refusal_frame=error_frame,
    refuses_streams_with=200,
    native=True,
)
