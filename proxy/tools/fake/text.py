"""What the fake Qwen says, and how its two dialects spell it: requests in, frames out, no I/O and no clock.

An `Ask` is a request read down to what shapes its answer; a `Choice` is the text of one choice of that answer;
`ChatAnswer` and `NativeAnswer` render it as frames or whole. Key orders, null-or-absent and the oddities of the
tool calls are those of recorded streams; what no recording shows is marked "not recorded".

Laws: equal (seed, model, messages) give equal text, whatever the pace, the dialect's options or the way it is
asked for; joined frames say the same as the whole answer.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import chain, islice, repeat, zip_longest
from random import Random
from typing import Any, NamedTuple, TypeVar

import orjson

DONE = b"data: [DONE]\n\n"

_Item = TypeVar("_Item")

_SAYINGS = (
    "A stream is read once, but it can be told many times. ",
    "The river does not hurry, and yet it arrives before the road does. ",
    "溪水绕过石头，继续向前流去。",
    "一条消息，许多听众，每个人都从头听起。",
    'She wrote "later" on the note, then crossed it out: now is better. ',
    "Coffee first ☕, then the long list of small things. ",
    "茶已经泡好了🍵，请慢慢喝。",
    "Café, naïve, Zürich, Ελλάδα: letters travel further than people. 🌍 ",
    "清晨的市场很热闹，摊主们笑着打招呼。",
    "\n\n1. Count the frames.\n2. Keep their order.\n3. Lose none.\n\n",
    "路径是 C:\\temp\\流，注意反斜杠。",
    "The lighthouse blinks twice, waits, and blinks again 🔦. ",
    "\n```python\nfor frame in frames:\n    print(frame)\n```\n",
    "风停了，湖面像一面镜子🪞。",
    "Between two tokens there is always a little silence… ",
    "👩‍🚀 The astronaut waved; 宇航员挥了挥手。",
)
_MUSINGS = (
    "The question is short, so the answer may be short as well. ",
    "先想一想，用户真正想知道的是什么。",
    "Let me check the parts one after another 🤔. ",
    "第一步是拆开问题，第二步是逐一验证。",
    "That does not contradict what was said before, good. ",
    "Wait, there is a second reading; it leads to the same place. ",
    "好，可以回答了。",
)
_PLACES = ("杭州市", "San Francisco", "上海市", "Zürich", "成都市", "Reykjavík")
_WORD = re.compile(r" ?[A-Za-z0-9']+|[一-鿿]{1,2}|\s+|.", re.DOTALL)


class Refusal(NamedTuple):
    """One way the service says no: HTTP status, the code in each dialect, the compatible mode's type, the message."""

    status: int
    code: str
    native_code: str
    type: str
    message: str
    gateway: bool = False
    """Refused before the engine was asked: other key order, no id (recorded for 401)."""


def invalid(message: str) -> Refusal:
    """Return the refusal of a request that is wrong in itself."""
    return Refusal(400, "invalid_parameter_error", "InvalidParameter", "invalid_request_error", message)


