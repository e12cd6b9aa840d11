"""What was said so far, by choice and channel, as far as any offset."""

import json
import sys
from typing import Any

import pytest

from proxy.dialects.chat import CHAT
from proxy.dialects.dashscope import DASHSCOPE
from proxy.dialects.documents.delta import channel
from proxy.dialects.documents.increment import Channel
from proxy.stream.modes.transcript import Transcript
from tests.answers import documents

NATIVE = DASHSCOPE
CONTENT, REASONING = channel(0), channel(0, "reasoning_content")
DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


def chunk(delta: dict[str, Any], index: int = 0, **choice: Any) -> bytes:
    """Return a compatible frame of one choice."""
    choices = [{"index": index, "delta": delta, **choice}]
    return f"data: {json.dumps({'id': 'c', 'object': 'chat.completion.chunk', 'choices': choices})}\n\n".encode()


def arguments(number: int) -> Channel:
    return channel(0, "tool_calls", number, "arguments")


def call(index: int, arguments: str, **more: Any) -> dict[str, Any]:
    name = {"name": more.pop("name")} if "name" in more else {}
    return {"tool_calls": [{"index": index, "type": "function", "function": {"arguments": arguments} | name} | more]}


def result(*messages: dict[str, Any], **more: Any) -> bytes:
    """Return a native frame."""
    choices = [{"message": message, "finish_reason": "null"} for message in messages]
    return (
        b"id:1\nevent:result\n:HTTP_STATUS/200\ndata:%b\n\n"
        % json.dumps({"output": {"choices": choices}, "usage": {"output_tokens": 1}, "request_id": "r"} | more).encode()
    )


def transcript(*frames: bytes, dialect: Any = CHAT, start: int = 0) -> Transcript:
    heard = Transcript(dialect, start)
    heard.feed(frames)
    return heard


ROLE = chunk({"role": "assistant", "content": ""})
THINKS = chunk({"content": None, "reasoning_content": "Hm"})
SAYS, MORE = chunk({"content": "Hel"}), chunk({"content": "lo"})
STOP = chunk({"content": ""}, finish_reason="stop")


def test_text_is_found_by_choice_and_channel() -> None:
    """For any span of offsets."""
    heard = transcript(ROLE, THINKS, SAYS, chunk({"content": "Other"}, 1), MORE, STOP, DONE)
    assert heard.end == 7
    assert heard.channels[CONTENT].text(0, 7) == "Hello"
    assert heard.channels[CONTENT].text(3, 5) == "lo"
    assert heard.channels[REASONING].text(0, 2) == "Hm"
    assert heard.channels[channel(1)].text(0, 7) == "Other"


def test_arguments_are_those_of_their_call() -> None:
    """Calls may take turns."""
    heard = transcript(
        chunk(call(0, "{", id="a", name="f")), chunk(call(1, "[", id="b", name="g")), chunk(call(0, "}"))
    )
    channels = heard.channels
    assert (channels[arguments(0)].text(0, 3), channels[arguments(1)].text(0, 3)) == ("{}", "[")


def test_several_fragments_of_a_call_in_a_chunk_add_up() -> None:
    """As OpenAI's own clients read them."""
    two = [one["tool_calls"][0] for one in (call(0, "{", id="a", name="f"), call(0, "}"))]
    heard = transcript(chunk({"tool_calls": two}), chunk(call(0, " ")))
    assert heard.channels[arguments(0)].text(0, 2) == "{} "


def test_feeding_one_by_one_or_at_once_is_the_same() -> None:
    """It is fed whenever somebody needs it."""
    frames = [ROLE, THINKS, SAYS, MORE, STOP, DONE]
    slowly = Transcript(CHAT)
    for frame in frames:
        slowly.feed([frame])
    at_once = transcript(*frames)
    assert slowly.document() == at_once.document()
    assert list(slowly.runs(0, 6)) == list(at_once.runs(0, 6))


