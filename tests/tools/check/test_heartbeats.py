"""Which blocks crash SDKs: the rules, each held to what the SDKs themselves do with an example of it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import openai
import pytest
from aiohttp import web

from proxy.tools.check.heartbeats import Harm, added, harm, harms
from proxy.tools.check.silence import judged_heartbeats
from proxy.tools.endpoint import APIS
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.message_events import delta, event, finish, start
from tests.tools.check.gateway import serving

CHAT = [chunk_frame("a"), chunk_frame("b"), FINISH, DONE]
RESPONSE = [
    b'event: response.created\ndata: {"type":"response.created","sequence_number":0,"response":{"id":"r"}}\n\n',
    b'data: {"type":"response.output_text.delta","sequence_number":1,"delta":"a"}\n\n',
    b'event: response.completed\ndata: {"type":"response.completed","sequence_number":2,"response":{"id":"r"}}\n\n',
]
MESSAGE = [
    start(),
    event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
    delta("a"),
    event("content_block_stop", index=0),
    finish(),
    event("message_stop"),
]
BODIES = {"chat": CHAT, "responses": RESPONSE, "messages": MESSAGE}
EXAMPLES: dict[str, dict[bytes, Harm]] = {
    "chat": {
        b":\n": Harm.NONE,
        b": still here\n\n": Harm.NONE,
        b":\r\n\r\n": Harm.NONE,
        b"event: ping\n\n": Harm.NO_DATA,
        b"retry: 1000\n\n": Harm.NO_DATA,
        b"data:\n\n": Harm.NO_DATA,
        b"data: ping\n\n": Harm.NOT_JSON,
        b'event: ping\ndata: {"type":"ping"}\n\n': Harm.FOREIGN,
        b'data: {"choices":[]}\n\n': Harm.NONE,
    },
    "responses": {
        b": still here\n\n": Harm.NONE,
        b"event: ping\n\n": Harm.NO_DATA,
        b"data: ping\n\n": Harm.NOT_JSON,
        b'event: ping\ndata: {"type":"ping"}\n\n': Harm.NONE,
    },
    "messages": {
        b": still here\n\n": Harm.NONE,
        b'event: ping\ndata: {"type": "ping"}\n\n': Harm.NONE,
        b"event: ping\n\n": Harm.NONE,
        b"data: ping\n\n": Harm.NONE,
        b"event: content_block_delta\ndata: ping\n\n": Harm.NOT_JSON,
    },
}


@asynccontextmanager
async def reading(api: str) -> AsyncIterator[Callable[[bytes], Awaitable[int]]]:
    """Yield what has the API's SDK read a body, as programs do; that returns how many events it gave."""
    bodies: list[bytes] = []

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=bodies[-1], content_type="text/event-stream")

    application = web.Application()
    application.router.add_post("/{path:.*}", answer)
    async with (
        serving(application) as url,
        anthropic.AsyncAnthropic(base_url=url, api_key="k", max_retries=0) as claude,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client,
    ):

        async def heard(body: bytes) -> int:
            bodies.append(body)
            if api == "messages":
                said: list[Any] = [{"role": "user", "content": "x"}]
                events = await claude.messages.create(model="m", max_tokens=9, messages=said, stream=True)
                return len([event async for event in events])
            if api == "responses":
                return len([event async for event in await client.responses.create(model="m", input="x", stream=True)])
            chunks = await client.chat.completions.create(model="m", messages=[], stream=True)
            return len([chunk.choices[0:1] async for chunk in chunks])

        yield heard


@pytest.mark.parametrize("after_id", [False, True], ids=["no ids", "after an id"])
@pytest.mark.parametrize("api", BODIES)
async def test_rules_are_what_the_sdk_does(api: str, after_id: bool) -> None:
    """An SDK raises an exception exactly where a rule says so."""
    first, *rest = BODIES[api]
    async with reading(api) as heard:
        for block, expected in EXAMPLES[api].items():
            rule = harm(block, APIS[api], after_id=after_id)
            assert rule in ((expected, Harm.AFTER_ID) if after_id and expected is Harm.NONE else (expected,)), block
            body = b"id: 1\n" * after_id + first + block + b"".join(rest)
            if rule is Harm.NONE:
                assert await heard(body) >= len(BODIES[api]) - 1, block
            else:  # json's error; or that of the loop above, which takes every chunk for one with choices
                with pytest.raises(TypeError if rule is Harm.FOREIGN else ValueError):
                    await heard(body)


def test_added_blocks_and_lines_are_found() -> None:
    """Before, between and behind the upstream's own, and as lines before one of them."""
    sent = b"".join(CHAT)
    received = b": 1\n\n" + CHAT[0] + b": 2\n" + CHAT[1] + b"event: ping\n\n" + CHAT[2] + CHAT[3] + b": 3\n\n"
    assert added(sent, sent) == []
    assert added(received, sent) == [b": 1\n\n", b": 2\n", b"event: ping\n\n", b": 3\n\n"]
    assert list(harms(added(received, sent), received, APIS["chat"])) == [Harm.NONE, Harm.NONE, Harm.NO_DATA, Harm.NONE]


def test_worst_heartbeat_decides() -> None:
    """One that SDKs crash at is a failure whatever others there are."""
    assert judged_heartbeats(3, {Harm.NONE, Harm.NOT_JSON}, "x").verdict.value == "fail"
    assert judged_heartbeats(3, {Harm.NONE, Harm.FOREIGN}, "x").verdict.value == "warn"
    assert judged_heartbeats(3, {Harm.NONE}, "x").verdict.value == "pass"
    assert judged_heartbeats(0, (), "x").verdict.value == "none"