# Alibaba's error code page; the first row of a status is its default.
REFUSALS = (
    invalid("<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 129024]"),
    Refusal(400, "data_inspection_failed", "DataInspectionFailed", "data_inspection_failed",
            "Input data may contain inappropriate content."),
    Refusal(400, "Arrearage", "Arrearage", "Arrearage",
            "Access denied, please make sure your account is in good standing."),
    Refusal(401, "invalid_api_key", "InvalidApiKey", "invalid_request_error",
            "Incorrect API key provided. ", gateway=True),
    Refusal(403, "access_denied", "AccessDenied", "access_denied", "Access denied.", gateway=True),
    Refusal(403, "Model.AccessDenied", "Model.AccessDenied", "access_denied", "Model access denied.", gateway=True),
    Refusal(403, "AccessDenied.Unpurchased", "AccessDenied.Unpurchased", "access_denied",
            "Access to model denied. Please make sure you are eligible for using the model.", gateway=True),
    Refusal(403, "AllocationQuota.FreeTierOnly", "AllocationQuota.FreeTierOnly", "access_denied",
            "The free tier of the model has been exhausted.", gateway=True),
    Refusal(404, "model_not_found", "ModelNotFound", "invalid_request_error",
            "The model `{model}` does not exist or you do not have access to it.", gateway=True),
    Refusal(404, "model_not_supported", "ModelNotSupported", "invalid_request_error",
            "Unsupported model {model} for OpenAI compatibility mode.", gateway=True),
    Refusal(408, "RequestTimeOut", "RequestTimeOut", "RequestTimeOut", "Response timeout!"),
    Refusal(413, "invalid_parameter_error", "InvalidParameter", "invalid_request_error",
            "Exceeded limit on max bytes per request: 16777216", gateway=True),
    Refusal(429, "limit_requests", "Throttling.RateQuota", "limit_requests",
            "Requests rate limit exceeded, please try again later."),
    Refusal(429, "throttling", "Throttling", "throttling", "Requests throttling triggered."),
    Refusal(429, "limit_burst_rate", "Throttling.BurstRate", "limit_burst_rate",
            "Request rate increased too quickly. To ensure system stability, please adjust your client logic "
            "to scale requests more smoothly over time."),
    Refusal(429, "insufficient_quota", "Throttling.AllocationQuota", "insufficient_quota",
            "You exceeded your current quota, please check your plan and billing details."),
    Refusal(429, "Throttling.Concurrency", "Throttling.Concurrency", "throttling",
            "Too many concurrent requests, please try again later."),
    Refusal(500, "internal_error", "InternalError", "internal_error",
            "An internal error has occured, please try again later or contact service support."),
    Refusal(500, "RequestTimeOut", "RequestTimeOut", "RequestTimeOut", "Request timed out, please try again later."),
    Refusal(500, "InternalError.Algo", "InternalError.Algo", "internal_error", "InternalError.Algo: inference failed."),
    Refusal(500, "ModelServingError", "ModelServingError", "ModelServingError",
            "Too many requests. Your requests are being throttled due to system capacity limits. "
            "Please try again later."),
    Refusal(503, "ModelUnavailable", "ModelUnavailable", "ModelUnavailable",
            "Model is unavailable, please try again later."),
    Refusal(503, "ModelServingError", "ModelServingError", "ModelServingError",
            "Too many requests. Your requests are being throttled due to system capacity limits. "
            "Please try again later."),
)  # fmt: skip

BAD_KEY = next(row for row in REFUSALS if row.status == 401)
OUTPUT_INSPECTION = Refusal(400, "data_inspection_failed", "DataInspectionFailed", "data_inspection_failed",
                            "Output data may contain inappropriate content.")  # fmt: skip
_STREAM_ONLY = invalid("This model only support stream mode, please enable the stream parameter to access the model. ")
_THINKING_IN_ONE = invalid("parameter.enable_thinking must be set to false for non-streaming calls")
_NO_MESSAGES = invalid("Role must be user or assistant and Content length must be greater than 0")
_CUMULATIVE_THINKING = invalid('The incremental_output parameter must be "true" when enable_thinking is true')
_TEXT_THINKING = invalid('The result_format parameter must be "message" when enable_thinking is true')
_WRONG_URL = invalid("url error, please check url！")
_NO_MODEL = invalid("you must provide a model parameter")


class Refused(Exception):
    """The request is one the service refuses; carries why."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class Stamp:
    """What marks one exchange in every frame: the request's UUID and the second of its creation (Unix time)."""

    request_id: str
    created: int

    @property
    def chat_id(self) -> str:
        return f"chatcmpl-{self.request_id}"


@dataclass(frozen=True, slots=True)
class Ask:
    """A request read down to what shapes its answer, and nothing else of it."""

    kind: str
    """Shape of the answer: chat, message, text or app."""
    model: str
    origin: str
    """Digest of seed, model and messages: all text comes from it."""
    prompt_tokens: int
    stream: bool
    thinking: bool = False
    thinking_budget: int = 0
    """Tokens of reasoning; 0 for a length of the model's own."""
    tools: tuple[Mapping[str, Any], ...] = ()
    """The functions to call, in order of the calls; empty when the answer is text."""
    declares_tools: bool = False
    search: bool = False
    n: int = 1
    max_tokens: int = 0
    """Tokens of content, exactly; 0 for a length of the model's own."""
    include_usage: bool = False
    incremental: bool = True
    in_parts: bool = False
    image: bool = False
    session_id: str = ""
    tokens_per_frame: int = 5
    frames: int | None = None
    """Exactly so many frames of content, instead of a length in tokens."""
    huge_bytes: int = 0
    huge_after: int = 0


