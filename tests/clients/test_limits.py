"""Limits of callers, as the SDKs see them: the headers they read, the exception they raise, and when they ask again."""

from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from proxy.tools.fake.qwen import FakeQwen
from tests.access.named import NamedCallers
from tests.proxy_under_test import Tee, teed

ASKED: Any = {"model": "qwen3-max", "messages": [{"role": "user", "content": "hi"}]}
SOON = 1_800_000_000.0 - 1_800_000_000 % 86400 + 59
"""The last second of a minute: the next window begins in one."""


def hold_clock(tee: Tee, unix_s: float) -> list[float]:
    """Have windows go by a clock that the test sets; return it."""
    now = [unix_s]
    assert tee.proxy.identification is not None
    tee.proxy.identification.accounts.clock = lambda: now[0]
    return now


async def test_openai_reads_its_limits_and_raises_over_them(fake: FakeQwen, tmp_path: Path) -> None:
    """RateLimitError with the code, and Retry-After; the key is sent as any other."""
    callers = NamedCallers(tmp_path, alice={"requests_per_minute": 1, "tokens_per_day": 100_000})
    async with teed(fake.url, **callers.tables()) as tee:
        hold_clock(tee, SOON)
        async with openai.AsyncOpenAI(
            base_url=f"{tee.proxy.url}/v1", api_key=callers.keys["alice"], max_retries=0
        ) as client:
            raw = await client.chat.completions.with_raw_response.create(**ASKED)
            headers = raw.headers
            assert headers["x-ratelimit-limit-requests"] == "1"
            assert headers["x-ratelimit-remaining-requests"] == "0"
            assert headers["x-ratelimit-reset-requests"] == "1s"
            assert headers["x-ratelimit-limit-tokens"] == "100000"
            with pytest.raises(openai.RateLimitError) as raised:
                await client.chat.completions.create(**ASKED, stream=True)
            assert raised.value.code == "rate_limit_exceeded"
            assert raised.value.response.headers["retry-after"] == "1"


async def test_anthropic_reads_its_limits_and_raises_over_them(fake: FakeQwen, tmp_path: Path) -> None:
    """RateLimitError in its shape; its headers have a time, as RFC 3339 writes it."""
    callers = NamedCallers(tmp_path, alice={"requests_per_minute": 1})
    async with teed(fake.url, **callers.tables()) as tee:
        hold_clock(tee, SOON)
        async with anthropic.AsyncAnthropic(
            base_url=tee.proxy.url, api_key=callers.keys["alice"], max_retries=0
        ) as client:
            raw = await client.messages.with_raw_response.create(**ASKED, max_tokens=9)
            assert raw.headers["anthropic-ratelimit-requests-limit"] == "1"
            assert raw.headers["anthropic-ratelimit-requests-remaining"] == "0"
            assert raw.headers["anthropic-ratelimit-requests-reset"] == "2027-01-15T00:01:00Z"
            with pytest.raises(anthropic.RateLimitError) as raised:
                await client.messages.create(**ASKED, max_tokens=9)
            body: Any = raised.value.body
            assert body["error"]["type"] == "rate_limit_error"


async def test_openai_does_not_ask_again_where_it_would_have_to_wait_for_a_day(fake: FakeQwen, tmp_path: Path) -> None:
    """Its own retries would be in vain; where the next window is near, it waits for that."""
    callers = NamedCallers(tmp_path, alice={"requests_per_day": 1}, bob={"requests_per_minute": 1})
    async with teed(fake.url, **callers.tables()) as tee:
        now = hold_clock(tee, SOON)
        for name, refusals in (("alice", 1), ("bob", 3)):
            now[0] = SOON
            async with openai.AsyncOpenAI(
                base_url=f"{tee.proxy.url}/v1", api_key=callers.keys[name], max_retries=2
            ) as client:
                await client.chat.completions.create(**ASKED)
                with pytest.raises(openai.RateLimitError):
                    await client.chat.completions.create(**ASKED)
            assert tee.proxy.identification is not None
            accounts = {account.name: account for account in tee.proxy.identification.accounts}
            assert sum(accounts[name].refused.values()) == refusals
