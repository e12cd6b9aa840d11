"""anthropic-python: what it makes of a message through the proxy is what it makes of it without, cut anywhere."""

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest

from tests.clients.anthropic_client import hear
from tests.clients.message_questions import ASKED, HOWS, MODES, MORE_FAULTS, SHORT
from tests.clients.node import KEY
from tests.contract.corpus import BROKEN, OF_FRAMES, OF_FRAMING, REFUSED
from tests.contract.playback import Playback, played
from tests.proxy_under_test import Tee, teed

Both = tuple[Playback, Tee]


@pytest.fixture
async def both() -> AsyncIterator[Both]:
    """A fake that cuts what it says at places that depend on the question, and a proxy before it."""
    async with played() as fake, teed(fake.url) as tee:
        yield fake, tee


def faulty(fault: str) -> dict[str, Any]:
    return {**SHORT, "extra_headers": {"Fake-Fault": fault}}


async def compared(both: Both, how: str, **asked: Any) -> dict[str, Any]:
    """Return what is heard at the fake and at the proxy before it, if that is the same."""
    fake, tee = both
    direct = await hear(f"{fake.url}/apps/anthropic", how, **asked)
    assert await hear(f"{tee.proxy.url}/apps/anthropic", how, **asked) == direct
    return direct


@pytest.mark.parametrize("how", HOWS)
async def test_anthropic_python_hears_the_same(both: Both, how: str) -> None:
    """Thinking, text, calls of tools, searches of the service, usage: in one piece, event by event, and added up."""
    for name, asked in ASKED.items():
        heard = await compared(both, how, **asked)
        assert heard["error"] is None, name
        assert heard["message"] or len(heard["said"]) > 4, name


@pytest.mark.parametrize("how", ["events", "helper"])
async def test_anthropic_python_hears_the_same_of_every_fault_of_what_arrives(both: Both, how: str) -> None:
    """Class, status and body of what it raises are the same, too."""
    errors = set()
    for fault in (*OF_FRAMING, *OF_FRAMES, *MORE_FAULTS, *REFUSED):
        heard = await compared(both, how, **faulty(fault))
        errors.add(heard["error"] and heard["error"].get("status"))
    assert errors >= {None, 200, 400, 401, 403, 404, 429, 500}


async def test_stream_that_breaks_off_raises_where_it_does_without_a_proxy(both: Both) -> None:
    """In the bytes as they came; in modes of events it always raises, with the proxy's words."""
    fake, tee = both
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
async def test_helper_adds_up_the_same_message_in_every_mode(both: Both, mode: str) -> None:
    """Field by field, at the path without a prefix."""
    fake, tee = both
    for name, asked in ASKED.items():
        direct = await hear(f"{fake.url}/apps/anthropic", "helper", **asked)
        through = await hear(tee.proxy.url, "helper", **asked, extra_headers={"Stream-Mode": mode})
        assert through["message"] == direct["message"], name
        assert "".join(through["said"]) == "".join(direct["said"]), name


async def test_message_made_from_a_stream_is_the_upstreams_own() -> None:
    """When requests without streaming are upgraded: the answer to each is the message that the upstream would send."""
    async with played() as fake, teed(fake.url, generations={"upgrade": "always"}) as tee:
        for name, asked in ASKED.items():
            heard = await compared((fake, tee), "whole", **asked)
            assert heard["message"]["content"], name
        for fault in REFUSED:
            if "_stream" not in fault:  # a refusal in the form of an event is answered as JSON
                heard = await compared((fake, tee), "whole", **faulty(fault))
                assert heard["error"], fault


async def test_tokens_are_counted_by_the_upstream(both: Both) -> None:
    """With the beta's query and header, too."""
    fake, tee = both
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
