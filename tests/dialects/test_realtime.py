"""Sessions: where an answer begins and ends, what is a token, what is used, and what has failed."""

import json
from typing import Any

import pytest

from proxy.dialects.dialect import TextKind
from proxy.dialects.realtime import REALTIME, RealtimeReader
from proxy.dialects.usage import Usage
from proxy.stream.modes.projection import View
from proxy.wire.errors import BadRequest
from proxy.wire.sse import block
from tests.cuts import messages
from tests.streams import new_stream

USAGE = {"total_tokens": 9, "input_tokens": 5, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 1}}


def told(**event: Any) -> bytes:
    return block(json.dumps(event).encode())


def heard(*frames: bytes) -> RealtimeReader:
    reader = RealtimeReader()
    for frame in frames:
        reader.note(frame)
    return reader


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("response.text.delta", TextKind.CONTENT),
        ("response.audio_transcript.delta", TextKind.CONTENT),
        ("response.audio.delta", TextKind.CONTENT),
        ("response.output_audio.delta", TextKind.CONTENT),
        ("response.function_call_arguments.delta", TextKind.TOOL_CALL),
        ("conversation.item.input_audio_transcription.delta", None),
        ("response.audio.done", None),
        ("response.output_item.added", None),
        ("session.created", None),
    ],
)
def test_delta_of_an_answer_is_a_token(kind: str, text: TextKind | None) -> None:
    """Not what was heard of the user, and no frame of the skeleton; an empty one is none either."""
    assert RealtimeReader().note(told(type=kind, delta="x")) is text
    assert RealtimeReader().note(told(type=kind, delta="")) is None


def test_answers_begin_and_end() -> None:
    """Between them the session may end, within one it may not; their usage adds up."""
    reader = heard(told(type="session.created", session={"model": "qwen-omni"}))
    assert (reader.answers_begun, reader.finished, reader.model) == (0, True, "qwen-omni")
    reader.note(told(type="response.created", response={"status": "in_progress"}))
    assert (reader.answers_begun, reader.finished) == (1, False)
    reader.note(told(type="response.done", response={"status": "completed", "usage": USAGE}))
    assert (reader.finished, reader.finish_reason) == (True, "completed")
    reader.note(told(type="response.created"))
    reader.note(told(type="response.done", response={"status": "cancelled", "usage": USAGE}))
    assert (reader.answers_begun, reader.finished, reader.finish_reason) == (2, True, "cancelled")
    assert reader.usage == Usage(prompt=10, completion=8, cached=2)


def test_error_is_about_a_message_and_not_the_session() -> None:
    """It goes on afterwards."""
    reader = heard(told(type="error", error={"code": "invalid_value", "message": "m"}))
    assert reader.failure is None
    assert reader.finished


def test_task_is_an_answer() -> None:
    """Of DashScope's own protocol; one that fails is a failure."""
    reader = heard(told(header={"event": "task-started"}, payload={}))
    assert (reader.answers_begun, reader.finished) == (1, False)
    assert reader.note(told(header={"event": "result-generated"}, payload={})) is TextKind.CONTENT
    reader.note(told(header={"event": "task-finished"}, payload={"usage": USAGE}))
    assert (reader.finished, reader.usage) == (True, Usage(prompt=5, completion=4, cached=1))
    reader.note(told(header={"event": "task-started"}))
    failed = {"event": "task-failed", "error_code": "InvalidParameter", "error_message": "no such voice"}
    reader.note(told(header=failed))
    assert reader.finished
    assert reader.failure is not None
    assert reader.failure.reason == "InvalidParameter: no such voice"


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"1", b"null", b'{"type":1}', b'{"header":[]}', b'{"type":"response.done","response":1}',
     b'{"type":"session.created","session":[]}', b'{"header":{"event":"task-finished"},"payload":[]}', b"\xff"],
)  # fmt: skip
def test_message_of_another_form_says_nothing(data: bytes) -> None:
    """Whatever it is, nothing is raised."""
    reader = RealtimeReader()
    assert reader.note(block(data)) is None
    assert (reader.failure, reader.usage, reader.ordinary(block(data))) == (None, None, False)


def test_session_has_frames_of_its_own() -> None:
    """With a reader for each, and no token that would be missed."""
    assert isinstance(REALTIME.frames.reader(), RealtimeReader)
    assert not REALTIME.frames.has_text


def test_texts_and_transcripts_of_a_session_are_its_text() -> None:
    """An answer a line, whatever it is made of; what the user said is no answer."""
    deltas = [("text", "Hel"), ("output_text", "lo"), ("done", ""), ("done", ""), ("audio_transcript", "Good"),
              ("output_audio_transcript", " bye"), ("audio", "UklG"), ("done", "")]  # fmt: skip
    told = [
        {"type": "response.done", "response": {}}
        if kind == "done"
        else {"type": f"response.{kind}.delta", "delta": text}
        for kind, text in deltas
    ]
    told += [
        {"type": "conversation.item.input_audio_transcription.delta", "delta": "I said"},
        {"type": "response.text.delta", "delta": 7},
        {"header": {"event": "result-generated"}, "payload": {"output": {"sentence": {"text": "One se"}}}},
        {
            "header": {"event": "result-generated"},
            "payload": {"output": {"sentence": {"text": "One sentence.", "sentence_end": True}}},
        },
    ]
    frames = [block(json.dumps(one).encode()) for one in told]
    stream = new_stream(REALTIME)
    stream.extend(frames)
    text = stream.projection(View("text"))
    assert text.render(0, len(frames)) == b"Hello\nGood bye\nOne sentence.\n"
    assert b"".join(text.render(at, at + 1) for at in range(len(frames))) == text.render(0, len(frames))
    for mode in ("coalesced", "chat", "events"):
        assert len(messages(stream.projection(View(mode)).render(0, len(frames)))) == len(frames)
    for mode in ("json", "cumulative", "incremental"):
        with pytest.raises(BadRequest):
            stream.projection(View(mode))
