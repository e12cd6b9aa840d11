"""A connection to an upstream, without a socket: what the short way of an event must never do is to lose its place."""

import asyncio
import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.upstream.connection import Connection
from proxy.upstream.exchange import Exchange
from proxy.wire.errors import Garbled
from proxy.wire.http import chunk
from tests.descriptors import check_nothing_is_written
from tests.event_loops import on_each_loop
from tests.exchanges import Listener

_PIECES = (
    b"data: x\n\n",
    b"data: x\n\n",
    b": x\n\n",
    b"\n\n",
    b"\n",
    b"x",
    b"a\nb\n\n",
    b"a\r\n\r\n",
    b"5\r\nx\n\n\r\n",
)
_SIZES = (b"%x", b"%x", b"%X", b"0%x", b"%x;extension=1")


def _connection(framing: bytes = b"Transfer-Encoding: chunked") -> tuple[Connection, Exchange]:
    """Return a connection without a socket, and an exchange on it whose response has begun."""
    transport = SimpleNamespace(set_protocol=lambda protocol: None, is_closing=lambda: False, abort=lambda: None)
    connection = Connection(SimpleNamespace(transport=transport, protocol=None, close=lambda: None))  # type: ignore[arg-type]

    def released(exchange: Exchange, connection: Connection, keep: bool) -> None:
        connection.exchange = connection.receiver = None

    exchange = Exchange(SimpleNamespace(released=released), connection, b"GET")  # type: ignore[arg-type]
    connection.data_received(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % framing)
    return connection, exchange


@pytest.mark.parametrize("whole", [True, False])
async def test_read_after_those_that_nobody_had_taken_goes_the_short_way_if_it_begins_a_chunk(whole: bool) -> None:
    """As the second read of most streams does: the first one comes with the head, before there is a receiver."""
    connection, exchange = _connection()
    event = chunk(b"data: x\n\n")
    taken: list[bytes] = []
    connection.data_received(event if whole else event[:-1])

    def take(frames: list[bytes], chunks: bytes, at: float) -> bool:
        taken.append(chunks)
        return True

    listener = Listener()
    exchange.attach(listener, take)
    connection.data_received(event if whole else b"\n" + event)
    assert taken == ([event] if whole else [])
    assert listener.body == (b"data: x\n\n" if whole else b"data: x\n\n" * 2)


@on_each_loop
async def test_nothing_is_written_by_a_descriptor_that_is_another_connections_by_now() -> None:
    """Bytes are sent past uvloop's transports, so these can't prevent it."""
    loop = asyncio.get_running_loop()
    accepted: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    async with await asyncio.start_server(lambda reader, writer: accepted.put(writer), "127.0.0.1", 0) as server:
        _, connection = await loop.create_connection(Connection, *server.sockets[0].getsockname())
        for piece in (b"one", b"two", b"three"):
            connection.writer.write(piece)
        number = connection.transport.get_extra_info("socket").fileno()
        (await accepted.get()).close()
        await check_nothing_is_written(connection.writer, number)


SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-A: b\r\n\r\n"


def _unanswered(*, switches: bool) -> tuple[Connection, Exchange]:
    """Return the same before its response, and whether it asked to switch protocols."""
    transport = SimpleNamespace(set_protocol=lambda protocol: None, is_closing=lambda: False, abort=lambda: None)
    connection = Connection(SimpleNamespace(transport=transport, protocol=None, close=lambda: None))  # type: ignore[arg-type]

    def released(exchange: Exchange, connection: Connection, keep: bool) -> None:
        connection.exchange = connection.receiver = None

    return connection, Exchange(SimpleNamespace(released=released), connection, b"GET", switches)  # type: ignore[arg-type]


@pytest.mark.parametrize("at", [len(SWITCHING) - 1, len(SWITCHING), len(SWITCHING) + 2])
async def test_bytes_after_a_switch_are_the_receivers(at: int) -> None:
    """As they come, whatever they look like, also those in one read with the head and those before there is one."""
    connection, exchange = _unanswered(switches=True)
    sent = SWITCHING + b"\x81\x05HTTP/1.1 200 OK\r\n\r\n"
    connection.data_received(sent[:at])
    connection.data_received(sent[at:])
    assert (exchange.status, exchange.header(b"x-a")) == (101, b"b")
    await exchange.responded
    listener = Listener()
    exchange.attach(listener)
    connection.data_received(b"5\r\nx\n\n\r\n")
    connection.data_received(b"more")
    assert listener.body == b"\x81\x05HTTP/1.1 200 OK\r\n\r\n5\r\nx\n\n\r\nmore"
    connection.connection_lost(None)
    assert listener.over.is_set()
    assert listener.error is None


