"""Whatever comes in place of what is read here: cursors, tokens, keys, configuration, frames, chunks, request heads.

Each is read, or refused by an error that is meant for it, in the same way however it is cut. `make fuzz` looks longer.
"""

import asyncio
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import httptools
import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.access.capabilities import Capabilities, Capability
from proxy.access.key_file import CallerRecords, KeyIndex, read_records
from proxy.machine import events
from proxy.server.config import Config, load
from proxy.server.configuration.mistakes import explained
from proxy.server.following.request import cursor
from proxy.stream.modes.projections import MODES
from proxy.wire.errors import BadRequest, TooLarge
from proxy.wire.event_id import EventId, read_event_id
from proxy.wire.http import chunk
from proxy.wire.websocket import FrameReader, MessageReader
from tests.complaints import no_complaints
from tests.made_up_inputs import cursors, framed, frames, heads
from tests.proxy_under_test import teed

SECRET = "sk-SECRET-of-the-configuration"
FILE = Path(__file__).parents[1] / "config" / "streamtee.toml"
DEFAULTS = tomllib.loads(FILE.read_text())

# Cursors


@given(cursors, st.sampled_from(sorted(MODES)), st.sampled_from(["after", "starting_after", "offset", "lastEventId"]))
def test_cursors_are_read_or_refused(text: str, mode: str, name: str) -> None:
    """As an id that is written again as it was, a number that is not negative, or 400."""
    request = make_mocked_request("GET", f"/v1/streams/st_x?{name}={quote(text, errors='surrogatepass')}")
    try:
        read = cursor(request, mode)
    except BadRequest:
        return
    assert read.seq is None or -1 <= read.seq < 10**18
    assert read.offset_bytes is None or read.offset_bytes >= 0
    event_id = read_event_id(text)
    if event_id is not None:
        assert bytes(event_id).partition(b"-")[0].decode() == event_id.epoch
        assert read_event_id(bytes(event_id).decode()) == EventId(*event_id)


def refusal(read: Callable[[], object]) -> str:
    """Return what is said when something can't be read; "" if it can."""
    try:
        read()
    except ValueError as error:
        return explained(error)
    return ""


# Tokens and keys

SIGNER = Capabilities(["a secret of thirty-two characters", "another one of thirty-two characters"])
tokens = st.builds(
    lambda ident, rights, at: SIGNER.sign(Capability(ident, tuple(rights), at)),
    st.from_regex(r"st_[a-z2-7]{26}", fullmatch=True),
    st.lists(st.sampled_from(["read", "info", "cancel"]), min_size=1, max_size=3, unique=True),
    st.integers(0, 10**11),
)


@given(tokens, st.integers(0, 200), st.text(max_size=3), st.integers(0, 3))
def test_only_the_token_that_was_signed_is_believed(token: str, at: int, put: str, size: int) -> None:
    """With any few characters replaced, left out or added, it is none."""
    at = min(at, len(token))
    changed = token[:at] + put + token[at + size :]
    assert (SIGNER.verify(changed) is None) == (changed != token)


@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")) | st.text(alphabet="sk-t0123456789abcdef"))
def test_text_is_no_key_and_no_token(text: str) -> None:
    """Nor is it an exception."""
    assert SIGNER.verify(text) is None
    assert KeyIndex(CallerRecords()).of_key(text, 0) is None


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(SECRET)
names = st.sampled_from(["callers", "alice", "keys", "id", "salt", "digest", "limits", "models", "subject", "disabled"])


def nested(depth: int) -> st.SearchStrategy[Any]:
    """Return JSON values with lists and objects in each other, at most so deep."""
    if not depth:
        return scalars
    inner = nested(depth - 1)
    return scalars | st.lists(inner, max_size=3) | st.dictionaries(names | st.text(max_size=4), inner, max_size=4)


values = nested(4)


