"""LangChain's model of a chat, at a URL."""

from typing import Any

from langchain_core.messages import AIMessageChunk
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from tests.clients.node import KEY
from tests.event_loops import GUARD_S


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
