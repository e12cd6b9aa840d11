"""The contract: what a real SDK makes of a stream through the proxy is what it makes of it without.

Every stream that was recorded, and those the fake makes up, cut at random, in two majors of the Python SDKs; and the
modes say the same as the bytes do. tests/clients asks openai-node the same.
"""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.contract.corpus import (
    BROKEN,
    OF_FRAMING,
    REFUSED,
    all_chats,
    all_natives,
    all_responses,
    chats,
    natives,
    of_client,
    of_helper,
    recordings,
    responses,
)
from tests.contract.playback import RECORDINGS, Playback, recording
from tests.contract.sdks import Question, Sdks, Told, both_majors, newer_major
from tests.cuts import NOT_RECORDED, recorded
from tests.proxy_under_test import Tee

MODES = ("events", "coalesced", "incremental")
CALLER = "Authorization: Bearer sk-a-real-client"
MAJORS = {"newer": ["3.", "2."], "older": ["1.", "1."]}

Ask = Callable[[list[Question]], Awaitable[list[Told]]]


async def compared(
    ask: Ask, fake: Playback, tee: Tee, questions: dict[str, Question]
) -> tuple[dict[str, Told], dict[str, Told]]:
    """Return what is heard for each question at the fake itself, and at the proxy before it."""
    asked = [{**question, "url": url} for question in questions.values() for url in (fake.url, tee.proxy.url)]
    heard = await ask(asked)
    return dict(zip(questions, heard[::2], strict=True)), dict(zip(questions, heard[1::2], strict=True))


def of(sdk: str, questions: dict[str, Question]) -> dict[str, Question]:
    return {name: {"sdk": sdk, **question} for name, question in questions.items()}


@both_majors
async def test_sdks_are_two_majors(sdks: Sdks, request: pytest.FixtureRequest) -> None:
    """Else the suite would prove half of what it says."""
    starts = MAJORS[request.node.callspec.params["sdks"]]
    versions = await sdks.versions()
    assert all(version.startswith(start) for version, start in zip(versions, starts, strict=True)), versions


@both_majors
async def test_openai_python_hears_the_same(sdks: Sdks, fake: Playback, tee: Tee) -> None:
    """Text, reasoning, tool calls, usage, finish reason; and the class, status and code of an exception."""
    direct, through = await compared(sdks.hear, fake, tee, of("openai", all_chats()))
    assert through == direct
    assert sum(told["error"] is None and told["texts"] != {} for told in direct.values()) > 20
    assert {told["error"]["status"] for told in direct.values() if told["error"]} > {None, 400, 401, 429, 500}


@both_majors
async def test_dashscope_hears_the_same(sdks: Sdks, fake: Playback, tee: Tee) -> None:
    """Answer by answer: status, code, message, output and usage, as it comes and as the SDK adds it up."""
    direct, through = await compared(sdks.hear, fake, tee, of("dashscope", all_natives()))
    assert through == direct
    assert sum(len(told["answers"]) > 1 for told in direct.values()) > 20
    assert {answer[0] for told in direct.values() for answer in told["answers"]} > {200, 400, 401, 429, 500}


@newer_major
async def test_client_of_dashscope_2_hears_the_same(sdks: Sdks, fake: Playback, tee: Tee) -> None:
    """It reads events by the rules, in both dialects: chunk by chunk, and the class and status of an exception."""
    direct, through = await compared(sdks.hear, fake, tee, of("client", of_client()))
    assert through == direct
    assert sum(len(told["chunks"]) > 1 for told in direct.values()) >= 14
    assert {told["error"]["class"] for told in direct.values() if told["error"]} > {"RateLimitError"}


@both_majors
async def test_openai_python_hears_the_same_of_responses(sdks: Sdks, fake: Playback, tee: Tee) -> None:
    """Event by event; and the class, status and code of an exception."""
    direct, through = await compared(sdks.hear, fake, tee, of("responses", all_responses()))
    assert through == direct
    assert sum(len(told["events"]) > 5 for told in direct.values()) > 20
    assert sum(len(told["events"]) == 1 for told in direct.values()) >= 8
    assert {told["error"].get("status") for told in direct.values() if told["error"]} > {400, 401, 429, 500}


@both_majors
async def test_openai_pythons_helper_adds_up_the_same(sdks: Sdks, fake: Playback, tee: Tee) -> None:
    """Events with what the SDK has added up so far, and the response that they make."""
    direct, through = await compared(sdks.hear, fake, tee, of("responses", of_helper()))
    assert through == direct
    assert sum(told["final"] is not None for told in direct.values()) > 20


