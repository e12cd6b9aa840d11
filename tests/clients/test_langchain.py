"""LangChain's ChatOpenAI: nothing changed but the base URL."""

import gc
from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessageChunk
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from proxy.tools.fake_qwen import FakeQwen
from tests.clients.conftest import KEY, WEATHER
from tests.end_to_end.conftest import GUARD_S, Tee

gc.freeze()  # it is large: the collection after each test, here and elsewhere, need not look at it again


def model(url: str, **more: Any) -> ChatOpenAI:
    key = SecretStr(KEY)
    return ChatOpenAI(model="qwen-plus", base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=GUARD_S, **more)


async def streamed(llm: Any) -> AIMessageChunk:
    """Return the sum of the chunks of an answer."""
    whole: Any = None
    async for chunk in llm.astream("说点什么"):
        whole = chunk if whole is None else whole + chunk
    assert isinstance(whole, AIMessageChunk)
    return whole


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
