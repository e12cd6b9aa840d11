"""The configuration: a TOML file, and environment variables `STREAMTEE_...`, which override it.

`config/streamtee.toml` lists every key with its default and a comment; a test compares it with the classes here.
Nested keys are joined by two underscores: STREAMTEE_UPSTREAM__URL.
"""

import difflib
import importlib.util
import os
import re
import tomllib
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from proxy.access.pages import is_loopback
from proxy.access.settings import AuthConfig, CapabilitiesConfig, CorsConfig, TlsConfig
from proxy.dialects import table
from proxy.dialects.route import AUTHORIZATION, KEY_HEADERS
from proxy.server.configuration.credentials import with_credentials
from proxy.server.configuration.places import PREFIX
from proxy.settings import Bytes, Count, Seconds, Table, with_secrets
from proxy.telemetry.settings import PricesConfig
from proxy.upstream.on_disconnect import OnDisconnect
from proxy.upstream.settings import DEFAULT, BreakerConfig, ModelConfig, RetriesConfig, TimeoutsConfig, UpstreamConfig
from proxy.wire.http import HOP_BY_HOP

_OTHERS = ("STREAMTEE_TAIL_KEY",)  # not part of the configuration: the key that `streamtee tail` sends
_PATH = re.compile(r"/[!-~]*")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_SECRET = re.compile(r"[!-~]{16,512}")  # as a Bearer token, it has to fit into a header
_FRAMING = ("host", "content-length", "cookie")
_OTEL = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter")
_NAME = re.compile(r"[a-z](?:[_-]?[a-z0-9])*")  # two underscores would separate two keys in an environment variable


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
            raise ValueError('window_bytes, join and keep_s go with share = "url"')
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
    """How long a client may be silent, in seconds; 0 is no limit."""

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


class OtelConfig(Table):
    """[otel]: whether spans are made; the standard OTEL_* variables say where they are sent."""

    enabled: bool = False

    @field_validator("enabled")
    @classmethod
    def _is_installed(cls, enabled: bool) -> bool:
        if enabled and not all(map(_installed, _OTEL)):
            raise ValueError("OpenTelemetry is not installed; pip install 'streamtee[otel]'")
        return enabled


