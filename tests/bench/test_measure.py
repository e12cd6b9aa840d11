"""The harness itself: does it count right, and does it catch a proxy that loses, alters or cuts?"""

import asyncio
import json
import sys
from array import array
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as some

from tests.bench.growth import Beside, Point, calmest, least, verdict
from tests.bench.load import Plan, quantiles
from tests.bench.measure import expected_units, run, wrong_answers
from tests.bench.origin import SMALLEST, STAMP, Ask, halves
from tests.bench.processes import TARGETS, Unavailable, load, origin, running

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and taskset")
PLAN = Plan(0, "plan", streams=3, events=20, interval_s=0.001, deadline_s=10)


@given(some.integers(SMALLEST, 5000))
def test_event_has_the_size_asked_for_and_its_stamp_in_place(size_bytes: int) -> None:
    """Each size from the smallest is met to the byte, as one event of JSON with one blank line."""
    before, after = halves(size_bytes)
    frame = before + b"%018d" % 4711 + after
    assert len(frame) == size_bytes
    assert int(frame[STAMP]) == 4711
    assert json.loads(frame.removeprefix(b"data: "))["id"] == f"{4711:018}"
    assert frame.endswith(b"\n\n")
    assert frame.count(b"\n") == 2


def test_event_too_small_is_refused() -> None:
    """Below the smallest there is no room for the stamp."""
    with pytest.raises(ValueError, match="the smallest has 50"):
        halves(SMALLEST - 1)


def test_wishes_survive_the_request() -> None:
    """What the client puts into the body is what the origin reads."""
    ask = Ask("a-1", 7, 0.5, 1234, 9, stream=False)
    assert Ask.of(ask.body()) == ask


def test_quantiles_are_of_the_sorted_samples_in_microseconds() -> None:
    """p50, p99 and the greatest; nothing of nothing."""
    assert quantiles(array("q", [n * 1000 for n in range(100, -1, -1)])) == {"p50": 50.0, "p99": 99.0, "max": 100.0}
    assert quantiles(array("q")) == {}


def test_answers_are_compared_with_what_was_sent() -> None:
    """The same bytes are right; other ones, fewer or unknown ones are counted as wrong, with their number."""
    sent = {"a": (1, 10, 3), "b": (2, 10, 3)}
    assert wrong_answers([["a", 1, 10, 5]], sent) == Counter()
    assert wrong_answers([["a", 2, 10, 5], ["b", 2, 9, 1], ["c", 1, 1, 1]], sent) == Counter(
        {"altered": 5, "9 bytes instead of 10": 1, "whole, though the origin was not done": 1}
    )


def test_expected_units_count_the_askers_and_the_last_word() -> None:
    """A stream's events go to its followers and to the client that asked; [DONE] is one more."""
    assert expected_units(Plan(0, "", 2, followers=3, events=10, burst=5), {}) == 2 * 4 * 16
    assert expected_units(Plan(0, "", 2, repeat_s=1.0), {"a": (0, 0, 4), "b": (0, 0, 5)}) == 9
    assert expected_units(Plan(0, "", 2, repeat_s=1.0, stream=False), {"a": (0, 0, 0)}) == 1


def test_of_repeated_points_the_least_counts_in_their_order() -> None:
    """Others on the machine only add."""
    points = [Point("c", "l", n, cost, 1.0) for n, cost in ((1, 5.0), (10, 7.0), (1, 6.0), (10, 4.0))]
    assert [(point.n, point.cpu_us) for point in least(points)] == [(1, 5.0), (10, 4.0)]
    seen = [Beside("a", 1.0, p99, 9.0) for p99 in (5.0, 3.0, 4.0)]
    assert calmest(seen) == [seen[1]]


def test_verdict_names_growth_of_a_unit_and_for_frame_sizes_of_a_byte() -> None:
    """A frame of ten times the size may cost ten times as much; a delivery among ten times the followers may not."""
    points = [Point("followers", "l", n, float(n), 1.0) for n in (1, 10, 100)]
    assert verdict(points) == "n^2.00"
    sizes = [Point("frame size, bytes", "l", n, float(n), 1.0) for n in (50, 500, 5000)]
    assert verdict(sizes) == "linear or better"


