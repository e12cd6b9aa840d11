"""The command `streamtee bench`: its options, its progress bar, and what it writes."""

import asyncio
import itertools
import json
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, NamedTuple, TextIO

import click

from proxy.dialects.question import Question
from proxy.tools.bench.load import Load, Plan, Target
from proxy.tools.bench.report import Report
from proxy.tools.endpoint import APIS, Endpoint, endpoint_url
from proxy.tools.event_loop import run

COMPLETE, FAILED, USAGE, LOST, INTERRUPTED = 0, 1, 2, 3, 130  # exit statuses, as those of `streamtee tail`
_REDRAW_S = 0.1


class BenchError(Exception):
    """A measurement can't begin; the message says why."""


class Asked(NamedTuple):
    """What the command line asks for."""

    urls: tuple[str, ...]
    api: str | None
    key: str
    question: Question
    data: bytes | None
    plan: Plan


def _bodies(endpoint: Endpoint, asked: Asked) -> Callable[[], bytes]:
    """Return what makes the body of each request.

    Each prompt begins with a number of its own, so that no cache and no shared call answers several at once.
    """
    if asked.data is not None:
        data = asked.data
        return lambda: data
    question, numbers = asked.question, itertools.count(1)
    return lambda: endpoint.body(question._replace(prompt=f"{next(numbers)}. {question.prompt}"))


async def _measure(asked: Asked) -> Report:
    """Carry out a measurement. Raises: BenchError."""
    async with AsyncExitStack() as stack:
        targets = []
        for url in asked.urls:
            endpoint = Endpoint(url, asked.api, asked.key)
            stack.push_async_callback(endpoint.close)
            target = Target(endpoint, _bodies(endpoint, asked))
            if problem := await target.try_out():
                raise BenchError(f"{endpoint.url.with_query(None)}: the first request failed: {problem}")
            targets.append(target)
        load = Load(asked.plan, targets)
        progress = asyncio.create_task(_show_progress(load))
        try:
            await load.run()  # ends, too, when it is interrupted
        finally:
            progress.cancel()
            await asyncio.gather(progress, return_exceptions=True)
        return Report.of(load)


async def _show_progress(load: Load) -> None:
    """Show how far a measurement is, on a terminal, until cancelled."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, auto_refresh=False, transient=True) as progress:
        bar = progress.add_task("", total=load.plan.duration_s)
        while True:
            samples = [one.samples for one in load.targets]
            done, wrong = sum(map(len, samples)), sum(bool(one.problem) for some in samples for one in some[-1000:])
            what = f"{done} answers, {load.in_flight} running" + (f", {wrong} of the last failed" if wrong else "")
            progress.update(bar, description=what, completed=load.elapsed_s, refresh=True)
            await asyncio.sleep(_REDRAW_S)


_EXAMPLES = """\b
Examples:
  streamtee fake &                                          # a Qwen to try with
  streamtee bench http://127.0.0.1:8000 --duration 5
  streamtee bench http://127.0.0.1:8000 http://127.0.0.1:8080 --concurrency 20
  streamtee bench https://host/v1 --model qwen-plus --rate 2 --duration 60 --json run.json --plot run.svg

\b
Exit status: 0 all answers were complete, 1 some were not, 2 the command line is malformed, 3 the first request
failed, 130 interrupted.
"""


@click.command(epilog=_EXAMPLES, short_help="Measure how fast an endpoint streams.")
@click.argument("urls", metavar="URL [URL2]", nargs=-1, required=True)
@click.option("--api", type=click.Choice(list(APIS)), help="API of the URL; by default that of its path, else chat.")
@click.option("--model", default="qwen-plus", show_default=True)
@click.option("--prompt", default="Write about a river, in some detail.", show_default=True)
@click.option(
    "--max-tokens", type=click.IntRange(1), default=200, show_default=True, help="Tokens of an answer, at most."
)
@click.option("--data", type=click.File("rb"), help="File with a body to send instead, which asks for a stream.")
@click.option("--key", envvar="OPENAI_API_KEY", default="", help="API key; by default that of OPENAI_API_KEY.")
@click.option(
    "--concurrency",
    type=click.IntRange(1),
    help="Requests at once (10), or the most with --rate (1000).",
)
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Requests a second to each URL, at fixed times.")
@click.option("--duration", type=click.FloatRange(0, min_open=True), default=10, show_default=True, help="Seconds.")
@click.option("--json", "document", type=click.File("w"), help="File for the numbers; - is stdout, without the tables.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="SVG file for a plot of the numbers.")
def bench(
    urls: tuple[str, ...],
    api: str | None,
    model: str,
    prompt: str,
    max_tokens: int,
    data: BinaryIO | None,
    key: str,
    concurrency: int | None,
    rate: float | None,
    duration: float,
    document: TextIO | None,
    plot: Path | None,
) -> None:
    """Measure how fast an endpoint streams, or compare two that are sent requests in turn.

    A URL is a base URL, as SDKs take it (http://127.0.0.1:8080/v1), or the whole URL of an endpoint
    (.../chat/completions, or that of another API). With two, the table says what the second adds, such as a proxy in
    front of the first.

    The time to the first token begins when a request is due and ends with the first event that has generated text;
    a chunk that has only the role does not count.
    """
    if len(urls) > 2:
        raise click.UsageError("one URL, or two to compare")
    try:
        found = {endpoint_url(url, api)[1] for url in urls}
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if plot is not None and find_spec("leather") is None:  # said before, not after the measurement
        raise click.UsageError("--plot needs the extra plot: pip install 'streamtee[plot]'")
    if len(found) > 1:
        raise click.UsageError("the two URLs are of different APIs, whose answers can't be compared")
    plan = Plan(duration, concurrency or (1000 if rate else 10), rate or 0.0)
    body = None if data is None else data.read()
    sys.exit(_run(Asked(urls, api, key, Question(model, prompt, max_tokens), body, plan), document, plot))


def _run(asked: Asked, document: TextIO | None, plot: Path | None) -> int:
    """Measure, and write what is asked for; return the exit status."""
    from rich.console import Console

    try:
        report = run(_measure(asked))
    except BenchError as error:
        click.echo(f"streamtee: {error}", err=True)
        return LOST
    except KeyboardInterrupt:
        return INTERRUPTED
    if document is None or document.name != "<stdout>":
        report.show(Console())
    if document is not None:
        document.write(json.dumps(report.document(), indent=2) + "\n")
    if plot is not None:
        from proxy.tools.bench.plot import draw

        plot.write_text(draw(report))
    if report.interrupted_s is not None:
        return INTERRUPTED
    return FAILED if report.failed else COMPLETE
