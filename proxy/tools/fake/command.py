"""The commands `streamtee fake`, and `streamtee faults`, which lists what it can do wrong."""

import click

from proxy.tools.event_loop import run
from proxy.tools.fake.faults import FAULTS
from proxy.tools.fake.qwen import FAST, REAL, FakeQwen
from proxy.tools.fake.realtime import SOCKET_FAULTS
from proxy.tools.signals import serve_until_signal

_EXAMPLES = """\b
Examples:
  streamtee fake
  STREAMTEE_UPSTREAM__URL=http://127.0.0.1:8000 streamtee serve
  curl -N http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' \\
    -H 'Fake-Fault: reset; after=5' \\
    -d '{"model":"qwen-plus","stream":true,"messages":[{"role":"user","content":"Hi"}]}'
"""


@click.command(epilog=_EXAMPLES, short_help="Run a fake Qwen, which can misbehave.")
@click.option("--listen", default="127.0.0.1:8000", show_default=True, help="HOST:PORT.")
@click.option(
    "--pace", type=click.Choice(["real", "fast"]), default="real", show_default=True, help="How fast it answers."
)
def fake(listen: str, pace: str) -> None:
    """Run a fake Qwen, which can misbehave on request: `streamtee faults` lists the ways."""
    run(serve_until_signal(FakeQwen(pace=REAL if pace == "real" else FAST, history=100), listen, "fake Qwen"))


_CHOICES = """\b
Examples:
  streamtee faults | grep cut
  curl ... -H 'Fake-Fault: reset; after=5, crlf'
  curl ... -d '{"model":"qwen-plus+stall,after=3,seconds=2", ...}'
"""


@click.command(epilog=_CHOICES, short_help="List the faults of the fake Qwen.")
def faults() -> None:
    """List the faults of the fake Qwen, which a request chooses in a header or in its model."""
    for name, fault in FAULTS.items():
        click.echo(f"{name:22} {(fault.__doc__ or '').splitlines()[0]}")
    for name, what in SOCKET_FAULTS.items():
        click.echo(f"{name:22} {what}")
