"""What /metrics says of streams that went so and so; see docs/metrics.md for the words."""

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from proxy import __version__
from proxy.dialects.usage import Usage
from proxy.stream.endings import COMPLETE
from proxy.telemetry.metrics import Distribution, EndedStreams, Metrics
from proxy.tools.fake.qwen import FakeQwen
from tests.event_loops import GUARD_S, POLL_S
from tests.event_streams import DONE, FINISH, blocks, chunk_frame
from tests.http_client import KEY, request
from tests.metric_names import ELSEWHERE
from tests.programs import system_tool
from tests.proxy_under_test import CHAT, PROMPT, Tee, begun, chat_body, teed
from tests.stage import Stage
from tests.streams import new_stream

DOCS = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
STALL_S = 0.3
USAGE = {"stream_options": {"include_usage": True}}
OPENMETRICS = "Accept: application/openmetrics-text; version=1.0.0"
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
    },
}


class Page:
    """One scrape."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.samples: list[Sample] = [s for family in text_string_to_metric_families(text) for s in family.samples]

    def of(self, name: str, **labels: str) -> list[Sample]:
        """Return the samples of that name (less the prefix) that have these labels."""
        named = (sample for sample in self.samples if sample.name == f"streamtee_{name}")
        return [sample for sample in named if labels.items() <= sample.labels.items()]

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of those samples; 0 when there are none."""
        return sum(sample.value for sample in self.of(name, **labels))

    def by(self, name: str, *labels: str) -> dict[Any, float]:
        """Return the values of a metric, by these labels of it."""
        table: dict[Any, float] = {}
        for sample in self.of(name):
            key = tuple(sample.labels[label] for label in labels)
            table[key if len(labels) > 1 else key[0]] = sample.value
        return table


async def scrape(tee: Tee) -> Page:
    return Page(await tee.metrics())


async def scraped_when(tee: Tee, name: str, value: float, **labels: str) -> Page:
    """Return the first scrape that has this value."""
    async with asyncio.timeout(GUARD_S):
        while (page := await scrape(tee)).value(name, **labels) != value:
            await asyncio.sleep(POLL_S)
    return page


def spoken(frames: Iterable[bytes]) -> list[str]:
    """Return the kind of generated text in each frame that has some; the OpenAI dialect, read the long way."""
    kinds = []
    for frame in frames:
        payload = frame.removeprefix(b"data: ").strip()
        for choice in json.loads(payload)["choices"] if payload != b"[DONE]" else ():
            delta = choice["delta"]
            calls = [call["function"] for call in delta.get("tool_calls") or ()]
            if delta.get("content"):
                kinds.append("content")
            elif delta.get("reasoning_content"):
                kinds.append("reasoning")
            elif any(call.get("name") or call.get("arguments") for call in calls):
                kinds.append("call")
    return kinds


# Times


async def test_first_token_does_not_stop_at_the_role_chunk(tee: Tee) -> None:
    """The first byte does. A stall between the two is in one and not in the other."""
    await (await tee.chat(fault=f"stall; after=1; seconds={STALL_S}")).read()
    page = await scrape(tee)
    first_byte = page.value("time_to_first_byte_seconds_sum")
    first_token = page.value("time_to_first_token_seconds_sum")
    assert 0 < first_byte < first_byte + STALL_S * 0.95 < first_token
    assert page.value("time_to_first_content_seconds_sum") == first_token
    assert first_token < page.value("stream_duration_seconds_sum") < GUARD_S


async def test_first_token_comes_with_the_thinking_and_first_content_after_it(tee: Tee, fake: FakeQwen) -> None:
    """Reasoning is generated text, but it is not the answer."""
    frames = blocks(await (await tee.chat(enable_thinking=True)).read())
    thinking = 1 + spoken(frames).count("reasoning")  # the role chunk is before them
    before = await scrape(tee)
    await (await tee.chat(enable_thinking=True, fault=f"stall; after={thinking}; seconds={STALL_S}")).read()
    page = await scrape(tee)

    def seconds(name: str) -> float:
        return page.value(f"{name}_seconds_sum") - before.value(f"{name}_seconds_sum")

    assert seconds("time_to_first_token") + STALL_S * 0.95 < seconds("time_to_first_content")


async def test_time_before_the_head_counts(tee: Tee) -> None:
    """The clock starts when the request is here, not when the upstream answers."""
    await (await tee.chat(fault=f"slow_first_token; seconds={STALL_S}")).read()
    page = await scrape(tee)
    assert page.value("time_to_first_byte_seconds_sum") > STALL_S * 0.95
    assert page.value("time_to_first_token_seconds_sum") > STALL_S * 0.95


