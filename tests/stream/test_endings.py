"""The table of endings: what each row says fits together, and nothing beside the table says it once more."""

import ast
import inspect
import re
from typing import Any

import pytest

from proxy.stream.endings import ENDINGS, OF_FOLLOWERS, OF_STREAMS, OVERLOADED, RATE_LIMITED, Ending, ending_of
from proxy.stream.modes.envelopes import closing
from proxy.wire import errors
from proxy.wire.errors import Overloaded, ProxyError, RateLimited, RequestError, UpstreamError, UpstreamTimeout
from tests import source
from tests.frames import heard
from tests.source import PACKAGE

TABLE_OF_METRICS = (PACKAGE.parent / "docs/metrics.md").read_text()
SAME_WORDS = {"dialects/error_codes.py", "dialects/responses.py", "dialects/response_reader.py"}
"""Where an API has the same words."""
TABLE, SPELT = "stream/endings.py", {"stream/endings.py", "wire/errors.py"}
REGISTERED = {"complete": 1000, "drained": 1001, "overloaded": 1013}
each = pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)


def paths() -> list[str]:
    """Return the modules of the proxy, without those of the command line, whose fake and reader are a client's."""
    return [path for path in source.trees() if not path.startswith("tools/")]


def carriers() -> list[Any]:
    """Return an error of each class that names the ending it is for a stream."""
    kinds = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, ProxyError)]
    made = [kind("what happened") for kind in kinds if "ending" in vars(kind)]
    return [error for error in made if type(error) is not UpstreamTimeout]  # which is made as one of its kinds


@each
def test_every_ending_has_a_close_code_that_a_server_may_send(ending: Ending) -> None:
    """Law 7: 1000 is complete alone; where no registered code says it, it is one of 44xx and 45xx (README)."""
    assert heard(closing(ending)) == [(8, (ending.close_code, ending.reason))]
    assert ending.close_code == REGISTERED.get(ending.reason, ending.close_code)
    assert (ending.reason in REGISTERED) or 4400 <= ending.close_code < 4600


@each
def test_every_ending_but_a_complete_one_is_an_error_to_mode_json(ending: Ending) -> None:
    """With its message, or else its word; who fell behind is no stream, and so no document."""
    if ending.reason in ("complete", "too_slow"):
        assert ending.error is None
        return
    error = ending.saying("what happened").as_error()
    assert error.message == "what happened"
    assert ending.saying("").as_error().message == ending.reason
    assert error.status >= 400


@pytest.mark.parametrize(
    ("reason", "status", "code"),
    [
        ("cancelled", 409, "cancelled"),
        ("client_gone", 409, "cancelled"),
        ("rate_limited", 429, "rate_limited"),
        ("drained", 503, "drained"),
        ("overloaded", 503, "overloaded"),
        ("log_limit", 413, "too_large"),
        ("internal_error", 500, "internal_error"),
        ("producer_lost", 502, "producer_lost"),
        ("upstream_unreachable", 502, "upstream_unreachable"),
        ("upstream_reset", 502, "upstream_reset"),
        ("upstream_error", 502, "upstream_error"),
        ("garbled", 502, "upstream_garbled"),
        ("frame_limit", 502, "upstream_reset"),
        ("timeout_connect", 504, "upstream_timeout"),
        ("timeout_first_byte", 504, "upstream_timeout"),
        ("timeout_first_token", 504, "upstream_timeout"),
        ("timeout_idle", 504, "upstream_timeout"),
        ("timeout_total", 504, "upstream_timeout"),
    ],
)
def test_stream_that_failed_has_this_status(reason: str, status: int, code: str) -> None:
    """What clients were promised; Retry-After stands where the proxy's own limit was met."""
    error = ENDINGS[reason].as_error()
    assert (error.status, error.code) == (status, code)
    assert (error.retry_after_s is not None) == (status in (429, 503))


@each
def test_close_code_and_status_say_the_same(ending: Ending) -> None:
    """A close code of ours is 4000 more than the status, but where the status is less exact than the code."""
    if ending.error is None or ending.reason in REGISTERED:
        return
    less_exact = {"client_gone": 4499, "log_limit": 4413, "frame_limit": 4413}
    assert ending.close_code == less_exact.get(ending.reason, 4000 + ending.as_error().status)


