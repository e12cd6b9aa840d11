"""How a document waits for its stream's end. What clients see is in end_to_end/test_documents.py."""

from proxy.server.document import DocumentSink


async def test_last_words_are_heard_once() -> None:
    """A second ending changes nothing; writes before it are of no account."""
    sink = DocumentSink()
    assert sink.write(None)
    sink.close(b"{}")
    sink.abort(b"")
    assert await sink.document == b"{}"


async def test_aborted_stream_has_no_document() -> None:
    """Whatever the last bytes were."""
    sink = DocumentSink()
    sink.abort(b"half")
    assert await sink.document is None
