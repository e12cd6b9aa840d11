"""LangChain's ChatOpenAI: nothing changed but the base URL."""

import gc

import openai
import pytest

from proxy.tools.fake.qwen import FakeQwen
from tests.clients.langchain_model import model, streamed
from tests.clients.node import WEATHER
from tests.proxy_under_test import Tee

gc.freeze()  # it is large: the collection after each test, here and elsewhere, need not look at it again


async def test_langchain_streams_the_same(fake: FakeQwen, tee: Tee) -> None:
    """Text, finish reason and usage."""
    direct = await streamed(model(fake.url, stream_usage=True))
    through = await streamed(model(tee.proxy.url, stream_usage=True))
    assert through.content == direct.content
    assert len(through.text) > 50
    assert through.usage_metadata == direct.usage_metadata
    assert through.usage_metadata is not None
    assert through.response_metadata == direct.response_metadata
    assert through.response_metadata["finish_reason"] == "stop"


async def test_langchain_calls_tools(fake: FakeQwen, tee: Tee) -> None:
    """Qwen's fragments become calls with their arguments parsed."""
    weather = {"name": "weather", "description": "The weather.", "parameters": WEATHER}
    direct = await streamed(model(fake.url).bind_tools([weather]))
    through = await streamed(model(tee.proxy.url).bind_tools([weather]))
    calls = [(call["name"], call["args"]) for call in through.tool_calls]
    assert calls == [(call["name"], call["args"]) for call in direct.tool_calls]
    assert calls[0][1]["location"]


@pytest.mark.parametrize(
    ("fault", "error"),
    [("status; status=429", openai.RateLimitError), ("cut_mid_frame; after=5", openai.APIConnectionError)],
)
async def test_langchain_raises(tee: Tee, fault: str, error: type[Exception]) -> None:
    """Before the stream, and when it breaks off."""
    with pytest.raises(error):
        await streamed(model(tee.proxy.url, default_headers={"Fake-Fault": fault}))
