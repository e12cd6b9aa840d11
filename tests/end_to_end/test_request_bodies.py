"""Bodies of generations that nobody foresaw, through a real proxy that rewrites them: the upstream judges them."""

import asyncio
import contextlib
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.proxy_under_test import CHAT, NATIVE, Tee, faked, teed

PUT = {"stream", "stream_options", "parameters"}
MEMBERS = st.sampled_from(
    [b'"stream":true', b'"stream":false', b'"stream":1', b'"stream_options":[]', b'"stream_options":{"x":1}',
     b'"model":"qwen-plus"', b'"model":1e999', b'"x":NaN', b'"x":"\\ud83d"', b'"x":"\xff"', b'"parameters":"x"',
     b'"seed":%d' % 10**30, b'"deep":' + b"[" * 300 + b"]" * 300, b'"deep":' + b"[" * 5000 + b"]" * 5000]
)  # fmt: skip
OBJECTS = st.lists(MEMBERS, max_size=4).map(lambda members: b"{%b}" % b",".join(members))
BODIES = st.binary(max_size=50) | OBJECTS | OBJECTS.map(lambda body: b"\xef\xbb\xbf" + body) | OBJECTS.map(
    lambda body: body[:-2]
)  # fmt: skip


def rest(body: bytes) -> Any:
    """Return what a body says but for what may be put there; itself, if it is no object."""
    try:
        read = json.loads(body.removeprefix(b"\xef\xbb\xbf").decode("latin-1"), strict=False)
    except (ValueError, RecursionError):
        return body
    return repr({name: value for name, value in read.items() if name not in PUT}) if isinstance(read, dict) else body


@pytest.mark.parametrize("generations", [{"upgrade": "always"}, {"upgrade": "auto"}, {"include_usage": True}], ids=str)
@pytest.mark.parametrize("path", [CHAT, NATIVE])
def test_any_body_goes_up_as_it_came_or_with_the_same_meaning(path: str, generations: dict[str, Any]) -> None:
    """Never 500: what can't be read, or has something else where an object should be, is the upstream's to refuse."""

    async def ask(tee: Tee, body: bytes) -> int:
        answer = await tee.ask("POST", path, "Content-Type: application/json", "Stream-Mode: events", body=body)
        await answer.read()
        return answer.status

    with asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()
        fake = runner.run(stack.enter_async_context(faked()))
        tee = runner.run(stack.enter_async_context(teed(fake.url, generations=generations)))

        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
        @given(BODIES)
        def holds(body: bytes) -> None:
            fake.requests.clear()
            assert runner.run(ask(tee, body)) in (200, 400)
            assert [rest(request.body) for request in fake.requests] in ([rest(body)], [rest(body)] * 2)

        try:
            holds()
        finally:
            runner.run(stack.aclose())
