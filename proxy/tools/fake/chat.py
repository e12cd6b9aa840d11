"""The compatible mode's chat completions, as the fake Qwen speaks them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any, NamedTuple

import orjson

from proxy.tools.fake import native
from proxy.tools.fake.api import Api
from proxy.tools.fake.refusals import Refusal, Refused
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
    joined,
    origin_of,
    shared,
)

DONE = b"data: [DONE]\n\n"


def read_chat(body: Mapping[str, Any], seed: int) -> Ask:
    """Read a compatible-mode chat completion request. Raises Refused."""
    model, messages = body.get("model"), body.get("messages")
    if not model:
        raise Refused(NO_MODEL)
    if not messages:
        raise Refused(NO_MESSAGES)
    include_usage = bool((body.get("stream_options") or {}).get("include_usage"))
    ask = Ask(
        kind="chat",
        stream=bool(body.get("stream")),
        include_usage=include_usage,
        **origin_of(seed, model, messages),
        **shared(body, model, messages),
    )
    check_thinking(ask)
    return ask


# Recorded 2026-02 from qwen3-max: the order of a choice's keys changes with its place in the stream,
# and the fragment before the end of a tool call has neither finish_reason nor logprobs.
_CHOICE_KEYS = {
    "first": ("delta", "index", "logprobs", "finish_reason"),
    "second": ("finish_reason", "logprobs", "delta", "index"),
    "later": ("delta", "finish_reason", "index", "logprobs"),
    "bare": ("delta", "index"),
    "last": ("finish_reason", "delta", "index", "logprobs"),
}


class ChatDelta(NamedTuple):
    """One increment of one choice, and which key order it is spelled in."""

    shape: str
    choice: int
    delta: dict[str, Any]
    finish_reason: str | None = None

    def spelled(self) -> dict[str, Any]:
        told = {"delta": self.delta, "finish_reason": self.finish_reason, "index": self.choice}
        values = told | {"logprobs": None}
        return {key: values[key] for key in _CHOICE_KEYS[self.shape]}


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """An answer in the compatible mode: `chat.completion.chunk` frames and [DONE], or one `chat.completion`."""

    ask: Ask
    stamp: Stamp

    def frames(self) -> Iterator[bytes]:
        spent = Spent()
        choices = [self._deltas(Choice(self.ask, index), spent) for index in range(self.ask.n)]
        for delta in alternating(choices):
            yield self._frame([delta.spelled()], None)
        if self.ask.include_usage:
            yield self._frame([], self._usage(spent))
        yield DONE

    def whole(self) -> bytes:
        spent = Spent()
        choices = [self._whole_choice(Choice(self.ask, index), spent) for index in range(self.ask.n)]
        return orjson.dumps(self._envelope(choices, "chat.completion", self._usage(spent)))

    def _frame(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None) -> bytes:
        return b"data: %b\n\n" % orjson.dumps(self._envelope(choices, "chat.completion.chunk", usage))

    def _envelope(self, choices: list[Any], kind: str, usage: dict[str, Any] | None) -> dict[str, Any]:
        return {
            "choices": choices,
            "object": kind,
            "usage": usage,
            "created": self.stamp.created,
            "system_fingerprint": None,
            "model": self.ask.model,
            "id": self.stamp.chat_id,
        }

    def _deltas(self, choice: Choice, spent: Spent) -> Iterator[ChatDelta]:
        calls = choice.calls()
        opening = self._opening(silent=bool(calls))
        shapes = chain(("first", "second") if opening else (), repeat("later"))
        deltas = chain(opening, self._said(choice, spent), self._called(calls, spent, role_due=not opening))
        for shape, delta in zip(shapes, deltas, strict=False):
            yield ChatDelta(shape, choice.index, delta)
        if calls:
            yield ChatDelta("bare", choice.index, {"tool_calls": [_emptied(calls[-1])]})
        yield ChatDelta("last", choice.index, {} if calls else {"content": ""} | self._idle, choice.finish_reason)

    @property
    def _idle(self) -> dict[str, Any]:
        return {"reasoning_content": None} if self.ask.thinking else {}

    def _opening(self, *, silent: bool) -> list[dict[str, Any]]:
        if self.ask.thinking:
            return [{"content": None, "role": "assistant", "reasoning_content": ""}]
        return [] if silent else [{"content": "", "role": "assistant"}]

    def _said(self, choice: Choice, spent: Spent) -> Iterator[dict[str, Any]]:
        frames = 1
        for piece in spent.count(choice.reasoning(), reasoning=True):
            frames += 1
            yield {"content": None, "reasoning_content": piece.text}
        for piece in spent.count(choice.content(frames)):
            yield {"content": piece.text} | self._idle

    def _called(self, calls: tuple[Call, ...], spent: Spent, *, role_due: bool) -> Iterator[dict[str, Any]]:
        for call in calls:
            role = {"role": "assistant"} if role_due and call is calls[0] else {}  # said once: not recorded of a second
            yield {"content": None, "tool_calls": [call.spelled("")], **role}
            for piece in spent.count(call.pieces):
                yield {"content": None, "tool_calls": [call.continued(piece.text)]}

    def _whole_choice(self, choice: Choice, spent: Spent) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant"}
        reasoning = joined(spent.count(choice.reasoning(), reasoning=True))
        message["content"] = joined(spent.count(choice.content()))
        if self.ask.thinking:
            message["reasoning_content"] = reasoning
        calls = choice.calls()
        for call in calls:
            list(spent.count(call.pieces))
        if calls:
            message["tool_calls"] = [call.whole for call in calls]
        return {
            "message": message,
            "finish_reason": choice.finish_reason,
            "index": choice.index,
            "logprobs": None,
        }

    def _usage(self, spent: Spent) -> dict[str, Any]:
        prompt = self.ask.prompt_tokens
        usage: dict[str, Any] = {
            "prompt_tokens": prompt,
            "completion_tokens": spent.output,
            "total_tokens": prompt + spent.output,
        }
        if self.ask.thinking:
            usage["completion_tokens_details"] = {"reasoning_tokens": spent.reasoning}
        return usage | {"prompt_tokens_details": {"cached_tokens": 0}}


def _emptied(call: Call) -> dict[str, Any]:
    return {"function": {"arguments": ""}, "index": call.index, "id": "", "type": "function"}


def _chat_error(refusal: Refusal, message: str) -> dict[str, Any]:
    values = {"code": refusal.code, "param": None, "message": message, "type": refusal.type}
    order = ("message", "type", "param", "code") if refusal.gateway else ("code", "param", "message", "type")
    return {key: values[key] for key in order}


def refusal_body(refusal: Refusal, stamp: Stamp, model: str) -> bytes:
    """Return the JSON body of an HTTP 4xx or 5xx."""
    named = {} if refusal.gateway else {"id": stamp.chat_id}
    error = _chat_error(refusal, refusal.says(model))
    return orjson.dumps({"error": error, **named, "request_id": stamp.request_id})


def error_frame(refusal: Refusal, stamp: Stamp, model: str, number: int = 1) -> bytes:
    """Return the frame that tells of an error inside a stream."""
    body = orjson.dumps({"error": _chat_error(refusal, refusal.says(model)), "id": stamp.chat_id})
    return b"data: %b\n\n" % body


def flat_error_frame(refusal: Refusal, stamp: Stamp, model: str, number: int = 1) -> bytes:
    """Return the variant that some gateways put into streams: no top-level `error`."""
    return b"event: error\ndata: %b\n\n" % native.refusal_body(refusal, stamp, model)


CHAT = Api(ChatAnswer, refusal_body, error_frame, flat_error_frame, DONE, refusal_frame=error_frame)
