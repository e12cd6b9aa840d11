"""`streamtee record` and `streamtee replay`: what came is in the file, byte for byte, and comes out of it again."""

import asyncio
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from proxy.tools.cli import main
from proxy.tools.fake.qwen import FakeQwen
from proxy.tools.record import BROKEN, COMPLETE, LOST, USAGE, Asked, headers_of, recorded
from proxy.tools.recording import BadRecording, Piece, Recording, end_line, head_line, piece_line, read_recording
from proxy.tools.replay import Replay
from proxy.wire.errors import Unreachable
from tests.event_loops import on_each_loop, until
from tests.http_client import KEY, Client, request
from tests.proxy_under_test import CHAT, PROMPT, Tee, chat_body, teed
from tests.stage import Stage

ALL = b"id: 1\ndata: \xe4\xba\xba\n\n"


async def made(
    url: str, *, body: bytes | None = None, with_request: bool = False, file: io.BytesIO | None = None, **headers: str
) -> tuple[bytes, Recording]:
    """Record a response; return the file and what it says."""
    out = file or io.BytesIO()
    given = tuple(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())
    asked = Asked(URL(url), headers_of(given, KEY, has_body=body is not None), body)
    await recorded(asked, out, with_request=with_request)
    return out.getvalue(), read_recording(out.getvalue().splitlines())


async def replayed(recording: Recording, speed: float = math.inf, method: str = "POST") -> tuple[Any, bytes, str]:
    """Ask a server that replays; return its answer, the body, and how that ended."""
    server = Replay(recording, speed)
    await server.start("127.0.0.1", 0)
    client = await Client.connect(server.url)
    try:
        client.send(request(method, "/any/path", body=b"{}" if method == "POST" else b""), method=method)
        answer = await client.answer()
        body = await answer.read()
        return answer, body, answer.end
    finally:
        await client.leave()
        await server.stop()


@pytest.mark.parametrize("fault", ["", "reset", "cut_mid_frame", "split_utf8", "error_inside"])
@on_each_loop
async def test_stream_is_recorded_through_the_proxy_and_replayed(fault: str) -> None:
    """The bytes are those that a client of the proxy has, and end as they did; through a proxy again, too."""
    async with FakeContext() as fake, teed(fake.url) as tee:
        plain = await tee.chat(fault=fault)
        said = await plain.read()
        headers = {"Fake_Fault": fault} if fault else {}
        _, recording = await made(tee.proxy.url + CHAT, body=chat_body(), **headers)
        assert b"".join(data for _, data in recording.pieces).count(b"data:") == said.count(b"data:")
        assert recording.complete == (plain.end == "whole")
        assert [at_s for at_s, _ in recording.pieces] == sorted(at_s for at_s, _ in recording.pieces)
    body = b"".join(data for _, data in recording.pieces)
    for method in ("POST", "GET"):
        answer, again, end = await replayed(recording, method=method)
        assert (answer.status, again) == (200, body)
        assert (end == "whole") == recording.complete
        assert answer.header("content-type") == plain.header("content-type")
    server = Replay(recording, math.inf)
    await server.start("127.0.0.1", 0)
    async with teed(server.url) as other:
        assert await (await other.chat()).read() == body
        await server.stop()


class FakeContext:
    """A fake Qwen that runs."""

    async def __aenter__(self) -> FakeQwen:
        self._fake = FakeQwen()
        await self._fake.start()
        return self._fake

    async def __aexit__(self, *error: object) -> None:
        await self._fake.stop()


@on_each_loop
async def test_no_secret_and_no_prompt_is_in_a_recording() -> None:
    """Unless the request is asked for: then its body, and never its headers."""
    async with FakeContext() as fake, teed(fake.url) as tee:
        url = f"{tee.proxy.url}{CHAT}?t=a-token"
        file, _ = await made(url, body=chat_body())
        assert not [word for word in (PROMPT, KEY, "a-token", "Authorization") if word.encode() in file]
        file, _ = await made(url, body=chat_body(), with_request=True)
        head = json.loads(file.splitlines()[0])
        assert json.loads(head["request"]["text"])["messages"][0]["content"] == PROMPT
        assert KEY.encode() not in file


async def test_cookies_and_framing_are_left_out_of_the_head(stage: Stage) -> None:
    """The rest of it is there, and comes out again; a length that was stated is stated again."""
    asking = asyncio.create_task(made(f"{stage.url}/x", body=b"{}"))
    turn = await stage.next()
    assert (turn.method, await turn.body()) == (b"POST", b"{}")
    turn.reply("418 I'm a teapot", "Set-Cookie: session=1", "X-Own: \u00e9".encode("latin-1"), body=ALL)
    file, recording = await asking
    assert b"session" not in file
    answer, body, end = await replayed(recording)
    assert (answer.status, answer.reason, body, end) == (418, b"I'm a teapot", ALL, "whole")
    assert (answer.header("x-own"), answer.header("content-length")) == ("\u00e9", str(len(ALL)))


