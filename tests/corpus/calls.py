"""Tool calls of chat completions, as servers really write them: number 8."""

from typing import Any

from tests.corpus.entry import DONE, USAGE, Entry, chunk

STOP = chunk({}, "tool_calls") + USAGE + DONE
HELLO = chunk({"role": "assistant", "content": "Hello"})
WEATHER = {"id": "call_a", "type": "function", "function": {"name": "weather", "arguments": '{"in": "Hangzhou"}'}}
TIME = {"id": "call_b", "type": "function", "function": {"name": "time", "arguments": "{}"}}


def piece(name: Any = None, arguments: Any = None, **more: Any) -> dict[str, Any]:
    """Return a fragment of a call."""
    told = {"name": name, "arguments": arguments}
    return {**more, "function": {field: value for field, value in told.items() if value is not None}}


def calls(*chunks: Any, wanted: Any = (WEATHER,), first: bytes = b"weather", text: str = "") -> Entry:
    """Return an answer of these fragments, each a chunk, or a list of them."""
    said = [chunk({"tool_calls": one if isinstance(one, list) else [one]}) for one in chunks]
    return Entry(b"".join(said) + STOP, text=text, first=first, message={"tool_calls": list(wanted)})


A, B = {"id": "call_a", "type": "function"}, {"id": "call_b", "type": "function"}

NAMELESS = [{"function": WEATHER["function"]}, {"function": TIME["function"]}]

