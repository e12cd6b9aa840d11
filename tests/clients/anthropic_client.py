"""anthropic-python: what it hears of an answer, as it comes and in the end."""

from typing import Any

import anthropic
import httpx2

from tests.clients.node import KEY
from tests.contract.sdks import undrawn


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