@pytest.mark.parametrize(
    ("frames", "runs"),
    [
        ([ROLE, SAYS, MORE, MORE, STOP, DONE], [(0, 1), (1, 4), (4, 5), (5, 6)]),
        ([ROLE, THINKS, SAYS, MORE], [(0, 1), (1, 4)]),
        ([SAYS, b": ping\n\n", MORE], [(0, 1), (1, 2), (2, 3)]),
        ([SAYS, MORE, chunk({"content": "!"}, finish_reason="stop"), DONE], [(0, 3), (3, 4)]),
        ([SAYS, chunk({"audio": {"data": "x"}}), MORE, MORE], [(0, 1), (1, 2), (2, 4)]),
        ([SAYS, MORE, chunk({"content": "x"}, stop_token=7)], [(0, 2), (2, 3)]),
        ([chunk(call(0, "", id="a", name="f")), chunk(call(0, "{")), chunk(call(1, "", id="b", name="f"))], [(0, 3)]),
        ([ROLE, chunk({"role": "assistant", "content": ""}, 1), SAYS], [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_runs_are_what_differs_by_text_alone(frames: list[bytes], runs: list[tuple[int, int]]) -> None:
    """Role, finish reason, other fields and frames without choices divide them; the last text may finish."""
    heard = transcript(*frames)
    assert list(heard.runs(0, len(frames))) == runs
    assert list(heard.runs(1, len(frames))) == [(max(1, a), b) for a, b in runs if b > 1]


def test_walls_are_where_more_than_role_and_finish_reason_changes() -> None:
    """For a frame that tells the whole state, role and finish reason are part of it."""
    heard = transcript(ROLE, SAYS, STOP, DONE)
    assert list(heard.runs(0, 4, walls=True)) == [(0, 3), (3, 4)]


def test_frames_that_bring_what_they_say_are_literal() -> None:
    """Nothing need be rewritten; once one has to be, it is known."""
    assert transcript(ROLE, SAYS, MORE, STOP).literal
    assert not transcript(chunk({"content": "The answer"}), chunk({"content": "The answer is"})).literal
    assert not transcript(chunk(call(0, "{", id="a", name="f")), chunk(call(0, "}", id="a", name="f"))).literal


def test_second_channel_is_expected_to_be_sent_as_the_first() -> None:
    """An upstream that repeats its reasoning repeats its content: a short beginning is understood at once."""
    words = ["Let", " me", " see", " now", ",", " what", " was", " it", " again", "?"]
    thoughts = [chunk({"reasoning_content": "".join(words[: place + 1])}) for place in range(len(words))]
    heard = transcript(*thoughts, chunk({"content": "I"}), chunk({"content": "It"}), chunk({"content": "It is"}))
    assert heard.channels[REASONING].text(0, 10) == "".join(words)
    assert heard.channels[CONTENT].text(0, 13) == "It is"
    assert heard.channels[CONTENT].text(0, 12) == "It"


def test_whole_is_the_finished_completion() -> None:
    """Latest usage, finish reasons, choices in the order of their index, no field of a chunk."""
    usage = b"data: %b\n\n" % json.dumps({"id": "c", "choices": [], "usage": USAGE}).encode()
    heard = transcript(chunk({"role": "assistant", "content": "b"}, 1), ROLE, SAYS, MORE, STOP, usage, DONE)
    assert json.loads(heard.document()) == {
        "id": "c",
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello"},
                "finish_reason": "stop",
                "logprobs": None,
            },
            {"index": 1, "message": {"role": "assistant", "content": "b"}, "finish_reason": None, "logprobs": None},
        ],
        "usage": USAGE,
    }


def test_choice_that_finishes_without_a_delta_is_finished() -> None:
    """Null instead of {}, as some gateways write it."""
    last = b'data: {"choices":[{"index":0,"delta":null,"finish_reason":"stop"}]}\n\n'
    (choice,) = json.loads(transcript(ROLE, SAYS, last).document())["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Hel", "stop")


def test_whole_has_logprobs_refusal_and_unknown_fields() -> None:
    """Lists of logprobs are joined, texts add up, and what is not known is kept as OpenAI's clients keep it."""
    one, two = {"content": [{"token": "a"}], "refusal": None}, {"content": [{"token": "b"}], "refusal": None}
    heard = transcript(
        chunk({"role": "assistant", "content": "a", "audio": {"id": "x", "data": "A"}}, logprobs=one, stop=1),
        chunk({"content": "b", "refusal": "no", "audio": {"data": "B"}}, logprobs=two),
        chunk({"refusal": "pe", **call(0, "{}", id="i", name="f", extra=1)}, finish_reason="stop", logprobs=None),
    )
    [choice] = json.loads(heard.document())["choices"]
    assert choice["logprobs"] == {"content": [{"token": "a"}, {"token": "b"}], "refusal": None}
    assert choice["stop"] == 1
    assert choice["message"] == {
        "role": "assistant",
        "content": "ab",
        "refusal": "nope",
        "audio": {"id": "x", "data": "AB"},
        "tool_calls": [
            {"index": 0, "id": "i", "type": "function", "function": {"name": "f", "arguments": "{}"}, "extra": 1}
        ],
    }


def test_whole_native_answer_keeps_its_shape() -> None:
    """Parts stay parts, search results are not forgotten when later frames have none, usage is the latest."""
    frames = [
        result({"content": [{"text": "A"}], "role": "assistant"}, usage={}),
        result({"content": [{"text": "AB"}], "role": "assistant"}, usage={"output_tokens": 2}),
    ]
    found = json.loads(transcript(*frames, dialect=NATIVE).document())
    assert found == {
        "output": {
            "choices": [{"message": {"content": [{"text": "AB"}], "role": "assistant"}, "finish_reason": "null"}]
        },
        "usage": {"output_tokens": 2},
        "request_id": "r",
    }


@pytest.mark.parametrize("dialect", [CHAT, NATIVE])
def test_nothing_said_makes_a_document_all_the_same(dialect: Any) -> None:
    """What there is so far may be nothing."""
    assert isinstance(json.loads(transcript(b": ping\n\n", DONE, dialect=dialect).document()), dict)


@pytest.mark.parametrize(
    "data",
    [b"[]", b"7", b"null", b'{"choices":[1,{"delta":3},{"delta":{"content":[{"text":1}]}}]}', b'{"choices":{"a":1}}',
     b'{"output":[],"usage":7}', b'{"output":{"choices":[{"message":null},3]}}', b'{"choices":[{"delta":{"tool_calls":'
     b'[{"index":"x","function":7},null]},"index":"y","logprobs":3,"finish_reason":{}}]}', b"\xff", b""],
)  # fmt: skip
@pytest.mark.parametrize("dialect", [CHAT, NATIVE])
def test_whatever_an_upstream_sends_is_heard(dialect: Any, data: bytes) -> None:
    """It never raises, and takes what comes after it."""
    after = SAYS if dialect is CHAT else result({"content": "Hel"})
    heard = transcript(b"data: %b\n\n" % data, after, dialect=dialect)
    assert "Hel" in heard.channels[CONTENT].text(1, 2)
    json.loads(heard.document())


def test_memory_is_that_of_the_text() -> None:
    """A cumulative upstream's frames are not kept: their sum is quadratic."""
    words = [f"word {place} " for place in range(2000)]
    told = ["".join(words[: place + 1]) for place in range(len(words))]
    heard = transcript(*(chunk({"content": text}) for text in told))
    kept = heard.channels[CONTENT]
    assert kept.text(0, 2000) == told[-1]
    assert sum(map(sys.getsizeof, kept._texts)) < 100 * len(words)


def test_late_start_hears_what_is_held() -> None:
    """Offsets are those of the log; a cumulative upstream's first frame that is held tells all before it."""
    heard = transcript(MORE, STOP, start=5)
    assert (heard.start, heard.end) == (5, 7)
    assert heard.channels[CONTENT].text(5, 7) == "lo"
    assert documents(b"data: %b\n\n" % heard.document())[0]["choices"][0]["message"]["content"] == "lo"


@pytest.mark.parametrize(("cumulative", "text"), [(None, "haha"), (True, "haha"), (False, "hahaha")])
def test_text_that_may_be_read_either_way_is_read_as_it_was_asked_for(cumulative: bool | None, text: str) -> None:
    """Two texts, the second beginning with the first: the request may say which of the two they are."""
    heard = Transcript(NATIVE, cumulative=cumulative)
    last = result({"content": "haha"}).replace(b'"finish_reason": "null"', b'"finish_reason": "stop"')
    heard.feed([result({"content": "ha"}), last])
    assert heard.channels[CONTENT].text(0, 2) == text
