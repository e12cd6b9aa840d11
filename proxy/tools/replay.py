"""`streamtee replay`: a server that answers every request with a recording, for tests and reports of what came.

A body that broke off breaks off again. Chunks are the reads that were recorded.
"""

import asyncio
import math
from pathlib import Path

import click
from aiohttp import web

from proxy.downstream.response import Downstream
from proxy.tools.command_error import CommandError
from proxy.tools.event_loop import run
from proxy.tools.recording import BadRecording, Recording, read_recording
from proxy.tools.signals import serve_until_signal


class Replay:
    """A server that answers every request with a recording. `url` is known once it has started."""

    def __init__(self, recording: Recording, speed: float = 1.0) -> None:
        """`speed`: how many times as fast as it was recorded; infinite: at once."""
        self._recording = recording
        self._speed = speed
        self.url = ""
        self._runner: web.ServerRunner | None = None

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises: OSError, when the address is taken."""
        self._runner = web.ServerRunner(web.Server(self._answer, handler_cancellation=True), shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """End everything now."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Send the recording, at its pace, but no faster than the client reads."""
        recording = self._recording
        await request.read()
        began_at = asyncio.get_running_loop().time()
        await self._wait(began_at, recording.at_s)
        downstream = Downstream(request, recording.status)
        downstream.start(recording.reason.encode("latin-1"), list(recording.headers), framed=_is_framed(recording))
        downstream.flush()
        for at_s, data in recording.pieces:
            await self._wait(began_at, at_s)
            downstream.write_data(data)
            await request.writer.drain()
        await self._wait(began_at, recording.end_s)
        (downstream.close if recording.complete else downstream.abort)(b"")
        return downstream.response

    async def _wait(self, began_at: float, at_s: float) -> None:
        """Wait until what came at a time is due."""
        if self._speed < math.inf:
            due_at = began_at + at_s / self._speed
            await asyncio.sleep(max(0.0, due_at - asyncio.get_running_loop().time()))


def _is_framed(recording: Recording) -> bool:
    """Return whether the head tells where the body ends."""
    bodyless = recording.status in (204, 304)
    return bodyless or any(name.lower() == b"content-length" for name, _ in recording.headers)


_EXAMPLES = """\b
Examples:
  streamtee record http://127.0.0.1:8080/v1/streams/ID?mode=raw --output stream.jsonl
  streamtee replay stream.jsonl --speed 4
"""


@click.command(epilog=_EXAMPLES, short_help="Answer with what was recorded.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--listen", default="127.0.0.1:8000", show_default=True, help="HOST:PORT.")
@click.option("--speed", type=click.FloatRange(0, min_open=True), default=1, show_default=True, help="Times as fast.")
@click.option("--no-delay", is_flag=True, help="Send all at once, not at the recorded pace.")
def replay(file: Path, listen: str, speed: float, no_delay: bool) -> None:
    """Answer every request with a recording that `streamtee record` has made."""
    try:
        recording = read_recording(file.read_bytes().splitlines())
    except (OSError, BadRecording) as error:
        raise CommandError(f"{file} can't be replayed: {error}") from None
    run(serve_until_signal(Replay(recording, math.inf if no_delay else speed), listen, "replaying"))