def _origin(seed: int, model: str, messages: object) -> dict[str, Any]:
    spelled = orjson.dumps(messages)
    digest = sha256(b"%d\0%b\0%b" % (seed, model.encode(), spelled)).hexdigest()
    return {
        "model": model,
        "origin": digest,
        "prompt_tokens": 1 + len(spelled) // 4,
        "image": b'"image' in spelled,
    }


def _functions(options: Mapping[str, Any], messages: list[Any]) -> tuple[Mapping[str, Any], ...]:
    """The functions an answer calls: one, or two with parallel_tool_calls; none once a tool has answered."""
    functions = [tool["function"] for tool in options.get("tools") or () if tool["function"]["name"]]
    choice = options.get("tool_choice")
    answered = bool(messages) and messages[-1].get("role") == "tool"
    if not functions or choice == "none" or answered:
        return ()
    if isinstance(choice, Mapping):
        functions = [f for f in functions if f["name"] == choice["function"]["name"]] or functions
    calls = 2 if options.get("parallel_tool_calls") else 1
    return tuple(functions[i % len(functions)] for i in range(calls))


def _shared(options: Mapping[str, Any], model: str, messages: list[Any]) -> dict[str, Any]:
    return {
        "thinking": bool(options.get("enable_thinking")) or model.startswith(("qwq", "qvq")),
        "thinking_budget": int(options.get("thinking_budget") or 0),
        "tools": _functions(options, messages),
        "declares_tools": bool(options.get("tools")),
        "search": bool(options.get("enable_search")),
        "n": int(options.get("n") or 1),
        "max_tokens": int(options.get("max_completion_tokens") or options.get("max_tokens") or 0),
    }


def _check_thinking(ask: Ask) -> None:
    if ask.thinking and not ask.stream:
        raise Refused(_STREAM_ONLY if ask.model.startswith(("qwq", "qvq")) else _THINKING_IN_ONE)


def read_chat(body: Mapping[str, Any], seed: int) -> Ask:
    """Read a compatible-mode chat completion request. Raises Refused."""
    model, messages = body.get("model"), body.get("messages")
    if not model:
        raise Refused(_NO_MODEL)
    if not messages:
        raise Refused(_NO_MESSAGES)
    include_usage = bool((body.get("stream_options") or {}).get("include_usage"))
    ask = Ask(
        kind="chat",
        stream=bool(body.get("stream")),
        include_usage=include_usage,
        **_origin(seed, model, messages),
        **_shared(body, model, messages),
    )
    _check_thinking(ask)
    return ask


def read_native(body: Mapping[str, Any], seed: int, *, stream: bool, multimodal: bool) -> Ask:
    """Read a native generation request; cumulative unless incremental_output is true. Raises Refused."""
    model, source, options = body.get("model"), body.get("input") or {}, body.get("parameters") or {}
    messages = source.get("messages", [{"role": "user", "content": source.get("prompt")}])
    if not model:
        raise Refused(_NO_MODEL)
    if not messages or not messages[-1].get("content"):
        raise Refused(_NO_MESSAGES)
    if "-vl" in model and not multimodal:
        raise Refused(_WRONG_URL)
    shared = _shared(options, model, messages)
    newer = model.startswith(("qwen3", "qwq", "qvq"))
    result_format = options.get("result_format") or ("message" if newer or shared["thinking"] else "text")
    ask = Ask(
        kind="text" if result_format == "text" and not multimodal else "message",
        stream=stream,
        # The newer models' thinking knows only increments, and takes them for granted.
        incremental=bool(options.get("incremental_output", newer and shared["thinking"])),
        in_parts=multimodal,
        **_origin(seed, model, messages),
        **shared,
    )
    _check_thinking(ask)
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
        raise Refused(_NO_MESSAGES)
    origin = _origin(seed, "qwen-max-latest", said)
    session = source.get("session_id") or origin["origin"][:32]
    return Ask(
        kind="app",
        stream=stream,
        incremental=bool(options.get("incremental_output")),
        session_id=session,
        max_tokens=int(options.get("max_tokens") or 0),
        **origin,
    )


