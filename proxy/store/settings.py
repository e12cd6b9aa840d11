"""The configuration's table of the store."""

import importlib.util
import re
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from proxy.settings import Seconds, Table

SCHEMES = (
    "redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster",
)  # fmt: skip

_KEY = re.compile(r"[0-9a-fA-F]{64}")


class StoreConfig(Table):
    """[store]: where the logs of streams are kept so that other processes and machines can read them."""

    url: SecretStr = SecretStr("")
    url_file: str = ""
    secret: SecretStr = SecretStr("")
    secret_file: str = ""
    encryption_keys: tuple[SecretStr, ...] = ()
    encryption_keys_file: str = ""
    flush_ms: int = Field(default=20, ge=1, le=1000)
    lease_s: Seconds = Field(default=15, ge=1)
    required: bool = False
    ack: Literal["sent", "stored"] = "sent"

    @property
    def key_bytes(self) -> list[bytes]:
        """The keys by which the content is encrypted, the one that writes first."""
        return [bytes.fromhex(key.get_secret_value()) for key in self.encryption_keys]

    @field_validator("encryption_keys")
    @classmethod
    def _are_keys(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for number, key in enumerate(keys, 1):
            if not _KEY.fullmatch(key.get_secret_value()):
                raise ValueError(f"number {number} is not 64 hex digits; `openssl rand -hex 32` makes one")
        if len({key.get_secret_value().lower() for key in keys}) < len(keys):
            raise ValueError("a key is listed twice")
        if keys and importlib.util.find_spec("cryptography") is None:
            raise ValueError("the library cryptography is not installed; pip install 'streamtee[redis,encryption]'")
        return keys

    @field_validator("url")
    @classmethod
    def _is_url(cls, url: SecretStr) -> SecretStr:
        text = url.get_secret_value()
        if text and urlsplit(text).scheme not in SCHEMES:
            raise ValueError(f"the URL's scheme is not one of {', '.join(SCHEMES)}")
        if text and not all(map(importlib.util.find_spec, ("redis", "hiredis"))):
            raise ValueError("the client of Redis is not installed; pip install 'streamtee[redis]'")
        return url

    @model_validator(mode="after")
    def _has_secret(self) -> "StoreConfig":
        if self.url.get_secret_value() and len(self.secret.get_secret_value()) < 16:
            raise ValueError(
                "secret has fewer than 16 characters; all nodes need the same one, by which they know callers:"
                " `openssl rand -hex 32`"
            )
        return self

    @model_validator(mode="after")
    def _is_used(self) -> "StoreConfig":
        """What promises that streams are stored must not be without effect."""
        if not self.url.get_secret_value() and (self.required or self.ack == "stored"):
            raise ValueError('required and ack = "stored" need a url')
        if not self.url.get_secret_value() and self.encryption_keys:
            raise ValueError("encryption_keys need a url: without one, nothing is kept outside this process")
        return self