async def test_reads_are_kept_apart_with_their_times(stage: Stage) -> None:
    """One that begins within a character is in base64; the last line says how it ended."""
    out = io.BytesIO()
    asking = asyncio.create_task(made(f"{stage.url}/x", file=out))
    turn = await stage.next()
    assert turn.method == b"GET"
    turn.begin()
    for lines_before, data in enumerate((ALL[:12], ALL[12:13], ALL[13:]), 1):
        turn.chunk(data)
        await until(lambda lines=lines_before + 1: out.getvalue().count(b"\n") == lines)  # type: ignore[misc]
    turn.reset()
    file, recording = await asking
    assert [data for _, data in recording.pieces] == [ALL[:12], ALL[12:13], ALL[13:]]
    lines = [json.loads(line) for line in file.splitlines()]
    assert ["text" in line for line in lines[1:4]] == [True, False, False]
    assert (lines[4]["end"], recording.complete) == ("broken", False)
    answer, body, end = await replayed(recording)
    assert (answer.status, body, end) == (200, ALL, "cut")


@pytest.mark.parametrize(("speed", "least_s", "most_s"), [(1.0, 0.2, 5.0), (4.0, 0.05, 0.19), (math.inf, 0.0, 0.19)])
async def test_replay_keeps_the_pace(speed: float, least_s: float, most_s: float) -> None:
    """Of the recording, or so many times as fast, or none."""
    recording = Recording(200, "OK", [], 0.1, [Piece(0.15, b"a"), Piece(0.2, b"b")], 0.2, True)
    loop = asyncio.get_running_loop()
    took_s = []
    for _ in range(3):  # the quickest: others may have had the processor
        began_at = loop.time()
        assert (await replayed(recording, speed))[1] == b"ab"
        took_s.append(loop.time() - began_at)
    assert least_s <= min(took_s) <= most_s


async def test_upstream_that_does_not_answer_is_no_recording() -> None:
    """It raises what the connection met, and nothing is written."""
    out = io.BytesIO()
    with pytest.raises(Unreachable):
        await recorded(Asked(URL("http://127.0.0.1:1/"), [], None), out)
    assert not out.getvalue()


PIECES = st.lists(st.binary(min_size=1, max_size=8))


@given(PIECES, st.booleans())
def test_what_is_written_is_read(pieces: list[bytes], complete: bool) -> None:
    """Any bytes, however they are cut."""
    timed = [Piece(float(number), data) for number, data in enumerate(pieces)]
    head = head_line(
        recorded_at="", url="", status=200, reason=b"OK", headers=[(b"A", b"\xff")], at_s=0.5, request=None
    )
    file = head + b"".join(map(piece_line, timed)) + end_line(9, complete=complete)
    assert read_recording(file.splitlines()) == Recording(200, "OK", [(b"A", b"\xff")], 0.5, timed, 9, complete)
    cut = read_recording(file.splitlines()[:-1])
    assert (cut.pieces, cut.complete) == (timed, False)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "first line"),
        ([b"data: x"], "line 1 is not JSON"),
        ([b"[]"], "line 1 is not a JSON object"),
        ([b"{}"], "first line"),
        ([b'{"streamtee":"recording","version":2}'], "version 2"),
        ([b'{"streamtee":"recording","version":1}'], "missing"),
        (
            [head_line(recorded_at="", url="", status=1, reason=b"", headers=[], at_s=0, request=None), b'{"at_s":1}'],
            "base64",
        ),
    ],
)
def test_file_that_is_no_recording_says_why(lines: list[bytes], words: str) -> None:
    """With the line, where it is one."""
    with pytest.raises(BadRecording, match=words):
        read_recording(lines)


async def spawned(*arguments: str) -> tuple[int, str]:
    """Run the command in this process; return its exit status and all that it prints."""
    result = await asyncio.to_thread(CliRunner().invoke, main, arguments)
    return result.exit_code, result.output


async def test_commands_record_and_refuse(tee: Tee, fake: FakeQwen, tmp_path: Path) -> None:
    """The exit status says how it went, as that of `tail`."""
    body, file = tmp_path / "body.json", tmp_path / "stream.jsonl"
    body.write_bytes(chat_body())
    recording = ("record", f"{tee.proxy.url}{CHAT}", "--data", str(body), "--output", str(file), "--key", KEY)
    status, said = await spawned(*recording)
    assert (status, "complete" in said) == (COMPLETE, True)
    assert read_recording(file.read_bytes().splitlines()).complete
    status, said = await spawned(*recording, "--header", "Fake-Fault: reset")
    assert (status, "broken off" in said) == (BROKEN, True)
    assert (await spawned("record", "http://127.0.0.1:1/", "--key", KEY))[0] == LOST
    for bad in (("ftp://x/",), ("http://user:pw@x/",), (tee.proxy.url, "--header", "none")):
        assert (await spawned("record", *bad))[0] == USAGE
    status, said = await spawned("replay", str(body))
    assert (status, "can't be replayed" in said) == (2, True)
