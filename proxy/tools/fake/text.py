"""The text that the fake Qwen answers with, whatever the API of the request: no I/O and no clock.

An `Ask` holds the parameters of a request that shape its answer; a `Choice` is the text of one choice of that answer.
The modules of the APIs read requests into an Ask, and write its choices as frames or as one document. The order of
keys, which values are null and which are absent, and the oddities of tool calls are those of recorded streams; what no
recording shows is marked "not recorded".

Laws: equal (seed, model, messages) give equal text, whatever the pace, the API and its options; the frames joined hold
the same text as the one document.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice, repeat, zip_longest
from random import Random
from typing import Any, NamedTuple, TypeVar

import orjson

from proxy.tools.fake.refusals import Refused, invalid

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
_STREAM_ONLY = invalid("This model only support stream mode, please enable the stream parameter to access the model. ")
_THINKING_IN_ONE = invalid("parameter.enable_thinking must be set to false for non-streaming calls")
NO_MESSAGES = invalid("Role must be user or assistant and Content length must be greater than 0")
NO_MODEL = invalid("you must provide a model parameter")


@dataclass(frozen=True, slots=True)
class Stamp:
    """What identifies the answer in each of its frames: the request's UUID, and the Unix time in seconds."""

    request_id: str
    created: int

    @property
    def chat_id(self) -> str:
        return f"chatcmpl-{self.request_id}"


@dataclass(frozen=True, slots=True)
class Ask:
    """The parameters of a request that shape its answer, and nothing else of it."""

    kind: str
    """Form of the answer: chat, message, text or app."""
    model: str
    origin: str
    """Digest of seed, model and messages: the seed of all random choices of text."""
    prompt_tokens: int
    stream: bool
    thinking: bool = False
    thinking_budget: int = 0
    """Tokens of reasoning; 0: a random number."""
    tools: tuple[Mapping[str, Any], ...] = ()
    """The functions to call, in order of the calls; empty when the answer is text."""
    declares_tools: bool = False
    search: bool = False
    n: int = 1
    max_tokens: int = 0
    """Exactly so many tokens of content; 0: a random number."""
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
    mcp: bool = False
    """The answer begins with a call of an MCP server's tool. Only in the Responses API, as with the next two."""
    spaced: bool = False
    """Frames are written as OpenAI writes them."""
    sparse: bool = False
    """Deltas don't name their item and part."""


def origin_of(seed: int, model: str, messages: object) -> dict[str, Any]:
    spelled = orjson.dumps(messages)
    digest = sha256(b"%d\0%b\0%b" % (seed, model.encode(), spelled)).hexdigest()
    return {
        "model": model,
        "origin": digest,
        "prompt_tokens": 1 + len(spelled) // 4,
        "image": b'"image' in spelled,
    }


def functions_of(options: Mapping[str, Any], messages: list[Any]) -> tuple[Mapping[str, Any], ...]:
    """Return the functions that an answer calls: one, or two with parallel_tool_calls; none after a tool's result."""
    functions = [tool["function"] for tool in options.get("tools") or () if tool["function"]["name"]]
    choice = options.get("tool_choice")
    answered = bool(messages) and messages[-1].get("role") == "tool"
    if not functions or choice == "none" or answered:
        return ()
    if isinstance(choice, Mapping):
        functions = [f for f in functions if f["name"] == choice["function"]["name"]] or functions
    calls = 2 if options.get("parallel_tool_calls") else 1
    return tuple(functions[i % len(functions)] for i in range(calls))


def shared(options: Mapping[str, Any], model: str, messages: list[Any]) -> dict[str, Any]:
    return {
        "thinking": bool(options.get("enable_thinking")) or model.startswith(("qwq", "qvq")),
        "thinking_budget": int(options.get("thinking_budget") or 0),
        "tools": functions_of(options, messages),
        "declares_tools": bool(options.get("tools")),
        "search": bool(options.get("enable_search")),
        "n": int(options.get("n") or 1),
        "max_tokens": int(options.get("max_completion_tokens") or options.get("max_tokens") or 0),
    }


def check_thinking(ask: Ask) -> None:
    if ask.thinking and not ask.stream:
        raise Refused(_STREAM_ONLY if ask.model.startswith(("qwq", "qvq")) else _THINKING_IN_ONE)


class Piece(NamedTuple):
    """What one frame adds: its text, and the number of its tokens."""

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
        return self.spelled(joined(self.pieces))


def joined(pieces: Iterable[Piece]) -> str:
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
    """Yield the tokens of each frame: recorded answers begin with two or three tiny frames, then have equal ones."""
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
    """The text of one choice of an answer; the same each time it is read."""

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
        """Yield the content's pieces, without end if the request asks for that.

        `frames_before`: the frames that come before the content, which count for the place of the huge one.
        """
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
    """Tokens sent so far, all choices together."""

    reasoning: int = 0
    output: int = 0

    def count(self, pieces: Iterable[Piece], *, reasoning: bool = False) -> Iterator[Piece]:
        """Yield the pieces, and count the tokens of each."""
        for piece in pieces:
            self.output += piece.tokens
            self.reasoning += piece.tokens if reasoning else 0
            yield piece

    def add(self, tokens: int, *, reasoning: bool = False) -> None:
        """Count tokens."""
        self.output += tokens
        self.reasoning += tokens if reasoning else 0


def alternating(lines: Iterable[Iterator[_Item]]) -> Iterator[_Item]:
    for row in zip_longest(*lines):
        yield from (item for item in row if item is not None)
