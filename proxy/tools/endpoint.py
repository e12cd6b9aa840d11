"""An endpoint that answers with streams: its URL, its API, and what a request for a stream looks like there.

`bench` and `check` send such requests to any server, of any make. An API is a row of `APIS`.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import orjson
from yarl import URL

from proxy.dialects.chat import CHAT
from proxy.dialects.dialect import Dialect
from proxy.dialects.messages import MESSAGES
from proxy.dialects.responses import RESPONSES
from proxy.upstream.exchange import Exchange, Timeouts
from proxy.upstream.pool import ConnectionPool
from proxy.wire.http import Headers

_VERSIONED = re.compile(r"/v\d+(?:beta\d*)?")
_MOST_TOKENS = 4096  # where an API demands a limit
_PATIENT = Timeouts(connect_s=10, first_byte_s=0, idle_s=0, total_s=0)


class Question(NamedTuple):
    """What is asked for: a model, a prompt, and how long the answer may be in tokens (0: as long as it likes)."""

    model: str
    prompt: str
    max_tokens: int = 0


class Api(NamedTuple):
    """An API: the path that its SDKs add to a base URL, how answers are read, the body of a request, its headers."""

    path: str
    dialect: Dialect
    body: Callable[[Question], dict[str, Any]]
    headers: Callable[[str], Headers]
    """Return the headers that a key is sent in."""


def _said(question: Question) -> list[dict[str, str]]:
    return [{"role": "user", "content": question.prompt}]


def _chat(question: Question) -> dict[str, Any]:
    more = {"max_tokens": question.max_tokens} if question.max_tokens else {}
    usage = {"stream_options": {"include_usage": True}}
    return {"model": question.model, "stream": True, "messages": _said(question), **usage, **more}


def _response(question: Question) -> dict[str, Any]:
    more = {"max_output_tokens": question.max_tokens} if question.max_tokens else {}
    return {"model": question.model, "stream": True, "input": question.prompt, **more}


def _message(question: Question) -> dict[str, Any]:
    more = {"max_tokens": question.max_tokens or _MOST_TOKENS}
    return {"model": question.model, "stream": True, "messages": _said(question), **more}


def _bearer(key: str) -> Headers:
    return [(b"Authorization", b"Bearer " + key.encode())] if key else []


def _api_key(key: str) -> Headers:
    return [(b"anthropic-version", b"2023-06-01"), *([(b"x-api-key", key.encode())] if key else [])]


APIS = {
    "chat": Api("/chat/completions", CHAT, _chat, _bearer),
    "responses": Api("/responses", RESPONSES, _response, _bearer),
    "messages": Api("/messages", MESSAGES, _message, _api_key),
}


class Endpoint:
    """A server, the path of one of its APIs, and the connections to it.

    Made within a running loop, and closed with `close`. The connections are those that the proxy has to its upstreams:
    they tell each read with its time, and how a body ended.
    """

    def __init__(self, url: str, api: str | None = None, key: str = "") -> None:
        """`url` is a base URL, as SDKs take it, or the whole URL of the endpoint. Raises: ValueError."""
        self.url, self.api_name = endpoint_url(url, api)
        self.api = APIS[self.api_name]
        self._pool = ConnectionPool(str(self.url.origin()), _PATIENT)
        self._target = self.url.raw_path_qs.encode()
        self._key_headers = self.api.headers(key)
        self._headers: Headers = [
            (b"Content-Type", b"application/json"),
            (b"Accept", b"text/event-stream"),
            *self._key_headers,
        ]

    def body(self, question: Question) -> bytes:
        """Return the body of a request for a stream."""
        return orjson.dumps(self.api.body(question))

    async def ask(self, body: bytes) -> Exchange:
        """Send a request; return when the head of its response is here. Raises: UpstreamError, Overloaded."""
        return await self._pool.open(
            b"POST", self._target, [*self._headers, (b"Content-Length", b"%d" % len(body))], body
        )

    async def get(self, target: bytes, headers: Headers) -> Exchange:
        """Request another resource of the same server, with the same key. Raises: UpstreamError, Overloaded."""
        return await self._pool.open(b"GET", target, [*self._key_headers, *headers])

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close()


def endpoint_url(text: str, api: str | None) -> tuple[URL, str]:
    """Return the URL to post to, and the name of its API: that of its path, else the given one, else chat.

    Raises: ValueError.
    """
    url = URL(text, encoded=True)
    if url.scheme not in ("http", "https") or not url.host or url.user is not None:
        raise ValueError(f"{text!r} is no http:// or https:// URL without credentials")
    path = url.raw_path.rstrip("/")
    for name, known in APIS.items():
        if path.endswith(known.path):
            if api not in (None, name):
                raise ValueError(f"the path of {text!r} is that of the API {name}, not of {api}")
            return url, name
    name = api or "chat"
    version = "" if _VERSIONED.search(path[path.rfind("/") :] or "/") else "/v1"
    return url.with_path(f"{path}{version}{APIS[name].path}", encoded=True, keep_query=True), name
