"""The configuration's tables of upstreams, their models, time-outs, retries, and circuit breakers."""

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator

from proxy.dialects import presets, table
from proxy.dialects.allowed_paths import SEGMENT
from proxy.settings import Count, ModelPattern, Seconds, Table

DEFAULT = "default"  # the name of [upstream]
_SERVER_NAME = re.compile(r"(?:[\w-]+\.)*[\w-]*|[0-9A-Fa-f:]+")  # or an IP address
_PATH = re.compile(f"(?:/{SEGMENT})+/?")


def _check_path(path: str) -> str:
    if path and (not _PATH.fullmatch(path) or path.endswith("/")):
        raise ValueError(f"{path!r} is not a path like /v1/name, without escapes or a slash at its end")
    return path


ApiPath = Annotated[str, AfterValidator(_check_path)]
"""The path of an API at an upstream; "": the usual one. Such a field has the name of the API's row, and `_path`."""


class UpstreamConfig(Table):
    """The address of an upstream, its key, and its limits."""

    url: str = presets.resolve(presets.DEFAULT)
    key: SecretStr = SecretStr("")
    key_file: str = ""
    responses_path: ApiPath = ""
    messages_path: ApiPath = ""
    paths: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    max_connections: Annotated[int, Field(ge=0)] = 0
    keepalive_s: Seconds = 15
    outbound_proxy: SecretStr = SecretStr("")  # it may hold a password
    outbound_proxy_file: str = ""
    ca_file: str = ""
    certificate: str = ""
    certificate_key: str = ""
    server_name: str = ""
    spares: tuple[str, ...] = ()
    weight: Annotated[int, Field(ge=0, le=1000)] = 1
    max_concurrent: Annotated[int, Field(ge=0)] = 0
    requests_per_minute: Annotated[int, Field(ge=0)] = 0
    queue_size: Annotated[int, Field(ge=0)] = 100
    queue_s: Seconds = 30

    @model_validator(mode="after")
    def _has_tls(self) -> "UpstreamConfig":
        if self.certificate_key and not self.certificate:
            raise ValueError("certificate_key needs a certificate")
        if not self.url.startswith("https:") and (self.ca_file or self.certificate or self.server_name):
            raise ValueError("ca_file, certificate and server_name need a url that begins with https://")
        return self

    @field_validator("server_name")
    @classmethod
    def _is_name(cls, name: str) -> str:
        if not _SERVER_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a host, without scheme, port and path")
        return name

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        return http_url(presets.resolve(url))

    @field_validator("paths")
    @classmethod
    def _are_served(cls, paths: tuple[str, ...]) -> tuple[str, ...]:
        served = table.served()
        for path in paths:
            if not path.startswith(served) or not _PATH.fullmatch(path):
                raise ValueError(f"{path!r} is not a path below {', '.join(served)}, without escapes or dot segments")
        return paths

    @field_validator("outbound_proxy")
    @classmethod
    def _is_http_or_none(cls, url: SecretStr) -> SecretStr:
        if url.get_secret_value():
            http_url(url.get_secret_value(), may_have_password=True)
        return url

    @property
    def compatible_base(self) -> str:
        """The path of the OpenAI-compatible API: the URL's own path if it has one."""
        return urlsplit(self.url).path or table.BASE

    @property
    def prefixes(self) -> dict[str, str]:
        """The path of each API, by the name of its row in the table of APIs."""
        own = {row.name: getattr(self, f"{row.name}_path", "") for row in table.ROWS}
        return table.prefixes_upstream(self.compatible_base, own)


class ModelConfig(Table):
    """[[models]]: which upstream serves a model, and what the model is called there."""

    name: ModelPattern
    upstream: str = ""
    alias_of: str = ""

    @field_validator("alias_of")
    @classmethod
    def _is_whole_name(cls, name: str) -> str:
        if "*" in name:
            raise ValueError(f"{name!r} is not the whole name of a model")
        return name


class TimeoutsConfig(Table):
    """Time-outs in seconds; 0 is no limit."""

    connect_s: Seconds = 10
    first_byte_s: Seconds = 300
    first_token_s: Seconds = 0
    idle_s: Seconds = 300
    total_s: Seconds = 3600


class RetriesConfig(Table):
    """When a request is retried, and how long to wait between attempts."""

    attempts: Annotated[int, Field(ge=0, le=10)] = 0
    statuses: tuple[int, ...] = (429, 503)
    wait_max_s: Seconds = 8
    total_s: Seconds = 30

    @field_validator("statuses")
    @classmethod
    def _may_pass(cls, statuses: tuple[int, ...]) -> tuple[int, ...]:
        for status in statuses:
            if status != 429 and not 500 <= status <= 599:
                raise ValueError(f"{status} is not allowed; only 429 and 500 to 599 are")
        return statuses


class BreakerConfig(Table):
    """When an upstream that has spares gets no requests for a while."""

    failures: Count = 5
    window_s: Seconds = 30
    open_s: Seconds = 30


def http_url(url: str, *, may_have_password: bool = False) -> str:
    """Return a URL without trailing slashes. Raises: ValueError, which does not quote it: it may contain a password."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("not an http:// or https:// URL with a host")
    if "@" in parts.netloc and not may_have_password:  # it would be shown, and not sent
        raise ValueError("the URL has a user or a password, which are not sent; a key has a setting of its own")
    if parts.query or parts.fragment:
        raise ValueError("the URL has a query or a fragment; only scheme, host, port and path are allowed")
    return url.rstrip("/")
