"""The table of faults: what may fail, at which moment of a stream, and what the client that asked for it sees then.

`python -m tests.fault_table` prints docs/faults.md. Each cell is a test of tests/end_to_end/test_faults.py; tests
elsewhere that look closer at one are marked `@pytest.mark.fault(place, moment)`, and are listed below the table.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
TESTED_BY = "tests/end_to_end/test_faults.py"

PLACES = {
    "client": "the client that asked resets its connection",
    "follower": "a follower resets its connection",
    "upstream": "the upstream's connection is reset",
    "store": "Redis is killed",
    "worker": "the worker that has the stream is killed (connect: all workers)",
    "process": "the process is told to end, and has no time left (`drain_s`)",
    "clock": "the wall clock jumps a day back or ahead",
    "disk": "the disk is full, and the keys file has gone",
    "descriptors": "no file descriptor is left",
    "memory": "the limit of the memory for streams is reached",
}
MOMENTS = {
    "connect": "connected, nothing sent",
    "head": "asked, the upstream has not answered",
    "before_token": "the head has come, no token has",
    "within_frame": "half of a frame has come",
    "between_frames": "frames have come",
    "after_end": "the stream has ended, and is kept",
}


class Cell(NamedTuple):
    """What the client that asked sees, or for its own faults, the follower and the upstream."""

    place: str
    moment: str
    sees: str


CELLS = [
    Cell("client", "connect", "nothing is asked upstream"),
    Cell("client", "head", "the upstream's connection is closed, once nobody else waits"),
    Cell("client", "before_token", "the follower has all of it"),
    Cell("client", "within_frame", "the follower has all of it"),
    Cell("client", "between_frames", "the follower has all of it"),
    Cell("client", "after_end", "a later reader has all of it"),
    Cell("follower", "connect", "all of it, to the byte"),
    Cell("follower", "head", "all of it, to the byte"),
    Cell("follower", "before_token", "all of it, to the byte"),
    Cell("follower", "within_frame", "all of it, to the byte"),
    Cell("follower", "between_frames", "all of it, to the byte"),
    Cell("follower", "after_end", "all of it, to the byte"),
    Cell("upstream", "connect", "502 `upstream_unreachable`"),
    Cell("upstream", "head", "502 `upstream_unreachable`"),
    Cell("upstream", "before_token", "what came, then a body that breaks off; a follower an error event"),
    Cell("upstream", "within_frame", "what came, then a body that breaks off; a follower an error event"),
    Cell("upstream", "between_frames", "what came, then a body that breaks off; a follower an error event"),
    Cell("upstream", "after_end", "all of it, to the byte"),
    Cell("store", "connect", "all of it, to the byte"),
    Cell("store", "head", "all of it, to the byte"),
    Cell("store", "before_token", "all of it, to the byte"),
    Cell("store", "within_frame", "all of it, to the byte"),
    Cell("store", "between_frames", "all of it, to the byte"),
    Cell("store", "after_end", "all of it, also from what is kept at this node"),
    Cell("worker", "connect", "its connection is closed; the next one is served"),
    Cell("worker", "head", "its connection is closed, without an answer"),
    Cell("worker", "before_token", "the frames that came, then the connection breaks; so does a follower's"),
    Cell("worker", "within_frame", "the frames that came, then the connection breaks; so does a follower's"),
    Cell("worker", "between_frames", "the frames that came, then the connection breaks; so does a follower's"),
    Cell("worker", "after_end", "all of it; later 404"),
    Cell("process", "connect", "its connection is closed"),
    Cell("process", "head", "503 `drained`, with Retry-After"),
    Cell("process", "before_token", "what came, then a body that breaks off; a follower an error event"),
    Cell("process", "within_frame", "what came, then a body that breaks off; a follower an error event"),
    Cell("process", "between_frames", "what came, then a body that breaks off; a follower an error event"),
    Cell("process", "after_end", "all of it; later, no connection"),
    Cell("clock", "connect", "all of it, to the byte"),
    Cell("clock", "head", "all of it, to the byte"),
    Cell("clock", "before_token", "all of it, to the byte"),
    Cell("clock", "within_frame", "all of it, to the byte"),
    Cell("clock", "between_frames", "all of it, to the byte"),
    Cell("clock", "after_end", "all of it, also from what is kept"),
    Cell("disk", "connect", "all of it, to the byte"),
    Cell("disk", "head", "all of it, to the byte"),
    Cell("disk", "before_token", "all of it, to the byte"),
    Cell("disk", "within_frame", "all of it, to the byte"),
    Cell("disk", "between_frames", "all of it, to the byte"),
    Cell("disk", "after_end", "all of it, also from what is kept"),
    Cell("descriptors", "connect", "503 `overloaded`; connections that are idle are closed for new ones"),
    Cell("descriptors", "head", "all of it, to the byte"),
    Cell("descriptors", "before_token", "all of it, to the byte"),
    Cell("descriptors", "within_frame", "all of it, to the byte"),
    Cell("descriptors", "between_frames", "all of it, to the byte"),
    Cell("descriptors", "after_end", "all of it, also from what is kept"),
    Cell("memory", "connect", "503 `overloaded`, with Retry-After"),
    Cell("memory", "head", "all of it, to the byte"),
    Cell("memory", "before_token", "all of it, to the byte"),
    Cell("memory", "within_frame", "all of it, to the byte"),
    Cell("memory", "between_frames", "all of it, to the byte"),
    Cell("memory", "after_end", "all of it; then 404, since what is kept makes room"),
]


class Marked(NamedTuple):
    """A test that looks closer at a cell."""

    place: str
    moment: str
    file: str
    test: str


def marked() -> list[Marked]:
    """Return the tests that are marked, read off their source."""
    return sorted(one for path in sorted((ROOT / "tests").rglob("test_*.py")) for one in _marked_in(path))


def document() -> str:
    """Return the text of docs/faults.md."""
    head = " | ".join(f"{_spoken(name)}: {what}" for name, what in MOMENTS.items())
    sees = {(cell.place, cell.moment): cell.sees for cell in CELLS}
    lines = [
        "# Faults",
        "",
        "What the client that asked sees in mode raw when something fails (of its own faults: what others see). Each",
        f"cell is a test with real sockets, in [{TESTED_BY}](../{TESTED_BY}). Made by `python -m tests.fault_table`.",
        "",
        f"| | {head} |",
        f"|---|{'---|' * len(MOMENTS)}",
    ]
    for place, what in PLACES.items():
        lines.append(f"| **{place}**: {what} | {' | '.join(sees[place, moment] for moment in MOMENTS)} |")
    lines += ["", "Tests that look closer:", ""]
    for one in marked():
        lines.append(f"* {one.place}, {_spoken(one.moment)}: `{one.test}` in [{one.file}](../{one.file})")
    return "\n".join(lines) + "\n"


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def _marked_in(path: Path) -> Iterator[Marked]:
    text = path.read_text()
    if "mark.fault(" not in text:
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.fault":
                    place, moment = (ast.literal_eval(argument) for argument in decorator.args)
                    yield Marked(place, moment, str(path.relative_to(ROOT)), node.name)


if __name__ == "__main__":
    print(document(), end="")
