"""The options of a generation, which clients send in headers, so that bodies stay those of the API."""

import re
from typing import Final, NamedTuple

from multidict import MultiMapping

from proxy.server.config import Config
from proxy.stream.modes.projection import View
from proxy.stream.modes.projections import view_of
from proxy.upstream.on_disconnect import OnDisconnect
from proxy.wire.errors import BadRequest

_KEY: Final = re.compile(r"[\x21-\x7e]{1,200}")
_IDEMPOTENCY_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
# W3C Trace Context, 3.2: version ff and ids of nothing but zeros are invalid, later versions may add fields.
_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
_ASYNC: Final = re.compile(r'respond-async\s*(?:=\s*""\s*)?(?:;.*)?', re.IGNORECASE)


class GenerationOptions(NamedTuple):
    """The options in the headers of a generation request."""

    view: View
    key: str | None
    retain_s: float
    on_disconnect: OnDisconnect
    trace_id: str | None
    idempotency_key: str | None
    respond_async: bool

    @property
    def detached(self) -> bool:
        """Return whether the stream may have other followers, or go on after this client has left."""
        return self.respond_async or self.key is not None or self.on_disconnect.grace_s != 0


def read_options(headers: MultiMapping[str], config: Config) -> GenerationOptions:
    """Read the options in the headers. Raises: UnknownMode, BadRequest."""
    idempotency_key = headers.get("Idempotency-Key")
    if idempotency_key is not None and not _IDEMPOTENCY_KEY.fullmatch(idempotency_key):
        raise BadRequest("Idempotency-Key takes 1 to 255 visible ASCII characters")
    key = headers.get("Stream-Key")
    if key is not None:
        check_key(key)
    trace = _TRACEPARENT.fullmatch(headers.get("traceparent", ""))
    return GenerationOptions(
        view_of(headers.get("Stream-Mode", config.generations.mode)),
        key,
        _retain_s(headers.get("Stream-Retain"), config),
        _on_disconnect(headers.get("Stream-On-Disconnect"), config, may_retry=idempotency_key is not None),
        trace and trace[1],
        idempotency_key,
        "Prefer" in headers and _prefers_async(headers.getall("Prefer")),
    )


def check_key(key: str) -> None:
    """Raises: BadRequest, when no stream can have this key."""
    if not _KEY.fullmatch(key):
        raise BadRequest("Stream-Key takes 1 to 200 visible ASCII characters")


def _on_disconnect(text: str | None, config: Config, *, may_retry: bool) -> OnDisconnect:
    """Read the policy; the configured one is extended for a client that may retry, so that it has the time to."""
    try:
        policy = OnDisconnect.parse(config.streams.on_disconnect if text is None else text)
    except ValueError as error:
        raise BadRequest(f"Stream-On-Disconnect: {error}") from None
    if may_retry and text is None:
        return policy.or_longer(OnDisconnect(config.generations.retry_grace_s))
    return policy


def _retain_s(text: str | None, config: Config) -> float:
    if text is None:
        return config.streams.retain_s
    if not text.isdecimal():
        raise BadRequest(f"Stream-Retain {text!r} is not a number of seconds")
    return min(float(text), config.streams.retain_max_s)


def _prefers_async(values: list[str]) -> bool:
    """Return whether `respond-async` is among the preferences (RFC 7240 section 4.1)."""
    return any(_ASYNC.fullmatch(preference.strip()) for value in values for preference in value.split(","))