class Piece(NamedTuple):
    """What one frame adds: its text, and how many tokens that is."""

    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call; its arguments are JSON text in pieces."""

    index: int
    id: str
    name: str
    pieces: tuple[Piece, ...]

    def spelled(self, arguments: str) -> dict[str, Any]:
        """Return the call as its first fragment, or as the whole of it."""
        return {
            "index": self.index,
            "id": self.id,
            "type": "function",
            "function": {"name": self.name, "arguments": arguments},
        }

    def continued(self, arguments: str) -> dict[str, Any]:
        """Return a later fragment: the id is "" and the name is missing (recorded)."""
        return {"index": self.index, "id": "", "type": "function", "function": {"arguments": arguments}}

    @property
    def whole(self) -> dict[str, Any]:
        return self.spelled(_joined(self.pieces))


def _joined(pieces: Iterable[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def _words(sayings: tuple[str, ...], random: Random) -> Iterator[str]:
    while True:
        yield from _WORD.findall(random.choice(sayings))


def _pieces(words: Iterable[str], sizes: Iterable[int]) -> Iterator[Piece]:
    source = iter(words)
    for size in sizes:
        batch = list(islice(source, size))
        if not batch:
            return
        yield Piece("".join(batch), len(batch))


def _sizes(typical: int, random: Random) -> Iterator[int]:
    """Tokens per frame: recorded answers begin with two or three tiny frames, then blocks about one size."""
    yield from (1, 1, 2)
    while True:
        yield random.randint(max(1, typical - 1), typical + 1)


def _place(random: Random) -> str:
    return random.choice(_PLACES)


_ARGUMENTS: dict[str, Callable[[Random], object]] = {
    "integer": lambda random: random.randint(1, 9),
    "number": lambda random: random.randint(1, 99) / 10,
    "boolean": lambda _: True,
    "array": lambda _: [],
    "object": lambda _: {},
}


def _arguments(function: Mapping[str, Any], random: Random) -> str:
    schema = function.get("parameters") or {}
    properties = schema.get("properties") or {}
    wanted = {name: properties.get(name, {}) for name in schema.get("required") or properties}
    filled = {
        name: rule["enum"][0] if rule.get("enum") else _ARGUMENTS.get(str(rule.get("type")), _place)(random)
        for name, rule in wanted.items()
    }
    return json.dumps(filled, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Choice:
    """What one choice of an answer says; every reading of it gives the same."""

    ask: Ask
    index: int

    def _random(self, purpose: str) -> Random:
        # Not one Random for all: sizes of frames, or one more reasoning token, must not change the text.
        return Random(f"{self.ask.origin} {self.index} {purpose}")

    def _sized(self, words: Iterable[str], purpose: str) -> Iterator[Piece]:
        return _pieces(words, _sizes(self.ask.tokens_per_frame, self._random(purpose)))

    def reasoning(self) -> Iterator[Piece]:
        """Yield the reasoning's pieces; nothing when the model does not think."""
        random = self._random("reasoning")
        length = self.ask.thinking_budget or random.randint(20, 120)
        words = islice(_words(_MUSINGS, random), length if self.ask.thinking else 0)
        return self._sized(words, "reasoning sizes")

    def content(self, frames_before: int = 0) -> Iterator[Piece]:
        """Yield the content's pieces, endless if so asked; `frames_before` places the huge one."""
        ask, random = self.ask, self._random("content")
        if ask.tools:
            return
        length = ask.max_tokens or random.randint(30, 240)
        words = _words(_SAYINGS, random)
        if ask.frames is None:
            words = islice(words, length)
        huge_at = max(0, ask.huge_after - frames_before) if ask.huge_bytes else -1
        for place, piece in enumerate(islice(self._sized(words, "content sizes"), ask.frames)):
            yield Piece("x" * ask.huge_bytes, piece.tokens) if place == huge_at else piece

    def calls(self) -> tuple[Call, ...]:
        """Return the tool calls."""
        random = self._random("calls")
        return tuple(
            Call(
                index,
                f"call_{random.getrandbits(96):024x}",
                function["name"],
                tuple(_pieces(_WORD.findall(_arguments(function, random)), repeat(8))),
            )
            for index, function in enumerate(self.ask.tools)
        )

    @property
    def finish_reason(self) -> str:
        if self.ask.tools:
            return "tool_calls"
        return "length" if self.ask.max_tokens and self.ask.frames is None else "stop"


