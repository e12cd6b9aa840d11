"""Begins the streams of generation requests, and makes the pumps that write them."""

from proxy.server.configuration.settings import LimitsConfig
from proxy.server.generations.request import GenerationRequest
from proxy.stream.hub import Hub, Places
from proxy.telemetry.metrics import Metrics
from proxy.upstream.pump import Pump


class Pumps:
    """Begins streams with the limits and settings that apply to generation requests, each with a pump as its writer."""

    def __init__(
        self, hub: Hub, metrics: Metrics, limits: LimitsConfig, *, cumulative: bool | None, empty_events: bool
    ) -> None:
        """`empty_events`: heartbeats are empty events where the API has them.

        `cumulative`: whether each event of the upstreams repeats the text so far; None: requests and events show it.
        """
        self._hub = hub
        self._metrics = metrics
        self._cumulative = cumulative
        self._empty_events = empty_events
        self.limit(limits)

    def limit(self, limits: LimitsConfig) -> None:
        """Keep these limits from now on."""
        self._max_log_bytes = limits.log_bytes
        self.max_frame_bytes = limits.frame_bytes

    def begin(self, generation: GenerationRequest, places: Places | None = None, ident: str = "") -> Pump:
        """Begin the stream of a request, and return its pump; `ident`: its id, if it has one. Raises: Overloaded."""
        info = generation.info(ident or self._hub.new_id(), self._max_log_bytes, self._cumulative, self._empty_events)
        stream = self._hub.begin(info, generation.vitals(), places)
        overhead = self._metrics.overhead(generation.route.name)
        policy = generation.options.on_disconnect
        # Positional arguments: keywords make a dict, 0.5 us a constructor.
        return Pump(stream, policy, self.max_frame_bytes, overhead, generation.hides_usage)
