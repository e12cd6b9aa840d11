"""The OpenAPI document of both ports, which the admin port serves at /openapi.json (OpenAPI Specification 3.1.0).

It has every path that the proxy itself gives a meaning to; what passes through is described by the provider. A new
path of the route table or the admin port needs a line in `_OPERATIONS` or `_ADMIN`: tests/server/test_openapi.py
compares them with what is served.
"""

import re
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any, NamedTuple

from proxy.dialects import table
from proxy.stream.endings import ENDINGS
from proxy.stream.modes.projections import MODES

_JSON, _SSE, _TEXT = "application/json", "text/event-stream", "text/plain"
_NAMED = re.compile(r"\{(\w+)\}")


class Operation(NamedTuple):
    """What one method of one path does: a sentence, the parameters by name, and its responses."""

    method: str
    path: str
    summary: str
    parameters: tuple[str, ...] = ()
    responses: tuple[str, ...] = ("json",)
    body: str = ""
    """The name of the schema of the request's body; "": it has none."""


_FOLLOW = ("mode", "last-event-id", "after", "offset", "wait", "heartbeat", "flush_ms", "flush_bytes")
_OPERATIONS = (
    Operation("GET", "/v1/streams", "List the caller's streams, running and kept.", (), ("list",)),
    Operation(
        "GET", "/v1/streams/{ident}", "Follow a stream, from its start or after a cursor.", (*_FOLLOW, "t"),
        ("events", "document", "nothing_more", "gone"),
    ),
    Operation("HEAD", "/v1/streams/{ident}", "Return a stream's state and numbers as headers.", ("t",), ("headers",)),
    Operation("DELETE", "/v1/streams/{ident}", "End a stream and forget it.", ("t",), ("no_content",)),
    Operation("GET", "/v1/streams/{ident}/info", "Describe a stream: numbers and names.", ("t",), ("stream",)),
    Operation("POST", "/v1/streams/{ident}/cancel", "End a stream, at the upstream, too.", ("t",), ("stream",)),
    Operation(
        "POST", "/v1/streams/{ident}/share", "Make a signed URL for this stream.", (), ("shared",), "Share"
    ),
    Operation(
        "GET", "/v1/follow", "Follow several streams on one connection.", ("streams", "keys", "t", *_FOLLOW[:3]),
        ("events",),
    ),
    Operation("GET", "/v1/keys/{key}", "Describe the caller's newest stream under a key.", (), ("stream",)),
    Operation("HEAD", "/v1/keys/{key}", "Return the same as headers, with an ETag.", (), ("headers",)),
    Operation(
        "GET", "/v1/keys/{key}/stream", "Follow the caller's newest stream under a key, or wait for one.", _FOLLOW,
        ("events", "document", "nothing_more", "gone"),
    ),
    Operation("POST", "/v1/keys/{key}/cancel", "End the newest stream under a key.", ("if-match",), ("stream",)),
    Operation("GET", "/v1/usage", "Tell a caller with a key of this proxy what it has used of its limits."),
    Operation("GET", "/healthz", "Answer while the process serves."),
    Operation("HEAD", "/healthz", "Answer while the process serves.", (), ("headers",)),
)  # fmt: skip
_GENERATION = (
    "stream-mode", "stream-key", "idempotency-key", "stream-on-disconnect", "stream-retain", "prefer",
)  # fmt: skip
_ADMIN = (
    Operation("GET", "/metrics", "Metrics for Prometheus, in its text format or as OpenMetrics.", (), ("text",)),
    Operation("GET", "/readyz", "Answer 200 while new requests are accepted, 503 while the process drains."),
    Operation("GET", "/openapi.json", "This document."),
    Operation("GET", "/admin/streams", "List the streams of all callers.", (), ("list",)),
    Operation("GET", "/admin/streams/{ident}", "Follow a stream of any caller.", _FOLLOW, ("events", "document")),
    Operation("GET", "/admin/streams/{ident}/info", "Describe a stream of any caller.", (), ("stream",)),
    Operation("POST", "/admin/streams/{ident}/cancel", "End a stream of any caller.", (), ("stream",)),
    Operation("POST", "/admin/streams/{ident}/share", "Make a signed URL for a stream.", (), ("shared",), "Share"),
    Operation("GET", "/admin/events", "A live feed of what goes on.", (), ("events",)),
    Operation("GET", "/admin/overview", "Tell what goes on: streams in short, upstreams, workers."),
    Operation("POST", "/admin/sign-in", "Exchange the admin token for a cookie.", (), ("no_content",)),
    Operation("POST", "/admin/sign-out", "End the cookie.", (), ("no_content",)),
    Operation("GET", "/console", "The console.", (), ("page",)),
    Operation("GET", "/console/{name}", "A file of the console.", (), ("page",)),
)


