"""Mode chat: what streams of every API say, in chunks, whole and cut off, live and later.

Held to what other modes say of the same stream, and read by OpenAI's own accumulator.
"""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

from proxy.dialects.chat import CHAT
from proxy.dialects.dashscope import DASHSCOPE
from proxy.dialects.dialect import Dialect
from proxy.dialects.messages import MESSAGES
from proxy.dialects.responses import RESPONSES
from proxy.stream.endings import COMPLETE
from proxy.stream.modes.projection import Projection, View
from proxy.stream.modes.projections import Json
from proxy.stream.stream import Stream
from proxy.tools.fake.messages import MessagesAnswer
from proxy.upstream.on_disconnect import OnDisconnect
from proxy.upstream.pump import Pump
from proxy.wire.errors import OffsetGone, Truncated
from proxy.wire.sse import Splitter
from tests.answers import chats, documents, ids, joined, messages_of_blocks, natives, responses
from tests.cuts import NOT_RECORDED, messages, recorded
from tests.message_events import STOP, delta, event, finish, start
from tests.streams import EPOCH, new_stream

Answer = tuple[Dialect, list[bytes]]
Call = tuple[str, str, str]
"""The id, the name and the arguments of a tool call."""


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    """Draw an answer of any API, whole or cut off."""
    drawn: Any = {CHAT: chats, DASHSCOPE: natives, RESPONSES: responses, MESSAGES: messages_of_blocks}
    dialect = draw(st.sampled_from([CHAT, DASHSCOPE, RESPONSES, MESSAGES]))
    told = list(draw(drawn[dialect]()).frames())
    return dialect, told[: draw(st.integers(1, len(told)) | st.just(len(told)))]


def pumped(dialect: Dialect, told: list[bytes], *, broken: bool = False) -> Stream:
    """Return the stream of these frames, ended."""
    stream = new_stream(dialect)
    pump = Pump(stream, OnDisconnect(None), max_frame_bytes=1 << 20, overhead=lambda seconds: None)
    pump.received(b"".join(told), 1.0)
    pump.ended(b"", 2.0, Truncated("broke off") if broken else None)
    return stream


def projection(stream: Stream, mode: str = "chat") -> Projection:
    return stream.projection(View(mode))


def body(stream: Stream, start: int = 0) -> bytes:
    """Return all that a follower is sent in mode chat."""
    mode, log = projection(stream), stream.log
    assert log.ending is not None
    return (mode.render(start, log.end) if start < log.end else b"") + mode.ending(log.ending, log.end)[0]


def accumulated(rendered: bytes) -> dict[str, Any]:
    """Return what OpenAI's own accumulator makes of chunks."""
    state = ChatCompletionStreamState()
    for document in documents(rendered):
        if "error" not in document:
            state.handle_chunk(ChatCompletionChunk.construct(**document))
    return state.current_completion_snapshot.to_dict()