@newer_major
async def test_openai_pythons_helper_adds_up_the_same_in_modes_of_events(sdks: Sdks, fake: Playback, tee: Tee) -> None:
    """Merged deltas, and ids of ours, change nothing of the response that it makes."""
    asked = {name: one for name, one in of_helper().items() if name.endswith(("dashscope", "openai"))}
    direct = await sdks.hear([{"sdk": "responses", "url": fake.url, **question} for question in asked.values()])
    for mode in ("events", "coalesced"):
        questions = [
            {"sdk": "responses", "url": tee.proxy.url, **one, "headers": {**one["headers"], "Stream-Mode": mode}}
            for one in asked.values()
        ]
        for name, one, other in zip(asked, direct, await sdks.hear(questions), strict=True):
            assert (other["final"], other["error"]) == (one["final"], one["error"]), (mode, name)


@both_majors
async def test_broken_response_never_looks_complete(sdks: Sdks, fake: Playback, tee: Tee) -> None:
    """Neither as it comes nor added up: nothing says that it is complete, and something that it is not."""
    for how in ("create", "helper"):
        direct, through = await compared(sdks.hear, fake, tee, of("responses", responses(BROKEN, how=how)))
        for name, told in through.items():
            assert told["error"], name
            assert told["final"] is None
            assert len(told["events"]) >= len(direct[name]["events"]), name


@both_majors
async def test_follower_of_a_response_hears_the_same(sdks: Sdks, fake: Playback, tee: Tee) -> None:
    """By GET, in modes of events: event by event, or merged; a failure as the last of them.

    Comments do no harm there. By themselves the SDK fails on a comment between blocks with ids.
    """
    asked = {name: one for name, one in all_responses().items() if one.get("stream")}
    asked = {name: one for name, one in asked.items() if name not in (*REFUSED, *OF_FRAMING, "bom", "comments, crlf")}
    direct = await sdks.hear([{"sdk": "responses", "url": fake.url, **question} for question in asked.values()])
    places = list(asked)
    assert direct[places.index("comments")]["error"] == {"class": "JSONDecodeError"}
    direct[places.index("comments")] = direct[places.index("no_done")]
    idents = [await asked_for_response(tee, question) for question in asked.values()]
    follow: Question = {"sdk": "responses", "url": tee.proxy.url}
    for mode in ("events", "coalesced"):
        heard = await sdks.hear([{**follow, "ident": ident, "query": {"mode": mode}} for ident in idents])
        for name, one, other in zip(asked, direct, heard, strict=True):
            assert other["error"] == one["error"], name
            assert response_said(other["events"]) == response_said(one["events"]), name
            if mode == "events":
                assert other["events"] == one["events"], name
    broken = [await asked_for_response(tee, question) for question in responses(BROKEN[:4]).values()]
    for told in await sdks.hear([{**follow, "ident": ident} for ident in broken]):
        assert (told["error"], told["events"][-1]["type"]) == (None, "response.failed")
        assert told["events"][-1]["response"]["id"] == told["events"][0]["response"]["id"]


async def asked_for_response(tee: Tee, question: Question) -> str:
    """Ask as no SDK does; return the id of the stream, once it has ended."""
    body = {"model": "qwen-plus", "input": "说点什么", **question}
    headers = [f"{name}: {value}" for name, value in body.pop("headers", {}).items()]
    answer = await tee.ask("POST", "/v1/responses", CALLER, *headers, body=json.dumps(body).encode())
    await answer.read()
    return answer.stream_id


def response_said(events: list[Any]) -> tuple[Any, Any]:
    """Return what the deltas of each channel add up to, and the other events but for their numbers."""
    texts: dict[str, str] = {}
    for event in events:
        if event["type"].endswith(".delta"):
            channel = f"{event['type']} {event['output_index']}"
            texts[channel] = texts.get(channel, "") + event["delta"]
    return texts, [event for event in events if not event["type"].endswith(".delta")]


@both_majors
async def test_broken_stream_raises_in_both_sdks(sdks: Sdks, fake: Playback, tee: Tee) -> None:
    """After what came of it; never a proper end, not even where the SDK sees none in what the upstream sent (law 7)."""
    direct, through = await compared(sdks.hear, fake, tee, of("openai", chats(BROKEN)))
    for name, told in through.items():
        assert told["error"], name
        assert told["chunks"] >= direct[name]["chunks"], name
    _, through = await compared(sdks.hear, fake, tee, of("dashscope", natives(BROKEN)))
    for name, told in through.items():
        assert told["error"] or told["answers"][-1][0] != 200, name


async def asked_raw(tee: Tee, question: Question) -> str:
    """Ask as no SDK does; return the id of the stream, once it has ended."""
    body = {"model": "qwen-plus", "messages": [{"role": "user", "content": "说点什么"}], **question}
    headers = [f"{name}: {value}" for name, value in body.pop("headers", {}).items()]
    answer = await tee.ask("POST", "/v1/chat/completions", CALLER, *headers, body=json.dumps(body).encode())
    await answer.read()
    return answer.stream_id


def said(told: Told) -> dict[str, Any]:
    return {key: told[key] for key in ("texts", "finish", "usage")} | {"code": (told["error"] or {}).get("code")}