@pytest.mark.parametrize("way", ["", "burst", "split_bytes", "crlf"])
@pytest.mark.parametrize(
    "asked",
    [
        {"max_tokens": 40},
        {"max_tokens": 40, **USAGE},
        {"max_tokens": 40, "enable_thinking": True, **USAGE},
        {"tools": [WEATHER], "parallel_tool_calls": True},
    ],
)
async def test_gaps_are_one_fewer_than_frames_with_text(
    tee: Tee, fake: FakeQwen, asked: dict[str, Any], way: str
) -> None:
    """Role, finish, usage and [DONE] carry none; how the frames were cut into reads changes nothing."""
    said = await (await tee.chat(fault=way, **asked)).read()
    frames = blocks(said.replace(b"\r\n", b"\n"))
    page = await scrape(tee)
    assert page.value("inter_token_seconds_count") == len(spoken(frames)) - 1


async def test_comments_between_frames_are_no_tokens(tee: Tee) -> None:
    """Gateways send them to keep connections alive: a gap must not end at one."""
    said = await (await tee.chat(fault="comments, count; frames=20")).read()
    assert said.count(b": between\n\n") > 5
    assert (await scrape(tee)).value("inter_token_seconds_count") == 19


async def test_gap_that_is_long_is_in_its_bucket(tee: Tee) -> None:
    """The others are near nothing."""
    await (await tee.chat(fault=f"stall; after=6; seconds={STALL_S}, count; frames=20")).read()
    page = await scrape(tee)
    assert page.value("inter_token_seconds_count") == 19
    assert page.value("inter_token_seconds_sum") > STALL_S * 0.95
    assert page.value("inter_token_seconds_bucket", le="0.2") == 18


async def test_time_per_output_token_is_from_first_to_last_over_the_rest(tee: Tee) -> None:
    """The gaps of a stream, summed, over its tokens less one."""
    frames = blocks(await (await tee.chat(fault=f"stall; after=6; seconds={STALL_S}", **USAGE)).read())
    tokens = json.loads(frames[-2][6:])["usage"]["completion_tokens"]
    page = await scrape(tee)
    assert page.value("time_per_output_token_seconds_count") == 1
    whole = page.value("time_per_output_token_seconds_sum") * (tokens - 1)
    assert whole == pytest.approx(page.value("inter_token_seconds_sum"), abs=1e-6)
    assert whole > STALL_S * 0.95


async def test_native_stream_is_measured_too(tee: Tee) -> None:
    """Under its own route; native answers name no model, so it is the one that was asked for."""
    fault = f"stall; after=4; seconds={STALL_S}"
    body = await (await tee.native(fault=fault, incremental_output=True, result_format="message")).read()
    page = await scrape(tee)
    labels = {"route": "dashscope", "model": "qwen-max"}
    assert page.value("time_to_first_token_seconds_count", **labels) == 1
    assert page.value("inter_token_seconds_count", **labels) == body.count(b"\n\n") - 2  # the last one only finishes
    assert page.value("inter_token_seconds_sum", **labels) > STALL_S * 0.95
    assert page.value("tokens_total", kind="completion", **labels) > 10


async def test_histograms_count_a_stream_once_whatever_its_followers(tee: Tee, stage: Stage) -> None:
    """Four followers in two modes, early and late, and one that comes after the end."""
    answer, turn = await begun(tee, stage, frames=2)
    followers = [await tee.follow(answer.stream_id, f"mode={mode}") for mode in ("raw", "events", "events")]
    turn.end(chunk_frame("more"), FINISH, DONE)
    for one in (answer, *followers, await tee.follow(answer.stream_id)):
        await one.read()
    page = await scraped_when(tee, "subscriptions_ended_total", 5)
    for name in ("time_to_first_byte", "time_to_first_token", "time_to_first_content", "stream_duration"):
        assert page.value(f"{name}_seconds_count") == 1, name
    assert page.value("inter_token_seconds_count") == 2
    assert page.value("streams_ended_total") == 1
    assert page.value("frames_total") == 5


async def test_connecting_is_measured_per_request(tee: Tee) -> None:
    """Also when the connection is there already, and for what only passes through."""
    for _ in range(2):
        await (await tee.chat()).read()
    await (await tee.ask("GET", "/v1/models")).read()
    page = await scrape(tee)
    assert page.value("upstream_connect_seconds_count", route="chat") == 3


async def test_overhead_is_sampled(tee: Tee) -> None:
    """One read in 64 or so."""
    await (await tee.chat(fault="count; frames=400")).read()
    page = await scrape(tee)
    assert 1 <= page.value("proxy_overhead_seconds_count", route="chat") <= 7
    assert 0 < page.value("proxy_overhead_seconds_sum", route="chat") < 1


# Endings


