"""The dialect of OpenAI's Responses API, as Qwen's compatible mode implements it.

A response is a series of typed events. Some of them, such as the first and the last one, contain the complete response
object as it is at that moment, here called a snapshot. The events between add deltas to the items of its output:

    response.created            {"type":…,"sequence_number":0,"response":{"id":…,"status":"queued","output":[],…}}
    response.output_item.added  {"type":…,"sequence_number":2,"output_index":0,"item":{"type":"message",…}}
    response.output_text.delta  {"type":…,"sequence_number":4,"output_index":0,"content_index":0,"delta":"Hel"}
    response.completed          {"type":…,"sequence_number":9,"response":{…,"status":"completed","usage":{…}}}

Sources: OpenAI's API reference; Model Studio, "Create a response"; recorded streams of DashScope, which writes fields
without spaces, an id, and a status comment into each block, leaves out `item_id` and `content_index` at times, and
skips sequence numbers.
"""

from collections.abc import Collection
from typing import Any, Final

from proxy.dialects.chat import error_body
from proxy.dialects.dialect import Background, Dialect, Reader, StreamedByBody
from proxy.dialects.documents.delta import json_object, record, records
from proxy.dialects.documents.response_documents import ResponseDocuments
from proxy.dialects.question import Asking, Question
from proxy.dialects.response_reader import EMPTY, MOST_ITEMS, ResponseReader, ended, idents_of, number_of
from proxy.wire import json_text
from proxy.wire.errors import BadRequest, ProxyError
from proxy.wire.http import RawHeaders
from proxy.wire.json_members import members, pairs

_CONTINUES: Final = frozenset(["previous_response_id", "conversation"])


class ResponseRequests(StreamedByBody):
    """What requests for responses contain."""

    names_model = False  # DashScope's responses do so only at their end
    reads_body = True  # only the body says whether a response is to be made in the background

    def as_stream(self, headers: RawHeaders, body: bytes) -> tuple[list[tuple[bytes, bytes]], bytes] | None:
        asked = members(body)
        if asked is None or not (asked.get("stream") is None or asked.get("stream") is False):
            return None
        if asked.get("background"):  # the response comes at once, and is not a stream
            return None
        streamed = asked.put({"stream": b"true"})
        return None if streamed is None else (list(headers), streamed)

    def with_usage(self, body: bytes) -> bytes | None:
        return None  # usage is in the last event

    def asks_cumulative(self, body: bytes) -> bool | None:
        return None


class ResponseFrames:
    """The frames of a response: each is one event."""

    has_text = True

    def reader(self) -> Reader:
        return ResponseReader()

    def only_counts(self, frame: bytes) -> bool:
        return False

    def error_body(self, error: ProxyError) -> dict[str, Any]:
        return error_body(error)


class ResponseObjects:
    """Responses as objects. Qwen stores them for 7 days; the proxy adds background responses and resuming."""

    def background(self, body: bytes) -> Background | None:
        asked = members(body) if b'"background"' in body else None
        if asked is None or asked.get("background") is not True:
            return None
        sent = asked.put({"stream": b"true", "background": b"false"})
        return None if sent is None else Background(sent, asked.get("stream") is True)

    def continued(self, body: bytes) -> list[str]:
        asked = pairs(body)
        if asked is None:
            raise BadRequest("the body is not a JSON object, so it can't be checked whose response it continues")
        stated = [value for name, value in asked if name.lower() in _CONTINUES]
        idents = [record(value).get("id") or value for value in stated]
        for name, value in asked:
            if name.lower() == "input":
                idents += [item.get("id", "") for item in records(value) if _refers(item)]
        return [ident if isinstance(ident, str) else "" for ident in idents if ident is not None]

    def ident(self, reader: Reader) -> str | None:
        return reader.ident if isinstance(reader, ResponseReader) else None

    def ident_of(self, document: bytes) -> str | None:
        response = json_object(document)
        ident = response.get("id")
        return ident if response.get("object") == "response" and isinstance(ident, str) else None

    def items(self, reader: Reader) -> Collection[str]:
        return reader.items if isinstance(reader, ResponseReader) else ()

    def items_of(self, document: bytes) -> Collection[str]:
        return idents_of(records(json_object(document).get("output")))[:MOST_ITEMS]

    def seen(self, reader: Reader) -> bytes | None:
        return reader.snapshot if isinstance(reader, ResponseReader) else None

    def begun(self, ident: str, model: str | None, created_at: int) -> bytes:
        response = EMPTY | {"id": ident, "created_at": created_at, "model": model or "", "status": "queued"}
        return json_text.written(response | {"background": True, "error": None})

    def ended(self, document: bytes, reader: Reader, code: str, message: str) -> bytes:
        response = ended(json_object(document, exactly=True), code)
        if code != "cancelled":
            stated = reader.failure_code(code) if isinstance(reader, ResponseReader) else code
            response["error"] = {"code": stated, "message": message}
        return json_text.written(response)

    def deleted(self, ident: str) -> bytes:
        return json_text.written({"id": ident, "object": "response", "deleted": True})

    def number(self, frame: bytes) -> int | None:
        return number_of(frame)


def _refers(item: dict[str, Any]) -> bool:
    """Return whether an item of an input only refers to one of an earlier response; the type may be left out."""
    kind = item.get("type")
    return kind == "item_reference" or (kind is None and "id" in item and "role" not in item)


def _body(question: Question) -> dict[str, Any]:
    limit = {"max_output_tokens": question.max_tokens} if question.max_tokens else {}
    return {"model": question.model, "stream": True, "input": question.prompt, **limit}


RESPONSES: Final = Dialect(
    "responses", ResponseRequests(), ResponseFrames(), ResponseDocuments(), ResponseObjects(), events=("response.",)
)
ASK_RESPONSES: Final = Asking("Responses", "/responses", _body)