def followed(questions: dict[str, Question]) -> dict[str, Question]:
    """Leave out what is no stream, and what is the same stream as another once it is in the log."""
    left_out = (*REFUSED, *OF_FRAMING, "bom", "compat-error", "native-cumulative")
    return {name: asked for name, asked in questions.items() if asked.get("stream") and not name.startswith(left_out)}


@both_majors
async def test_follower_in_every_mode_hears_the_same(sdks: Sdks, fake: Playback, tee: Tee) -> None:
    """By GET, with the SDK's own reader of streams: the same text, usage, finish reason and error as in the bytes."""
    questions = followed(all_chats())
    direct = await sdks.hear([{"sdk": "openai", "url": fake.url, **question} for question in questions.values()])
    expected = {name: said(told) for name, told in zip(questions, direct, strict=True)}
    idents = [await asked_raw(tee, question) for question in questions.values()]
    follow: Question = {"sdk": "openai", "url": tee.proxy.url}
    for mode in MODES:
        heard = await sdks.hear([{**follow, "ident": ident, "query": {"mode": mode}} for ident in idents])
        assert {name: said(told) for name, told in zip(questions, heard, strict=True)} == expected, mode
        if mode != "coalesced":
            assert [told["chunks"] for told in heard] == [told["chunks"] for told in direct], mode


@both_majors
async def test_follower_of_a_stream_with_a_byte_order_mark_hears_all_of_it(
    sdks: Sdks, fake: Playback, tee: Tee
) -> None:
    """The SDK would raise, if it were there; of the bytes as they are it loses the first event."""
    whole, marked = chats(("no_done", "bom")).values()
    (direct,) = await sdks.hear([{"sdk": "openai", "url": fake.url, **whole}])
    ident = await asked_raw(tee, marked)
    asked: Question = {"sdk": "openai", "url": tee.proxy.url, "ident": ident}
    for heard in await sdks.hear([{**asked, "query": {"mode": mode}} for mode in MODES]):
        assert said(heard) == said(direct)


def native_texts(told: Told) -> dict[str, str]:
    """Add up what DashScope's answers say in each field, as one does with increments."""
    found: dict[str, str] = {}
    for _, _, _, output, _ in told["answers"]:
        document = json.loads(output) or {}
        for place, choice in enumerate(document.get("choices") or [{"message": {"content": document.get("text")}}]):
            message, index = choice["message"], choice.get("index", place)
            calls = {
                f"call {call['index']}": call["function"].get("arguments") for call in message.get("tool_calls", ())
            }
            for field, text in {**calls, **{key: message.get(key) for key in ("content", "reasoning_content")}}.items():
                text = "".join(part["text"] for part in text) if isinstance(text, list) else text
                if text:
                    found[f"{index} {field}"] = found.get(f"{index} {field}", "") + text
    return found


UNFINISHED = "native-cnblogs-deep-research-keep-alive-type-sse.sse"


@both_majors
async def test_dashscope_in_every_mode_adds_up_to_the_same(sdks: Sdks, fake: Playback, tee: Tee) -> None:
    """By `Stream-Mode`, of increments: the same text; and the same answers one by one where none are merged."""
    questions = {
        name: {"sdk": "dashscope", **question}
        for name, question in followed(all_natives()).items()
        if question.get("incremental_output")
    }
    direct = await sdks.hear([{**question, "url": fake.url} for question in questions.values()])
    for mode in MODES:
        headers = {"Stream-Mode": mode}
        asked = [
            {**question, "url": tee.proxy.url, "headers": {**question.get("headers", {}), **headers}}
            for question in questions.values()
        ]
        heard = dict(zip(questions, await sdks.hear(asked), strict=True))
        expected = dict(zip(questions, direct, strict=True))
        heard_error = heard.pop(UNFINISHED, None)  # a piece of a stream: it ends before its answer has finished
        assert heard_error is None or "upstream_reset" in heard_error["answers"][-1]
        expected.pop(UNFINISHED, None)
        for name in filter(is_untyped, questions):  # the SDK itself takes it for JSON, and fails
            assert (heard.pop(name)["answers"] != []) >= (expected.pop(name)["answers"] != [])
        if mode == "coalesced":
            assert {name: native_texts(told) for name, told in heard.items()} == {
                name: native_texts(told) for name, told in expected.items()
            }
        else:
            assert heard == expected, mode


def is_untyped(name: str) -> bool:
    """Return whether a name is that of a recording without a Content-Type: an event stream to us by how it begins."""
    return name in RECORDINGS and not recording(RECORDINGS[name]).content_type


@pytest.mark.skipif(not recorded(), reason=NOT_RECORDED)
def test_recordings_are_part_of_the_contract() -> None:
    """In both dialects, streams and whole answers."""
    assert len(recordings("compat", {})) >= 7
    assert len(recordings("native", {})) >= 15
