"""Every input of the corpus, through all modes, cut into reads at random: what an entry says is what comes.

The corpus (tests/corpus) has what is reported of proxies, gateways and SDKs. A new find is one entry there.
"""

import asyncio
import json
import re
from itertools import accumulate, pairwise
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.dialects.dashscope import DASHSCOPE
from proxy.dialects.dialect import Dialect
from proxy.dialects.messages import MESSAGES
from proxy.dialects.responses import RESPONSES
from proxy.wire import json_text
from tests.complaints import no_complaints
from tests.corpus.entry import Entry
from tests.corpus.table import CORPUS, DIALECTS
from tests.cuts import Message, messages
from tests.played import MODES_OF, Play
from tests.pumped import Connected


def cut(body: bytes, parts: list[float] | None) -> list[bytes]:
    """Cut a body at a few places, each a part of its length; None: byte by byte."""
    places = range(len(body)) if parts is None else sorted(round(part * len(body)) for part in parts)
    return [body[start:end] for start, end in pairwise([0, *places, len(body)]) if start < end]


TEXTS = ("reasoning_content", "reasoning", "refusal")


def read(data: bytes) -> Any:
    """Read JSON as leniently as anybody does."""
    text = data.decode(errors="replace").removeprefix("\ufeff")
    if json_text.is_deep(data):
        return json_text.read(data)
    return json.loads(text, strict=False, parse_int=lambda digits: int(digits[:18]))


def joined(content: Any) -> Any:
    """Return the text of a content that may be in parts."""
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        return content
    parts = [{"text": part} if isinstance(part, str) else part for part in content]
    return "".join(part.get("text") or "" for part in parts if isinstance(part, dict))


def _index(item: dict[str, Any], place: int) -> int:
    stated = item.get("index")
    return place if stated is None else int(stated)


class Heard:
    """What a careful client of a mode of events has heard of the first choice."""

    def __init__(self, rendered: bytes, *, cumulative: bool) -> None:
        self.texts: dict[str, str] = {}
        self.calls: dict[int, dict[str, str]] = {}
        self._cumulative = cumulative
        self._typed: set[int] = set()  # items of which texts were heard
        for one in messages(rendered):
            try:
                self._hear(read(one.data))
            except ValueError:
                continue

    def _hear(self, document: Any) -> None:
        if isinstance(document, dict) and isinstance(document.get("type"), str):
            self._hear_typed(document)
            return
        output = document.get("output", document) if isinstance(document, dict) else {}
        if not isinstance(output, dict) or output.get("error") is not None:
            return
        choices = output.get("choices")
        if isinstance(choices, list):
            for place, choice in enumerate(choices):
                if isinstance(choice, dict) and _index(choice, place) == 0:
                    self._add(choice.get("delta") or choice.get("message") or choice)
        elif "text" in output:
            self._add({**output, "content": output["text"]})
        else:
            self._add(output.get("message") or (output.get("workflow_message") or {}).get("message") or output)

    def _hear_typed(self, event: dict[str, Any]) -> None:
        """Hear an event of Responses or Messages; texts that come whole count if no pieces of them came before."""
        kind, index, said = event["type"], event.get("output_index", 0), ""
        delta, block = event.get("delta"), event.get("content_block")
        if kind == "response.output_text.delta":
            said = str(delta)
        elif kind == "content_block_delta" and isinstance(delta, dict) and delta.get("type") == "text_delta":
            said = delta["text"]
        elif kind == "content_block_start" and isinstance(block, dict):
            said = block.get("text") or ""
        elif kind == "message_start":
            said = text_of_document(event["message"])
        elif kind == "response.output_text.done" and index not in self._typed:
            said = event["text"]
        elif kind == "response.output_item.done" and isinstance(index, int) and index not in self._typed:
            said = text_of_document({"output": [event["item"]]})
        elif kind == "response.completed" and not self._typed:
            said = text_of_document(event["response"])
        if said and isinstance(index, int):
            self._typed.add(index)
        self.texts["content"] = self.texts.get("content", "") + said

    def _add(self, delta: Any) -> None:
        if not isinstance(delta, dict):
            return
        for name in ("content", *TEXTS):
            said = joined(delta.get(name, delta.get("text") if name == "content" else None))
            if isinstance(said, str):
                self.texts[name] = self._sum(self.texts.get(name, ""), said)
        calls = delta.get("tool_calls") or ()
        for place, call in enumerate(filter(None, [calls] if isinstance(calls, dict) else calls)):
            known = self.calls.setdefault(_index(call, place), {"name": "", "arguments": ""})
            body = call.get("function") or call.get("custom") or {}
            for name in known:
                field = "input" if name == "arguments" and "custom" in call else name
                said = body.get(field) or ""
                known[name] = self._sum(known[name], said if isinstance(said, str) else orjson.dumps(said).decode())
        called = delta.get("function_call")
        if isinstance(called, dict):
            known = self.calls.setdefault(-1, {"name": "", "arguments": ""})
            for name in known:
                known[name] = self._sum(known[name], called.get(name) or "")

    def _sum(self, known: str, more: str) -> str:
        return (more or known) if self._cumulative else known + more

    def problems(self, entry: Entry) -> list[str]:
        found = []
        wanted = {"content": entry.text} | {
            name: joined(text) or "" for name, text in entry.message.items() if name in (*TEXTS, "content")
        }
        for name, text in wanted.items():
            if self.texts.get(name, "") != text:
                found.append(f"{name} is {self.texts.get(name)!r}")
        calls = [call.get("function") or call.get("custom") for call in entry.message.get("tool_calls") or ()]
        calls += [entry.message["function_call"]] if "function_call" in entry.message else []
        told = [{"name": one["name"], "arguments": one.get("arguments", one.get("input"))} for one in calls]
        if told != [self.calls[index] for index in sorted(self.calls)]:
            found.append(f"calls are {self.calls}")
        return found