class Config(BaseSettings):
    """The complete configuration."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True)

    listen: str = "127.0.0.1:8080"
    admin: str = "127.0.0.1:9090"
    admin_token: SecretStr = SecretStr("")
    admin_token_file: str = ""  # its contents become `admin_token`
    workers: Annotated[int, Field(ge=0, le=256)] = 1
    hosts: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    drain_s: Seconds = 30
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["console", "json"] = "console"
    access_log: bool = False
    routes: tuple[RouteConfig, ...] = ()
    models: tuple[ModelConfig, ...] = ()
    upstream: UpstreamConfig = UpstreamConfig()
    upstreams: dict[str, UpstreamConfig] = {}
    timeouts: TimeoutsConfig = TimeoutsConfig()
    retries: RetriesConfig = RetriesConfig()
    breaker: BreakerConfig = BreakerConfig()
    streams: StreamsConfig = StreamsConfig()
    generations: GenerationsConfig = GenerationsConfig()
    clients: ClientsConfig = ClientsConfig()
    limits: LimitsConfig = LimitsConfig()
    auth: AuthConfig = AuthConfig()
    tls: TlsConfig = TlsConfig()
    admin_tls: TlsConfig = TlsConfig()
    capabilities: CapabilitiesConfig = CapabilitiesConfig()
    cors: CorsConfig = CorsConfig()
    otel: OtelConfig = OtelConfig()
    prices: PricesConfig = PricesConfig()

    @property
    def key_headers(self) -> tuple[str, ...]:
        """The names of the headers that hold keys: those of all APIs, and the `key_header` of each route."""
        return (*KEY_HEADERS, *(route.key_header for route in self.routes))

    @property
    def shares_anonymous(self) -> bool:
        """Whether all requests without a key have one caller, with streams of its own."""
        if self.auth.anonymous == "auto":
            return all(_is_loopback(address(text)[0]) for text in (self.listen, self.admin) if text)
        return self.auth.anonymous == "shared"

    @model_validator(mode="before")
    @classmethod
    def _read_secrets(cls, given: dict[str, Any]) -> dict[str, Any]:
        return with_secrets(cls, with_credentials(cls, given))

    @field_validator("admin_token")
    @classmethod
    def _is_long(cls, token: SecretStr) -> SecretStr:
        if token.get_secret_value() and not _SECRET.fullmatch(token.get_secret_value()):
            raise ValueError(
                "it is not 16 characters or more, of ASCII without spaces; `openssl rand -hex 32` makes one"
            )
        return token

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            ip_network(network)  # its error names the network, and what is wrong with it
        return networks

    @field_validator("listen", "admin")
    @classmethod
    def _is_address(cls, text: str) -> str:
        if text:
            address(text)
        return text

    @model_validator(mode="after")
    def _keys_fit_the_mode(self) -> "Config":
        accepts = self.auth.keys or self.auth.knows_names or self.tls.client_ca
        if self.auth.mode == "keys" and not (accepts and self.upstream.key.get_secret_value()):
            raise ValueError(
                'auth.mode = "keys" needs auth.keys, auth.keys_file, auth.hook_url or tls.client_ca, and upstream.key'
                " to send instead of theirs"
            )
        if self.auth.mode == "keys" and self.auth.anonymous == "shared":
            raise ValueError(
                'auth.anonymous = "shared" goes with auth.mode = "pass"; in mode keys all callers show a key'
            )
        if not self.listen:
            raise ValueError("listen is empty; it takes HOST:PORT")
        return self

    @model_validator(mode="after")
    def _keys_are_not_for_everybody(self) -> "Config":
        keyed = [f"upstreams.{name}.key" for name, one in self.upstreams.items() if one.key.get_secret_value()]
        if self.upstream.key.get_secret_value():
            keyed.insert(0, "upstream.key")
        if keyed and self.auth.mode == "pass" and not is_loopback(address(self.listen)[0]):
            raise ValueError(
                f"whoever reaches {self.listen} could use {' and '.join(keyed)}: either set auth.mode ="
                ' "keys", with auth.keys or auth.keys_file for those who may, or listen on 127.0.0.1 (a container can'
                " not: there, leave the key out, and each caller's own goes upstream)"
            )
        return self

    @model_validator(mode="after")
    def _routes_lead_somewhere(self) -> "Config":
        for name, upstream in self.upstreams.items():
            if not _NAME.fullmatch(name):
                raise ValueError(f"upstreams: the name {name!r} is not a-z and 0-9, a letter first, - or _ between")
            if "url" not in upstream.model_fields_set:
                raise ValueError(f"upstreams.{name} has no url")
            if upstream.paths:
                raise ValueError(f"upstreams.{name}.paths: only [upstream] has paths; those of others are [[routes]]")
            if upstream.models:
                raise ValueError(f"upstreams.{name}.models: only [upstream] has models; it lists those of others")
        paths: set[str] = set()
        for route in self.routes:
            if route.upstream and route.upstream not in self.upstreams:
                known = ", ".join(self.upstreams) or "none"
                raise ValueError(f"routes: the upstream {route.upstream!r} of {route.path} is not among: {known}")
            if route.path in paths:
                raise ValueError(f"routes: {route.path} is there twice")
            paths.add(route.path)
        return self

    @model_validator(mode="after")
    def _spares_are_there(self) -> "Config":
        if DEFAULT in self.upstreams:
            raise ValueError(f"upstreams: {DEFAULT!r} is the name of [upstream]")
        for name, upstream in ((DEFAULT, self.upstream), *self.upstreams.items()):
            for spare in upstream.spares:
                _check_spare(name, upstream, spare, self.upstreams)
        return self

    @model_validator(mode="after")
    def _models_are_served(self) -> "Config":
        names: set[str] = set()
        for model in self.models:
            if model.name in names:
                raise ValueError(f"models: {model.name} is there twice")
            names.add(model.name)
            if not (model.upstream or model.alias_of):
                raise ValueError(f"models: {model.name} has neither an upstream nor an alias_of")
            if model.upstream:
                self._check_upstream_of(model)
        return self

    def _check_upstream_of(self, model: ModelConfig) -> None:
        """Check the upstream of a model, to which requests go in place of [upstream]. Raises: ValueError."""
        if model.upstream not in self.upstreams:
            known = ", ".join(self.upstreams) or "none"
            raise ValueError(f"models: the upstream {model.upstream!r} of {model.name} is not among: {known}")
        _check_keys(DEFAULT, self.upstream, model.upstream, self.upstreams[model.upstream])

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (env_settings, init_settings)


def load(path: Path | None) -> Config:
    """Read the file, if a path is given, and the environment, which overrides it.

    Raises: pydantic.ValidationError, tomllib.TOMLDecodeError, OSError.
    """
    return loads("" if path is None else path.read_text(encoding="utf-8"))


def loads(text: str) -> Config:
    """Read the text of a file, and the environment, which overrides it. Raises: as `load`, but for OSError."""
    _check_environment()
    return Config(**tomllib.loads(text))


def _check_spare(name: str, upstream: UpstreamConfig, spare: str, upstreams: dict[str, UpstreamConfig]) -> None:
    """Check a spare of an upstream. Raises: ValueError."""
    if spare not in upstreams or spare == name or upstream.spares.count(spare) > 1:
        known = ", ".join(other for other in upstreams if other != name) or "none"
        raise ValueError(f"the spare {spare!r} of {name} is not another of: {known}, named once")
    _check_keys(name, upstream, spare, upstreams[spare])


def _check_keys(name: str, upstream: UpstreamConfig, other: str, spare: UpstreamConfig) -> None:
    """Check the keys of two upstreams of which one may be sent the requests for the other. Raises: ValueError.

    Either both have a key or neither: callers can't know which one a request is sent to, and with it their key.
    """
    keyed, spare_keyed = (bool(one.key.get_secret_value()) for one in (upstream, spare))
    if keyed != spare_keyed:
        has, lacks = (name, other) if keyed else (other, name)
        raise ValueError(
            f"{has} has a key and {lacks} has none; an upstream, its spares, and those that serve models in its place"
            " have all one, or none"
        )


def _check_environment() -> None:
    """Raises: ValueError, for a variable that begins with STREAMTEE_ and is not known: it would silently do nothing."""
    for name in os.environ:
        key = name.removeprefix(PREFIX).partition("__")[0].lower()
        if name.startswith(PREFIX) and key not in Config.model_fields and name not in _OTHERS:
            known = [PREFIX + field.upper() for field in Config.model_fields]
            near = difflib.get_close_matches(name.partition("__")[0], known, n=1)
            meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise ValueError(f"the environment variable {name} is not known; {meant}")


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # raised for a missing parent package
        return False


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def address(text: str) -> tuple[str, int]:
    """Split HOST:PORT; an IPv6 host stands in brackets. Raises: ValueError."""
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise ValueError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)
