"""The configuration's tables [[routes]], [streams], [generations], [clients] and [limits]."""

import re
from typing import Literal

from pydantic import field_validator, model_validator

from proxy.dialects import table
from proxy.dialects.route import AUTHORIZATION
from proxy.settings import Bytes, Count, Seconds, Table
from proxy.upstream.on_disconnect import OnDisconnect
from proxy.wire.http import HOP_BY_HOP

_PATH = re.compile(r"/[!-~]*")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_FRAMING = ("host", "content-length", "cookie")


class RouteConfig(Table):
    """[[routes]]: a path beside those of the API, and how requests to it are served."""

    path: str
    upstream: str = ""
    share: Literal["none", "url"] = "none"
    record: bool = False
    window_bytes: Bytes = 1024 * 1024
    join: Literal["live", "window"] = "live"
    keep_s: Seconds = 0
    key_header: str = AUTHORIZATION

    @field_validator("key_header")
    @classmethod
    def _is_header_name(cls, name: str) -> str:
        if not _TOKEN.fullmatch(name) or name.lower().encode() in HOP_BY_HOP or name.lower() in _FRAMING:
            raise ValueError(f"{name!r} is not the name of a header that a key can be sent in")
        return name

    @field_validator("path")
    @classmethod
    def _is_free(cls, path: str) -> str:
        if not _PATH.fullmatch(path) or set(path) & set("?#{}*") or {".", ".."} & set(path.split("/")):
            raise ValueError(f"{path!r} is not a path that begins with a slash, without query, braces or dot segments")
        for served in (*table.served(), "/healthz"):
            if path in (served, served.rstrip("/")) or (served.endswith("/") and path.startswith(served)):
                raise ValueError(f"{path!r} clashes with {served}, which is served already")
        return path

    @model_validator(mode="after")
    def _shares_one_path(self) -> "RouteConfig":
        if self.share == "none" and self.model_fields_set & {"window_bytes", "join", "keep_s"}:
            raise ValueError('window_bytes, join and keep_s need share = "url"')
        return self

    @model_validator(mode="after")
    def _records_what_is_not_shared(self) -> "RouteConfig":
        if self.record and self.share == "url":
            raise ValueError(
                'record gives each request a stream of its own, and with share = "url" all requests of a URL have one,'
                " which has an id, followers and resume already: leave record out, or share"
            )
        return self


class StreamsConfig(Table):
    """[streams]: how long streams are kept, and defaults and limits for their followers."""

    on_disconnect: str = "cancel"
    retain_s: Seconds = 300
    retain_max_s: Seconds = 3600
    heartbeat_s: Seconds = 15
    client_keepalive_s: Seconds = 0
    keepalive_before_head_s: Seconds = 0
    empty_events: bool = False
    wait_max_s: Seconds = 300

    @field_validator("on_disconnect")
    @classmethod
    def _is_policy(cls, text: str) -> str:
        OnDisconnect.parse(text)
        return text


class GenerationsConfig(Table):
    """[generations]: how generation requests are rewritten, which share an upstream call, and how errors are sent."""

    mode: Literal["raw", "spaced"] = "raw"
    share: Literal["none", "body"] = "none"
    retry_grace_s: Seconds = 30
    attach_retries_s: Seconds = 0
    upgrade: Literal["never", "always", "auto"] = "never"
    keepalive_s: Seconds = 0
    include_usage: bool = False
    cumulative: bool = False
    unwrap_errors: bool = False
    background_retain_s: Seconds = 3600


class ClientsConfig(Table):
    """[clients]: how long a client may be silent, in seconds; 0 is no limit."""

    head_s: Seconds = 30
    body_s: Seconds = 30
    keepalive_s: Seconds = 75
    write_s: Seconds = 300


class LimitsConfig(Table):
    """[limits]: sizes and numbers that requests and streams must not exceed."""

    header_bytes: Bytes = 64 * 1024
    headers: Count = 128
    body_bytes: Bytes = 64 * 1024 * 1024
    held_body_bytes: Bytes = 1024 * 1024
    total_body_bytes: Bytes = 512 * 1024 * 1024
    total_pending_bytes: Bytes = 256 * 1024 * 1024
    frame_bytes: Bytes = 8 * 1024 * 1024
    log_bytes: Bytes = 64 * 1024 * 1024
    total_log_bytes: Bytes = 512 * 1024 * 1024
    streams: Count = 10_000
    followers: Count = 50_000
    followers_per_stream: Count = 20_000
    model_labels: Count = 50
    caller_labels: Count = 50