@each
def test_fault_is_that_of_the_error(ending: Ending) -> None:
    """The bases of errors say whose fault it is, and so does the row."""
    if ending.error is None:
        assert ending.fault == ("client" if ending.reason == "too_slow" else None)
        return
    error = ending.as_error()
    fault = "client" if isinstance(error, RequestError) else "upstream" if isinstance(error, UpstreamError) else "proxy"
    assert ending.fault == fault


@each
def test_only_complete_succeeds(ending: Ending) -> None:
    """Law 7: in /info, in spans, to a WebSocket, and in the close of a response."""
    complete = ending.reason == "complete"
    assert (ending.state == "complete") == (ending.close_code == 1000) == ending.clean == complete
    assert (ending.state == "cancelled") == (ending.reason in ("cancelled", "client_gone"))


@each
def test_retry_gets_what_is_complete_or_was_cancelled(ending: Ending) -> None:
    """What failed, or was given up when all had left, is asked for again."""
    assert ending.replayed == (ending.reason in ("complete", "cancelled"))


@pytest.mark.parametrize("error", carriers(), ids=lambda error: type(error).__name__)
def test_error_that_ends_a_stream_is_a_row(error: UpstreamError | RateLimited | Overloaded) -> None:
    """And comes back, where a document is asked for, as the error it was."""
    ending = ending_of(error)
    assert ending in [row._replace(message=error.message, retry_after_s=error.retry_after_s) for row in OF_STREAMS]
    again = ending.as_error()
    assert type(again) is type(error)
    assert (again.message, again.retry_after_s) == (error.message, error.retry_after_s)


def test_refusal_of_the_queue_keeps_its_retry_after() -> None:
    """A follower of a detached stream is told how long the queue was thought to be."""
    for row, error in ((RATE_LIMITED, RateLimited("m", 7)), (OVERLOADED, Overloaded("m", 9))):
        assert ending_of(error).reason == row.reason
        assert ending_of(error).as_error().retry_after_s == error.retry_after_s


@source.reads_source
def test_words_are_spelt_in_the_table_and_in_errors_alone() -> None:
    """Whoever needs an ending takes its row, so that an ending that is in no row can't be made."""
    spelt = {
        path: node.value
        for path in paths()
        for node in source.nodes(path)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value in ENDINGS
        and path not in SAME_WORDS
    }
    assert set(spelt) == SPELT, spelt


@source.reads_source
def test_endings_are_made_from_rows_alone() -> None:
    """Nobody else calls the class, nor gives a row another word."""
    calls = [(path, node) for path in paths() for node in source.nodes(path) if isinstance(node, ast.Call)]
    named = {path for path, call in calls if _name(call.func) == "Ending"}
    renamed = [path for path, call in calls if {"reason", "close_code"} & {keyword.arg for keyword in call.keywords}]
    assert (named, renamed) == ({TABLE}, [])


def _name(function: ast.expr) -> str:
    """Return the last name of what is called; "" if it has none."""
    return getattr(function, "attr", getattr(function, "id", ""))


def test_every_row_is_in_the_table_under_its_own_name() -> None:
    """A row that is forgotten in the tuples would be no ending; two of one word would be one."""
    tree = source.trees()[TABLE]
    rows = [
        ast.unparse(node.target)
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Call)
    ]
    listed = {word.upper() for word in ENDINGS}
    assert set(rows) <= listed, f"in neither OF_STREAMS nor OF_FOLLOWERS: {set(rows) - listed}"
    assert listed <= set(rows), f"not the name of a row: {listed - set(rows)}"
    assert len(ENDINGS) == len(OF_STREAMS) + len(OF_FOLLOWERS)


def test_docs_list_the_endings_of_streams_by_whose_fault_they_are() -> None:
    """In the table of metrics, in the order of OF_STREAMS: none that does not exist, and none missing."""
    listed = re.search(
        r"by `ending`: complete; the client's: (.*?); the proxy's: (.*?); the upstream's: (.*?) \(\[", TABLE_OF_METRICS
    )
    assert listed is not None
    for fault, words in zip(("client", "proxy", "upstream"), listed.groups(), strict=True):
        rows = [ending.reason for ending in OF_STREAMS if ending.fault == fault]
        assert words.split(", ") == rows, f"docs/metrics.md, by `ending`, of the {fault}: {', '.join(rows)}"
