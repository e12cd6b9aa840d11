"""The log's lines on stderr: in order, each with its own time, several a write, and none lost."""

import asyncio
import io
import json
import logging
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from proxy.telemetry import log_lines
from proxy.telemetry.log_lines import LogLines, log_line
from proxy.telemetry.log_records import log

GUARD_S = 15
FORM = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class Written(io.StringIO):
    """A stream that keeps what was written at once, and tells that something was."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []
        self.told = asyncio.Event()

    def write(self, text: str) -> int:
        if text:
            self.writes.append(text)
            self.told.set()
        return len(text)


class Unread(io.StringIO):
    """A pipe that nobody reads any more."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


def record(message: str, level: int = logging.INFO, **more: object) -> logging.LogRecord:
    made = logging.LogRecord("streamtee", level, "", 0, message, (), None)
    made.__dict__.update(more)
    return made


class Kept(logging.Handler):
    """A handler that keeps the messages of its records."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


class Shouting(LogLines):
    """Log lines of a form of their own."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).upper()


def messages(text: str) -> list[str]:
    return re.findall(r": (.*)\n", text)


async def test_lines_of_a_while_are_one_write() -> None:
    """Within a running loop, and without anybody asking for it."""
    stream = Written()
    lines = LogLines(stream)
    for number in range(3):
        lines.handle(record(f"line {number}"))
    assert stream.writes == []
    async with asyncio.timeout(GUARD_S):
        await stream.told.wait()
        assert [messages(text) for text in stream.writes] == [["line 0", "line 1", "line 2"]]
        stream.told.clear()
        lines.handle(record("later"))
        await stream.told.wait()
    assert messages(stream.writes[-1]) == ["later"]


@pytest.mark.parametrize("level", [logging.WARNING, logging.ERROR, logging.CRITICAL])
async def test_warning_is_written_at_once_behind_what_came_before_it(level: int) -> None:
    """Who reads it sees what led to it."""
    stream = Written()
    lines = LogLines(stream)
    lines.handle(record("first"))
    lines.handle(record("second", level))
    assert messages("".join(stream.writes)) == ["first", "second"]


def test_without_a_loop_every_line_is_written_at_once() -> None:
    """Before it runs and after it there is nobody to do it later."""
    stream = io.StringIO()
    lines = LogLines(stream)
    for number in range(2):
        lines.handle(record(f"line {number}"))
        assert len(messages(stream.getvalue())) == number + 1


async def test_line_of_another_thread_comes_behind_those_that_wait() -> None:
    """In the order in which they were logged."""
    stream = Written()
    lines = LogLines(stream)
    lines.handle(record("first"))
    thread = threading.Thread(target=lines.handle, args=[record("second")])
    thread.start()
    thread.join(GUARD_S)
    lines.flush()
    assert messages("".join(stream.writes)) == ["first", "second"]