@given(values.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60))
def test_keys_files_are_read_or_refused(content: bytes) -> None:
    """By an error that quotes nothing of it: a key may stand in the wrong place."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "keys.json"
        file.write_bytes(content)
        assert SECRET not in refusal(lambda: KeyIndex(read_records(file)))


# Configuration

plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
tables = st.dictionaries(
    st.sampled_from(sorted(DEFAULTS)) | st.text(max_size=4),
    plain
    | st.lists(plain, max_size=2)
    | st.dictionaries(
        st.sampled_from(sorted({key for one in DEFAULTS.values() if isinstance(one, dict) for key in one}))
        | st.text(max_size=4),
        plain | st.lists(plain, max_size=2) | st.dictionaries(st.text(max_size=4), plain, max_size=2),
        max_size=4,
    ),
    max_size=4,
)
misplaced = st.one_of(values, st.just(SECRET), st.just(SECRET[:20]), st.lists(st.just(SECRET), max_size=2))
secrets = st.fixed_dictionaries(
    {},
    optional={
        "upstream": st.fixed_dictionaries({}, optional={"key": misplaced, "outbound_proxy": misplaced}),
        "capabilities": st.fixed_dictionaries({"secrets": misplaced}),
        "auth": st.fixed_dictionaries({"hook_key": misplaced, "keys": misplaced}),
    },
)


@pytest.mark.usefixtures("bare_environment")
@given(tables, secrets)
def test_configuration_is_read_or_refused_by_name(given_tables: dict[str, Any], secret: dict[str, Any]) -> None:
    """Every mistake is told by its key, and what stands where a secret belongs is not."""
    rest = {name: table for name, table in secret.items() if name not in given_tables}
    said = refusal(lambda: Config(**given_tables, **rest))
    assert not said or said.startswith("the configuration ")
    assert SECRET not in said


@pytest.mark.usefixtures("bare_environment")
@given(st.integers(0, 1 << 16), st.integers(0, 30), st.text(max_size=5))
def test_configuration_file_that_was_changed_anywhere_is_read_or_refused(at: int, size: int, put: str) -> None:
    """A few characters replaced in the file that lists all keys."""
    text = FILE.read_text()
    at %= len(text)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "streamtee.toml"
        file.write_text(text[:at] + put + text[at + size :], encoding="utf-8", errors="replace")
        said = refusal(lambda: load(file))
        assert not said or said.startswith("the configuration ")


# Frames of WebSockets


def heard(reader: FrameReader | MessageReader, reads: list[bytes]) -> tuple[list[Any], str]:
    """Return what a reader makes of reads, and the error that ended it."""
    found: list[Any] = []
    try:
        for read in reads:
            found += reader.feed(read)
            while reader.behind:
                found += reader.feed(b"")
    except (BadRequest, TooLarge) as error:
        return found, type(error).__name__
    return found, ""


@given(st.lists(frames, max_size=8), st.integers(0, 1 << 16), st.sampled_from(["frames", "messages"]))
def test_frames_of_web_sockets_are_the_same_however_they_are_cut(said: list[bytes], seed: int, kind: str) -> None:
    """Read to the same place with the same error, in one read, byte by byte, and in others; what is held is bounded."""
    body = b"".join(said)
    make: Callable[[], FrameReader | MessageReader] = (
        FrameReader if kind == "frames" else lambda: MessageReader(1 << 16, masked=True)
    )
    whole = heard(make(), [body])
    for reads in ([body[at : at + 1] for at in range(min(len(body), 2000))] + [body[2000:]], _cut(body, seed)):
        reader = make()
        cut = heard(reader, reads)
        assert cut[1] == whole[1] or closed(whole[0])
        assert cut[0][: len(whole[0])] == whole[0][: len(cut[0])]
        if isinstance(reader, MessageReader) and not cut[1]:
            assert reader.held_bytes < (1 << 16) + (1 << 16) + 14 or closed(cut[0])


def closed(found: list[Any]) -> bool:
    """Return whether a close frame is among what was read: what follows it is not looked at."""
    return any(one[0] == 8 for one in found)


def _cut(body: bytes, seed: int) -> list[bytes]:
    random = Random(seed)
    places = sorted(random.randrange(len(body) + 1) for _ in range(random.randrange(12)))
    return [body[start:end] for start, end in zip([0, *places], [*places, len(body)], strict=True)]


# Chunks


class Body:
    """What llhttp makes of a chunked body."""

    def __init__(self, data: bytes) -> None:
        self.data = b""
        parser = httptools.HttpResponseParser(self)
        parser.feed_data(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        """Take a part of the body."""
        self.data += data


@given(st.lists(framed, max_size=6))
@example([chunk(b"data: a\n\n"), chunk(b"data: b\n\n")])
@example([b"9\r\ndata: a\n\n\r\n\n\n\r\n"])
def test_short_way_of_chunks_is_the_long_one(said: list[bytes]) -> None:
    """What it takes, the whole parser takes as the same bytes, and each frame is one block of an event stream."""
    data = b"".join(said)
    frames_found = events(data)
    if not frames_found:
        return
    assert b"".join(map(chunk, frames_found)) == data
    assert Body(data).data == b"".join(frames_found)
    assert all(frame.endswith(b"\n\n") and frame.find(b"\n\n") == len(frame) - 2 for frame in frames_found)


# Heads of requests


@given(st.lists(heads, min_size=1, max_size=6), st.integers(0, 1 << 16))
@settings(max_examples=max(10, settings().max_examples // 20))
def test_request_heads_are_answered_or_refused(sent: list[bytes], seed: int) -> None:
    """Each by an answer of HTTP/1.1 or the end of its connection; then the next client is served as ever."""
    asyncio.run(_send(sent, seed))


async def _send(sent: list[bytes], seed: int) -> None:
    limits = {"header_bytes": 8192, "headers": 20}
    clients = {"head_s": 0.05, "body_s": 0.05, "keepalive_s": 0.05}
    with no_complaints():
        async with teed("http://127.0.0.1:9", limits=limits, clients=clients) as tee:
            for head in sent:
                client = await tee.connect()
                for part in _cut(head, seed):
                    if not client.gone:
                        client.send(part)
                    await asyncio.sleep(0)
                async with asyncio.timeout(10):
                    await client.wait_gone()
                _check_answers(bytes(client.buffer))
            assert (await tee.ask("GET", "/healthz")).status == 200


def _check_answers(received: bytes) -> None:
    """See that all that came are whole answers, one after another."""
    while received:
        head, end, rest = received.partition(b"\r\n\r\n")
        assert end, received[:200]
        assert head.startswith(b"HTTP/1.1 ")
        status = int(head[9:12])
        lower = head.lower()
        if status in (100, 101, 204):
            received = rest
            continue
        length = lower.partition(b"content-length: ")[2].partition(b"\r\n")[0]
        assert status >= 400 or length or b"chunked" in lower
        received = rest[int(length) :] if length else b""
