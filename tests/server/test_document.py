"""The status that a document's ending has. What clients see is in end_to_end/test_documents.py."""

import pytest

from proxy.server.document import LastWords, failure
from proxy.stream.log import Ending


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("upstream_reset", 502),
        ("upstream_unreachable", 502),
        ("garbled", 502),
        ("timeout_idle", 504),
        ("timeout_total", 504),
        ("cancelled", 409),
        ("client_gone", 409),
        ("drained", 503),
        ("log_limit", 503),
        ("frame_limit", 502),
    ],
)
def test_every_ending_but_a_complete_one_is_an_error(reason: str, status: int) -> None:
    """With its message, if it has one."""
    error = failure(Ending(reason, "what happened"))
    assert (error.status, error.message) == (status, "what happened")


async def test_last_words_are_heard_once() -> None:
    """A second ending changes nothing; writes before it are of no account."""
    sink = LastWords()
    assert sink.write(None)
    sink.close(b"{}")
    sink.abort(b"")
    assert await sink.document == b"{}"


async def test_aborted_stream_has_no_document() -> None:
    """Whatever the last bytes were."""
    sink = LastWords()
    sink.abort(b"half")
    assert await sink.document is None
