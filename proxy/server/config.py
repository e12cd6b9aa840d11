"""The configuration: a TOML file, and environment variables `STREAMTEE_...`, which override it.

`config/streamtee.toml` lists every key with its default and a comment; a test compares it with the classes. The
classes of its tables are in the modules `settings`; here are the other keys, and checks that concern several tables.
Nested keys are joined by two underscores: STREAMTEE_UPSTREAM__URL.
"""

import difflib
import os
import re
import tomllib
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from proxy.access.pages import is_loopback
from proxy.access.settings import AuthConfig, CapabilitiesConfig, CorsConfig, TlsConfig
from proxy.dialects.route import KEY_HEADERS
from proxy.server.configuration.credentials import with_credentials
from proxy.server.configuration.places import PREFIX
from proxy.server.configuration.settings import (
    ClientsConfig,
    GenerationsConfig,
    LimitsConfig,
    RouteConfig,
    StreamsConfig,
)
from proxy.settings import Seconds, is_table, table_below, with_secrets
from proxy.store.settings import StoreConfig
from proxy.telemetry.settings import OtelConfig, PricesConfig
from proxy.upstream.settings import DEFAULT, BreakerConfig, ModelConfig, RetriesConfig, TimeoutsConfig, UpstreamConfig

_OTHERS = ("STREAMTEE_TAIL_KEY",)  # not part of the configuration: the key that `streamtee tail` sends
_SECRET = re.compile(r"[!-~]{16,512}")  # as a Bearer token, it has to fit into a header
_NAME = re.compile(r"[a-z](?:[_-]?[a-z0-9])*")  # two underscores would separate two keys in an environment variable


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
    store: StoreConfig = StoreConfig()

    @property
    def key_headers(self) -> tuple[str, ...]:
        """The names of the headers that hold keys: those of all APIs, and the `key_header` of each route."""
        return (*KEY_HEADERS, *(route.key_header for route in self.routes))

    @property
    def shares_anonymous(self) -> bool:
        """Whether all requests without a key have one caller, with streams of its own."""
        if self.auth.anonymous == "auto":
            return all(is_loopback(address(text)[0]) for text in (self.listen, self.admin) if text)
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
                "it must have 16 or more characters, of ASCII without spaces; `openssl rand -hex 32` makes one"
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
                'auth.anonymous = "shared" needs auth.mode = "pass"; in mode "keys" all callers must send a key'
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
                allowed = "a-z and 0-9, a letter first, and - or _ only between two of them"
                raise ValueError(f"upstreams: the name {name!r} has other characters than {allowed}")
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
                raise ValueError(f"routes: {route.path} is listed twice")
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
                raise ValueError(f"models: {model.name} is listed twice")
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
    try:
        return Config(**tomllib.loads(text))
    except RecursionError:
        raise ValueError("its arrays or tables are nested too deeply") from None
    except SettingsError as error:
        raise ValueError(_no_json(error)) from None


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
        if name.startswith(PREFIX) and name not in _OTHERS and not _is_known(name.removeprefix(PREFIX).lower()):
            known = [PREFIX + field.upper() for field in Config.model_fields]
            near = difflib.get_close_matches(name.partition("__")[0], known, n=1)
            meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise ValueError(f"the environment variable {name} is not known; {meant}")


def _is_known(name: str) -> bool:
    """Return whether a variable of the environment is that of a key, or of what a table or an array may have."""
    key, _, inner = name.partition("__")
    kind = table_below(Config, key)
    return kind is not None and (not inner or is_table(kind) or get_origin(kind) in (tuple, dict))


def _no_json(error: SettingsError) -> str:
    """Return what is wrong with a variable of the environment that is no JSON, by an error that does not name it."""
    text = getattr(error.__cause__, "doc", None)
    names = [name for name, value in os.environ.items() if name.upper().startswith(PREFIX) and value == text]
    return f'{" or ".join(names)}: an array or a table is given there as JSON, such as ["a", "b"]; this is none'


def address(text: str) -> tuple[str, int]:
    """Split HOST:PORT; an IPv6 host stands in brackets. Raises: ValueError."""
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise ValueError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)
