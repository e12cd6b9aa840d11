"""A generation that was asked for, and what of it is asked for upstream in another way."""

import re
from typing import TYPE_CHECKING, NamedTuple

from proxy.edge.upstream import Headers
from proxy.server.config import GenerationsConfig
from proxy.server.document import JSON
from proxy.server.forward import Route
from proxy.server.options import Options

if TYPE_CHECKING:
    from proxy.server.tracing import Trace

_MODEL = re.compile(rb'"model"\s*:\s*"([^"\\]{1,100})"')
_MODEL_WITHIN = 64 * 1024
_INCREMENTAL = re.compile(rb'"incremental_output"\s*:\s*(true|false)')


class Asked(NamedTuple):
    """A generation that was asked for."""

    route: Route
    caller: bytes
    options: Options
    target: bytes
    headers: Headers  # for upstream, but for the length
    body: bytes
    streamed: tuple[Headers, bytes] | None  # headers and body to ask with, if a stream must be asked for
    hides_usage: bool  # the client did not ask for it
    started_at: float  # when the last byte of it was here
    trace: "Trace | None" = None


def model_of(body: bytes) -> str | None:
    """Return the model that a request's body names."""
    model = _MODEL.search(body, 0, _MODEL_WITHIN)
    return model and model[1].decode(errors="replace")


def rewrite(asked: Asked, generations: GenerationsConfig) -> Asked:
    """Have the upstream asked for a stream, or for the usage of one, as is configured."""
    dialect = asked.route.dialect
    if generations.upgrade != "never":
        streamed = dialect.streamed(asked.headers, asked.body)
        if streamed is not None:  # the answer is a document, also if it is made of a stream
            asked = asked._replace(options=asked.options._replace(view=JSON))
            if generations.upgrade == "auto":
                return asked._replace(streamed=streamed)
            return asked._replace(headers=streamed[0], body=streamed[1])
    if generations.include_usage:
        counted = dialect.counted(asked.body)
        if counted is not None:
            return asked._replace(body=counted, hides_usage=True)
    return asked


def asks_cumulative(body: bytes) -> bool | None:
    """Tell whether a native request asks for all so far in every event, or for increments; None: it says neither."""
    asked = _INCREMENTAL.search(body)
    return None if asked is None else asked[1] == b"false"
