"""`streamtee tail` against a real proxy: what it prints, how it goes on after cuts, and what it exits with."""

import asyncio
import json
import os
import re
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from click.testing import CliRunner
from yarl import URL

from proxy.tools.cli import main
from proxy.tools.tail import Aim, Tail, url_of
from proxy.tools.tail_readers import FAILED, LOST, USAGE, Bytes, Events, TailError, text_of
from tests.event_loops import GUARD_S, until
from tests.event_streams import DONE, FINISH, chunk_frame, stamped
from tests.http_client import KEY
from tests.proxy_under_test import Tee, begun, faked, teed
from tests.spawned import spawned
from tests.stage import Stage

MINE = {"Authorization": f"Bearer {KEY}"}


class Relay:
    """A way to the proxy that is cut: of each connection it lets so many bytes of answers through, then resets it.

    `budgets` is for one connection after the other; those after the last are not cut.
    """

    def __init__(self, to: str, budgets: list[int]) -> None:
        self._to = URL(to)
        self._budgets = iter(budgets)
        self.connections = 0
        self.url = ""
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        budget = next(self._budgets, sys.maxsize)
        proxy_reader, proxy_writer = await asyncio.open_connection(self._to.host, self._to.port)
        self._writers += [writer, proxy_writer]
        asking = asyncio.create_task(_copy(reader, proxy_writer, sys.maxsize))
        await _copy(proxy_reader, writer, budget)
        if budget != sys.maxsize:
            _reset(writer)
        writer.close()
        proxy_writer.close()
        await asking


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: int) -> None:
    with suppress(ConnectionError):
        while budget and (data := await reader.read(min(budget, 65536))):
            writer.write(data)
            await writer.drain()
            budget -= len(data)


def _reset(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):  # it has gone already
        linger = struct.pack("ii", 1, 0)
        writer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


@asynccontextmanager
async def relayed(to: str, *budgets: int) -> AsyncIterator[Relay]:
    relay = Relay(to, list(budgets))
    await relay.start()
    try:
        yield relay
    finally:
        await relay.stop()


@pytest.fixture
async def tee(stage: Stage) -> AsyncIterator[Tee]:
    async with teed(stage.url, streams={"on_disconnect": "continue"}) as one:
        yield one


class Tailed:
    """A tail that runs in this process, and what it has printed."""

    def __init__(self, url: str, mode: str | None = None, *, retries: int = 8, **headers: str) -> None:
        self.printed = b""
        self.said: list[str] = []
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        target = URL(url).update_query({"mode": mode or "coalesced"})
        reader = Bytes(self._print) if mode == "raw" else Events(self._print, self._rendered(mode))
        self._tail = Tail(Aim(target, {**MINE, **named}, retries), reader)

    def _rendered(self, mode: str | None) -> Callable[[bytes, Any], bytes]:
        return (lambda frame, event: text_of(event)) if mode is None else (lambda frame, event: frame)

    def _print(self, data: bytes) -> None:
        self.printed += data

    async def end(self) -> None:
        """Follow to the end. Raises: TailError."""
        async with asyncio.timeout(GUARD_S):
            await self._tail.follow()


def stream_url(base: str, ident: str) -> str:
    return f"{base}/v1/{ident}/stream" if ident.startswith("keys/") else f"{base}/v1/streams/{ident}"


async def ended(tee: Tee, stage: Stage, *frames: bytes, broken: bool = False) -> str:
    """Run a stream of these frames to its end; return its id."""
    answer, turn = await begun(tee, stage)
    for frame in frames:
        turn.chunk(frame)
    turn.reset() if broken else turn.end()
    await answer.read()
    await tee.wait_ended(answer.stream_id)
    return answer.stream_id


FRAMES = [*(chunk_frame(f"word {number} 茶 ") for number in range(20)), FINISH, DONE]
TEXT = "".join(f"word {number} 茶 " for number in range(20))


# Cuts


@pytest.mark.parametrize("mode", [None, "events", "raw"])
async def test_tail_of_an_ended_stream_has_no_gap_and_no_repeat(tee: Tee, stage: Stage, mode: str | None) -> None:
    """However often it is cut: in a head, in an event, between two; also while its state is asked for."""
    ident = await ended(tee, stage, *FRAMES)
    epoch = ident[3:9]
    async with relayed(tee.proxy.url, 450, 10, 550, 700, 800, 1500, 600, 2000, 2500, 450, 3000, 5000) as relay:
        tailed = Tailed(stream_url(relay.url, ident), mode)
        await tailed.end()
        body = b"".join(FRAMES)
        wanted = {None: TEXT.encode(), "events": stamped(body, epoch), "raw": body}
        assert tailed.printed == wanted[mode]
        assert relay.connections > 4