ENTRIES = {
    "as OpenAI": calls(
        piece("weather", "", index=0, **A), piece(None, '{"in": ', index=0), piece(None, '"Hangzhou"}', index=0)
    ),
    "name in every fragment": calls(
        piece("weather", '{"in": ', index=0, **A), piece("weather", '"Hangzhou"}', index=0, **A)
    ),
    "empty id later": calls(
        piece("weather", '{"in": ', index=0, **A), piece("", '"Hangzhou"}', index=0, id="", type="function")
    ),
    "null id and name later": calls(
        piece("weather", '{"in": ', index=0, **A),
        {"index": 0, "id": None, "type": None, "function": {"name": None, "arguments": '"Hangzhou"}'}},
    ),
    "name in pieces": calls(
        piece("wea", "", index=0, **A),
        piece("ther", "", index=0),
        piece(None, '{"in": "Hangzhou"}', index=0),
        first=b"wea",
    ),
    "arguments as an object": calls(
        piece("weather", {"in": "Hangzhou"}, index=0, **A),
        wanted=[{**A, "function": {"name": "weather", "arguments": '{"in":"Hangzhou"}'}}],
    ),
    "arguments null": calls(
        piece("time", None, index=0, **B),
        {"index": 0, "function": {"arguments": None}},
        piece(None, "{}", index=0),
        wanted=[TIME],
        first=b"time",
    ),
    "no type": calls(piece("weather", '{"in": "Hangzhou"}', index=0, id="call_a")),
    "no index": calls(piece("weather", '{"in": ', **A), piece(None, '"Hangzhou"}')),
    "two without index": calls(
        piece("weather", '{"in": "Hangzhou"}', **A), piece("time", "{}", **B), wanted=[WEATHER, TIME]
    ),
    "two without index, in one chunk": calls(
        [piece("weather", '{"in": ', **A), piece("time", "{", **B)],
        [piece(None, '"Hangzhou"}'), piece(None, "}")],
        wanted=[WEATHER, TIME],
    ),
    "two with index 0": calls(
        piece("weather", '{"in": "Hangzhou"}', index=0, **A), piece("time", "{}", index=0, **B), wanted=[WEATHER, TIME]
    ),
    "two with index 0, in pieces": calls(
        piece("weather", "", index=0, **A),
        piece(None, '{"in": "Hangzhou"}', index=0),
        piece("time", "", index=0, **B),
        piece(None, "{}", index=0),
        wanted=[WEATHER, TIME],
    ),
    "two with index 0, without ids": calls(
        piece("weather", '{"in": "Hangzhou"}', index=0), piece("time", "{}", index=0), wanted=NAMELESS
    ),
    "two with index 0, without ids, in a chunk": calls(
        [piece("weather", '{"in": "Hangzhou"}', index=0), piece("time", "{}", index=0)], wanted=NAMELESS
    ),
    "two with index 0, without ids, in pieces": calls(
        piece("weather", "", index=0),
        piece(None, '{"in": ', index=0),
        piece(None, '"Hangzhou"}', index=0),
        piece("time", "", index=0),
        piece(None, "{}", index=0),
        wanted=NAMELESS,
    ),
    "two with neither index nor id": calls(
        piece("weather", '{"in": "Hangzhou"}'), piece("time", "{}"), wanted=NAMELESS
    ),
    "same function twice, index 0, without ids": calls(
        piece("time", '{"in": 1}', index=0),
        piece("time", '{"in": 2}', index=0),
        wanted=[{"function": {"name": "time", "arguments": said}} for said in ('{"in": 1}', '{"in": 2}')],
        first=b"time",
    ),
    "name in every fragment, without ids": calls(
        piece("weather", '{"in": ', index=0),
        piece("weather", '{}, "a": "}', index=0),
        piece("weather", '{"}', index=0),
        piece("weather", "", index=0),
        wanted=[{"function": {"name": "weather", "arguments": '{"in": {}, "a": "}{"}'}}],
    ),
    "another id in every fragment": calls(
        piece("weather", '{"in": ', index=0, **A),
        piece(None, '"Hangzhou"}', index=0, id="call_x"),
        piece("time", "{", index=1, id="call_y"),
        piece(None, "}", index=1, id="call_z"),
        wanted=[{"function": WEATHER["function"]}, {"function": TIME["function"]}],
    ),
    "arguments as a number": calls(
        piece("time", 7, index=0, **A), wanted=[{"function": {"name": "time", "arguments": "7"}}], first=b"time"
    ),
    "index null": calls(
        piece("weather", '{"in": "Hangzhou"}', index=None, **A),
        piece("time", "{}", index=None, **B),
        wanted=[WEATHER, TIME],
    ),
    "index as text": calls(piece("weather", '{"in": ', index="0", **A), piece(None, '"Hangzhou"}', index="0")),
    "two, index as text": calls(
        piece("weather", '{"in": "Hangzhou"}', index="0", **A),
        piece("time", "", index="1", **B),
        piece(None, "{}", index="1"),
        wanted=[WEATHER, TIME],
    ),
    "index as a float": calls(piece("weather", '{"in": ', index=0.0, **A), piece(None, '"Hangzhou"}', index=0.0)),
    "interleaved, index as text": calls(
        piece("weather", "", index="0", id="call_a"),
        piece("time", "", index="1", id="call_b"),
        piece(None, '{"in": "Hangzhou"}', index="0"),
        piece(None, "{}", index="1"),
        wanted=[{"function": WEATHER["function"]}, {"function": TIME["function"]}],
    ),
    "index from 1": calls(piece("weather", '{"in": ', index=1, **A), piece(None, '"Hangzhou"}', index=1)),
    "interleaved": calls(
        piece("weather", "", index=0, **A),
        piece("time", "", index=1, **B),
        piece(None, '{"in": "Hangzhou"}', index=0),
        piece(None, "{}", index=1),
        wanted=[WEATHER, TIME],
    ),
    "same id, two indexes": calls(
        piece("weather", '{"in": "Hangzhou"}', index=0, **A),
        piece("time", "{}", index=1, **A),
        wanted=[WEATHER, {**TIME, "id": "call_a"}],
    ),
    "empty ids, two indexes": calls(
        piece("weather", '{"in": "Hangzhou"}', index=0, id=""),
        piece("time", "{}", index=1, id=""),
        wanted=[{"function": WEATHER["function"]}, {"function": TIME["function"]}],
    ),
    "null in the list": calls([None, piece("weather", '{"in": "Hangzhou"}', index=0, **A)]),
    "tool_calls null beside text": Entry(
        chunk({"content": "Hello", "tool_calls": None}) + STOP, text="Hello", first=b"Hello"
    ),
    "empty list beside text": Entry(chunk({"content": "Hello", "tool_calls": []}) + STOP, text="Hello", first=b"Hello"),
    "text before": Entry(
        HELLO + chunk({"tool_calls": [piece("weather", '{"in": "Hangzhou"}', index=0, **A)]}) + STOP,
        text="Hello",
        first=b"Hello",
        message={"tool_calls": [WEATHER]},
    ),
    "thinking before": Entry(
        chunk({"reasoning_content": "Hm"}) + chunk({"tool_calls": [piece("time", "{}", index=0, **B)]}) + STOP,
        first=b"Hm",
        message={"tool_calls": [TIME], "reasoning_content": "Hm"},
    ),
    "custom": Entry(
        chunk({"tool_calls": [{"index": 0, "id": "c", "type": "custom", "custom": {"name": "sh", "input": "l"}}]})
        + chunk({"tool_calls": [{"index": 0, "custom": {"input": "s"}}]})
        + STOP,
        first=b"sh",
        message={"tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "sh", "input": "ls"}}]},
    ),
    "unknown field of a call": calls(
        {
            **piece("weather", '{"in": "Hangzhou"}', index=0, **A),
            "extra_content": {"google": {"thought_signature": "s"}},
        },
        wanted=[{**WEATHER, "extra_content": {"google": {"thought_signature": "s"}}}],
    ),
    "function_call": Entry(
        chunk({"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": ""}})
        + chunk({"function_call": {"arguments": '{"in": '}})
        + chunk({"function_call": {"arguments": '"Hangzhou"}'}})
        + chunk({}, "function_call")
        + USAGE
        + DONE,
        first=b"weather",
        message={"function_call": WEATHER["function"]},
    ),
    "function_call, name in every chunk": Entry(
        chunk({"function_call": {"name": "weather", "arguments": '{"in": '}})
        + chunk({"function_call": {"name": "weather", "arguments": '"Hangzhou"}'}})
        + chunk({}, "function_call")
        + USAGE
        + DONE,
        first=b"weather",
        message={"function_call": WEATHER["function"]},
    ),
    "function_call, null later": Entry(
        chunk({"content": "Hello", "function_call": None}) + chunk({}, "stop") + USAGE + DONE,
        text="Hello",
        first=b"Hello",
    ),
    "whole in a message": Entry(
        chunk({}).replace(
            b'"delta":{}',
            b'"message":{"role":"assistant","content":null,"tool_calls":[{"id":"call_b",'
            b'"type":"function","function":{"name":"time","arguments":"{}"}}]}',
        )
        + STOP,
        first=b"time",
        message={"tool_calls": [TIME]},
    ),
}