def test_end_of_the_interpreter_writes_what_waits() -> None:
    """Also that of a traceback."""
    program = (
        "import asyncio, logging\n"
        "from proxy.telemetry.log_lines import LogLines\n"
        "logging.basicConfig(level='INFO', handlers=[LogLines()])\n"
        "async def main():\n"
        "    for number in range(3): logging.info('line %d', number)\n"
        "    1 / 0\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=GUARD_S)
    assert done.returncode == 1
    assert re.findall(r"INFO root: (.*)\n", done.stderr) == ["line 0", "line 1", "line 2"]
    assert "ZeroDivisionError" in done.stderr


def test_lines_are_those_of_logging() -> None:
    """The same form, whatever the second; tracebacks, too."""
    try:
        raise ValueError("broken")
    except ValueError:
        exc_info = sys.exc_info()
    records = [
        record("first", created=1763790000.0, msecs=0.0),
        record("second", logging.ERROR, created=1763790000.999, msecs=999.0),
        record("third", created=1763790001.05, msecs=50.0),
        record("fourth %s", args=("argument",), created=1763793600.5, msecs=500.0),
        record("fifth", logging.ERROR, created=1763793600.6, msecs=600.0, exc_info=exc_info),
    ]
    ours, theirs = io.StringIO(), io.StringIO()
    lines, logged = LogLines(ours), logging.StreamHandler(theirs)
    logged.setFormatter(logging.Formatter(FORM))
    for one in records:
        lines.handle(one)
        logged.handle(one)
    assert ours.getvalue() == theirs.getvalue()
    assert "ValueError: broken" in ours.getvalue()


def test_log_that_nobody_reads_stops_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither a closed pipe nor a closed file raises where something is logged, or fills standard error instead."""
    closed = io.StringIO()
    closed.close()
    for stream in (Unread(), closed):
        assert LogLines(stream).handle(record("x", logging.ERROR))
    assert capsys.readouterr() == ("", "")


def test_record_that_can_not_be_written_out_is_reported_as_loggings_are(capsys: pytest.CaptureFixture[str]) -> None:
    """And the next one is written."""
    stream = io.StringIO()
    lines = LogLines(stream)
    lines.handle(record("%d", args=("no number",)))
    lines.handle(record("good"))
    assert "--- Logging error ---" in capsys.readouterr().err
    assert messages(stream.getvalue()) == ["good"]


def test_json_is_an_object_a_line() -> None:
    """When, how bad, whose and what, and the fields of a record that has some; a traceback is one member."""
    stream = io.StringIO()
    lines = LogLines(stream, as_json=True)
    lines.handle(record("stream ended", fields={"stream": "st_1", "ttft_s": None}))
    try:
        raise ValueError("of two\nlines")
    except ValueError:
        lines.handle(record("it failed", logging.ERROR, exc_info=sys.exc_info()))
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", first.pop("time"))
    assert first == {
        "level": "info", "logger": "streamtee", "message": "stream ended", "stream": "st_1", "ttft_s": None,
    }  # fmt: skip
    assert (second["level"], second["message"]) == ("error", "it failed")
    assert second["exception"].startswith("Traceback")
    assert second["exception"].endswith("ValueError: of two\nlines")


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> logging.Logger:
    """Return the root logger with no handlers; what a test changes of it and of our log is undone after it."""
    monkeypatch.setattr(logging.root, "handlers", [])
    for name in ("handlers", "filters", "propagate", "level"):
        monkeypatch.setattr(log, name, getattr(log, name))
    log.setLevel(logging.INFO)
    return logging.root


@pytest.mark.parametrize("unix_s", [1763790000.0, 1763790000.9999, 1763790001.05, 1763793600.5, 1763790000.25])
def test_line_without_a_record_is_that_of_a_record(
    root: logging.Logger, monkeypatch: pytest.MonkeyPatch, unix_s: float
) -> None:
    """To the millisecond; and no record is made."""
    monkeypatch.setattr(time, "time", lambda: unix_s)
    texts = []
    for second in ([], [logging.NullHandler()]):
        stream = io.StringIO()
        root.handlers = [LogLines(stream), *second]
        with monkeypatch.context() as patch:
            if not second:
                patch.setattr(log_lines, "record", None)
            log_line("100 % of it")
        texts.append(stream.getvalue())
    assert texts[0] == texts[1]
    assert texts[0].endswith(" INFO streamtee: 100 % of it\n")


async def test_lines_without_a_record_wait_with_the_others(root: logging.Logger) -> None:
    """In the same write, and in order."""
    stream = Written()
    root.handlers = [LogLines(stream)]
    log_line("first")
    log.info("second")
    log_line("third")
    assert stream.writes == []
    async with asyncio.timeout(GUARD_S):
        await stream.told.wait()
    assert [messages(text) for text in stream.writes] == [["first", "second", "third"]]


def add_handler(lines: LogLines, kept: Kept) -> None:
    logging.root.handlers.append(kept)


def add_handler_of_our_log(lines: LogLines, kept: Kept) -> None:
    log.handlers = [kept]


def add_filter(lines: LogLines, kept: Kept) -> None:
    lines.filters = [lambda record: kept.emit(record) or False]


def add_filter_of_our_log(lines: LogLines, kept: Kept) -> None:
    log.filters = [lambda record: kept.emit(record) or False]


def keep_to_our_log(lines: LogLines, kept: Kept) -> None:
    log.handlers, log.propagate = [kept], False


def replace_handler(lines: LogLines, kept: Kept) -> None:
    logging.root.handlers = [kept]


@pytest.mark.parametrize(
    ("configure", "written"),
    [
        (add_handler, ["line"]),
        (add_handler_of_our_log, ["line"]),
        (add_filter, []),
        (add_filter_of_our_log, []),
        (keep_to_our_log, []),
        (replace_handler, []),
    ],
)
def test_whoever_is_configured_to_see_a_line_does(
    root: logging.Logger, configure: Callable[[LogLines, Kept], None], written: list[str]
) -> None:
    """By a handler or a filter of `logging`, at our log or at the root; a filter may drop it."""
    stream, kept = io.StringIO(), Kept()
    lines = LogLines(stream)
    root.handlers = [lines]
    configure(lines, kept)
    log_line("line")
    assert kept.messages == ["line"]
    assert messages(stream.getvalue()) == written


def test_handler_for_warnings_is_sent_no_line(root: logging.Logger) -> None:
    """The level of the handler counts, not only that of the log."""
    stream = io.StringIO()
    root.handlers = [LogLines(stream)]
    root.handlers[0].setLevel(logging.WARNING)
    log_line("line")
    assert stream.getvalue() == ""


def test_log_that_is_cut_off_from_the_root_writes_no_line(root: logging.Logger) -> None:
    """As logging does with `propagate`."""
    stream = io.StringIO()
    root.handlers, log.propagate = [LogLines(stream)], False
    log_line("line")
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("handler", "told"),
    [
        (lambda stream: LogLines(stream, as_json=True), '"message":"line"'),
        (Shouting, "INFO STREAMTEE: LINE"),
    ],
    ids=["json", "derived"],
)
def test_handler_of_another_form_writes_its_own(
    root: logging.Logger, handler: Callable[[io.StringIO], LogLines], told: str
) -> None:
    """JSON, or whatever a derived class makes of a record."""
    stream = io.StringIO()
    root.handlers = [handler(stream)]
    log_line("line")
    assert told in stream.getvalue()


async def test_line_that_comes_while_others_are_written_is_not_forgotten(root: logging.Logger) -> None:
    """As from another thread: it is written with them, since no timer runs for it."""

    class Slow(io.StringIO):
        def write(self, text: str) -> int:
            if "first" in text:
                lines._lines.append("put by another thread\n")
            return super().write(text)

    stream = Slow()
    lines = LogLines(stream)
    lines.put("first", time.time())
    lines.flush()
    assert stream.getvalue().endswith("first\nput by another thread\n")
