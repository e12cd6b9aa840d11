"""The log's lines on stderr: in order, each with its own time, several a write, and none lost."""

import asyncio
import io
import json
import logging
import re
import subprocess
import sys
import threading

import pytest

from proxy.tools.log_lines import LogLines

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
        "from proxy.tools.log_lines import LogLines\n"
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