async def test_tail_of_a_running_stream_goes_on_after_a_cut(tee: Tee, stage: Stage) -> None:
    """Live: what comes while it was away is there, once."""
    answer, turn = await begun(tee, stage)
    async with relayed(tee.proxy.url, 1200, 1200, 2000) as relay:
        tailed = Tailed(stream_url(relay.url, answer.stream_id))
        following = asyncio.create_task(tailed.end())
        for number, frame in enumerate(FRAMES[:20], 1):
            turn.chunk(frame)
            await until(lambda number=number: tailed.printed.count("茶".encode()) >= number)
        turn.end(FINISH, DONE)
        await following
        assert tailed.printed == TEXT.encode()
        assert relay.connections > 3


async def test_tail_from_the_end_misses_nothing_after_a_cut(tee: Tee, stage: Stage) -> None:
    """It knows from the head where it began, if no event had come before the cut."""
    answer, turn = await begun(tee, stage, frames=3)
    async with relayed(tee.proxy.url, 400) as relay:
        tailed = Tailed(stream_url(relay.url, answer.stream_id), Last_Event_ID="now")
        following = asyncio.create_task(tailed.end())
        await tee.wait_followers(2)
        turn.chunk(chunk_frame("x" * 1000))
        turn.end(chunk_frame("y"), FINISH, DONE)
        await following
        assert tailed.printed == b"x" * 1000 + b"y"
        assert relay.connections > 1


# Endings


async def test_failure_is_told_with_its_reason(tee: Tee, stage: Stage) -> None:
    """After the text that came before it, once, also if it is only told after a cut; and status 1."""
    ident = await ended(tee, stage, *FRAMES[:3], broken=True)
    for budgets in ((), (1200,)):
        async with relayed(tee.proxy.url, *budgets) as relay:
            tailed = Tailed(stream_url(relay.url, ident))
            with pytest.raises(TailError, match="upstream_reset: ") as error:
                await tailed.end()
            assert error.value.status == FAILED
            assert tailed.printed.decode() == "".join(f"word {number} 茶 " for number in range(3))


async def test_failure_of_bytes_is_told(tee: Tee, stage: Stage) -> None:
    """A raw body that breaks off may have been cut; the stream's state tells."""
    ident = await ended(tee, stage, *FRAMES[:3], broken=True)
    tailed = Tailed(stream_url(tee.proxy.url, ident), "raw")
    with pytest.raises(TailError, match="failed") as error:
        await tailed.end()
    assert error.value.status == FAILED
    assert tailed.printed == b"".join(FRAMES[:3])


async def test_cancelled_stream_has_failed(tee: Tee, stage: Stage) -> None:
    """While it is followed, or before."""
    answer, _ = await begun(tee, stage, frames=2)
    tailed = Tailed(stream_url(tee.proxy.url, answer.stream_id))
    following = asyncio.create_task(tailed.end())
    await tee.wait_followers(2)
    await (await tee.ask("POST", f"/v1/streams/{answer.stream_id}/cancel")).read()
    for end in (following, Tailed(stream_url(tee.proxy.url, answer.stream_id)).end()):
        with pytest.raises(TailError, match="cancelled") as error:
            await end
        assert error.value.status == FAILED


@pytest.mark.parametrize("dialect", ["chat", "native"])
async def test_complete_stream_ends_without_an_error(dialect: str) -> None:
    """Said by [DONE], or, natively, by its state alone; also of a stream that has been forgotten meanwhile."""
    async with faked() as fake, teed(fake.url) as tee:
        answer = await tee.generate(dialect, "Stream-Key: k")
        await answer.read()
        await tee.wait_ended(answer.stream_id)
        for ident in (f"streams/{answer.stream_id}", "keys/k"):
            tailed = Tailed(f"{tee.proxy.url}/v1/{ident}" + "/stream" * (ident == "keys/k"))
            await tailed.end()
            assert tailed.printed


@pytest.mark.parametrize("dialect", ["chat", "native", "responses", "messages"])
async def test_text_is_that_of_mode_text(dialect: str) -> None:
    """Whatever the API that the stream was asked in: no reasoning, no calls, no event of another kind."""
    message = {"model": "qwen-plus", "max_tokens": 99, "stream": True, "messages": [{"role": "user", "content": "x"}]}
    async with faked() as fake, teed(fake.url) as tee:
        if dialect == "messages":
            answer = await tee.ask("POST", "/v1/messages", body=json.dumps(message).encode())
        else:
            answer = await tee.generate(dialect)
        await answer.read()
        await tee.wait_ended(answer.stream_id)
        tailed = Tailed(stream_url(tee.proxy.url, answer.stream_id))
        await tailed.end()
        assert tailed.printed == await (await tee.follow(answer.stream_id, "mode=text")).read()
    assert len(tailed.printed) > 50


