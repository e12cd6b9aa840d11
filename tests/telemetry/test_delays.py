"""Delays that the fake Qwen is told to make, and what each histogram says of them: its count and its sum.

No delay is ever shorter than told. How much longer it is depends on the machine: the bounds from above are what the
test itself has measured, or the delays that must not be in a sum.
"""

import json
from time import monotonic
from typing import Any

import pytest

from proxy.tools.fake.qwen import FakeQwen
from tests.event_streams import blocks
from tests.proxy_under_test import Tee, teed

HEAD_S, ROLE_S, THINKING_S, GAP_S, END_S = 0.11, 0.13, 0.17, 0.19, 0.07
EARLY_S = 0.002
"""How much earlier a timer may fire, and a read may be noted, than told."""


class Histograms:
    """The sums and counts of a proxy's histograms."""

    def __init__(self, tee: Tee) -> None:
        self._tee = tee

    async def count(self, name: str, **labels: str) -> float:
        return await self._tee.metric(f"streamtee_{name}_seconds_count", **labels)

    async def sum(self, name: str, **labels: str) -> float:
        return await self._tee.metric(f"streamtee_{name}_seconds_sum", **labels)


def kinds(frames: list[bytes]) -> list[str]:
    """Return what each frame of a chat completion says: role, reasoning, content, usage, [DONE]."""
    found = []
    for frame in frames:
        payload = frame.removeprefix(b"data: ").strip()
        choices: list[dict[str, Any]] = [] if payload == b"[DONE]" else json.loads(payload)["choices"]
        delta = choices[0]["delta"] if choices else {}
        found.append(next((key for key in ("content", "reasoning_content", "role") if delta.get(key)), ""))
    return found


def stalls(frames: list[str]) -> str:
    """Return the faults that make the delays; each is after so many frames, whatever waits come before."""
    thought = frames.index("content")
    after_role = frames.index("reasoning_content")
    in_answer = thought + 2
    stops = ((after_role, ROLE_S), (thought, THINKING_S), (in_answer, GAP_S))
    waits = [f"stall; after={after}; seconds={seconds}" for after, seconds in stops]
    return ", ".join([f"slow_first_token; seconds={HEAD_S}", *waits, f"late_end; seconds={END_S}"])


async def test_each_delay_is_in_the_histograms_that_it_belongs_to(tee: Tee, fake: FakeQwen) -> None:
    """Before the head, after the role chunk, after the thinking, between two words, before the end; in no other."""
    asked = {"enable_thinking": True, "stream_options": {"include_usage": True}}
    said = kinds(blocks(await (await tee.chat(**asked)).read()))
    spoken = sum(kind in ("content", "reasoning_content") for kind in said)
    histograms = Histograms(tee)
    names = ("time_to_first_byte", "time_to_first_token", "time_to_first_content", "inter_token", "stream_duration")
    before = {name: await histograms.sum(name) for name in (*names, "time_per_output_token")}
    began_at = monotonic()
    answer = await tee.chat(fault=stalls(said), **asked)
    frames = blocks(await answer.read())
    assert kinds(frames) == said
    await tee.wait_ended(answer.stream_id)
    elapsed = monotonic() - began_at

    for name in ("time_to_first_byte", "time_to_first_token", "time_to_first_content", "time_per_output_token"):
        assert await histograms.count(name) == 2, name
    assert await histograms.count("inter_token") == 2 * (spoken - 1)
    assert await histograms.count("stream_duration", ending="complete") == 2
    byte, token, content, gaps, duration = [await histograms.sum(name) - before[name] for name in names]
    assert byte >= HEAD_S - EARLY_S
    assert token - byte >= ROLE_S - EARLY_S
    assert content - token >= THINKING_S - EARLY_S
    assert duration - content >= GAP_S + END_S - EARLY_S
    assert THINKING_S + GAP_S - EARLY_S <= gaps <= duration - token - END_S + EARLY_S
    assert duration <= elapsed
    tokens = json.loads(frames[-2][6:])["usage"]["completion_tokens"]
    per_token = await histograms.sum("time_per_output_token") - before["time_per_output_token"]
    assert per_token * (tokens - 1) == pytest.approx(gaps, abs=1e-6)


