"""One page of the metrics of several workers."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.samples import Exemplar

from proxy.server.app import Proxy
from proxy.workers.merged_page import OF_EACH, Families, MergedPage, families_of
from tests.proxy_under_test import configured


def told(streams: int, active: int, lag: int = 0) -> Families:
    """Return what one worker tells."""
    counter = CounterMetricFamily("streamtee_streams_ended", "Ended.", labels=("ending",))
    counter.add_metric(("complete",), streams)
    gauge = GaugeMetricFamily("streamtee_streams_active", "Active.", value=active)
    slowest = GaugeMetricFamily("streamtee_subscriber_lag_bytes_max", "Lag.", value=lag)
    loop = GaugeMetricFamily("streamtee_background_loop_alive", "Alive.", labels=("loop",))
    loop.add_metric(("streams",), 1)
    times = HistogramMetricFamily("streamtee_stream_duration_seconds", "Duration.", labels=("route",))
    example = Exemplar({"trace_id": "t"}, 0.5, 1.0)
    times.add_metric(("chat",), [("1.0", streams, example), ("+Inf", streams, None)], streams / 2)
    return families_of([counter, gauge, slowest, loop, times])


def values(metrics: list[Metric]) -> Mapping[tuple[str, ...], float]:
    """Return the values of all samples, by their name and their labels."""
    return {
        (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))): sample.value
        for metric in metrics
        for sample in metric.samples
    }


def test_counts_are_added_and_the_largest_lag_is_kept() -> None:
    """What is of a process gets a label."""
    found = values(MergedPage().merged({0: told(3, 1, 70), 4: told(5, 2, 30)}))
    assert found["streamtee_streams_ended_total", "ending=complete"] == 8
    assert found["streamtee_streams_active",] == 3
    assert found["streamtee_subscriber_lag_bytes_max",] == 70
    assert found["streamtee_stream_duration_seconds_bucket", "le=+Inf", "route=chat"] == 8
    assert found["streamtee_stream_duration_seconds_sum", "route=chat"] == 4
    assert found["streamtee_background_loop_alive", "loop=streams", "worker=4"] == 1
    assert [found["streamtee_worker_up", f"worker={worker}"] for worker in (0, 4)] == [1, 1]


async def test_states_of_processes_are_not_added() -> None:
    """A gauge that is 1 while something is well has a label: a sum would look well if it is not so in one of two."""
    upstreams = {"spare": {"url": "http://127.0.0.1:2"}}
    store = {"url": "redis://127.0.0.1:1", "secret": "a secret of all nodes"}
    proxy = Proxy(configured("http://127.0.0.1:1", upstream={"spares": ["spare"]}, upstreams=upstreams, store=store))
    states = {metric.name for metric in proxy.page.collect() if metric.documentation.startswith("1 ")}
    await proxy.upstreams.close()
    assert "streamtee_store_up" in states
    assert states <= OF_EACH


def test_worker_that_does_not_answer_is_missing_but_its_counts_stay() -> None:
    """A sum that falls would be taken for a restart."""
    page = MergedPage()
    page.merged({0: told(3, 1), 1: told(5, 2)})
    found = values(page.merged({0: told(4, 1), 1: None}))
    assert found["streamtee_streams_ended_total", "ending=complete"] == 9
    assert found["streamtee_streams_active",] == 1
    assert found["streamtee_worker_up", "worker=1"] == 0


def test_counts_of_workers_that_have_ended_stay() -> None:
    """By what they said last; their numbers may be used again."""
    page = MergedPage()
    page.merged({0: told(3, 1), 1: told(5, 2)})
    page.ended(0, told(4, 0))
    page.ended(1, None)
    found = values(page.merged({1: told(1, 1)}))
    assert found["streamtee_streams_ended_total", "ending=complete"] == 10
    assert found["streamtee_streams_active",] == 1
    assert ("streamtee_background_loop_alive", "loop=streams", "worker=0") not in found


def test_cpu_time_is_that_of_each_process_and_goes_with_it() -> None:
    """A sum would say nothing of a worker that is busy."""

    def spent(seconds: float) -> Families:
        return families_of([CounterMetricFamily("process_cpu_seconds", "CPU time.", value=seconds)])

    page = MergedPage()
    found = values(page.merged({0: spent(1), 1: spent(2)}))
    assert [found["process_cpu_seconds_total", f"worker={worker}"] for worker in (0, 1)] == [1, 2]
    page.ended(1, None)
    assert [name for name in values(page.merged({0: spent(3)})) if name[0] == "process_cpu_seconds_total"] == [
        ("process_cpu_seconds_total", "worker=0")
    ]


def test_page_can_be_written() -> None:
    """With exemplars, as OpenMetrics."""

    class Collected:
        def collect(self) -> list[Metric]:
            return MergedPage().merged({0: told(3, 1), 1: told(5, 2)})

    registry = CollectorRegistry()
    registry.register(Collected())  # type: ignore[arg-type]
    text = generate_latest(registry).decode()
    assert 'streamtee_streams_ended_total{ending="complete"} 8.0' in text
    assert '# {trace_id="t"} 0.5' in text