@pytest.mark.parametrize(
    ("fault", "ending"),
    [
        ("", "complete"),
        ("no_blank_line", "complete"),
        ("error_inside; after=5", "upstream_error"),
        ("cut_mid_chunk; after=5", "upstream_reset"),
        ("cut_mid_frame; after=5", "upstream_reset"),
        ("cut_clean_half_frame; after=5", "upstream_reset"),
        ("reset; after=5", "upstream_reset"),
        ("hang; after=5", "timeout_idle"),
        ("bad_chunk; after=5", "garbled"),
    ],
)
async def test_duration_is_counted_under_its_ending(fake: FakeQwen, fault: str, ending: str) -> None:
    """And under no other; what had a token is not among the streams without one."""
    async with teed(fake.url, timeouts={"idle_s": 0.3}) as tee:
        await (await tee.chat(fault=fault)).read()
        page = await scrape(tee)
    key = ("chat", "qwen3-max", ending)
    assert page.by("streams_ended_total", "route", "model", "ending") == {key: 1}
    assert page.by("stream_duration_seconds_count", "route", "model", "ending") == {key: 1}
    assert page.value("no_first_token_total") == 0
    assert page.value("time_to_first_token_seconds_count") == 1


async def test_total_time_out_is_an_ending(fake: FakeQwen) -> None:
    """A stream that goes on and on."""
    async with teed(fake.url, timeouts={"total_s": 0.3}) as tee:
        await (await tee.chat(fault="stall; after=4; seconds=5")).read()
        page = await scrape(tee)
    assert page.by("stream_duration_seconds_count", "ending") == {"timeout_total": 1}
    assert page.value("stream_duration_seconds_sum") > 0.29


async def test_request_that_no_head_answers_is_an_ending(fake: FakeQwen) -> None:
    """The longest wait a user can have must be in the count of streams that ended before a token."""
    async with teed(fake.url, timeouts={"first_byte_s": 0.2}) as tee:
        assert (await tee.chat(fault="hang_before_head")).status == 504
        page = await scraped_when(tee, "requests_total", 1, route="chat", status="504")
    assert page.by("streams_ended_total", "ending") == {"timeout_first_byte": 1}
    assert page.by("no_first_token_total", "ending") == {"timeout_first_byte": 1}


async def test_client_that_leaves_is_an_ending(tee: Tee, fake: FakeQwen) -> None:
    """In mid-stream, with a token seen."""
    answer = await tee.chat(fault="hang; after=5")
    await answer.bytes(1000)
    await answer.client.leave()
    page = await scraped_when(tee, "streams_ended_total", 1)
    assert page.by("streams_ended_total", "ending") == {"client_gone": 1}
    assert page.by("subscriptions_ended_total", "mode", "reason") == {("raw", "left"): 1}
    assert (await fake.wait_closed()).state == "client_gone"


async def test_client_that_leaves_before_the_head_is_an_ending(tee: Tee, fake: FakeQwen) -> None:
    """Who gave up waiting is what this count is for."""
    client = await tee.send_chat(fault="hang_before_head")
    await fake.wait_requests(1)
    await client.leave()
    await fake.wait_closed()
    page = await scraped_when(tee, "streams_active", 0)
    assert page.by("no_first_token_total", "ending") == {"client_gone": 1}


@pytest.mark.parametrize("headers", [(), ("Stream-Mode: events",)])
async def test_client_that_closes_after_done_is_complete(tee: Tee, headers: tuple[str, ...]) -> None:
    """openai-python 3.x does, without waiting for the end of the body."""
    answer = await tee.chat(*headers, fault="late_end; seconds=30")
    await answer.until(b"data: [DONE]\n")
    await answer.client.leave()
    page = await scraped_when(tee, "streams_ended_total", 1)
    assert page.by("streams_ended_total", "ending") == {"complete": 1}
    assert page.by("stream_duration_seconds_count", "ending") == {"complete": 1}


async def test_stream_that_is_cancelled_is_an_ending(tee: Tee) -> None:
    """By request."""
    answer = await tee.chat(fault="hang; after=5")
    await (await tee.ask("POST", f"/v1/streams/{answer.stream_id}/cancel")).read()
    assert (await scrape(tee)).by("streams_ended_total", "ending") == {"cancelled": 1}
    await answer.read()


async def test_stream_without_a_token_is_counted_apart(tee: Tee) -> None:
    """It had a first byte, and no first token."""
    await (await tee.chat(fault="cut_mid_chunk; after=1")).read()
    page = await scrape(tee)
    key = ("chat", "qwen3-max", "upstream_reset")
    assert page.by("no_first_token_total", "route", "model", "ending") == {key: 1}
    assert page.value("time_to_first_byte_seconds_count") == 1
    assert page.value("time_to_first_token_seconds_count") == 0
    assert page.value("time_to_first_content_seconds_count") == 0


async def test_refusal_is_a_request_and_no_stream(tee: Tee) -> None:
    """Its status is counted; no clock of a stream ran."""
    await (await tee.chat(fault="status; status=429")).read()
    page = await scraped_when(tee, "requests_total", 1, route="chat")
    assert page.by("requests_total", "route", "method", "status") == {("chat", "POST", "429"): 1}
    assert page.value("streams_ended_total") == 0
    assert page.value("stream_duration_seconds_count") == 0
    assert page.value("rejected_total") == 0


