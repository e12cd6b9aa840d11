"""The configuration's tables [otel] and [prices]."""

import importlib.util
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from proxy.settings import ModelPattern, Table

_OTEL = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter")

Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""Of a million tokens."""


class OtelConfig(Table):
    """[otel]: whether spans are made; the standard OTEL_* variables say where they are sent."""

    enabled: bool = False

    @field_validator("enabled")
    @classmethod
    def _is_installed(cls, enabled: bool) -> bool:
        if enabled and not all(map(_installed, _OTEL)):
            raise ValueError("OpenTelemetry is not installed; pip install 'streamtee[otel]'")
        return enabled


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # raised for a missing parent package
        return False


class PriceConfig(Table):
    """What a million tokens of a model cost; prices that are left out are those of the prompt or of the completion."""

    name: ModelPattern
    prompt: Price
    completion: Price
    cached: Price | None = None
    cache_written: Price | None = None
    thinking: Price | None = None
    max_prompt_tokens: Annotated[int, Field(ge=0)] = 0


class PricesConfig(Table):
    """[prices]: what tokens cost, and in which currency that is counted."""

    currency: Annotated[str, Field(pattern="^[A-Za-z]{0,10}$")] = ""
    models: tuple[PriceConfig, ...] = ()

    @model_validator(mode="after")
    def _have_a_currency(self) -> "PricesConfig":
        if self.models and not self.currency:
            raise ValueError('prices need a currency, as in currency = "CNY"; it is a label of the metrics')
        tiers: set[tuple[str, int]] = set()
        for row in self.models:
            if (row.name, row.max_prompt_tokens) in tiers:
                limit = f" with max_prompt_tokens = {row.max_prompt_tokens}" if row.max_prompt_tokens else ""
                raise ValueError(f"{row.name} is listed twice{limit}")
            tiers.add((row.name, row.max_prompt_tokens))
        return self
