"""An endpoint that answers with streams: its URL, its API, and what a request for a stream looks like there.

`bench` and `check` send such requests to any server, of any make: in each API whose row in the table says how.
"""

import re
from typing import NamedTuple

import orjson
from yarl import URL

from proxy.dialects import table
from proxy.dialects.dialect import Dialect
from proxy.dialects.question import Asking, Question
from proxy.dialects.route import key_header
from proxy.upstream.exchange import Exchange, Timeouts
from proxy.upstream.pool import ConnectionPool
from proxy.wire.http import Headers

_VERSIONED = re.compile(r"/v\d+(?:beta\d*)?")
_PATIENT = Timeouts(connect_s=10, first_byte_s=0, idle_s=0, total_s=0)


class Api(NamedTuple):
    """An API: how answers are read, how it is asked, and the header of the key."""

    dialect: Dialect
    asking: Asking
    key_header: str

    def headers(self, key: str) -> Headers:
        """Return the headers that an API demands, with a key if there is one."""
        return [*self.asking.headers, *([key_header(self.key_header, key)] if key else [])]


APIS = {row.name: Api(row.dialect, row.asking, row.key_header) for row in table.ROWS if row.asking is not None}


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
        return orjson.dumps(self.api.asking.body(question))

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
        if path.endswith(known.asking.path):
            if api not in (None, name):
                raise ValueError(f"the path of {text!r} is that of the API {name}, not of {api}")
            return url, name
    name = api or "chat"
    version = "" if _VERSIONED.search(path[path.rfind("/") :] or "/") else "/v1"
    return url.with_path(f"{path}{version}{APIS[name].asking.path}", encoded=True, keep_query=True), name
