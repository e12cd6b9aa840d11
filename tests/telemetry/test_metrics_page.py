"""The page that Prometheus scrapes: what runs is counted when it is asked for, what has ended is there already."""

from types import SimpleNamespace

from prometheus_client import generate_latest

from proxy.downstream.client_connections import ClientConnections, ClientTimeouts
from proxy.downstream.descriptors import Descriptors
from proxy.stream.endings import COMPLETE
from proxy.stream.observer import Observers
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.metrics_page import MetricsPage
from tests.streams import hub_stream as new_stream
from tests.streams import new_hub

FRAME = b"data: a\n\n"
NO_CLIENTS = ClientConnections(ClientTimeouts(), Descriptors(1024), max_body_bytes=1, max_pending_bytes=1)
NO_UPSTREAMS = SimpleNamespace(by_name={}, retries=lambda: {"status_429": 2}, connections=lambda: {"idle": 1})


def test_page_counts_what_runs_and_what_has_ended() -> None:
    """A stream's frames are there before and after its end, once; its ending when it has one."""
    metrics = Metrics(5)
    hub = new_hub(observers=Observers(ended=[metrics.ended]))
    page = MetricsPage(metrics, hub, NO_UPSTREAMS, NO_CLIENTS, "asyncio")
    stream = new_stream(hub)
    stream.extend([FRAME])
    running = generate_latest(page.registry).decode()
    stream.seal(COMPLETE)
    ended = generate_latest(page.registry).decode()
    for text in (running, ended):
        assert 'streamtee_frames_total{route="chat"} 1.0' in text
        assert 'streamtee_retries_total{reason="status_429"} 2.0' in text
        assert 'streamtee_upstream_connections{state="idle"} 1.0' in text
    assert ("streamtee_streams_active 1.0" in running, "streamtee_streams_active 0.0" in ended) == (True, True)
    assert 'ending="complete"' not in running
    assert 'streamtee_streams_ended_total{ending="complete",model="unknown",route="chat"} 1.0' in ended
