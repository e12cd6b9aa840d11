"""The command `streamtee check`: its options, and its report."""

import json
import sys
from contextlib import AsyncExitStack
from typing import NamedTuple, TextIO

import click
from rich.console import Console

from proxy.tools.check.findings import Finding, Verdict
from proxy.tools.check.outside import from_outside
from proxy.tools.check.own_upstream import CheckUpstream
from proxy.tools.check.probes import Probe
from proxy.tools.check.run import with_upstream
from proxy.tools.endpoint import APIS, Endpoint, endpoint_url
from proxy.tools.event_loop import run
from proxy.wire.errors import Overloaded, UpstreamError

PASSED, FAILED, USAGE, LOST, INTERRUPTED = 0, 1, 2, 3, 130  # exit statuses, as those of `streamtee tail`
_COLOURS = {Verdict.PASS: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red", Verdict.NONE: "dim"}


class CheckError(Exception):
    """A check can't begin; the message says why."""


class Asked(NamedTuple):
    """What the command line asks for."""

    url: str
    api: str | None
    key: str
    model: str
    upstream: tuple[str, int] | None
    silence_s: float


async def _checked(asked: Asked) -> list[Finding]:
    """Run all checks. Raises: CheckError."""
    async with AsyncExitStack() as stack:
        endpoint = Endpoint(asked.url, asked.api, asked.key)
        stack.push_async_callback(endpoint.close)
        try:
            if asked.upstream is None:
                return await from_outside(endpoint, asked.model)
            upstream = CheckUpstream()
            await upstream.start(*asked.upstream)
            stack.push_async_callback(upstream.stop)
            return await with_upstream(Probe(endpoint, upstream, asked.model), asked.silence_s)
        except (UpstreamError, Overloaded) as error:
            raise CheckError(f"{endpoint.url.with_query(None)}: {error.message}") from error
        except TimeoutError:
            raise CheckError(f"{endpoint.url.with_query(None)}: no answer in time") from None
        except OSError as error:
            raise CheckError(f"can't listen: {error}") from error


def show(findings: list[Finding], console: Console) -> None:
    """Print the findings; with those that are not PASS, what they mean and what to do."""
    for finding in findings:
        document, colour = finding.document(), _COLOURS[finding.verdict]
        console.print(f"[{colour}]{finding.verdict.value.upper():5}[/] {finding.check:12} ", end="")
        console.print(finding.saw, markup=False, highlight=False, soft_wrap=True)
        if "means" in document:
            console.print(f"      asks:   {document['asks']}", markup=False, highlight=False, soft_wrap=True)
            console.print(f"      means:  {document['means']}", markup=False, highlight=False, soft_wrap=True)
            console.print(f"      advice: {document['advice']}", markup=False, highlight=False, soft_wrap=True)
    counts = {verdict: sum(one.verdict is verdict for one in findings) for verdict in Verdict}
    told = [f"{count} {verdict.value}" for verdict, count in counts.items() if count]
    console.print(", ".join(told), highlight=False)


_EXAMPLES = """\b
Examples:
  # a gateway on port 4000, configured to use http://127.0.0.1:8000/v1 as its upstream
  streamtee check http://127.0.0.1:4000/v1 --upstream-port 8000
  streamtee check http://127.0.0.1:4000/v1 --upstream-port 8000 --silence 40 --json report.json
  # only what a client can see
  streamtee check https://host/v1 --model qwen-plus

\b
Exit status: 0 nothing failed, 1 something did, 2 the command line is malformed, 3 the server can't be reached,
130 interrupted.
"""


@click.command(epilog=_EXAMPLES, short_help="Check how any proxy or gateway treats streams.")
@click.argument("url")
@click.option("--upstream-port", type=click.IntRange(1, 65535), help="Port to listen on as the server's upstream.")
@click.option("--upstream-host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--api", type=click.Choice(list(APIS)), help="API of the URL; by default that of its path, else chat.")
@click.option("--model", default="qwen-plus", show_default=True, help="Model to name in requests.")
@click.option("--key", envvar="OPENAI_API_KEY", default="", help="API key; by default that of OPENAI_API_KEY.")
@click.option(
    "--silence",
    type=click.FloatRange(0.1, 600),
    default=3,
    show_default=True,
    help="Seconds that the upstream is silent, to see heartbeats.",
)
@click.option(
    "--json", "document", type=click.File("w"), help="File for the findings; - is stdout, without the report."
)
def check(
    url: str,
    upstream_port: int | None,
    upstream_host: str,
    api: str | None,
    model: str,
    key: str,
    silence: float,
    document: TextIO | None,
) -> None:
    """Check whether a proxy or gateway, of any make, passes streams on as clients need them.

    With --upstream-port this command is also the server's upstream: configure the server to use
    http://127.0.0.1:PORT/v1 as its upstream (without /v1, if clients of the API add that). Then it knows what was
    sent, and sees whether bytes, failures, times and disconnects come through. Without, it finds only what a client
    can see. PASS is good, FAIL is not; WARN is not good for every client; NONE: the server has no such feature.
    """
    try:
        endpoint_url(url, api)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    upstream = None if upstream_port is None else (upstream_host, upstream_port)
    sys.exit(_run(Asked(url, api, key, model, upstream, silence), document))


def _run(asked: Asked, document: TextIO | None) -> int:
    """Check and report; return the exit status."""
    try:
        findings = run(_checked(asked))
    except CheckError as error:
        click.echo(f"streamtee: {error}", err=True)
        return LOST
    except KeyboardInterrupt:
        return INTERRUPTED
    if document is None or document.name != "<stdout>":
        show(findings, Console())
    if document is not None:
        found = [one.document() for one in findings]
        document.write(json.dumps({"url": asked.url, "findings": found}, indent=2, ensure_ascii=False) + "\n")
    return FAILED if any(one.verdict is Verdict.FAIL for one in findings) else PASSED
