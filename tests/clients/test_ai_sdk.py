"""The Vercel AI SDK, with its provider for OpenAI-compatible APIs: nothing changed but the base URL."""

from typing import Any

import pytest

from proxy.tools.fake.qwen import FakeQwen
from tests.clients.node import WEATHER, Script, in_one_node
from tests.proxy_under_test import Tee

pytestmark = in_one_node


async def test_ai_sdk_hears_the_same(ai_sdk: Script, fake: FakeQwen, tee: Tee) -> None:
    """Thinking, text, finish reason and usage."""
    heard = await ai_sdk.compare(fake, tee, thinking=True)
    assert len(heard["text"]) > 50
    assert heard["reasoning"]
    assert heard["finish"] == "stop"
    assert heard["usage"]["outputTokens"] > 0
    assert heard["error"] is None


async def test_ai_sdk_calls_tools(ai_sdk: Script, fake: FakeQwen, tee: Tee) -> None:
    """Qwen's fragments become calls whose input is an object."""
    heard = await ai_sdk.compare(fake, tee, tools={"weather": WEATHER})
    assert heard["finish"] == "tool-calls"
    assert all(name == "weather" and given["location"] for _, name, given in heard["calls"])


@pytest.mark.parametrize("fault", ["status; status=429", "error_inside; after=5", "cut_mid_chunk; after=5"])
async def test_ai_sdk_is_told_of_errors(ai_sdk: Script, fake: FakeQwen, tee: Tee, fault: str) -> None:
    """Before the stream, within it, and when it breaks off."""
    asked: dict[str, Any] = {"headers": {"Fake-Fault": fault}}
    heard = await ai_sdk.compare(fake, tee, **asked)
    assert heard["error"]