async def test_switch_that_was_not_asked_for_is_none() -> None:
    """It is no valid response then."""
    connection, exchange = _unanswered(switches=False)
    connection.data_received(SWITCHING)
    with pytest.raises(Garbled, match="protocol switched"):
        await exchange.responded


async def test_switch_that_names_no_protocol_is_none() -> None:
    """Whatever follows it."""
    connection, exchange = _unanswered(switches=True)
    connection.data_received(b"HTTP/1.1 101 Switching Protocols\r\nX-A: b\r\n\r\n")
    with pytest.raises(Garbled, match="not valid HTTP"):
        await exchange.responded


async def test_answer_without_a_switch_is_an_answer() -> None:
    """With its body."""
    connection, exchange = _unanswered(switches=True)
    connection.data_received(b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno")
    assert (exchange.status, exchange.take_complete()) == (401, b"no")


@given(
    chunks=st.lists(st.tuples(st.sampled_from(_PIECES), st.sampled_from(_SIZES)), max_size=12),
    cuts=st.sets(st.integers(0, 400), max_size=6),
    taken=st.randoms(use_true_random=False),
)
async def test_short_way_and_the_long_one_bring_the_same(
    chunks: list[tuple[bytes, bytes]], cuts: set[int], taken: Any
) -> None:
    """A read is a chunk, but where it is cut at other places; who is asked takes what he likes."""
    connection, exchange = _connection()
    listener = Listener()

    def take_events(frames: list[bytes], chunks: bytes, at: float) -> bool:
        assert chunks == b"".join(map(chunk, frames))
        if taken.random() < 0.5:
            return False
        listener.received(b"".join(frames), at)
        return True

    exchange.attach(listener, take_events)
    sent = [(size % len(piece)) + b"\r\n" + piece + b"\r\n" for piece, size in chunks] + [b"0\r\n\r\n"]
    begin = 0
    for read in sent:
        places = sorted({0, len(read), *(at - begin for at in cuts if 0 < at - begin < len(read))})
        for first, last in itertools.pairwise(places):
            connection.data_received(read[first:last])
        begin += len(read)
    assert listener.body == b"".join(piece for piece, _ in chunks)
    assert listener.over.is_set()
    assert listener.error is None


async def test_events_after_an_event_go_the_short_way() -> None:
    """Also behind one that did not, the first or a comment; several in one read do, too."""
    connection, exchange = _connection()
    listener, taken = Listener(), []
    exchange.attach(listener, lambda frames, chunks, at: taken.append(frames) is None)
    for piece in (b"data: 1\n\n", b"data: 2\n\n", b": 3\n\n", b"id: 4\ndata: 4\n\n"):
        connection.data_received(chunk(piece))
    connection.data_received(chunk(b"data: 5\n\n") + chunk(b"data: 6\n\n"))
    assert taken == [[b"data: 2\n\n"], [b"id: 4\ndata: 4\n\n"], [b"data: 5\n\n", b"data: 6\n\n"]]
    assert listener.body == b"data: 1\n\n: 3\n\n"
    connection.data_received(b"9\r\ndata: 5\n\nno end of a chunk")
    assert isinstance(listener.error, Garbled)


@pytest.mark.parametrize(
    ("reads", "body"),
    [
        ([b"2\r\n\n\n\r\n1", b"9\r\ndata: y\n\n\r\n", b"abcdefghijklmn\r\n"], b"\n\ndata: y\n\n\r\nabcdefghijklmn"),
        ([b"f\r\n\n", b"9\r\ndata: y\n\n\r\n", b"\r\n"], b"\n9\r\ndata: y\n\n\r\n"),
        ([b"2\r\n\n\n\r\nf\r\n", b"9\r\ndata: y\n\n\r\n", b".\r\n"], b"\n\n9\r\ndata: y\n\n\r\n."),
        ([b"19\r\ndata: y\n\n\r\n", b"abcdefghijklmn\r\n"], b"data: y\n\n\r\nabcdefghijklmn"),
    ],
)
async def test_read_that_only_looks_like_a_chunk_is_none(reads: list[bytes], body: bytes) -> None:
    """It began within the size of one, or within one, or is the beginning of a longer one."""
    connection, exchange = _connection()
    listener = Listener()

    def take_events(frames: list[bytes], chunks: bytes, at: float) -> bool:
        listener.received(b"".join(frames), at)
        return True

    exchange.attach(listener, take_events)
    for read in (b"2\r\n\n\n\r\n", *reads):
        connection.data_received(read)
    assert listener.body == b"\n\n" + body
    assert listener.error is None


@pytest.mark.parametrize("asked", [True, False])
async def test_what_follows_a_response_is_not_given_to_its_receiver(asked: bool) -> None:
    """Whether it is the next one on the connection, or nobody asked for it."""
    connection, exchange = _connection()
    listener, event, taken = Listener(), chunk(b"data: x\n\n"), []
    exchange.attach(listener, lambda frames, chunks, at: taken.append(frames) is None)
    for read in (event, event, b"0\r\n\r\n"):
        connection.data_received(read)
    assert taken == [[b"data: x\n\n"]]
    if asked:
        Exchange(SimpleNamespace(), connection, b"GET")  # type: ignore[arg-type]
        connection.data_received(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + event)
    connection.data_received(event)
    assert taken == [[b"data: x\n\n"]]
    assert listener.body == b"data: x\n\n"


async def test_body_that_is_not_chunked_never_goes_the_short_way() -> None:
    """Though it looks so: what counts is how the response is framed."""
    body = b"9\r\ndata: x\n\n\r\n"
    connection, exchange = _connection(b"Content-Length: %d" % (3 * len(body)))
    listener = Listener()
    exchange.attach(listener, lambda frames, chunks, at: pytest.fail("it was asked"))
    for _ in range(3):
        connection.data_received(body)
    assert listener.body == 3 * body
    assert listener.error is None


async def test_bytes_of_a_broken_response_reach_no_other_one() -> None:
    """All connections share what notes the parts of a read: none may be left there."""
    broken, of_broken = _unanswered(switches=False)
    sound, of_sound = _unanswered(switches=False)
    listeners = Listener(), Listener()
    for exchange, listener in zip((of_broken, of_sound), listeners, strict=True):
        exchange.attach(listener)
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    broken.data_received(head + b"3\r\nbad\r\nno size\r\n")
    sound.data_received(head + b"4\r\ngood\r\n")
    sound.data_received(b"0\r\n\r\n")
    assert (listeners[0].body, listeners[1].body) == (b"bad", b"good")
    assert isinstance(listeners[0].error, Garbled)
    assert listeners[1].error is None


_RESPONSES = (
    b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 3\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\nA: b\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x=y\r\nd\r\n0\r\n\r\n",
    b"HTTP/1.1 429 Too Many\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\nT: x\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n",
)


@given(
    order=st.lists(st.sampled_from(_RESPONSES), min_size=1, max_size=3), cuts=st.lists(st.integers(1, 80), max_size=6)
)
async def test_responses_are_the_same_however_they_are_cut(order: list[bytes], cuts: list[int]) -> None:
    """One after the other on a connection, with and without the parser, which may go on from anywhere."""

    def released(exchange: Exchange, connection: Connection, keep: bool) -> None:
        connection.forget_exchange()

    async def read(connection: Connection, response: bytes, cuts: list[int]) -> list[object]:
        exchange = Exchange(SimpleNamespace(released=released), connection, b"GET")  # type: ignore[arg-type]
        edges = [0, *sorted({cut for cut in cuts if cut < len(response)}), len(response)]
        for begin, end in itertools.pairwise(edges):
            connection.data_received(response[begin:end])
        await exchange.responded
        listener = Listener()
        exchange.attach(listener)
        assert listener.over.is_set()
        return [exchange.status, exchange.reason, exchange.headers, bytes(listener.body), listener.error]

    seen: list[list[list[object]]] = []
    for pieces in ([], cuts, list(range(1, 100))):
        connection, _ = _unanswered(switches=False)
        seen.append([])
        for response in order:
            seen[-1].append([*await read(connection, response, pieces), connection.reusable])
            if not connection.reusable:
                break
    assert seen[0] == seen[1] == seen[2]
    assert [one[-1] for one in seen[0]] == [b"close" not in response for response in order[: len(seen[0])]]