def lacks(known: Any, wanted: Any, where: str = "") -> list[str]:
    """Return what a JSON value lacks of another."""
    if isinstance(wanted, dict) and isinstance(known, dict):
        return [one for key, value in wanted.items() for one in lacks(known.get(key), value, f"{where}.{key}")]
    if isinstance(wanted, list) and isinstance(known, list) and len(known) == len(wanted):
        return [one for n, pair in enumerate(zip(known, wanted, strict=True)) for one in lacks(*pair, f"{where}[{n}]")]
    return [] if known == wanted and type(known) is type(wanted) else [f"{where} is {known!r}"]


def text_of_document(document: dict[str, Any]) -> str:
    """Return the text of a response, or of a message."""
    items = document.get("output", [document])
    blocks = [block for item in items if isinstance(item, dict) for block in item.get("content") or ()]
    return "".join(block.get("text") or "" for block in blocks)


def document_problems(dialect: Dialect, entry: Entry, document: Any) -> list[str]:
    """Return what is wrong with the document of mode json."""
    if dialect in (RESPONSES, MESSAGES):
        text = text_of_document(document)
        wrong = dialect is MESSAGES and text != entry.text
        return lacks(document, entry.document) + ([f"its text is {text!r}"] if wrong else [])
    told = document.get("output") if dialect is DASHSCOPE else document
    found = lacks(document, entry.document)
    choices = told.get("choices")
    if choices:
        message = choices[0].get("message")
    else:
        message = told.get("message") or (told.get("workflow_message") or {}).get("message") or told
    text = joined(message.get("content", message.get("text"))) or ""
    if "content" not in entry.message and text != entry.text:
        found.append(f"its text is {text!r}")
    return found + lacks(message, entry.message)


