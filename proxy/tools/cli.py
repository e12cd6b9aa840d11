"""The command line: the list of its commands, and `streamtee serve`. The other commands are in modules of their own."""

import gc
import importlib
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from proxy import __version__
from proxy.downstream.descriptors import enlarge_table, raise_limit
from proxy.server.app import Proxy
from proxy.server.config import Config
from proxy.telemetry.log_lines import LogLines
from proxy.tools.command_error import CommandError
from proxy.tools.config_file import CONFIG, loaded
from proxy.tools.event_loop import run
from proxy.tools.selfcheck import SelfCheckError, build, check_installation
from proxy.tools.signals import heed_signals, heed_signals_for_all
from proxy.tools.systemd import BadSocket, Notifier, handed_over
from proxy.workers.admin_port import AdminPort
from proxy.workers.counting.sums import Sums
from proxy.workers.process import WorkerFailed
from proxy.workers.shares import counted
from proxy.workers.supervisor import MOST_WORKERS, Supervisor
from proxy.workers.worker import work

if TYPE_CHECKING:
    from socket import socket

_log = logging.getLogger("streamtee")
_LAST_S = 10  # for clients that do not read, and spans that are sent, after drain_s

COMMANDS = {
    "init": "proxy.tools.init:init",
    "check-config": "proxy.tools.check_config:check_config",
    "keys": "proxy.tools.keys:keys",
    "tail": "proxy.tools.tail:tail",
    "bench": "proxy.tools.bench.command:bench",
    "check": "proxy.tools.check.command:check",
    "record": "proxy.tools.record:record",
    "replay": "proxy.tools.replay:replay",
    "fake": "proxy.tools.fake.command:fake",
    "faults": "proxy.tools.fake.command:faults",
    "demo": "proxy.tools.demo:demo",
    "completion": "proxy.tools.completion:completion",
}
"""Each command and where it is, in the order that `streamtee --help` shows; `serve`, which is below, comes first."""


class Commands(click.Group):
    """The commands, each imported only when it is needed: a server does without what the others import."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return [*super().list_commands(ctx), *COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of that name; None without one."""
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


_FIRST_STEPS = """\b
First steps:
  streamtee demo                      # one answer, four clients; needs no account
  streamtee init                      # writes streamtee.toml by asking three questions
  streamtee serve --config streamtee.toml
  streamtee COMMAND --help            # each with examples
"""


@click.group(cls=Commands, epilog=_FIRST_STEPS)
@click.version_option(__version__, prog_name="streamtee", message=f"%(prog)s, version %(version)s, {build()}")
def main() -> None:
    """tee(1) for LLM streams: a reverse proxy in front of the Qwen API."""


_EXAMPLES = """\b
Examples:
  streamtee serve --config streamtee.toml
  STREAMTEE_UPSTREAM__URL=qwen-beijing STREAMTEE_LISTEN=127.0.0.1:8080 streamtee serve
  kill -HUP PID                       # reads the configuration again; kill PID drains and ends

\b
Exit status: 0 ended by a signal, 2 the configuration is not valid, or it can't listen.
"""


@main.command(epilog=_EXAMPLES)
@CONFIG
@click.option(
    "--loop", type=click.Choice(["uvloop", "asyncio"]), default="uvloop", show_default=True, help="Event loop."
)
@click.option("--workers", type=click.IntRange(0, MOST_WORKERS), help="Processes; 0: one for each core.")
def serve(config_file: Path | None, loop: str, workers: int | None) -> None:
    """Run the proxy until SIGTERM or SIGINT. It then drains before it stops; a second signal stops it at once.

    SIGHUP has it read its configuration again: keys, limits, time-outs and the log level change in place. Several
    workers are replaced by new ones with the new configuration, and finish their streams.
    """
    try:
        check_installation()
    except SelfCheckError as error:
        raise CommandError(str(error)) from None
    try:
        sockets = handed_over(os.environ)
    except BadSocket as error:
        raise CommandError(str(error)) from None
    config = loaded(config_file)
    count = counted(config.workers if workers is None else workers)
    if count == 1:
        _prepare(config)
        run(_serve(config, config_file, sockets), loop)
    else:
        _log_lines(config)
        run(_supervise(config, config_file, count, loop, sockets), loop)


