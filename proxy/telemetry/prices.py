"""What the tokens of a response cost, by the configured prices of its model ([prices])."""

import math
from collections.abc import Iterator

from proxy.dialects.usage import Usage
from proxy.settings import ByModel
from proxy.telemetry.settings import PriceConfig, PricesConfig

_PER_TOKENS = 1_000_000


class Prices:
    """The configured prices; the sums are in `currency`."""

    def __init__(self, config: PricesConfig) -> None:
        self.currency = config.currency
        tiers: dict[str, list[PriceConfig]] = {}
        for row in sorted(config.models, key=_limit):
            tiers.setdefault(row.name, []).append(row)
        self._tiers = ByModel(tiers)

    def of(self, model: str | None, usage: Usage, *, cached_apart: bool) -> list[tuple[str, float]]:
        """Return the cost of a response by kind of token; no token is of two kinds. Empty, if its model has no price.

        `cached_apart`: whether the usage counts cached tokens beside those of the prompt, not among them.
        """
        cached = usage.cached + usage.cache_written
        fresh = usage.prompt if cached_apart else max(0, usage.prompt - cached)
        tier = self._tier(model, fresh + cached)
        return [] if tier is None else list(_costs(tier, usage, fresh))

    def _tier(self, model: str | None, prompt_tokens: int) -> PriceConfig | None:
        """Return the row for a prompt of so many tokens: that with the lowest limit that it keeps, else the last."""
        tiers = None if model is None else self._tiers.find(model)
        if tiers is None:
            return None
        return next((row for row in tiers if prompt_tokens <= _limit(row)), tiers[-1])


def _limit(row: PriceConfig) -> float:
    return row.max_prompt_tokens or math.inf


def _costs(tier: PriceConfig, usage: Usage, fresh: int) -> Iterator[tuple[str, float]]:
    """Yield the cost of each kind of token that there is; `fresh` is the number of tokens read from no cache."""
    made = tier.completion
    if usage.reasoning and tier.thinking is not None:  # the price of a response that thinks is that of all its tokens
        made = tier.thinking
    for kind, tokens, price in (
        ("prompt", fresh, tier.prompt),
        ("cached", usage.cached, tier.prompt if tier.cached is None else tier.cached),
        ("cache_written", usage.cache_written, tier.prompt if tier.cache_written is None else tier.cache_written),
        ("completion", max(0, usage.completion - usage.reasoning), made),
        ("reasoning", min(usage.reasoning, usage.completion), made),
    ):
        if tokens:
            yield kind, tokens * price / _PER_TOKENS