# Tokens, bytes, frames


async def test_tokens_are_what_usage_states(tee: Tee, stage: Stage) -> None:
    """All kinds; calls of tools are counted beside them."""
    answer, turn = await begun(tee, stage, frames=1)
    usage = {
        "prompt_tokens": 11,
        "completion_tokens": 31,
        "total_tokens": 42,
        "completion_tokens_details": {"reasoning_tokens": 17},
        "prompt_tokens_details": {"cached_tokens": 5, "cache_creation_input_tokens": 6, "image_tokens": 3},
        "plugins": {"search": {"count": 2}},
    }
    turn.end(FINISH, b'data: {"choices":[],"model":"qwen3-max","usage":%b}\n\n' % json.dumps(usage).encode(), DONE)
    await answer.read()
    page = await scrape(tee)
    stated = {"prompt": 11, "completion": 31, "reasoning": 17, "cached": 5, "cache_written": 6, "image": 3}
    assert page.by("tokens_total", "kind") == stated
    assert page.value("tool_calls_total", model="qwen3-max") == 2
    assert {sample.labels["model"] for sample in page.of("tokens_total")} == {"qwen3-max"}


async def test_tokens_without_usage_are_not_guessed(tee: Tee) -> None:
    """Nothing was stated, nothing is counted."""
    await (await tee.chat()).read()
    page = await scrape(tee)
    assert page.of("tokens_total") == []
    assert page.value("time_per_output_token_seconds_count") == 0


async def test_bytes_and_frames_are_counted_as_they_pass(tee: Tee, stage: Stage) -> None:
    """While the stream runs and after it; delivered by mode, and the replayed past of a late follower."""
    answer, turn = await begun(tee, stage, frames=3)
    past = len(answer.body)
    page = await scrape(tee)
    assert page.by("frames_total", "route") == {"chat": 3}
    assert page.by("upstream_bytes_total", "route") == {"chat": past}
    assert page.by("delivered_bytes_total", "mode") == {"raw": past}
    assert page.value("replayed_bytes_total") == 0

    late = await tee.follow(answer.stream_id, "mode=raw")
    resumed = await tee.follow(answer.stream_id, "", f"Last-Event-ID: {answer.epoch}-2")
    turn.end(DONE)
    sent = await answer.read()
    assert await late.read() == sent
    events = await resumed.read()
    page = await scraped_when(tee, "subscriptions_ended_total", 3)
    assert page.value("frames_total") == 4
    assert page.value("upstream_bytes_total") == len(sent)
    assert page.by("delivered_bytes_total", "mode") == {"raw": 2 * len(sent), "events": len(events)}
    assert page.by("replayed_bytes_total", "mode") == {"raw": past, "events": len(blocks(sent)[2])}


async def test_half_a_frame_counts_as_bytes(tee: Tee, fake: FakeQwen) -> None:
    """Of a stream that broke off, all that came."""
    await (await tee.chat(fault="cut_mid_frame; after=3")).read()
    page = await scrape(tee)
    assert page.value("upstream_bytes_total") == len(fake.requests[-1].sent)
    assert page.value("delivered_bytes_total") == len(fake.requests[-1].sent)
    assert page.value("frames_total") == 3


# Gauges


async def test_gauges_say_what_is_now(tee: Tee, stage: Stage) -> None:
    """Streams, followers by mode, connections by state, bytes in the logs; and nothing once all have gone."""
    answer, turn = await begun(tee, stage, "Stream-Retain: 0", frames=1)
    await answer.bytes(1)
    followers = [await tee.follow(answer.stream_id, f"mode={mode}") for mode in ("raw", "events", "events")]
    await tee.wait_followers(4)
    page = await scrape(tee)
    assert page.value("streams_active") == 1
    assert page.by("subscribers", "mode") == {"raw": 2, "events": 2}
    assert page.value("subscriber_lag_bytes_max") == 0
    assert page.value("log_bytes") >= len(chunk_frame("word 1"))
    assert page.value("upstream_connections", state="active") == 1
    turn.end(DONE)
    for one in (answer, *followers):
        await one.read()
    page = await scrape(tee)
    assert page.value("streams_active") == 0
    assert page.value("subscribers") == 0
    assert page.value("log_bytes") == 0
    assert page.value("upstream_connections", state="active") == 0
    assert page.value("upstream_connections", state="idle") == 1