@dataclass(slots=True)
class Spent:
    """Tokens given out so far, all choices together."""

    reasoning: int = 0
    output: int = 0

    def count(self, pieces: Iterable[Piece], *, reasoning: bool = False) -> Iterator[Piece]:
        """Yield the pieces on, each counted as it passes."""
        for piece in pieces:
            self.output += piece.tokens
            self.reasoning += piece.tokens if reasoning else 0
            yield piece

    def add(self, moment: "Moment") -> None:
        self.output += moment.tokens
        self.reasoning += moment.tokens if moment.reasoning else 0


def _alternating(lines: Iterable[Iterator[_Item]]) -> Iterator[_Item]:
    for row in zip_longest(*lines):
        yield from (item for item in row if item is not None)


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
        for delta in _alternating(choices):
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
        reasoning = _joined(spent.count(choice.reasoning(), reasoning=True))
        message["content"] = _joined(spent.count(choice.content()))
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
            spent.add(moment)
        return orjson.dumps(self._event(list(enumerate(heard)), spent, _FOUND))

    def _choices(self) -> list[Choice]:
        return [Choice(self.ask, index) for index in range(self.ask.n)]

    def _events(self) -> Iterator[dict[str, Any]]:
        spent, heard = Spent(), [Heard() for _ in range(self.ask.n)]
        if self.ask.search:
            yield {**self._event([(0, heard[0])], spent, _FOUND), "usage": {}}
        for moment in _alternating(map(self._moments, self._choices())):
            before = Heard() if self.ask.incremental else heard[moment.choice]
            spent.add(moment)
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


def find_refusal(status: int, code: str) -> Refusal | None:
    """Return the first row with that status and that code of either dialect; 0 and "" stand for any."""
    for row in REFUSALS:
        if status in (0, row.status) and code in ("", row.code, row.native_code):
            return row
    return None


def _chat_error(refusal: Refusal, message: str) -> dict[str, Any]:
    values = {"code": refusal.code, "param": None, "message": message, "type": refusal.type}
    order = ("message", "type", "param", "code") if refusal.gateway else ("code", "param", "message", "type")
    return {key: values[key] for key in order}


def _native_error(refusal: Refusal, message: str, stamp: Stamp) -> dict[str, Any]:
    if refusal is BAD_KEY:
        message = "Invalid API-key provided."
    return {"code": refusal.native_code, "message": message, "request_id": stamp.request_id}


def refusal_body(refusal: Refusal, stamp: Stamp, model: str, *, native: bool) -> bytes:
    """Return the JSON body of an HTTP 4xx or 5xx."""
    message = refusal.message.replace("{model}", model)
    if native:
        return orjson.dumps(_native_error(refusal, message, stamp))
    named = {} if refusal.gateway else {"id": stamp.chat_id}
    return orjson.dumps({"error": _chat_error(refusal, message), **named, "request_id": stamp.request_id})


def flat_error(refusal: Refusal, stamp: Stamp, model: str) -> bytes:
    """Return the flat body that some gateways give in the compatible mode: no `error` around."""
    return orjson.dumps(_native_error(refusal, refusal.message.replace("{model}", model), stamp))


def error_frame(refusal: Refusal, stamp: Stamp, model: str, *, native: bool, number: int = 1) -> bytes:
    """Return the frame that tells of an error inside a stream; `number` is the native frame's id."""
    message = refusal.message.replace("{model}", model)
    if not native:
        body = orjson.dumps({"error": _chat_error(refusal, message), "id": stamp.chat_id})
        return b"data: %b\n\n" % body
    body = orjson.dumps(_native_error(refusal, message, stamp))
    return b"id:%d\nevent:error\n:HTTP_STATUS/%d\ndata:%b\n\n" % (number, refusal.status, body)


def flat_error_frame(refusal: Refusal, stamp: Stamp, model: str) -> bytes:
    """Return the flat variant some gateways put into compatible streams: no top-level `error`."""
    return b"event: error\ndata: %b\n\n" % flat_error(refusal, stamp, model)