@linux
@pytest.mark.parametrize("name", ["streamtee", "nginx"])
def test_plan_through_a_target_comes_whole_and_unaltered(name: str) -> None:
    """Each target that is installed passes streams, short requests and JSON on, byte for byte."""
    plans = [
        (PLAN, 3 * 21),
        (Plan(0, "short", streams=2, events=9, repeat_s=0.1, deadline_s=10), None),
        (Plan(0, "json", streams=2, repeat_s=0.1, stream=False, deadline_s=10), None),
    ]
    try:
        with origin() as source, running(TARGETS[name], source[1]) as (pid, port):
            for plan, units in plans:
                row = run(name, plan.name, pid, source, replace(plan, port=port))
                assert (row.wrong, row.unfinished, row.problem) == (0, 0, "")
                assert row.units == row.expected == (units or row.expected) > 0
                assert row.cpu_us > 0
    except Unavailable as exc:
        pytest.skip(str(exc))


@linux
@pytest.mark.parametrize("name", ["streamtee", "aiohttp_queues"])
def test_followers_who_wait_get_every_event(name: str) -> None:
    """All followers of each stream, and the client that asked, get the whole stream."""
    with origin() as source, running(TARGETS[name], source[1]) as (pid, port):
        plan = Plan(port, "fan", streams=2, followers=5, events=20, interval_s=0.001, deadline_s=10)
        row = run(name, "fan", pid, source, plan)
    assert (row.units, row.wrong, row.unfinished) == (2 * 6 * 21, 0, 0)
    assert row.kb_per_follower is not None


@linux
def test_late_follower_has_the_log_and_leaves() -> None:
    """One who comes late gets the past of a stream that goes on, in mode events too, and is done then."""
    with ExitStack() as stack:
        _, origin_port = stack.enter_context(origin())
        _, port = stack.enter_context(running(TARGETS["streamtee"], origin_port))
        first = stack.enter_context(load(Plan(port, "long", keyed=True, events=1000, interval_s=0.05, burst=500)))
        first.ready()
        first.go()
        first.wait_for(500)
        for mode in ("raw", "events"):
            late = Plan(port, "long", streams=0, followers=2, mode=mode, expect=500, deadline_s=10)
            with load(late) as joining:
                joining.ready()
                joining.go()
                report = joining.report()
            assert report["problems"] == {}
            assert report["unfinished"] == 0
            assert report["events"] >= 2 * 500
        assert first.latency()["p50"] > 0


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cheat: Callable[[bytes], bytes]) -> None:
    """Pass bytes on to a client, with a cheat on each read."""
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(cheat(data))


def _hold_the_end(data: bytes) -> bytes:
    return data[:-5] if b"[DONE]" in data else data


def _break_off(data: bytes) -> bytes:
    if b"[DONE]" in data:
        raise ConnectionError
    return data


@linux
@pytest.mark.parametrize(
    ("cheat", "unfinished", "problem"),
    [
        pytest.param(lambda data: data.replace(b"xxx", b"xyx"), 0, "3 x altered", id="alters a byte"),
        pytest.param(_break_off, 0, "3 x broken off", id="breaks off"),
        pytest.param(_hold_the_end, 3, "", id="holds the end back"),
        pytest.param(lambda data: data.replace(b"200 OK", b"503 OK"), 0, "3 x status 503", id="refuses"),
    ],
)
async def test_proxy_that_lies_is_caught(cheat: Callable[[bytes], bytes], unfinished: int, problem: str) -> None:
    """An altered byte, a missing end and a refusal are each counted, once a stream."""
    loop = asyncio.get_running_loop()
    with origin() as source:
        relays: list[asyncio.Task[None] | None] = []

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            relays.append(asyncio.current_task())
            above, up = await asyncio.open_connection("127.0.0.1", source[1])
            ways = [asyncio.create_task(_relay(reader, up, bytes)), asyncio.create_task(_relay(above, writer, cheat))]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way, end in zip(ways, (up, writer), strict=True):
                way.cancel()
                end.close()
                with suppress(ConnectionError):
                    await end.wait_closed()

        server = await asyncio.start_server(relay, "127.0.0.1", 0)
        plan = replace(PLAN, port=server.sockets[0].getsockname()[1], deadline_s=1.5)
        row = await loop.run_in_executor(None, run, "liar", "plan", source[0], source, plan)
        server.close()
        await asyncio.wait([task for task in relays if task is not None], timeout=5)
    assert (row.wrong, row.unfinished, row.problem) == (3 - unfinished, unfinished, problem)
