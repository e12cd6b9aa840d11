"""anthropic-python: what it makes of a message through the proxy is what it makes of it without, cut anywhere."""

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx2
import pytest

from tests.clients.node import KEY, WEATHER
from tests.contract.corpus import BROKEN, OF_FRAMES, OF_FRAMING, REFUSED
from tests.contract.playback import Playback, played
from tests.contract.sdks import undrawn
from tests.proxy_under_test import Tee, teed

TOOL = {"name": "weather", "description": "The weather.", "input_schema": WEATHER}
THINKING = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
SHORT: dict[str, Any] = {"thinking": {"type": "enabled", "budget_tokens": 9}, "max_tokens": 20}
ASKED: dict[str, dict[str, Any]] = {
    "text": {},
    "one token": {"max_tokens": 1},
    "thinking": THINKING,
    "tool": {"tools": [TOOL]},
    "thinking and tools": {"tools": [TOOL, {**TOOL, "name": "time"}], **THINKING},
    "search": {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
}
HOWS = ("whole", "events", "helper")
MORE_FAULTS = ("pings", "spaced", "spaced, pings, crlf", "error_inside; flat=1", "error_inside; flat=1; after=0")
MODES = ("raw", "events", "coalesced")


@pytest.fixture
async def fake() -> AsyncIterator[Playback]:
    """A fake that cuts what it says at places that depend on the question."""
    async with played() as one:
        yield one


def faulty(fault: str) -> dict[str, Any]:
    return {**SHORT, "extra_headers": {"Fake-Fault": fault}}


async def hear(url: str, how: str, **asked: Any) -> dict[str, Any]:
    """Ask in one piece, for the events as they come, or with the helper that adds them up; return what was heard."""
    heard: dict[str, Any] = {"said": [], "message": None, "error": None}
    said = {"model": "qwen3-max", "max_tokens": 1024, "messages": [{"role": "user", "content": "说点什么"}], **asked}
    async with anthropic.AsyncAnthropic(base_url=url, api_key=KEY, max_retries=0, timeout=10) as client:
        create: Any = client.messages.create
        open_stream: Any = client.messages.stream
        try:
            if how == "whole":
                heard["message"] = (await create(**said)).to_dict()
            elif how == "events":
                async for event in await create(**said, stream=True):
                    heard["said"].append(event.to_dict())
            else:
                async with open_stream(**said) as stream:
                    heard["said"] = [text async for text in stream.text_stream]
                    heard["message"] = (await stream.get_final_message()).to_dict(warnings=False)
        except (anthropic.AnthropicError, httpx2.HTTPError, AssertionError) as error:  # the last: it was sent no event
            heard["error"] = failed(error)
    told: dict[str, Any] = undrawn(heard)
    return told


def failed(error: Exception) -> dict[str, Any]:
    """Tell of an exception; what no server caused is told by its class alone."""
    told: dict[str, Any] = {"class": type(error).__name__}
    if isinstance(error, anthropic.APIStatusError):
        told |= {"status": error.status_code, "body": error.body}
    return told


async def compared(fake: Playback, tee: Tee, how: str, **asked: Any) -> dict[str, Any]:
    """Return what is heard at the fake and at the proxy before it, if that is the same."""
    direct = await hear(f"{fake.url}/apps/anthropic", how, **asked)
    assert await hear(f"{tee.proxy.url}/apps/anthropic", how, **asked) == direct
    return direct


@pytest.mark.parametrize("how", HOWS)
async def test_anthropic_python_hears_the_same(fake: Playback, tee: Tee, how: str) -> None:
    """Thinking, text, calls of tools, searches of the service, usage: in one piece, event by event, and added up."""
    for name, asked in ASKED.items():
        heard = await compared(fake, tee, how, **asked)
        assert heard["error"] is None, name
        assert heard["message"] or len(heard["said"]) > 4, name


@pytest.mark.parametrize("how", ["events", "helper"])
async def test_anthropic_python_hears_the_same_of_every_fault_of_what_arrives(
    fake: Playback, tee: Tee, how: str
) -> None:
    """Class, status and body of what it raises are the same, too."""
    errors = set()
    for fault in (*OF_FRAMING, *OF_FRAMES, *MORE_FAULTS, *REFUSED):
        heard = await compared(fake, tee, how, **faulty(fault))
        errors.add(heard["error"] and heard["error"].get("status"))
    assert errors >= {None, 200, 400, 401, 403, 404, 429, 500}


async def test_stream_that_breaks_off_raises_where_it_does_without_a_proxy(fake: Playback, tee: Tee) -> None:
    """In the bytes as they came; in modes of events it always raises, with the proxy's words."""
    for fault in (*BROKEN, "no_done", "cut_clean_half_frame"):
        asked = faulty(fault)
        direct = await hear(f"{fake.url}/apps/anthropic", "events", **asked)
        through = await hear(f"{tee.proxy.url}/apps/anthropic", "events", **asked)
        assert len(through["said"]) >= len(direct["said"]), fault
        assert bool(through["error"]) >= bool(direct["error"]), fault
        if fault in ("garbage", "bad_chunk"):
            continue  # there was no stream, or all that came of it was thrown away by the client
        asked["extra_headers"]["Stream-Mode"] = "events"
        for how in ("events", "helper"):
            heard = await hear(tee.proxy.url, how, **asked)
            assert heard["error"], fault
            assert heard["error"]["body"]["type"] == "error", fault


@pytest.mark.parametrize("mode", MODES)
async def test_helper_adds_up_the_same_message_in_every_mode(fake: Playback, tee: Tee, mode: str) -> None:
    """Field by field, at the path without a prefix."""
    for name, asked in ASKED.items():
        direct = await hear(f"{fake.url}/apps/anthropic", "helper", **asked)
        through = await hear(tee.proxy.url, "helper", **asked, extra_headers={"Stream-Mode": mode})
        assert through["message"] == direct["message"], name
        assert "".join(through["said"]) == "".join(direct["said"]), name


async def test_message_made_from_a_stream_is_the_upstreams_own(fake: Playback) -> None:
    """When requests without streaming are upgraded: the answer to each is the message that the upstream would send."""
    async with teed(fake.url, generations={"upgrade": "always"}) as tee:
        for name, asked in ASKED.items():
            heard = await compared(fake, tee, "whole", **asked)
            assert heard["message"]["content"], name
        for fault in REFUSED:
            if "_stream" not in fault:  # a refusal in the form of an event is answered as JSON
                heard = await compared(fake, tee, "whole", **faulty(fault))
                assert heard["error"], fault


async def test_tokens_are_counted_by_the_upstream(fake: Playback, tee: Tee) -> None:
    """With the beta's query and header, too."""
    counts = []
    for url in (f"{fake.url}/apps/anthropic", f"{tee.proxy.url}/apps/anthropic", tee.proxy.url):
        async with anthropic.AsyncAnthropic(base_url=url, api_key=KEY, max_retries=0, timeout=10) as client:
            asked: Any = {"model": "qwen3-max", "messages": [{"role": "user", "content": "说点什么"}]}
            counts.append((await client.messages.count_tokens(**asked)).input_tokens)
            beta: Any = {**asked, "betas": ["a-beta"], "extra_query": {"beta": "true"}}
            counts.append((await client.beta.messages.count_tokens(**beta)).input_tokens)
    assert len(set(counts)) == 1
    asked_for = [request for request in fake.requests if request.header("anthropic-beta").startswith("a-beta")]
    assert [request.target.endswith("?beta=true") for request in asked_for] == [True] * 3
