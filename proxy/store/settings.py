"""The configuration's table of the store."""

import importlib.util
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from proxy.settings import Seconds, Table

SCHEMES = (
    "redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster",
)  # fmt: skip


class StoreConfig(Table):
    """[store]: where the logs of streams are kept so that other processes and machines can read them."""

    url: SecretStr = SecretStr("")
    url_file: str = ""
    secret: SecretStr = SecretStr("")
    secret_file: str = ""
    flush_ms: int = Field(default=20, ge=1, le=1000)
    lease_s: Seconds = Field(default=15, ge=1)
    required: bool = False
    ack: Literal["sent", "stored"] = "sent"

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
            raise ValueError('required and ack = "stored" go with a url')
        return self
