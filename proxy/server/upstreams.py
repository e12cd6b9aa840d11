"""Makes all configured upstreams, and groups of an upstream and its spares.

An upstream that has spares, or is one, has a breaker; one that has limits has a queue.
"""

from collections import Counter
from collections.abc import Mapping
from urllib.parse import urlsplit

from proxy.dialects import table
from proxy.downstream.descriptors import Descriptors
from proxy.server.config import Config
from proxy.stream.endings import UPSTREAM_ERROR
from proxy.stream.stream import Stream
from proxy.telemetry.metrics import Metrics
from proxy.upstream.breaker import Breaker
from proxy.upstream.exchange import Timeouts
from proxy.upstream.group import OpenExchange, Paths, Retries, UpstreamGroup, erred
from proxy.upstream.pool import ConnectionPool
from proxy.upstream.request_queue import RequestQueue
from proxy.upstream.settings import DEFAULT, UpstreamConfig
from proxy.upstream.tls import client_context
from proxy.upstream.upstream import Upstream


class Upstreams:
    """The upstreams by name; an observer of their streams."""

    def __init__(self, config: Config, metrics: Metrics, descriptors: Descriptors) -> None:
        """Call within a running loop."""
        self._config = config
        self._descriptors = descriptors
        descriptors.counted.append(lambda: sum(one.pool.descriptors for one in self.by_name.values()))
        self._settings: Mapping[str, UpstreamConfig] = {DEFAULT: config.upstream, **config.upstreams}
        self._grouped = {name for first, one in self._settings.items() if one.spares for name in (first, *one.spares)}
        self._retried: Counter[str] = Counter()
        self.by_name = {name: self._upstream(name, one, metrics) for name, one in self._settings.items()}

    def opener(self, name: str = DEFAULT) -> OpenExchange:
        """Return the function that sends requests to an upstream or its spares; or to those that serve their models."""
        usual = self.group(name)
        if name != DEFAULT or len(self.by_name) == 1:
            return usual.open
        groups = {model.upstream: self.group(model.upstream) for model in self._config.models if model.upstream}
        alone = {one: self.group(one, has_spares=False) for one in self.by_name}
        return lambda request: (alone if request.alone else groups).get(request.upstream, usual).open(request)

    def group(self, name: str = DEFAULT, *, has_spares: bool = True) -> UpstreamGroup:
        """Return the group of an upstream and its spares, or of an upstream alone."""
        names = (name, *(self._settings[name].spares if has_spares else ()))
        readdresses = len(names) > 1 or not has_spares
        readdresses = readdresses or any(model.upstream == name for model in self._config.models)
        return UpstreamGroup(
            [self.by_name[one] for one in names],
            Retries(**self._config.retries.model_dump()),
            self._retried,
            paths={one: self._paths(one) for one in names} if readdresses else None,
            unwraps=self._config.generations.unwrap_errors,
        )

    def has_key(self, name: str) -> bool:
        """Tell whether requests to an upstream, or to a spare of it, go up with a key of ours."""
        return any(self.by_name[one].has_key for one in (name, *self._settings[name].spares))

    def base(self, name: str) -> str:
        """Return the path that is put before the targets of configured routes: that of the URL."""
        return urlsplit(self._settings[name].url).path

    def _paths(self, name: str) -> Paths:
        """Return the paths that prefixes stand for at an upstream: those of APIs, and of configured routes."""
        own = {route.path: (self.base(name) if route.upstream else "") + route.path for route in self._config.routes}
        apis = table.routes(self._settings[name].prefixes)
        return own | {route.prefix: route.upstream_prefix for route, _ in apis}

    def ended(self, stream: Stream) -> None:
        """Report a failure to the upstream's breaker if the upstream ended the stream with an error event."""
        failure = stream.vitals.reader.failure
        if failure is None:
            return
        ending, upstream = stream.log.ending, self.by_name.get(stream.upstream)
        if upstream is None or ending is None:
            return
        if ending.reason == UPSTREAM_ERROR.reason:
            erred(upstream, failure)

    def retries(self) -> Mapping[str, int]:
        """Return how many requests were sent upstream again, by reason."""
        reused = sum(upstream.pool.retries for upstream in self.by_name.values())
        return {**self._retried, "connection_reused": reused}

    def connections(self) -> Mapping[str, int]:
        """Return the number of connections to all upstreams, by state."""
        pools = [upstream.pool for upstream in self.by_name.values()]
        return {"active": sum(len(one.active) for one in pools), "idle": sum(one.idle for one in pools)}

    def use(self, config: Config) -> None:
        """Use the keys and time-outs of another configuration from now on."""
        for name, settings in {DEFAULT: config.upstream, **config.upstreams}.items():
            self.by_name[name].use_key(settings.key.get_secret_value())
            self.by_name[name].pool.limit(Timeouts(**config.timeouts.model_dump()))

    async def close(self) -> None:
        """Close every connection."""
        for upstream in self.by_name.values():
            await upstream.pool.close()

    def _upstream(self, name: str, settings: UpstreamConfig, metrics: Metrics) -> Upstream:
        config = self._config
        breaker = config.breaker
        most, rate = settings.max_concurrent, settings.requests_per_minute
        grouped = name in self._grouped
        pool = ConnectionPool(
            settings.url,
            Timeouts(**config.timeouts.model_dump()),
            name=name,
            max_connections=settings.max_connections,
            keepalive_s=settings.keepalive_s,
            ssl_context=client_context(settings.ca_file, settings.certificate, settings.certificate_key),
            server_name=settings.server_name,
            outbound_proxy=settings.outbound_proxy.get_secret_value() or None,
            are_descriptors_out=lambda: self._descriptors.are_out,
            on_connected=metrics.connected,
        )
        pool.name = name
        metrics.background_loops.append(pool.background)
        upstream = Upstream(
            name,
            pool,
            weight=settings.weight,
            key=settings.key.get_secret_value(),
            credentials=config.key_headers,
            hides_keys=config.auth.mode == "keys",
            breaker=Breaker(breaker.failures, breaker.window_s, breaker.open_s) if grouped else None,
            queue=RequestQueue(max_concurrent=most, per_minute=rate, size=settings.queue_size)
            if most or rate
            else None,
            queue_s=settings.queue_s,
            on_wait=metrics.distribution("queue_wait", name).observe if most or rate else float,
        )
        if upstream.queue is not None:
            metrics.background_loops.append(upstream.background)
        return upstream
