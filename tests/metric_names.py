"""Names of metrics: which a proxy exports, and which only some proxies do."""

from prometheus_client import Metric

ELSEWHERE = {
    "streamtee_store_up": "there is one only with a store",
    "streamtee_store_lag_bytes": "there is one only with a store",
    "streamtee_store_errors_total": "there are some only with a store",
    "streamtee_worker_up": "there are workers only with a supervisor",
    **dict.fromkeys(
        (
            "streamtee_caller_tokens_total",
            "streamtee_caller_refused_total",
            "streamtee_caller_streams",
            "streamtee_caller_followers",
        ),
        "only callers with keys of ours have names",
    ),
}
"""Names that a proxy of one process, without a store and without keys of ours, need not have, and why."""


def exposed(family: Metric) -> set[str]:
    """Return the names of the samples of a family, which may have none yet."""
    endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
    return {family.name + ending for ending in endings}
