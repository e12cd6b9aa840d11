"""What a reader calls ordinary without parsing: text and nothing else, whatever a frame is made to look like."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.chat import CHAT
from proxy.dialects.dashscope import DASHSCOPE
from proxy.dialects.dialect import Dialect, Reader
from proxy.dialects.usage import Usage
from proxy.wire import json_text
from proxy.wire.sse import payload
from tests.cuts import NOT_RECORDED, recorded

PING = b": keep-alive\n\n"
TEXTS = st.text(st.characters(codec="utf-8") | st.sampled_from('"\\\n/}0é溪'), min_size=1, max_size=12)


def chat(text: str = "word", *, finish: str | None = None, spaced: bool = False, index: int = 0, **more: Any) -> bytes:
    """Return a chunk as Qwen writes it; `spaced`: as Python's json does."""
    choice = {"delta": {"content": text}, "finish_reason": finish, "index": index, "logprobs": None}
    chunk = {"choices": [choice], "object": "chat.completion.chunk", "usage": None, "model": "qwen-plus", **more}
    told = json.dumps(chunk) if spaced else json.dumps(chunk, ensure_ascii=False, separators=(",", ":"))
    return f"data: {told}\n\n".encode()


def native(text: str = "word", number: int = 1, finish: str = "null") -> bytes:
    """Return a result, whose id and usage are another in each."""
    output = {"choices": [{"message": {"content": text, "role": "assistant"}, "finish_reason": finish}]}
    result = {"output": output, "usage": {"input_tokens": 16, "output_tokens": number}, "request_id": "5b441aa7"}
    told = json.dumps(result, ensure_ascii=False, separators=(",", ":"))
    return f"id:{number}\nevent:result\n:HTTP_STATUS/200\ndata:{told}\n\n".encode()


def taught(dialect: Dialect, *frames: bytes) -> Reader:
    reader = dialect.frames.reader()
    for frame in frames:
        reader.note(frame)
    return reader


def state(reader: Reader) -> tuple[Any, ...]:
    return reader.finish_reason, reader.failure, reader.ended, reader.finished, reader.has_content, reader.usage


@pytest.mark.parametrize("spaced", [False, True])
@given(first=TEXTS, texts=st.lists(TEXTS, min_size=1, max_size=5))
def test_text_alone_is_ordinary_once_one_was_read(spaced: bool, first: str, texts: list[str]) -> None:
    """Also with escapes in it, and in any spelling."""
    reader = taught(CHAT, chat(first, spaced=spaced))
    assert all(reader.ordinary(chat(text, spaced=spaced)) for text in texts)


@given(st.lists(TEXTS, min_size=4, max_size=30))
def test_numbers_that_differ_in_each_frame_are_no_matter(texts: list[str]) -> None:
    """DashScope's id and usage; the usage is known all the same, and what grows by a digit is looked at."""
    reader, looked = taught(DASHSCOPE, native(texts[0], 1), native(texts[1], 2)), 0
    for number, text in enumerate(texts[2:], 3):
        frame = native(text, number)
        if not reader.ordinary(frame):
            looked += 1
            reader.note(frame)
        assert reader.usage == Usage(16, number)
    assert looked <= 4


def test_nothing_is_ordinary_before_a_text_was_read() -> None:
    """Nor a role, a finish, a usage, a comment, the last word, an error."""
    reader = CHAT.frames.reader()
    assert not reader.ordinary(chat())
    reader.note(chat())
    assert reader.ordinary(chat("x"))
    for other in (
        chat(""), chat("x", finish="stop"), chat("x", usage={"prompt_tokens": 1}), chat("x", index=1), PING, b"\n\n",
        b"data: [DONE]\n\n", b'data: {"error":{"message":"m"}}\n\n', chat("x", error={"message": "m"}),
        b"event: error\n" + chat("x"), chat("x").replace(b"\n", b"\r\n"), chat("x")[:-1],
    ):  # fmt: skip
        assert not reader.ordinary(other), other
    assert not reader.ordinary(chat('x"},"finish_reason":"stop"}],"y":[{"z":{"w":"').replace(b"\\", b""))


def test_choice_that_was_not_seen_is_not_ordinary() -> None:
    """Though all numbers differ: it must finish, too."""
    reader = taught(CHAT, *(chat("x", usage={"completion_tokens": n}) for n in (1, 2, 3)))
    assert reader.ordinary(chat("x", usage={"completion_tokens": 4}))
    assert reader.usage == Usage(0, 4)
    assert not reader.ordinary(chat("x", usage={"completion_tokens": 5}, index=1))