def calls_of(message: dict[str, Any]) -> list[Call]:
    """Return the calls of a chat message."""
    found = message.get("tool_calls") or []
    return [(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in found]


def calls_in_document(document: dict[str, Any]) -> list[Call]:
    """Return the calls for the client in the document of a response or a message."""
    keys = {"function_call": "arguments", "custom_tool_call": "input"}
    if "output" in document:
        items = [item for item in document["output"] if item["type"] in keys]
        return [(item["call_id"], item["name"], item[keys[item["type"]]]) for item in items]
    blocks = [block for block in document["content"] if block["type"] == "tool_use"]
    return [(block["id"], block["name"], json.dumps(block["input"], sort_keys=True)) for block in blocks]


@given(answers(), st.data())
def test_law_5_content_of_mode_chat_is_mode_text(answer: Answer, data: st.DataObject) -> None:
    """Whole or cut off; and it is the same bytes in any spans, as the log grows and afterwards."""
    dialect, told = answer
    live, complete, had = new_stream(dialect), new_stream(dialect), b""
    complete.extend(told)
    places = data.draw(st.lists(st.integers(0, len(told)), max_size=8), "spans")
    for first, last in pairwise(sorted({0, *places, len(told)})):
        live.extend(told[first:last])
        had += projection(live).render(first, last)
    assert had == projection(complete).render(0, len(told))
    text = projection(complete, "text").render(0, len(told)).decode()
    assert joined(had).get((0, "content", -1), "") == text


@given(answers())
def test_law_8_mode_chat_resumes_after_any_id(answer: Answer) -> None:
    """Exactly the rest comes, the end included; each chunk has an id, but for those that come with the last."""
    stream = pumped(*answer)
    whole = body(stream)
    blocks = Splitter(1 << 20).feed(whole)
    for place, block in enumerate(blocks, 1):
        for seq in ids(block, EPOCH):
            rest = body(stream, seq) if seq <= stream.log.end else b""
            assert b"".join(blocks[:place]) + rest == whole
    assert len(ids(whole, EPOCH)) >= len(blocks) - 2


@given(chats())
def test_chat_completion_is_as_in_events(answer: Any) -> None:
    """Byte for byte, its failure, too."""
    told = list(answer.frames())
    for frames, broken in ((told, False), (told[:-1], True)):
        stream = pumped(CHAT, frames, broken=broken)
        ending = stream.log.ending
        assert ending is not None
        for first in (0, len(frames) - 1):
            events, chat = projection(stream, "events"), projection(stream)
            assert chat.render(first, len(frames)) == events.render(first, len(frames))
            assert chat.ending(ending, len(frames)) == events.ending(ending, len(frames))


@given(answers())
def test_law_7_only_a_complete_stream_is_done(answer: Answer) -> None:
    """Else it ends with an error event, and OpenAI's accumulator reads both."""
    dialect, told = answer
    stream = pumped(dialect, told)
    whole = body(stream)
    accumulated(whole)
    if dialect is CHAT:
        return
    assert (messages(whole)[-1].data == b"[DONE]") == (stream.log.ending is COMPLETE)
    assert ("error" in documents(whole)[-1]) == (stream.log.ending is not COMPLETE)


@given(responses() | messages_of_blocks())
def test_whole_answer_is_a_chat_completion(answer: Any) -> None:
    """Content, calls, finish reason and usage are those of the API's own document; ids and models are not told."""
    stream = pumped(MESSAGES if isinstance(answer, MessagesAnswer) else RESPONSES, list(answer.frames()))
    found = projection(stream, "json")
    assert isinstance(found, Json)
    document, [choice] = json.loads(found.so_far()), accumulated(body(stream))["choices"]
    told, calls = calls_of(choice["message"]), calls_in_document(document)
    if stream.dialect is MESSAGES:
        told = [(ident, name, json.dumps(json.loads(text or "{}"), sort_keys=True)) for ident, name, text in told]
    cut_off = document.get("stop_reason") == "max_tokens" or document.get("status") == "incomplete"
    assert cut_off or told == calls
    assert choice["finish_reason"] == ("length" if cut_off else "tool_calls" if calls else "stop")
    usage = accumulated(body(stream))["usage"]
    assert usage["completion_tokens"] == document["usage"]["output_tokens"]


def test_made_by_hand_message_is_these_chunks() -> None:
    """Calls of the client's are counted from 0 in the order of their names; a call of the server's own is not told."""
    tool: dict[str, Any] = {"type": "tool_use", "id": "tool_use", "name": "look", "input": {}}
    server = {**tool, "type": "server_tool_use"}
    frames = [
        start(input_tokens=5),
        event("content_block_start", index=0, content_block=server),
        delta('{"q":1}', 0, "tool_use"),
        event("content_block_stop", index=0),
        delta("hm", 1, "thinking"),
        event("content_block_start", index=2, content_block=tool),
        delta('{"at"', 2, "tool_use"),
        delta(":1}", 2, "tool_use"),
        event("content_block_start", index=3, content_block={**tool, "input": {"at": 2}}),
        event("content_block_stop", index=3),
        finish("tool_use", output_tokens=7),
        STOP,
    ]
    whole = body(pumped(MESSAGES, frames))
    [choice] = accumulated(whole)["choices"]
    assert calls_of(choice["message"]) == [("tool_use", "look", '{"at":1}'), ("tool_use", "look", '{"at":2}')]
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] == "tool_calls"
    assert ids(whole, EPOCH) == [1, 5, 6, 7, 8, 9, 10, 13]
    assert [one["choices"][0]["delta"]["reasoning_content"] for one in documents(whole)[1:2]] == ["hm"]


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("refusal", "content_filter"),
        ("x", "x"),
    ],
)
def test_finish_reason_is_called_as_in_chat(reason: str, told: str) -> None:
    """One that is not known is told as it is."""
    stream = pumped(MESSAGES, [start(), delta("a"), finish(reason, output_tokens=1), STOP])
    assert accumulated(body(stream))["choices"][0]["finish_reason"] == told


def test_event_that_can_not_be_read_leaves_no_complete_answer() -> None:
    """Law 7: it may have said something. The error is told, and the response broken off."""
    stream = pumped(MESSAGES, [start(), delta("a"), b'event: content_block_delta\ndata: {"type"\n\n', finish(), STOP])
    last, properly = projection(stream).ending(COMPLETE, 5)
    assert not properly
    assert json.loads(messages(last)[-1].data)["error"]["code"] == "garbled"


def test_error_that_upstream_reports_is_one_error_event() -> None:
    """In the form of chat, whatever the API's own is."""
    failed = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"busy"}}\n\n'
    found = documents(body(pumped(MESSAGES, [start(), delta("a"), failed])))
    assert found[-1]["error"]["code"] == "upstream_error"
    assert "busy" in found[-1]["error"]["message"]
    assert [document for document in found if "error" in document] == found[-1:]


def test_call_whose_number_is_not_known_any_more_is_refused() -> None:
    """A new follower of a stream whose start is gone is told so; one that was there before goes on."""
    frames = [start(), delta("a"), delta("b")]
    late, early = new_stream(MESSAGES), new_stream(MESSAGES)
    for stream in (late, early):
        stream.extend(frames)
    before = projection(early).render(2, 3)
    for stream in (late, early):
        stream.log.trim(0, below=2)
    assert projection(early).render(2, 3) == before
    with pytest.raises(OffsetGone):
        projection(late)


@pytest.mark.skipif(not recorded(), reason=NOT_RECORDED)
@pytest.mark.parametrize("path", recorded("native"), ids=lambda path: path.stem)
def test_recorded_native_stream_is_retold(path: Path) -> None:
    """Its content is mode text's, whether it came as increments or all so far."""
    stream = pumped(DASHSCOPE, [path.read_bytes()])
    text = projection(stream, "text").render(0, stream.log.end).decode()
    assert joined(body(stream)).get((0, "content", -1), "") == text
    accumulated(body(stream))