async def test_lag_is_that_of_the_slowest(tee: Tee, stage: Stage) -> None:
    """A follower that does not read falls behind in the gauge; once it has read, it is level."""
    answer, turn = await begun(tee, stage, frames=1)
    slow = await tee.connect(receive_bytes=4096)
    slow.send(request("GET", f"/v1/streams/{answer.stream_id}?mode=raw"))
    late = await slow.answer()
    slow.stall()
    big = chunk_frame("x" * 1_000_000)
    async with asyncio.timeout(GUARD_S):
        while (page := await scrape(tee)).value("subscriber_lag_bytes_max") == 0:
            turn.chunk(big)
            await answer.bytes(len(answer.body) + len(big))
    assert page.value("subscriber_lag_bytes_max") >= len(big)
    info = await tee.info(answer.stream_id)
    assert max(one["lag_bytes"] for one in info["followers"]) >= page.value("subscriber_lag_bytes_max")
    slow.read_on()
    await late.bytes(len(answer.body))
    assert (await scrape(tee)).value("subscriber_lag_bytes_max") == 0
    turn.end(DONE)
    assert await late.read() == await answer.read()


async def test_limits_are_told_beside_what_they_bound(fake: FakeQwen) -> None:
    """By their keys in the configuration."""
    limits = {"streams": 11, "followers": 22, "total_log_bytes": 333, "total_pending_bytes": 444}
    async with teed(fake.url, limits=limits) as tee:
        assert (await scrape(tee)).by("limit", "name") == limits


async def test_silence_is_that_of_the_quietest_upstream(tee: Tee, stage: Stage) -> None:
    """By route; it ends with the next word, and with the stream."""
    quietest, _ = await begun(tee, stage, frames=1)
    _, turn = await begun(tee, stage, frames=1)
    async with asyncio.timeout(GUARD_S):
        while (page := await scrape(tee)).value("silence_seconds_max", route="chat") < STALL_S:
            await asyncio.sleep(POLL_S)
    quiet_s = page.value("silence_seconds_max")
    turn.chunk(chunk_frame())
    assert (await scrape(tee)).value("silence_seconds_max") >= quiet_s, "the other stream is as silent as before"
    await quietest.client.leave()
    async with asyncio.timeout(GUARD_S):
        while (await scrape(tee)).value("silence_seconds_max") > quiet_s:
            await asyncio.sleep(POLL_S)
    turn.end(DONE)


@pytest.mark.parametrize(("upgrade", "count"), [("never", 0), ("always", 1), ("auto", 1)])
async def test_upgraded_requests_are_counted(stage: Stage, upgrade: str, count: int) -> None:
    """Those that were sent as requests for a stream, in place of a client that wants a document."""
    refusal = b'{"error":{"code":"invalid_parameter_error","message":"This model only support stream mode, please"}}'
    async with teed(stage.url, generations={"upgrade": upgrade}) as tee:
        client = await tee.send("POST", CHAT, body=chat_body(stream=False))
        turn = await stage.next()
        await turn.body()
        if upgrade == "auto":
            turn.reply("400 Bad Request", "Content-Type: application/json", body=refusal)
            turn = await stage.next()
            await turn.body()
        if upgrade == "never":
            turn.reply("200 OK", "Content-Type: application/json", body=b"{}")
        else:
            turn.begin()
            turn.end(chunk_frame(), FINISH, DONE)
        assert (await client.answer()).status == 200
        answer, turn = await begun(tee, stage)
        turn.end(DONE)
        await answer.read()
        assert (await scrape(tee)).value("upgraded_requests_total", route="chat") == count


async def test_build_info_says_what_runs(tee: Tee) -> None:
    """One sample, with the event loop among its labels."""
    (sample,) = (await scrape(tee)).of("build_info")
    assert sample.value == 1
    assert sample.labels["version"] == __version__
    assert sample.labels["loop"] == "asyncio"
    assert set(sample.labels) == {"version", "python", "aiohttp", "loop"}


# Why followers ended


async def test_followers_are_counted_by_why_they_ended(tee: Tee) -> None:
    """Complete, failed, left: in each mode."""
    answers = [await tee.chat(f"Stream-Mode: {mode}") for mode in ("raw", "events")]
    answers += [await tee.chat(f"Stream-Mode: {mode}", fault="reset; after=3") for mode in ("raw", "events")]
    for answer in answers:
        await answer.read()
    endless = await tee.chat(fault="hang; after=2")
    for mode in ("raw", "events"):
        follower = await tee.follow(endless.stream_id, f"mode={mode}")
        await follower.bytes(1)
        await follower.client.leave()
    page = await scraped_when(tee, "subscriptions_ended_total", 6)
    assert page.by("subscriptions_ended_total", "mode", "reason") == {
        ("raw", "complete"): 1,
        ("events", "complete"): 1,
        ("raw", "failed"): 1,
        ("events", "failed"): 1,
        ("raw", "left"): 1,
        ("events", "left"): 1,
    }