_BEGUN = {
    "chat": (CHAT, [chat("a"), chat("b")]),
    "chat, counted": (CHAT, [chat("a", usage={"completion_tokens": n}) for n in (1, 2, 3)]),
    "native": (DASHSCOPE, [native("a", n) for n in (1, 2, 3)]),
}


@pytest.mark.parametrize("begun", _BEGUN)
@given(data=st.data())
def test_what_is_called_ordinary_says_nothing_but_text(begun: str, data: st.DataObject) -> None:
    """Bytes of a frame with text exchanged for others: parsing it changes nothing, or it can't be parsed."""
    dialect, frames = _BEGUN[begun]
    reader, frame = taught(dialect, *frames), bytearray(frames[-1])
    pieces = st.sampled_from([
        b'"', b"\\", b'"x"', b"}", b"{", b"]", b",", b'","finish_reason":"stop', b'"},"error":{"x":"', b"1", b"error",
        b'x"},"finish_reason":"stop"},{"delta":{"content":"x', b"stop", b"\n", b"event:error\n", b'"stop"', b"9",
    ])  # fmt: skip
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(frame) - 2))
        frame[start : start + data.draw(st.integers(0, 6))] = data.draw(pieces | st.binary(max_size=3))
    mutated = bytes(frame)
    if b"\n\n" in mutated[:-1] or not reader.ordinary(mutated):
        return
    known = state(reader)
    if not is_json(payload(mutated) or b""):
        return
    parsed = taught(dialect, *frames)
    assert parsed.note(mutated) is not None
    assert state(parsed)[:5] == known[:5]
    assert parsed.usage == reader.usage


@given(
    st.permutations([chat("x"), chat("", finish="stop"), b'data: {"choices":[],"usage":{"prompt_tokens":7}}\n\n']),
    st.lists(st.integers(0, 40), min_size=4, max_size=4),
)
def test_no_comment_pushes_out_what_was_said(frames: list[bytes], pings: list[int]) -> None:
    """Any number of them, anywhere, and blank blocks."""
    shown = [part for frame, count in zip([*frames, b"data: [DONE]\n\n"], pings, strict=True)
             for part in (*[PING, b"\n\n"] * count, frame)]  # fmt: skip
    assert state(taught(CHAT, *shown, PING)) == ("stop", None, True, True, True, Usage(7))


@pytest.mark.skipif(not recorded(), reason=NOT_RECORDED)
@pytest.mark.parametrize("path", recorded(), ids=lambda path: path.stem)
def test_recorded_streams_end_as_they_say_and_are_mostly_ordinary(path: Path) -> None:
    """Read with the short way and without, the same is known of them."""
    dialect = DASHSCOPE if path.name.startswith("native") else CHAT
    quick, slow = dialect.frames.reader(), dialect.frames.reader()
    frames, looked = [block + b"\n\n" for block in path.read_bytes().split(b"\n\n") if block], 0
    for frame in frames:
        slow.note(frame)
        if not quick.ordinary(frame):
            looked += 1
            quick.note(frame)
    assert state(quick) == state(slow)
    if len(frames) > 100:
        assert looked < len(frames) // 4


def is_json(data: bytes) -> bool:
    try:
        json_text.read(data)
    except ValueError:
        return False
    return True


def _said(dialect: Dialect, choices: list[dict[str, Any]]) -> Any:
    """Return a reader that has been given a frame with these choices."""
    reader = dialect.frames.reader()
    told = {"choices": choices} if dialect is CHAT else {"output": {"choices": choices}}
    reader.note(b"data: %b\n\n" % json.dumps(told).encode())
    return reader


@pytest.mark.parametrize("dialect", [CHAT, DASHSCOPE])
def test_silence_is_an_end_only_after_each_choice_has_stopped(dialect: Dialect) -> None:
    """Not for a tool's call, nor before; sooner where there is no final event, and not so soon after an error."""
    enough = {
        name: _said(dialect, choices).enough_after_s
        for name, choices in {
            "begun": [{"index": 0, "finish_reason": None}],
            "stopped": [{"index": 0, "finish_reason": "stop"}],
            "long": [{"index": 0, "finish_reason": "length"}],
            "a call": [{"index": 0, "finish_reason": "tool_calls"}],
            "failed": [{"index": 0, "finish_reason": "error"}],
            "one of two": [{"index": 0, "finish_reason": "stop"}, {"index": 1, "finish_reason": None}],
        }.items()
    }
    assert [name for name, seconds in enough.items() if seconds] == ["stopped", "long", "failed"]
    assert enough["stopped"] == (5.0 if dialect is CHAT else 0.75)
    assert enough["failed"] == 5.0