@main.command(hidden=True)
@click.option("--loop", type=click.Choice(["uvloop", "asyncio"]), default="uvloop")
@click.argument("channel", type=int)
def worker(loop: str, channel: int) -> None:
    """Run as one of several workers, as the supervisor says over the socket of this descriptor."""
    run(work(channel, _prepare), loop)


def _log_lines(config: Config) -> None:
    logging.basicConfig(level=config.log_level.upper(), handlers=[LogLines(as_json=config.log_format == "json")])


def _prepare(config: Config) -> None:
    """Set up this process to serve clients."""
    _log_lines(config)
    before, limit = raise_limit()
    if limit != before:
        _log.info("the limit of file descriptors was raised from %d to %d", before, limit)
    enlarge_table()
    # Kept streams are many long-lived objects without cycles: the collector's full passes over them stopped the
    # process for 100 ms and more (D of the load harness), and found nothing. So they are rare. And what has survived a
    # pass over new objects is not looked at again before them: a second look after 400,000 objects, which are in no
    # cache any more by then, took a sixth of the CPU time of short streams (compiled, D: 10.1 us an event, now 8.5).
    # A pass over 20,000 new objects took 4 to 9 ms, in which nobody was served; one over 5,000 takes 1 to 2. With -1
    # every pass is of the second generation; with 0 every second one was, and half of all new objects looked at twice.
    gc.freeze()
    gc.set_threshold(5_000, -1, 8_000)


async def _serve(config: Config, file: Path | None, sockets: "dict[str, socket]") -> None:
    try:
        proxy = Proxy(config)
    except (OSError, ValueError) as error:
        raise CommandError(f"can't start: {error}") from None
    notifier = Notifier(os.environ, os.getpid())
    told_to_end = heed_signals(proxy, file)
    try:
        await proxy.start(sockets)
    except OSError as error:
        raise CommandError(f"can't listen: {error}") from None
    click.echo(f"streamtee {__version__} on {proxy.url}, upstream {config.upstream.url}, {build()}")
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


async def _supervise(config: Config, file: Path | None, count: int, loop: str, sockets: "dict[str, socket]") -> None:
    # As this process was started, wherever that was: so that a worker imports the same package.
    code = f"import sys; sys.path[:] = {sys.path!r}; from proxy.__main__ import main; main()"
    command = [sys.executable, "-c", code, "worker", "--loop", loop]
    try:
        sums = Sums(config.auth.usage_file)
    except (OSError, ValueError) as error:
        raise CommandError(f"can't start: {error}") from None
    notifier = Notifier(os.environ, os.getpid())
    supervisor = Supervisor(
        config, lambda: file.read_text(encoding="utf-8") if file else "", count, command, sums, sockets.get("listen")
    )
    admin = AdminPort(supervisor, sockets.get("admin")) if config.admin else None
    told_to_end = heed_signals_for_all(supervisor, admin)
    try:
        await supervisor.start()
        if admin is not None:
            await admin.start()
    except (OSError, ValueError) as error:
        await supervisor.close()
        raise CommandError(f"can't listen: {error}") from None
    except WorkerFailed as error:
        raise CommandError(str(error)) from None
    kind = f"{count} workers, {build()}"
    click.echo(f"streamtee {__version__} on {supervisor.url}, upstream {config.upstream.url}, {kind}")
    if admin is not None:
        click.echo(f"metrics on {admin.url}/metrics")
        if admin.console_url and sys.stderr.isatty():  # only there, as one process does
            click.echo(f"console on {admin.console_url}", err=True)
    notifier.ready(f"serving on {supervisor.url}")
    await told_to_end.wait()
    click.echo(f"draining, for at most {config.drain_s:g} s")
    notifier.stopping(config.drain_s + _LAST_S)
    await supervisor.drain()
    if admin is not None:
        await admin.stop()
    notifier.stopped()


if __name__ == "__main__":
    main()
