"""The demonstration, as a user runs it, and that it does not say yes to anything."""

import asyncio
import fcntl
import os
import pty
import re
import struct
import sys
import termios
from collections import Counter
from collections.abc import Callable

import pytest
from click.testing import CliRunner

from proxy.tools import demo
from proxy.tools.cli import main
from proxy.tools.demo import Client, Demo, DemoError, running
from tests.nursery import ADDRESS, nursery

GUARD_S = 40
SECONDS = ("demo", "--seconds", "2")
DONE = b"data: [DONE]\n\n"
NAMES = ["asker, raw", "late, raw", "resuming, events", "slow, raw"]


async def test_demo_ends_by_itself_with_its_proof() -> None:
    """In a pipe, whatever the environment configures: progress in lines, four equal digests, the measured times."""
    settings = {"STREAMTEE_LISTEN": "not of the demo", "STREAMTEE_UPSTREAM__URL": "http://192.0.2.1"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy.tools.cli", *SECONDS),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **settings},
    )
    async with asyncio.timeout(GUARD_S):
        out, _ = await process.communicate()  # which waits for the children, too: they hold the pipe
    text = out.decode()
    assert process.returncode == 0, text
    digests = re.findall(r"^([0-9a-f]{64})  (.*), done", text, re.MULTILINE)
    assert [name for _, name in digests] == NAMES
    assert len({digest for digest, _ in digests}) == 1
    assert re.search(r"  resuming, events, done, resumed after [a-z2-7]{6}-1\d$", text, re.MULTILINE)
    assert 0.3 < measured(text, "streamtee_time_to_first_token_seconds: ") < 1.5
    assert 1.5 < measured(text, "streamtee_stream_duration_seconds: ") < 10
    assert re.search(r"^furthest behind: \d+ events, \d+ bytes by info, \d+ by metrics$", text, re.MULTILINE)
    assert re.search(r"^asker, raw: \d+ events; late, raw: not here yet; ", text, re.MULTILINE)
    assert "\x1b" not in text


def measured(text: str, label: str) -> float:
    return float(text.partition(label)[2].split()[0])


async def test_demo_on_a_terminal_shows_columns() -> None:
    """All four clients, side by side, redrawn while text arrives."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    environment["TERM"] = "xterm"  # as wide as the pty says
    environment[ADDRESS] = nursery().path
    command = (str(nursery().launcher), *SECONDS)
    process = await asyncio.create_subprocess_exec(*command, stdin=its, stdout=its, stderr=its, env=environment)
    os.close(its)
    async with asyncio.timeout(GUARD_S):
        shown = (await asyncio.to_thread(read_terminal, ours)).decode()
        assert await process.wait() == 0, shown
    tops = re.findall(r"╭[^\n]*asker, raw[^\n]*late, raw[^\n]*resuming, events[^\n]*slow, raw[^\n]*╮", shown)
    assert len(tops) > 5
    assert "not here yet" in shown
    assert " gone " in shown


def read_terminal(descriptor: int) -> bytes:
    shown = b""
    try:
        while data := os.read(descriptor, 65536):
            shown += data
    except OSError:  # how Linux tells that the other side has closed
        pass
    os.close(descriptor)
    return shown


def test_demo_of_a_broken_stream_fails_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upstream that breaks off is told, and the exit status is not 0."""
    monkeypatch.setitem(demo.QUESTION, "model", "qwen3-max+reset,after=12")
    result = CliRunner().invoke(main, ["demo", "--seconds", "2"])
    assert result.exit_code == 1, result.output
    assert "streamtee: the demo failed: ClientPayloadError" in result.output


def test_demo_of_a_refused_request_fails_with_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    """No stream, no claim."""
    monkeypatch.setitem(demo.QUESTION, "model", "qwen3-max+status,status=429")
    result = CliRunner().invoke(main, ["demo", "--seconds", "2"])
    assert result.exit_code == 1, result.output
    assert "asker, raw: the answer was status 429" in result.output


async def test_server_that_does_not_start_is_named() -> None:
    """With its own words before, on the standard error that it shares."""
    with pytest.raises(DemoError, match="`streamtee serve` did not start"):
        async with asyncio.timeout(GUARD_S), running("serve", urls=2, STREAMTEE_LISTEN="nowhere"):
            pass


async def test_server_is_ended_with_its_block() -> None:
    """Nothing listens any more."""
    async with asyncio.timeout(GUARD_S), running("fake", "--listen", "127.0.0.1:0", urls=1) as (url,):
        host, port = url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, int(port))


def frame(text: str, ident: str = "") -> bytes:
    added = f"id: {ident}\n" if ident else ""
    return f'data: {{"choices":[{{"delta":{{"content":"{text}"}}}}]}}\n{added}\n'.encode()


def played() -> Demo:
    """Return a scene that went as it should."""
    scene = Demo("", "", 2, lambda _: None)
    for client in scene.clients:
        client.frames = [frame("id: gen234-1"), frame("two"), DONE]
    scene.resuming.frames = [
        frame("id: gen234-1", "gen234-1"),
        frame("two", "gen234-2"),
        b"data: [DONE]\nid: gen234-3\n\n",
    ]
    scene.metrics = Counter({"streamtee_upstream_bytes_total": len(scene.asker.data)})
    return scene


def test_scene_that_went_well_is_proved() -> None:
    """The ids that mode events adds are no difference."""
    played().prove()


def drop(client: Client) -> None:
    del client.frames[0]


def repeat(client: Client) -> None:
    client.frames.insert(1, client.frames[0])


def swap(client: Client) -> None:
    client.frames[:2] = client.frames[1::-1]


def alter(client: Client) -> None:
    client.frames[1] = client.frames[1].replace(b"two", b"2")


@pytest.mark.parametrize("name", NAMES[1:])
@pytest.mark.parametrize("spoil", [drop, repeat, swap, alter])
def test_client_with_other_bytes_is_found(name: str, spoil: Callable[[Client], None]) -> None:
    """A frame lost, repeated, out of order or changed, whoever got it."""
    scene = played()
    spoil(next(client for client in scene.clients if client.name == name))
    with pytest.raises(DemoError, match=name):
        scene.prove()


def test_answer_without_done_is_found() -> None:
    """All clients agree, but the answer never ended."""
    scene = played()
    for client in scene.clients:
        client.frames.pop()
    with pytest.raises(DemoError, match="DONE"):
        scene.prove()


def test_metrics_that_say_otherwise_are_found() -> None:
    """The proxy must have counted what its clients were given."""
    scene = played()
    scene.metrics["streamtee_upstream_bytes_total"] += 1
    with pytest.raises(DemoError, match="streamtee_upstream_bytes_total"):
        scene.prove()