async def test_follower_that_falls_out_of_the_window_is_too_slow(stage: Stage) -> None:
    """It had a gap coming: it was ended instead, and is counted so; the stream itself completes."""
    async with teed(stage.url, limits={"log_bytes": 3_000_000}) as tee:
        answer, turn = await begun(tee, stage, frames=1)
        slow = await tee.connect(receive_bytes=4096)
        slow.send(request("GET", f"/v1/streams/{answer.stream_id}"))
        late = await slow.answer()
        slow.stall()
        async with asyncio.timeout(GUARD_S):
            while (info := await tee.info(answer.stream_id))["first_seq"] <= info["followers"][-1]["seq"] + 1:
                turn.chunk(chunk_frame("x" * 500_000))
                await answer.bytes(len(answer.body) + 500_000)
        slow.read_on()
        assert b'"too_slow"' in await late.read()
        turn.end(DONE)
        await answer.read()
        page = await scraped_when(tee, "subscriptions_ended_total", 2)
        assert page.by("subscriptions_ended_total", "mode", "reason") == {
            ("events", "too_slow"): 1,
            ("raw", "complete"): 1,
        }
        assert page.by("streams_ended_total", "ending") == {"complete": 1}


async def test_drain_is_a_reason_of_its_own(fake: FakeQwen) -> None:
    """For the stream and for its followers, which did not fail."""
    async with teed(fake.url, drain_s=0) as tee:
        answer = await tee.chat(fault="hang; after=3")
        follower = await tee.follow(answer.stream_id)
        await follower.bytes(1)
        await tee.proxy.drain()
        page = Page(generate_latest(tee.proxy.page.registry).decode())
    assert page.by("streams_ended_total", "ending") == {"drained": 1}
    assert page.by("subscriptions_ended_total", "mode", "reason") == {("raw", "drained"): 1, ("events", "drained"): 1}


# Labels


async def test_models_beyond_the_limit_are_other(fake: FakeQwen) -> None:
    """The first so many names stay; whatever clients ask for, the labels are bounded."""
    async with teed(fake.url, limits={"model_labels": 2}) as tee:
        for model in ("one", "two", "three", "four", "one"):
            await (await tee.chat(model=model)).read()
        page = await scrape(tee)
    assert page.by("streams_ended_total", "model") == {"one": 2, "two": 1, "other": 2}
    assert page.by("time_to_first_token_seconds_count", "model") == {"one": 2, "two": 1, "other": 2}
    assert '"three"' not in page.text


async def test_model_is_the_answer_s(tee: Tee) -> None:
    """Not what the request asked for: the fake answers for `MODEL+fault` as MODEL."""
    await (await tee.chat(model="qwen-plus+burst")).read()
    assert (await scrape(tee)).by("streams_ended_total", "model") == {"qwen-plus": 1}


async def test_requests_are_counted_by_final_status(tee: Tee) -> None:
    """By route; what is refused here has its error's code as the reason."""
    await (await tee.chat()).read()
    await (await tee.chat("Stream-Mode: none")).read()
    await (await tee.ask("GET", "/v1/models")).read()
    await (await tee.follow("st_unknown")).read()
    await (await tee.ask("GET", "/nowhere/at/all")).read()
    page = await scraped_when(tee, "requests_total", 1, route="none")
    assert page.by("requests_total", "route", "method", "status") == {
        ("chat", "POST", "200"): 1,
        ("chat", "POST", "400"): 1,
        ("chat", "GET", "200"): 1,
        ("streams", "GET", "404"): 1,
        ("none", "GET", "404"): 1,
    }
    assert page.by("rejected_total", "reason") == {"unknown_mode": 1, "stream_not_found": 1, "unknown_route": 1}


async def test_request_whose_client_left_is_counted(tee: Tee) -> None:
    """A stream was answered with 200, whoever left in its middle."""
    answer = await tee.chat(fault="hang; after=3")
    await answer.bytes(1)
    await answer.client.leave()
    page = await scraped_when(tee, "streams_ended_total", 1)
    assert page.by("requests_total", "route", "status") == {("chat", "200"): 1}


async def test_nothing_private_is_told(tee: Tee) -> None:
    """No key, no prompt, no text, no stream id."""
    answer = await tee.chat()
    await answer.read()
    page = await scrape(tee)
    for private in (KEY, PROMPT, answer.stream_id):
        assert private not in page.text


# The page