async def test_stream_that_is_not_retained_is_complete_when_it_said_so(tee: Tee, stage: Stage) -> None:
    """There is nobody left to ask."""
    answer, turn = await begun(tee, stage, "Stream-Retain: 0")
    tailed = Tailed(stream_url(tee.proxy.url, answer.stream_id))
    following = asyncio.create_task(tailed.end())
    await tee.wait_followers(2)
    turn.end(chunk_frame("a"), DONE)
    await following
    assert tailed.printed == b"a"


async def test_drained_server_is_not_taken_for_the_end(stage: Stage) -> None:
    """Its response ends as properly as that of a complete stream, but with an error."""
    async with teed(stage.url, drain_s=0) as tee:
        answer, _ = await begun(tee, stage, frames=2)
        tailed = Tailed(stream_url(tee.proxy.url, answer.stream_id), retries=1)
        following = asyncio.create_task(tailed.end())
        await until(lambda: b"word 2" in tailed.printed)
        await tee.proxy.drain()
        with pytest.raises(TailError, match="drained: this server is shutting down") as error:
            await following
        assert error.value.status == FAILED


# By key


async def test_tail_waits_for_the_stream_of_a_key(tee: Tee, stage: Stage) -> None:
    """Its id is not told in the head, which has left by then; nor does it say itself that it is whole."""
    tailed = Tailed(f"{tee.proxy.url}/v1/keys/k/stream?wait=30")
    following = asyncio.create_task(tailed.end())
    await tee.wait_followers(1)
    client = await tee.send_chat("Stream-Key: k")
    turn = await stage.next()
    await turn.body()
    turn.begin()
    turn.end(chunk_frame("a"), FINISH)
    await following
    assert tailed.printed == b"a"
    await client.leave()


async def test_stream_that_does_not_begin_is_told(tee: Tee) -> None:
    """Status 3."""
    with pytest.raises(TailError, match="no stream has begun") as error:
        await Tailed(f"{tee.proxy.url}/v1/keys/k/stream?wait=0.01").end()
    assert error.value.status == LOST


# What is refused


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/v1/streams/st_aaaa", {}, LOST),
        ("/v1/keys/none/stream", {}, LOST),
        ("/healthz/none", {}, LOST),
        ("/v1/keys/none/stream", {"Last_Event_ID": "?"}, USAGE),
    ],
)
async def test_refusal_is_told_in_the_server_s_words(tee: Tee, path: str, headers: dict[str, str], status: int) -> None:
    """At once, without another try."""
    with pytest.raises(TailError, match=r"http://127\.0\.0\.1:\d+/.*: 4\d\d \w+") as error:
        await Tailed(tee.proxy.url + path, **headers).end()
    assert error.value.status == status
    assert KEY not in error.value.message


async def test_overloaded_server_is_asked_again(stage: Stage) -> None:
    """It may have room later; a token in the query is never told."""
    async with teed(stage.url, limits={"followers": 1}) as tee:
        answer, turn = await begun(tee, stage, frames=1)
        url = stream_url(tee.proxy.url, answer.stream_id) + "?t=secret"
        with pytest.raises(TailError, match="status 503; gave up after 1 tries") as error:
            await Tailed(url, retries=0).end()
        assert error.value.status == LOST
        assert "secret" not in error.value.message
        tailed = Tailed(url)
        following = asyncio.create_task(tailed.end())
        await until(lambda: tee.proxy.metrics.rejected["overloaded"] >= 2)
        turn.end(DONE)
        await following
        assert tailed.printed == b"word 1"


@pytest.mark.parametrize(
    ("target", "url"),
    [
        ("st_abc", "http://s:1/v1/streams/st_abc"),
        ("/v1/keys/a%2Fb/stream", "http://s:1/v1/keys/a%2Fb/stream"),
        ("https://h/x/v1/streams/st_abc?t=a.b", "https://h/x/v1/streams/st_abc?t=a.b"),
    ],
)
def test_target_is_a_url_a_path_or_an_id(target: str, url: str) -> None:
    """Paths and ids are the server's."""
    assert str(url_of(target, "http://s:1/")) == url


@pytest.mark.parametrize("target", ["abc", "ftp://h/x", "http://user:secret@h/", "http:///x"])
def test_other_target_is_refused(target: str) -> None:
    """And not quoted: it may hold a password."""
    with pytest.raises(ValueError, match="no stream's id") as error:
        url_of(target, "http://s:1")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "state"),
    [
        ("http://h/v1/streams/st_a?t=x.y&mode=raw", "http://h/v1/streams/st_a?t=x.y"),
        ("http://h/x/v1/keys/k/stream?wait=3", "http://h/x/v1/streams/st_a"),
        ("http://h/events?all=1", "http://h/v1/streams/st_a"),
    ],
)
def test_state_is_asked_for_where_the_stream_is(url: str, state: str) -> None:
    """Behind the same prefix, with the same token."""
    assert str(Aim(URL(url), {}, 0).state_url("st_a")) == state


