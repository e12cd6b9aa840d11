"""Connects this process to the configured store, and the store to the hub, which it does not know."""

import time

import orjson

from proxy.dialects import table
from proxy.store.entries import Record
from proxy.store.node import Node
from proxy.store.settings import StoreConfig
from proxy.stream.hub import Hub
from proxy.stream.stream import Stream
from proxy.stream.vitals import Vitals
from proxy.telemetry.stream_object import describe


def connected(config: StoreConfig, hub: Hub) -> Node | None:
    """Return the node that this process is among those that share the configured store; None without a store."""
    url = config.url.get_secret_value()
    if not url:
        return None
    from proxy.store.redis_client import RedisConnections  # needs the extra `redis`
    from proxy.store.redis_store import RedisStore

    def make(record: Record) -> Stream:
        return hub.adopt(record.info, Vitals(table.dialect(record.dialect), time.monotonic(), record.model))

    return Node(
        RedisStore(RedisConnections(url)),
        lease_s=config.lease_s,
        flush_s=config.flush_ms / 1000,
        summary=_summary,
        make=make,
        drop=hub.drop,
        forget=hub.forget,
    )


def _summary(stream: Stream) -> bytes:
    """Return the description of a stream that has ended, without those who follow it at this moment."""
    return orjson.dumps({**describe(stream), "followers": []})
