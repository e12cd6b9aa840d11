"""What the compiled modules make of bytes, in words: run by two builds, their words are compared.

`python -P tests/readings.py` reads lines of JSON, [name, [hex, ...]], and writes for each what that reading says, as a
line of JSON. It imports only what the wheel has, so that the Python of any environment can run it.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from aiohttp.test_utils import make_mocked_request

from proxy.dialects import table
from proxy.machine import events, head
from proxy.server.following.request import cursor, last_event_id, seconds, without_last_event_id
from proxy.stream.vitals import Vitals
from proxy.wire import json_members, json_text, sse
from proxy.wire.errors import BadRequest, TooLarge
from proxy.wire.event_id import read_event_id
from proxy.wire.http import EndToEnd, origin_form, with_one_length
from proxy.wire.request_end import RequestEnd
from proxy.wire.sse import Splitter
from proxy.wire.websocket import FrameReader, MessageReader

MAX_FRAME = 200
DIALECTS = ("openai", "dashscope", "responses", "anthropic", "sse")


def splitter(reads: list[bytes]) -> Iterator[Any]:
    """Frames of a body, and what the splitter holds after each read."""
    one = Splitter(MAX_FRAME)
    for read in reads:
        yield one.feed(read)
        yield one.tail, one.holds, one.holds_lines, one.held_bytes, one.in_comment


def blocks(reads: list[bytes]) -> Iterator[Any]:
    """One frame: its fields, and what is written of it."""
    frame = b"".join(reads)
    yield sse.begins_stream(frame), tuple(sse.fields(frame)), sse.payload(frame)
    yield sse.block(frame), sse.stamp(frame, b"abcdef-7"), sse.spaced(frame), sse.respell(frame, b"{}")


def chunks(reads: list[bytes]) -> Iterator[Any]:
    """Reads of a chunked body, by the short way."""
    for read in reads:
        yield events(read)


def cursors(reads: list[bytes]) -> Iterator[Any]:
    """Event ids and cursors, in header and query."""
    for read in reads:
        text = read.decode("latin-1")
        yield read_event_id(text)
        yield without_last_event_id(text)
        for mode in ("events", "raw", "text"):
            for target in (f"/x?after={text}", f"/x?offset={text}", f"/x?Last-Event-ID={text}"):
                yield _said(cursor, make_mocked_request("GET", target), mode)
        yield _said(last_event_id, make_mocked_request("GET", "/x", {"Last-Event-ID": text}))
        yield _said(seconds, text, "wait", 0)


def heads(reads: list[bytes]) -> Iterator[Any]:
    """Heads of requests and responses: which headers go on, how long they are, where a request ends."""
    data = b"".join(reads)
    lines = [line.partition(b": ") for line in data.split(b"\r\n\r\n")[0].split(b"\r\n")[1:]]
    headers = [(name, value) for name, _, value in lines]
    kept, marked = EndToEnd((b"host",), (b"content-length",)).parted(headers)
    yield kept, marked, head(data[:20], kept), with_one_length(data), origin_form(data.decode("latin-1"))
    yield from request_ends(reads)


def request_ends(reads: list[bytes]) -> Iterator[Any]:
    """How much of each read belongs to a request."""
    one = RequestEnd()
    for read in reads:
        if not one.ended:
            yield one.feed(read), one.ended


def web_sockets(reads: list[bytes]) -> Iterator[Any]:
    """Frames of a WebSocket, as a follower and as a session read them."""
    for make in (FrameReader, lambda: MessageReader(1 << 16, masked=True)):
        reader: Any = make()
        for read in reads:
            yield _said(reader.feed, read)
            while reader.behind:
                yield _said(reader.feed, b"")


def json_texts(reads: list[bytes]) -> Iterator[Any]:
    """JSON as bodies have it: members, exact values, what is too deep."""
    data = b"".join(reads)
    yield _said(lambda: _shown(json_text.read(data)))
    yield _said(lambda: json_text.written(json_text.read_exactly(data)))
    yield json_text.is_deep(data), json_text.may_lose_digits(data)
    yield _said(lambda: list(json_members.pairs(data) or ()))
    yield _said(lambda: json_members.Members(data).text("model"))


def dialects(reads: list[bytes]) -> Iterator[Any]:
    """What each dialect's reader makes of a stream's frames."""
    for name in DIALECTS:
        vitals = Vitals(table.dialect(name), 0.0)
        cutter, reader = Splitter(1 << 20), vitals.reader
        for read in reads:
            yield _said(vitals.note, cutter.feed(read), 1.0, [])
            yield name, reader.ended, reader.finished, reader.finish_reason, reader.failure, reader.has_content
        yield reader.model, reader.request_id, reader.usage


READINGS: dict[str, Callable[[list[bytes]], Iterable[Any]]] = {
    one.__name__: one for one in (splitter, blocks, chunks, cursors, heads, web_sockets, json_texts, dialects)
}


def _shown(value: Any) -> Any:
    """Return a JSON value with the texts of what is kept exactly in place of it, as its repr() is its address."""
    if isinstance(value, dict):
        return {key: _shown(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_shown(element) for element in value]
    return ("exactly", value.text) if isinstance(value, json_text.Exactly) else value


def _said(read: Callable[..., Any], *given: Any) -> Any:
    """Return what is read, or the error that is raised."""
    try:
        return read(*given)
    except (ValueError, BadRequest, TooLarge) as error:
        return type(error).__name__, str(error)


def told(name: str, reads: list[bytes]) -> str:
    """Return what a reading says of reads."""
    found = []
    try:
        found += [repr(one) for one in READINGS[name](reads)]
    except Exception as error:  # whatever it is, both must raise it
        found.append(f"{type(error).__name__}: {error}")
    return "\n".join(found)


def main() -> None:
    """Answer line by line, and first say which build this is."""
    print(json.dumps(sys.modules["proxy.wire.sse"].__file__), flush=True)
    for line in sys.stdin:
        name, reads = json.loads(line)
        print(json.dumps(told(name, [bytes.fromhex(read) for read in reads])), flush=True)


if __name__ == "__main__":
    main()