# The command


async def test_command_prints_as_it_comes_into_a_pipe_and_exits_with_0(tee: Tee, stage: Stage) -> None:
    """With the key of the environment, which is never printed."""
    answer, turn = await begun(tee, stage)
    arguments = ("--server", tee.proxy.url, answer.stream_id)
    async with spawned("tail", *arguments, STREAMTEE_TAIL_KEY=KEY) as process:
        assert process.stdout is not None
        for word in (b"one ", "茶".encode()):
            turn.chunk(chunk_frame(word.decode()))
            assert await process.stdout.readexactly(len(word)) == word
        turn.end(FINISH, DONE)
        assert await process.communicate() == (b"", b"")
        assert process.returncode == 0


async def test_command_prints_text_once_that_the_upstream_repeats() -> None:
    """Natively each event has the whole text so far; here also after a cut."""
    async with faked() as fake, teed(fake.url, streams={"on_disconnect": "continue"}) as tee:
        answer = await tee.native(incremental_output=False, result_format="message")
        await answer.read()
        document = await (await tee.follow(answer.stream_id, "mode=json")).json()
        text = document["output"]["choices"][0]["message"]["content"]
        assert len(text) > 20
        for after in ([], ["--after", "-1"], ["--mode", "text"]):
            async with spawned("tail", "--key", KEY, "--server", tee.proxy.url, *after, answer.stream_id) as process:
                printed, said = await process.communicate()
                assert (printed.decode(), said, process.returncode) == (text, b"", 0)


async def test_command_exits_with_1_when_the_stream_failed(tee: Tee, stage: Stage) -> None:
    """And says why; here after the blocks of a mode, from a cursor on."""
    ident = await ended(tee, stage, *FRAMES[:3], broken=True)
    url = stream_url(tee.proxy.url, ident)
    async with spawned("tail", "--mode", "events", "--after", "1", url, OPENAI_API_KEY=KEY) as process:
        printed, said = await process.communicate()
        assert printed.startswith(stamped(FRAMES[1] + FRAMES[2], ident[3:9], 2))
        assert printed.endswith(f"id: {ident[3:9]}-4\n\n".encode())
        assert said.startswith(b"streamtee: upstream_reset: ")
        assert process.returncode == 1


async def test_command_that_is_interrupted_exits_with_130(tee: Tee, stage: Stage) -> None:
    """Without a traceback."""
    answer, turn = await begun(tee, stage, frames=1)
    async with spawned("tail", "--key", KEY, stream_url(tee.proxy.url, answer.stream_id)) as process:
        assert process.stdout is not None
        await process.stdout.readexactly(6)
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
        assert process.stderr is not None
        assert await process.stderr.read() == b""
    turn.end(DONE)


async def test_command_whose_reader_has_gone_ends_quietly(tee: Tee, stage: Stage) -> None:
    """As `| head` does; its connection is closed, too."""
    answer, turn = await begun(tee, stage, frames=1)
    async with spawned("tail", "--key", KEY, stream_url(tee.proxy.url, answer.stream_id)) as process:
        assert process.stdout is not None
        await process.stdout.readexactly(6)
        transport: Any = process._transport  # type: ignore[attr-defined]
        transport.get_pipe_transport(1).close()
        turn.chunk(chunk_frame("more"))
        assert await process.wait() == 141
        assert process.stderr is not None
        assert await process.stderr.read() == b""
    turn.end(DONE)


@pytest.mark.parametrize("arguments", [("nothing",), ("--mode", "nonesuch", "st_a"), ()])
def test_command_that_is_malformed_exits_with_2(arguments: tuple[str, ...]) -> None:
    """Before anything is asked."""
    result = CliRunner().invoke(main, ["tail", *arguments])
    assert result.exit_code == 2


def test_help_tells_what_each_exit_status_means() -> None:
    """Scripts go by them."""
    shown = CliRunner().invoke(main, ["tail", "--help"]).stdout
    for status in ("0", "1", "2", "3", "130, 141"):
        assert re.search(rf"^ +{status}  \w", shown, re.MULTILINE)


def test_key_in_the_environment_is_none_of_the_server_s_settings() -> None:
    """`serve` and `check-config` refuse variables they do not know; this one may stand beside theirs."""
    unset = {name: None for name in os.environ if name.startswith("STREAMTEE_")}
    result = CliRunner().invoke(main, ["check-config"], env={**unset, "STREAMTEE_TAIL_KEY": "sk-secret"})
    assert result.exit_code == 0
    assert "sk-secret" not in result.output