FED = {
    "time_to_first_byte_seconds": {"route", "model"},
    "time_to_first_token_seconds": {"route", "model"},
    "time_to_first_content_seconds": {"route", "model"},
    "inter_token_seconds": {"route", "model"},
    "stream_duration_seconds": {"route", "model", "ending"},
    "time_per_output_token_seconds": {"route", "model"},
    "upstream_connect_seconds": {"route"},
    "proxy_overhead_seconds": {"route"},
    "streams_ended_total": {"route", "model", "ending"},
    "no_first_token_total": {"route", "model", "ending"},
    "tokens_total": {"route", "model", "kind"},
    "requests_total": {"route", "method", "status"},
    "frames_total": {"route"},
    "upstream_bytes_total": {"route"},
    "delivered_bytes_total": {"mode"},
    "replayed_bytes_total": {"mode"},
    "streams_active": set(),
    "subscribers": {"mode"},
    "subscriber_lag_bytes_max": set(),
    "log_bytes": set(),
    "memory_bytes": {"kind"},
    "upstream_connections": {"state"},
    "subscriptions_ended_total": {"mode", "reason"},
    "rejected_total": {"reason"},
    "client_connections": set(),
    "client_bytes": {"kind"},
    "limit": {"name"},
    "silence_seconds_max": {"route"},
    "cost_total": {"route", "model", "kind", "currency"},
    "shared_requests_total": {"route", "how"},
    "shared_tokens_total": {"route", "how", "kind"},
    "shared_cost_total": {"route", "how", "currency"},
    "upgraded_requests_total": {"route"},
    "retries_total": {"reason"},
    "upstream_requests_total": {"upstream"},
    "upstream_state": {"upstream", "state"},
    "queued": {"upstream"},
    "queue_wait_seconds": {"upstream"},
    "background_loop_alive": {"loop"},
    "background_loop_failures_total": {"loop"},
    "build_info": {"version", "python", "aiohttp", "loop"},
}


@asynccontextmanager
async def busy(fake: FakeQwen) -> AsyncIterator[Tee]:
    """Run a proxy that has seen enough for every metric to have a sample."""
    tables = {
        "upstream": {"spares": ["spare"], "max_concurrent": 100},
        "upstreams": {"spare": {"url": fake.url, "weight": 0}},
        "generations": {"upgrade": "always"},
        "prices": {"currency": "CNY", "models": [{"name": "qwen3*", "prompt": 2, "completion": 8}]},
    }
    async with teed(fake.url, **tables) as tee:
        answer = await tee.chat("Idempotency-Key: k", fault="count; frames=200", **USAGE)
        await answer.read()
        await (await tee.chat("Idempotency-Key: k", fault="count; frames=200", **USAGE)).read()
        await (await tee.chat(stream=False)).read()
        await (await tee.follow(answer.stream_id)).read()
        await (await tee.chat(fault="cut_mid_chunk; after=1")).read()
        await (await tee.chat("Stream-Mode: none")).read()
        running = await tee.chat(fault="hang; after=3")
        await running.bytes(1)
        yield tee