@pytest.mark.parametrize("delays", [0.2, 0.3])
async def test_gap_is_counted_in_the_bucket_of_its_length(tee: Tee, delays: float) -> None:
    """One gap more than without it, between the bounds beside it."""
    faults = f"count; frames=20, stall; after=6; seconds={delays * 1.2}"
    await (await tee.chat(fault=faults)).read()
    below = await tee.metric("streamtee_inter_token_seconds_bucket", le=f"{delays}")
    all_of_them = await tee.metric("streamtee_inter_token_seconds_bucket", le="+Inf")
    assert (below, all_of_them) == (18, 19)


@pytest.mark.parametrize(
    ("fault", "ending", "has_token"),
    [
        ("cut_mid_chunk; after=5", "upstream_reset", True),
        ("reset; after=1", "upstream_reset", False),
        ("error_inside; after=5", "upstream_error", True),
        ("bad_chunk; after=5", "garbled", True),
    ],
)
async def test_duration_of_a_failure_is_under_its_ending(tee: Tee, fault: str, ending: str, has_token: bool) -> None:
    """With the delay before it; and it is a time to the first token only if there was one."""
    began_at = monotonic()
    answer = await tee.chat(fault=f"slow_first_token; seconds={HEAD_S}, {fault}")
    await answer.read()
    await tee.wait_ended(answer.stream_id)
    histograms = Histograms(tee)
    assert await histograms.count("stream_duration") == 1
    assert HEAD_S - EARLY_S <= await histograms.sum("stream_duration", ending=ending) <= monotonic() - began_at
    assert await histograms.count("time_to_first_token") == has_token
    assert await tee.metric("streamtee_no_first_token_total", ending=ending) == (not has_token)


@pytest.mark.parametrize(
    ("limit", "fault", "ending"),
    [
        ("first_byte_s", "hang_before_head", "timeout_first_byte"),
        ("first_token_s", "hang; after=1", "timeout_first_token"),
        ("idle_s", "hang; after=5", "timeout_idle"),
        ("total_s", "hang; after=5", "timeout_total"),
    ],
)
async def test_time_out_is_the_duration_of_its_ending(fake: FakeQwen, limit: str, fault: str, ending: str) -> None:
    """Except where no stream had begun: that is only counted."""
    async with teed(fake.url, timeouts={limit: HEAD_S}) as tee:
        began_at = monotonic()
        answer = await tee.chat(fault=fault)
        await answer.read()
        assert await tee.metric("streamtee_streams_ended_total", ending=ending) == 1
        if ending != "timeout_first_byte":
            found = await Histograms(tee).sum("stream_duration", ending=ending)
            assert HEAD_S - EARLY_S <= found <= monotonic() - began_at


async def wait_for_another(tee: Tee, name: str, **labels: str) -> float:
    """Have one request wait until another's stream ends; return the sum of the histogram that has that wait."""
    first = await tee.chat(fault=f"stall; after=2; seconds={GAP_S}")
    began_at = monotonic()
    second = await tee.send_chat()
    await first.read()
    told = monotonic() - began_at
    await (await second.answer()).read()
    assert await Histograms(tee).count(name, **labels) == 2
    waited = await Histograms(tee).sum(name, **labels)
    assert told / 2 <= waited <= monotonic() - began_at
    return waited


async def test_wait_in_the_queue_is_part_of_what_its_user_waits(fake: FakeQwen) -> None:
    """It is in its own histogram, and in the time to the first byte, but not in the upstream's connecting."""
    async with teed(fake.url, upstream={"max_concurrent": 1}) as tee:
        waited = await wait_for_another(tee, "queue_wait", upstream="default")
        histograms = Histograms(tee)
        assert await histograms.sum("time_to_first_byte") >= waited
        assert await histograms.count("upstream_connect", route="chat") == 2
        assert await histograms.sum("upstream_connect") < waited


async def test_wait_for_a_connection_is_part_of_what_its_user_waits(fake: FakeQwen) -> None:
    """Here one that is busy: the wait is in the histogram of connecting, and in the time to the first byte."""
    async with teed(fake.url, upstream={"max_connections": 1}) as tee:
        waited = await wait_for_another(tee, "upstream_connect", route="chat")
        assert await Histograms(tee).sum("time_to_first_byte") >= waited


async def test_what_the_proxy_adds_is_little_beside_the_delays_of_the_upstream(tee: Tee) -> None:
    """A few reads are sampled; the upstream's pauses are in none of them."""
    await (await tee.chat(fault=f"count; frames=200, stall; after=100; seconds={GAP_S}")).read()
    histograms = Histograms(tee)
    sampled = await histograms.count("proxy_overhead", route="chat")
    assert 1 <= sampled <= 4
    assert 0 < await histograms.sum("proxy_overhead") < GAP_S