def play(dialect: Dialect, entry: Entry, reads: list[bytes]) -> list[str]:
    """Have an upstream send an entry in these reads; return what is wrong."""
    one = Play(dialect, cumulative=entry.cumulative)
    sinks = {mode: Connected() for mode in MODES_OF[dialect]}
    for mode, sink in sinks.items():
        one.follow(mode, sink)
    token_at: list[int] = []
    one.play(reads, lambda came: token_at.append(came) if one.stream.vitals.first_token_at and not token_at else None)
    one.assert_over([entry.body])
    found = token_problems(entry, reads, token_at)
    ending = one.stream.log.ending
    assert ending is not None
    if ending.reason != entry.ending or entry.why not in ending.message:
        found.append(f"it ended as {ending.reason}: {ending.message}")
    failed = entry.ending != "complete"
    for mode, sink in sinks.items():
        found += [f"{mode}: {what}" for what in mode_problems(dialect, entry, mode, sink, failed=failed)]
    usage = one.stream.vitals.reader.usage
    if (usage and (usage.prompt, usage.completion)) != entry.usage:
        found.append(f"usage is {usage}")
    return found


def token_problems(entry: Entry, reads: list[bytes], token_at: list[int]) -> list[str]:
    """Return what is wrong with the time of the first token: it came with the read that ended its event."""
    if not entry.first:
        return [f"a first token after {token_at}"] if token_at else []
    place = entry.body.index(entry.first)
    ended = re.compile(rb"\n\n|\r\r|\r\n\r\n|\Z").search(entry.body, place)
    assert ended is not None
    latest = next((at for at in accumulate(map(len, reads)) if at >= ended.end()), len(entry.body))
    right = bool(token_at) and place < token_at[0] <= latest
    return [] if right or latest == len(entry.body) else [f"a first token after {token_at}, not {place} to {latest}"]


def mode_problems(dialect: Dialect, entry: Entry, mode: str, sink: Connected, *, failed: bool) -> list[str]:
    """Return what is wrong with what a follower was sent."""
    ended = "closed" if entry.ends_properly else "aborted"
    if mode == "raw":
        return [] if (sink.received, sink.ended) == (entry.body, ended) else [f"{sink.ended}, {sink.received!r}"]
    ended = "aborted" if failed and mode in ("text", "json") else "closed"
    found = [] if sink.ended == ended else [f"it was {sink.ended}"]
    if mode == "text":
        text = sink.received.decode()
        found += [] if text == entry.text else [f"its text is {text!r}"]
    elif mode == "json":
        found += document_problems(dialect, entry, read(sink.received)) if sink.ended == "closed" else []
    elif mode in ("events", "spaced") or (mode == "chat" and dialect.documents.chunks):
        had = messages(sink.received)
        sent = said_by(entry.body if failed else entry.body + b"\n\n")
        said = said_by(sink.received)
        if not said.startswith(sent) or (not failed and said != sent):
            found.append(f"its events are {had}")
        if failed and not any(is_error(dialect, one) for one in had):
            found.append(f"none of its events is an error: {had[-2:]}")
    else:
        told = (
            entry if dialect.documents.chunks or dialect is DASHSCOPE or mode == "chat" else entry._replace(message={})
        )
        found += Heard(sink.received, cumulative=mode == "cumulative").problems(told)
    return found


def said_by(body: bytes) -> bytes:
    """Return the data of the events of a body, in lines; some upstreams leave out the blank lines between them."""
    return b"".join(one.data.strip() + b"\n" for one in messages(body) if one.data.strip())


def is_error(dialect: Dialect, message: Message) -> bool:
    """Return whether an SDK takes an event for an error."""
    try:
        told = read(message.data)
    except ValueError:
        return False
    if dialect in (DASHSCOPE, MESSAGES):
        return message.type == b"error"
    if dialect is RESPONSES:
        return isinstance(told, dict) and told.get("type") == "response.failed"
    return isinstance(told, dict) and bool(told.get("error"))


@pytest.mark.parametrize(
    ("dialect", "name"), [(dialect, name) for dialect, entries in CORPUS.items() for name in entries]
)
@settings(max_examples=2, derandomize=True)
@given(st.lists(st.floats(0, 1), max_size=8))
@example([])
@example(None)
def test_input_of_the_corpus_is_right_in_every_mode(dialect: str, name: str, parts: list[float] | None) -> None:
    """Whole, byte by byte, and cut at random."""
    entry = CORPUS[dialect][name]

    async def run() -> list[str]:
        with no_complaints():
            return play(DIALECTS[dialect], entry, cut(entry.body, parts))

    assert asyncio.run(run()) == []