async def test_every_metric_is_there_with_its_labels(fake: FakeQwen) -> None:
    """And no other is."""
    async with busy(fake) as tee:
        page = await scrape(tee)
    labels: dict[str, set[str]] = {}
    for sample in page.samples:
        name = re.sub(r"(?<=_seconds)_(bucket|count|sum|created)$", "", sample.name)
        labels[name] = set(sample.labels) - {"le"}
    own = {name: names for name, names in labels.items() if not name.startswith("process_")}
    assert own == {f"streamtee_{name}": names for name, names in FED.items()}
    assert {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"} <= set(labels)


def listed() -> dict[str, set[str]]:
    """Return the labels of each metric, as the table of docs/metrics.md has them."""
    found: dict[str, set[str]] = {}
    for line in DOCS.splitlines():
        if line.startswith("| `"):
            names, groups = (re.split(sep, cell) for sep, cell in zip((", ", "; "), line.split("|")[1:3], strict=True))
            groups = groups * len(names) if len(groups) == 1 else groups
            for name, labels in zip(names, groups, strict=True):
                found[name.strip(" `")] = set(re.findall(r"\w+", labels))
    return found


async def test_docs_list_every_metric(tee: Tee) -> None:
    """Also those that have no sample yet; and none that does not exist."""
    families = tee.proxy.page.collect()
    exposed = {family.name + "_total" * (family.type == "counter") for family in families}
    known = {f"streamtee_{name}" for name in listed()}
    lacks, has = exposed - known, known - exposed - ELSEWHERE.keys()
    assert (lacks, has) == (set(), set()), "what docs/metrics.md lacks, and what it has too many"


def test_docs_list_the_labels_of_metrics() -> None:
    """Of all that have samples in these tests."""
    assert {name: labels for name, labels in listed().items() if name in FED} == FED


async def test_buckets_are_the_documented_ones(fake: FakeQwen) -> None:
    """Those of OpenTelemetry for first byte and token; a change would break every dashboard."""
    first = "0.001 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.25 0.5 0.75 1.0 2.5 5.0 7.5 10.0 20.0 40.0 80.0 160.0"
    gap = "0.001 0.0025 0.005 0.01 0.025 0.05 0.075 0.1 0.15 0.2 0.3 0.4 0.5 0.75 1.0 2.5 5.0 10.0 30.0 60.0"
    duration = [0.01 * 2**doublings for doublings in range(14)] + [160, 320, 640, 1280, 2560]
    overhead = [0.00002 * 2**doublings for doublings in range(13)] + [0.1]
    async with busy(fake) as tee:
        page = await scrape(tee)

    def bounds(name: str) -> list[float]:
        found = dict.fromkeys(sample.labels["le"] for sample in page.of(f"{name}_seconds_bucket"))
        return [float(bound) for bound in found if bound != "+Inf"]

    for name in ("time_to_first_byte", "time_to_first_token", "time_to_first_content"):
        assert bounds(name) == list(map(float, first.split()))
    for name in ("inter_token", "time_per_output_token"):
        assert bounds(name) == list(map(float, gap.split()))
    assert bounds("stream_duration") == pytest.approx(duration)
    assert bounds("proxy_overhead") == pytest.approx(overhead)


async def test_promtool_finds_nothing_to_mend(fake: FakeQwen) -> None:
    """`promtool check metrics`: names, units, help texts."""
    program = system_tool("promtool")
    async with busy(fake) as tee:
        page = await tee.metrics()
    check = [program, "check", "metrics"]
    done = await asyncio.to_thread(subprocess.run, check, input=page.encode(), capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


async def exposed(tee: Tee, *headers: str) -> tuple[str, str]:
    """Return the content type and the text of a scrape with these headers."""
    client = await tee.connect(admin=True)
    client.send(request("GET", "/metrics", *headers))
    answer = await client.answer()
    return answer.header("content-type") or "", (await answer.read()).decode()


async def test_openmetrics_is_given_to_who_asks_for_it(fake: FakeQwen) -> None:
    """And is valid: its own parser reads it to the end."""
    async with busy(fake) as tee:
        kind, text = await exposed(tee, OPENMETRICS)
        plain_kind, plain = await exposed(tee)
    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")
    families = {family.name for family in openmetrics.text_string_to_metric_families(text)}
    assert "streamtee_time_to_first_token_seconds" in families
    assert plain_kind.startswith("text/plain; version=0.0.4")
    assert "# EOF" not in plain
    assert "trace_id" not in plain


def exemplars(text: str) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for family in openmetrics.text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.exemplar is not None:
                found.setdefault(family.name, []).append(dict(sample.exemplar.labels))
    return found


async def test_exemplar_is_the_stream(tee: Tee) -> None:
    """For the first token and the duration, in the bucket of its value."""
    answer = await tee.chat()
    await answer.read()
    _, text = await exposed(tee, OPENMETRICS)
    due = [{"trace_id": answer.stream_id}]
    assert exemplars(text) == {
        "streamtee_time_to_first_token_seconds": due,
        "streamtee_stream_duration_seconds": due,
    }


async def test_exemplar_is_the_trace_of_a_traced_request(tee: Tee) -> None:
    """The trace id of a W3C traceparent takes the place of the stream's id."""
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    await (await tee.chat(f"traceparent: 00-{trace_id}-00f067aa0ba902b7-01")).read()
    _, text = await exposed(tee, OPENMETRICS)
    assert exemplars(text)["streamtee_time_to_first_token_seconds"] == [{"trace_id": trace_id}]


async def test_metrics_are_on_the_admin_port_only(tee: Tee) -> None:
    """The data port does not tell."""
    answer = await tee.ask("GET", "/metrics")
    assert answer.status == 404
    assert b"streamtee_" not in await answer.read()


# Sums, which are made of several rows at once


@pytest.mark.parametrize("scraped_after", [0, 1, 31, 32, 33, 70])
def test_counts_of_many_streams_are_all_summed(scraped_after: int) -> None:
    """Whenever the page is asked for, and once more after that."""
    gaps, streams = Distribution((1.0, 2.0)), EndedStreams(*[Distribution((1.0,)) for _ in range(6)])
    for number in range(100):
        if number == scraped_after:
            gaps.buckets()
            assert streams.usage.prompt == number
        gaps.add([1, number, 0], 0.5)
        gaps.observe(9.0)
        streams.use(Usage(1, number, cached=2))
    for _ in range(2):
        assert [count for _, count, _ in gaps.buckets()] == [100, 100 + 4950, 100 + 4950 + 100]
        assert streams.usage == Usage(100, 4950, cached=200)
    assert gaps.sum == 50 + 900


def test_model_beyond_the_limit_is_other_each_time() -> None:
    """Also the second time, when there are counters of its ending already; a stream without a model is unknown."""
    metrics = Metrics(1)
    for model in ("one", "two", "two", None, "one", None, "other"):
        stream = new_stream()
        stream.vitals.model = model
        stream.seal(COMPLETE)
        metrics.ended(stream)
    counted = {labels[1]: ended.streams for labels, ended in metrics.streams_ended.items()}
    assert counted == {"one": 2, "other": 3, "unknown": 2}