def document() -> dict[str, Any]:
    """Return the OpenAPI document."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in (*_OPERATIONS, *_ADMIN, *_generations(), *_objects()):
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "streamtee",
            "version": version("streamtee"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": (
                "A reverse proxy for streams of the Qwen API. All other paths below "
                f"{', '.join(table.served())} pass through. The admin port has /healthz, "
                f"{', '.join(dict.fromkeys(operation.path for operation in _ADMIN))}."
            ),
        },
        "servers": [
            {"url": "http://127.0.0.1:8080", "description": "The data port, by default"},
            {"url": "http://127.0.0.1:9090", "description": "The admin port, by default"},
        ],
        "paths": paths,
        "components": {
            "parameters": {name.replace("-", "_"): parameter for name, parameter in _PARAMETERS.items()},
            "responses": _RESPONSES,
            "schemas": _SCHEMAS,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "The key of the caller"}},
        },
        "security": [{"key": []}, {}],
    }


def _generations() -> Iterable[Operation]:
    """Return the operations that ask for a generation, at all prefixes of the APIs."""
    for route, row in table.routes():
        for path in row.generations:
            yield Operation(
                "POST", route.prefix + path, f"Ask for a generation of the {route.name} API, streamed or not.",
                _GENERATION, ("events", "accepted"), "Anything",
            )  # fmt: skip


def _objects() -> Iterable[Operation]:
    """Return the operations on responses by their ids, of the APIs that have them."""
    for route, row in table.routes():
        if route.dialect.objects is not None:
            for lent in row.lent:
                yield Operation("POST", route.prefix + lent, "Ask the upstream about what a response would be made of.")
            path = route.prefix + "/{ident}"
            yield Operation("GET", path, "Return a response, or its events from a number on.", ("starting_after",))
            yield Operation("DELETE", path, "End a response and forget it.")
            yield Operation("POST", path + "/cancel", "Cancel a response in the background.")


def _described(operation: Operation) -> dict[str, Any]:
    named = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _NAMED.findall(operation.path)
    ]
    words = [operation.method.lower(), *re.findall(r"\w+", operation.path)]
    described: dict[str, Any] = {
        "operationId": "_".join(words),
        "summary": operation.summary,
        "parameters": named + [_reference("parameters", name.replace("-", "_")) for name in operation.parameters],
        "responses": {_STATUSES[name]: _reference("responses", name) for name in operation.responses}
        | {"default": _reference("responses", "error")},
    }
    if operation.body:
        schema = _reference("schemas", operation.body)
        described["requestBody"] = {"content": {_JSON: {"schema": schema}}}
    return described


def _reference(kind: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{kind}/{name}"}


def _parameter(name: str, where: str, description: str, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"name": name, "in": where, "description": description, "schema": schema or {"type": "string"}}


def _response(description: str, kind: str = "", schema: str = "") -> dict[str, Any]:
    if not kind:
        return {"description": description}
    content = {"schema": _reference("schemas", schema)} if schema else {}
    return {"description": description, "content": {kind: content}}


_MODE = {"type": "string", "enum": list(MODES)}
_NUMBER = {"type": "number", "minimum": 0}
_PARAMETERS = {
    "mode": _parameter("mode", "query", "What the follower is sent; events if it is not given.", _MODE),
    "last-event-id": _parameter("Last-Event-ID", "header", "Begin after this event."),
    "after": _parameter("after", "query", "The same: an event id, a number, -1 (the start) or now (the end)."),
    "starting_after": _parameter("starting_after", "query", "With stream=true: the number to begin after.", _NUMBER),
    "offset": _parameter("offset", "query", "Begin at this byte, in the modes that are bytes.", _NUMBER),
    "wait": _parameter("wait", "query", "Seconds to wait for a stream to begin, or for a document.", _NUMBER),
    "heartbeat": _parameter("heartbeat", "query", "Seconds of silence after which a comment is sent.", _NUMBER),
    "flush_ms": _parameter("flush_ms", "query", "Milliseconds for which a coalescing mode gathers.", _NUMBER),
    "flush_bytes": _parameter("flush_bytes", "query", "Bytes that a coalescing mode gathers at most.", _NUMBER),
    "t": _parameter("t", "query", "A token that opens a stream without the caller's key."),
    "streams": _parameter(
        "stream", "query", "The id of a stream; may repeat.", {"type": "array", "items": {"type": "string"}}
    ),
    "keys": _parameter(
        "key", "query", "The key of a stream; may repeat.", {"type": "array", "items": {"type": "string"}}
    ),
    "if-match": _parameter("If-Match", "header", "The ETag of the stream that is meant."),
    "stream-mode": _parameter("Stream-Mode", "header", "The mode of this response; raw if not given.", _MODE),
    "stream-key": _parameter("Stream-Key", "header", "A name under which the caller's newest stream is found."),
    "idempotency-key": _parameter("Idempotency-Key", "header", "Requests with the same key share one upstream call."),
    "stream-on-disconnect": _parameter(
        "Stream-On-Disconnect", "header", "cancel, continue, or grace=SECONDS: when the last follower leaves."
    ),
    "stream-retain": _parameter("Stream-Retain", "header", "Seconds for which it is kept after its end.", _NUMBER),
    "prefer": _parameter("Prefer", "header", "respond-async: answer 202 at once (RFC 7240)."),
}  # fmt: skip
_STATUSES = {
    "json": "200", "list": "200", "stream": "200", "events": "200", "text": "200", "page": "200",
    "headers": "200", "shared": "200",
    "document": "202", "accepted": "202", "no_content": "204", "nothing_more": "204", "gone": "410",
}  # fmt: skip
_RESPONSES = {
    "json": _response("A JSON document.", _JSON),
    "list": _response("A list of streams.", _JSON, "StreamList"),
    "stream": _response("A stream's description.", _JSON, "Stream"),
    "events": _response("An event stream, or what the mode asks for.", _SSE),
    "text": _response("Text.", _TEXT),
    "page": _response("A page, or a file of one."),
    "headers": _response("No body."),
    "shared": _response("A signed URL.", _JSON, "Shared"),
    "document": _response("Mode json, while the answer is not complete: what there is so far.", _JSON),
    "accepted": _response("With Prefer: respond-async: where the stream is found.", _JSON, "Stream"),
    "no_content": _response("Done."),
    "nothing_more": _response("The stream has ended, and nothing lies after the cursor."),
    "gone": _response("What comes after the cursor is not held any more.", _JSON, "Error"),
    "error": _response("An error in the format of the API at this path.", _JSON, "Error"),
}
_TEXT_FIELD: dict[str, Any] = {"type": ["string", "null"]}
_COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
_SCHEMAS: dict[str, Any] = {
    "Anything": {"type": "object", "description": "The body of the API at this path."},
    "Share": {
        "type": "object",
        "properties": {
            "rights": {"type": "array", "items": {"type": "string", "enum": ["read", "cancel", "info"]}},
            "expires_in": {"type": "number", "description": "Seconds"},
        },
    },
    "Shared": {"type": "object", "properties": {"url": {"type": "string"}}},
    "Stream": {
        "type": "object",
        "required": ["id", "object", "state", "events"],
        "properties": {
            "id": {"type": "string"},
            "object": {"const": "stream"},
            "created": {"type": "integer", "description": "Unix seconds"},
            "state": {"type": "string", "enum": sorted({"open", *(ending.state for ending in ENDINGS.values())})},
            "ending": {
                "type": ["object", "null"],
                "properties": {
                    "reason": {"type": "string", "enum": sorted(ENDINGS)},
                    "message": _TEXT_FIELD,
                },
            },
            "route": {"type": "string"},
            "upstream": _TEXT_FIELD,
            "upstream_request_id": _TEXT_FIELD,
            "trace_id": _TEXT_FIELD,
            "answer": {"type": ["object", "null"], "description": "Of an answer that is not an event stream"},
            "model": _TEXT_FIELD,
            "key": _TEXT_FIELD,
            "time_to_first_token_s": {"type": ["number", "null"]},
            "events": _COUNT,
            "first_seq": _COUNT,
            "bytes": _COUNT,
            "finish_reason": _TEXT_FIELD,
            "usage": {"type": ["object", "null"]},
            "followers": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"mode": _MODE, "seq": _COUNT, "lag_events": _COUNT, "lag_bytes": _COUNT},
                },
            },
            "followers_elsewhere": _COUNT,
        },
    },
    "StreamList": {
        "type": "object",
        "properties": {
            "object": {"const": "list"},
            "data": {"type": "array", "items": _reference("schemas", "Stream")},
        },
    },
    "Error": {"type": "object", "description": "An error object of the API at this path, with `code` and a message."},
}
