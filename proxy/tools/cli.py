"""The command line: `streamtee serve`, `tail`, `record`, `replay`, `fake`, `demo`, `check-config`."""

import asyncio
import gc
import logging
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from proxy import __version__
from proxy.downstream.descriptors import raise_limit
from proxy.server.app import Proxy
from proxy.server.config import Config, address, explained, load
from proxy.tools.keys import keys
from proxy.tools.log_lines import LogLines
from proxy.tools.record import record
from proxy.tools.selfcheck import SelfCheckError, check_installation
from proxy.tools.signals import end_signal, heed_signals
from proxy.tools.systemd import BadSocket, Notifier, handed_over
from proxy.tools.tail import tail

if TYPE_CHECKING:
    from socket import socket

    from proxy.tools.fake.qwen import FakeQwen
    from proxy.tools.recording import Recording

_log = logging.getLogger("streamtee")
_LAST_S = 10  # for clients that do not read, and spans that are sent, after drain_s

_CONFIG = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="TOML file; see config/streamtee.toml.",
)


@click.group()
@click.version_option(__version__, prog_name="streamtee")
def main() -> None:
    """tee(1) for LLM streams: a reverse proxy in front of the Qwen API."""


@main.command()
@_CONFIG
@click.option(
    "--loop", type=click.Choice(["uvloop", "asyncio"]), default="uvloop", show_default=True, help="Event loop."
)
def serve(config_file: Path | None, loop: str) -> None:
    """Run the proxy until SIGTERM or SIGINT. It then drains before it stops; a second signal stops it at once.

    SIGHUP has it read its configuration again: keys, limits, time-outs and the log level change in place.
    """
    try:
        check_installation()
    except SelfCheckError as error:
        _fail(str(error))
    try:
        sockets = handed_over(os.environ)
    except BadSocket as error:
        _fail(str(error))
    config = _load(config_file)
    logging.basicConfig(level=config.log_level.upper(), handlers=[LogLines()])
    before, limit = raise_limit()
    if limit != before:
        _log.info("the limit of file descriptors was raised from %d to %d", before, limit)
    # Kept streams are many long-lived objects without cycles: the collector's full passes over them stopped the
    # process for 100 ms and more (D of the load harness), and found nothing.
    gc.freeze()
    gc.set_threshold(20_000, 20, 200)
    _run(_serve(config, config_file, sockets), loop)


main.add_command(tail)
main.add_command(record)
main.add_command(keys)


@main.command("check-config")
@_CONFIG
def check_config(config_file: Path | None) -> None:
    """Check the configuration and print the values in effect. Keys are not shown."""
    click.echo(_load(config_file).model_dump_json(indent=2))


def _load(file: Path | None) -> Config:
    try:
        return load(file)
    except (OSError, ValueError) as error:
        _fail(explained(error))


def _fail(message: str) -> NoReturn:
    click.echo(f"streamtee: {message}", err=True)
    sys.exit(2)


def _run(work: Any, loop: str) -> None:
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if loop == "uvloop" and sys.platform != "win32":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(work)


async def _serve(config: Config, file: Path | None, sockets: "dict[str, socket]") -> None:
    try:
        proxy = Proxy(config)
    except (OSError, ValueError) as error:
        _fail(f"can't start: {error}")
    notifier = Notifier(os.environ, os.getpid())
    told_to_end = heed_signals(proxy, file)
    try:
        await proxy.start(sockets)
    except OSError as error:
        _fail(f"can't listen: {error}")
    click.echo(f"streamtee {__version__} on {proxy.url}, upstream {config.upstream.url}")
    if proxy.admin_url:
        click.echo(f"metrics on {proxy.admin_url}/metrics")
    if proxy.console_url and sys.stderr.isatty():  # only there: it may hold the admin token
        click.echo(f"console on {proxy.console_url}", err=True)
    notifier.ready(f"serving on {proxy.url}")
    await told_to_end.wait()
    click.echo(f"draining, for at most {proxy.config.drain_s:g} s")
    notifier.stopping(proxy.config.drain_s + _LAST_S)
    await proxy.drain()
    notifier.stopped()


async def _fake(qwen: "FakeQwen", listen: str) -> None:
    stop = end_signal()
    await qwen.start(*address(listen))
    click.echo(f"fake Qwen on {qwen.url}")
    await stop.wait()
    await qwen.stop()


@main.command()
@click.option("--listen", default="127.0.0.1:8000", show_default=True, help="HOST:PORT.")
@click.option(
    "--pace", type=click.Choice(["real", "fast"]), default="real", show_default=True, help="How fast it answers."
)
def fake(listen: str, pace: str) -> None:
    """Run a fake Qwen, which can misbehave on request: `streamtee faults` lists the ways."""
    from proxy.tools.fake.qwen import FAST, REAL, FakeQwen

    _run(_fake(FakeQwen(pace=REAL if pace == "real" else FAST, history=100), listen), "uvloop")


@main.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--listen", default="127.0.0.1:8000", show_default=True, help="HOST:PORT.")
@click.option("--speed", type=click.FloatRange(0, min_open=True), default=1, show_default=True, help="Times as fast.")
@click.option("--no-delay", is_flag=True, help="Send all at once, not at the recorded pace.")
def replay(file: Path, listen: str, speed: float, no_delay: bool) -> None:
    """Answer every request with a recording that `streamtee record` has made."""
    from proxy.tools.recording import BadRecording, read_recording

    try:
        recording = read_recording(file.read_bytes().splitlines())
    except (OSError, BadRecording) as error:
        _fail(f"{file} can't be replayed: {error}")
    _run(_replay(recording, listen, math.inf if no_delay else speed), "uvloop")


async def _replay(recording: "Recording", listen: str, speed: float) -> None:
    from proxy.tools.replay import Replay

    stop = end_signal()
    server = Replay(recording, speed)
    try:
        await server.start(*address(listen))
    except (OSError, ValueError) as error:
        _fail(f"can't listen: {error}")
    click.echo(f"replaying on {server.url}")
    await stop.wait()
    await server.stop()


@main.command()
def faults() -> None:
    """List the faults of the fake Qwen."""
    from proxy.tools.fake.faults import FAULTS
    from proxy.tools.fake.realtime import SOCKET_FAULTS

    for name, fault in FAULTS.items():
        click.echo(f"{name:22} {(fault.__doc__ or '').splitlines()[0]}")
    for name, what in SOCKET_FAULTS.items():
        click.echo(f"{name:22} {what}")


@main.command()
@click.option("--seconds", type=click.FloatRange(2), default=12, show_default=True, help="How long the answer takes.")
def demo(seconds: float) -> None:
    """Send one response to four clients, show it, and check that all received the same bytes."""
    from proxy.tools.demo import DemoError, run

    try:
        asyncio.run(run(seconds))
    except DemoError as error:
        click.echo(f"streamtee: the demo failed: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
