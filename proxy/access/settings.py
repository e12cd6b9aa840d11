"""The configuration's tables [auth], [tls], [admin_tls], [capabilities] and [cors]."""

import re
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from proxy.settings import Count, Seconds, Table
from proxy.upstream.settings import http_url

# As browsers serialise it (HTML, "ASCII serialisation of an origin"): lower case, no default port, no path.
_ORIGIN = re.compile(
    r"(?!http://[^/]*:80$|https://[^/]*:443$)[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?"
)


class AuthConfig(Table):
    """[auth]: which keys are accepted, and who the caller of a request without a key is."""

    mode: Literal["pass", "keys"] = "pass"
    keys: tuple[str, ...] = ()
    anonymous: Literal["auto", "none", "shared"] = "auto"
    keys_file: str = ""
    usage_file: str = ""
    hook_url: str = ""
    hook_key: SecretStr = SecretStr("")
    hook_key_file: str = ""
    hook_timeout_s: Annotated[float, Field(gt=0)] = 2
    hook_ttl_s: Seconds = 60
    hook_size: Count = 10_000

    @property
    def accepted(self) -> tuple[str, ...] | None:
        """The digests of the keys that are accepted; None: every key is."""
        return self.keys if self.mode == "keys" else None

    @property
    def knows_names(self) -> bool:
        """Whether callers are known by name, from a file or from a hook."""
        return bool(self.keys_file or self.hook_url)

    @field_validator("hook_url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        return http_url(url) if url else url

    @model_validator(mode="after")
    def _names_go_with_keys(self) -> "AuthConfig":
        if self.mode == "pass" and (self.knows_names or self.usage_file):
            raise ValueError('keys_file, usage_file and hook_url need mode = "keys"')
        return self

    @field_validator("keys")
    @classmethod
    def _are_digests(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        for number, key in enumerate(keys, 1):
            if len(key) != 64 or not set(key) <= set("0123456789abcdef"):
                raise ValueError(f"number {number} is not the SHA-256 digest of a key in 64 lower-case hex digits")
        return keys


class TlsConfig(Table):
    """[tls], [admin_tls]: the certificate of a port, and whose certificates clients may show."""

    certificate: str = ""
    key: str = ""
    minimum: Literal["1.2", "1.3"] = "1.2"
    client_ca: str = ""
    client_required: bool = True

    @model_validator(mode="after")
    def _has_certificate(self) -> "TlsConfig":
        if (self.key or self.client_ca) and not self.certificate:
            raise ValueError("key and client_ca need a certificate")
        return self


class CapabilitiesConfig(Table):
    """[capabilities]: the secrets that sign tokens for streams, and how long tokens are valid."""

    secrets: tuple[SecretStr, ...] = ()
    secrets_file: str = ""
    ttl_s: Annotated[int, Field(ge=1)] = 3600
    ttl_max_s: Annotated[int, Field(ge=1)] = 86400

    @field_validator("secrets")
    @classmethod
    def _are_long(cls, secrets: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for number, secret in enumerate(secrets, 1):
            if len(secret.get_secret_value()) < 32:
                raise ValueError(f"number {number} is shorter than 32 characters; `openssl rand -hex 32` makes one")
        return secrets

    @model_validator(mode="after")
    def _lasts_no_longer_than_allowed(self) -> "CapabilitiesConfig":
        if self.ttl_s > self.ttl_max_s:
            raise ValueError(f"ttl_s is {self.ttl_s}, more than ttl_max_s, {self.ttl_max_s}")
        return self


class CorsConfig(Table):
    """[cors]: the origins whose pages may read responses."""

    origins: tuple[str, ...] = ()
    credentials: bool = False
    max_age_s: Annotated[int, Field(ge=0)] = 600

    @field_validator("origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is not an origin as browsers write it: https://host or http://host:port")
        if "*" in origins and len(origins) > 1:
            raise ValueError('"*" stands for every origin, so it must stand alone')
        return origins

    @model_validator(mode="after")
    def _names_whom_it_trusts(self) -> "CorsConfig":
        if self.credentials and "*" in self.origins:
            raise ValueError('credentials are not allowed for the origin "*"; list the origins')
        return self
