"""A response as its API describes it by an object, at any time: queued, going on, complete, failed or cancelled."""

from aiohttp import web

from proxy.stream.endings import COMPLETE
from proxy.stream.stream import Stream


def answer_object(stream: Stream) -> web.Response:
    """Respond with the object of a stream's response."""
    response = answer_document(described(stream))
    response.headers["Stream-Id"] = stream.id
    return response


def answer_document(document: bytes) -> web.Response:
    """Respond with a JSON document that may be another one in a moment."""
    return web.Response(
        body=document, content_type="application/json", charset="utf-8", headers={"Cache-Control": "no-store"}
    )


def described(stream: Stream) -> bytes:
    """Return the object of a response, as the upstream stated it last; what ended it otherwise is added."""
    objects, outcome = stream.dialect.objects, stream.outcome
    assert objects is not None
    head, log = stream.kept_head, stream.log
    if head is not None and 200 <= head.status < 300 and outcome is not None and outcome.reason == COMPLETE.reason:
        return log.content(log.start, log.end)  # the upstream was asked for a stream, and sent a document
    seen = objects.seen(stream.reader)
    document = seen or objects.begun(stream.id, stream.vitals.model, stream.info.created_at)
    if outcome is None or outcome.reason == COMPLETE.reason:
        return document
    stated = stream.reader.failure
    if stated is not None and stated.recognised and seen is not None:
        return document  # it says itself how it failed
    return objects.ended(document, stream.reader, outcome.reason, outcome.message)
