"""Divides the configured limits among workers, so that all of them together never exceed what is configured.

Not counted in one place, because each worker then had to ask for every request; only the limits of single callers are
(`counting`). What a limit is on decides how it is divided; one that is not here holds for each worker, connection or
stream as it is.
"""

import os
from typing import Any

from proxy.server.config import Config
from proxy.upstream.settings import UpstreamConfig

DIVIDED = ("total_body_bytes", "total_pending_bytes", "total_log_bytes", "streams", "followers")
"""Of [limits]."""
DIVIDED_UPSTREAM = ("max_connections", "max_concurrent", "queue_size")
"""Of [upstream] and [upstreams.NAME]; 0 stays 0: there is no limit, or no queue."""
_A_MINUTE = 60


def counted(workers: int) -> int:
    """Return how many workers a configured number means: 0 is one for each core."""
    return workers or len(os.sched_getaffinity(0))


def divided(config: Config, workers: int, seat: int) -> Config:
    """Return the configuration of one worker of several. Raises: ValueError, if a limit is too low to be divided."""
    limits = {name: _share(f"limits.{name}", getattr(config.limits, name), workers, seat) for name in DIVIDED}
    upstreams = {name: _upstream(f"upstreams.{name}", one, workers, seat) for name, one in config.upstreams.items()}
    return config.model_copy(
        update={
            "limits": config.limits.model_copy(update=limits),
            "upstream": _upstream("upstream", config.upstream, workers, seat),
            "upstreams": upstreams,
        }
    )


def _upstream(table: str, settings: UpstreamConfig, workers: int, seat: int) -> UpstreamConfig:
    shares: dict[str, Any] = {}
    for name in DIVIDED_UPSTREAM:
        limit = getattr(settings, name)
        shares[name] = _share(f"{table}.{name}", limit, workers, seat) if limit else 0
    a_minute = settings.requests_per_minute
    if a_minute:
        # Qwen counts a sixtieth of it within each second, too: so each worker has a whole number of requests a second.
        shares["requests_per_minute"] = _A_MINUTE * _share(
            f"a sixtieth of {table}.requests_per_minute", a_minute // _A_MINUTE, workers, seat
        )
    return settings.model_copy(update=shares)


def _share(name: str, limit: int, workers: int, seat: int) -> int:
    """Return one worker's share of a limit; the first ones have what can't be divided."""
    if limit < workers:
        raise ValueError(f"{name} is {limit}, which can't be divided among {workers} workers; use fewer, or raise it")
    return limit // workers + (seat < limit % workers)
