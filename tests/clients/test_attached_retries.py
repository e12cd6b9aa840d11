"""Clients that lose an answer in its middle and ask the same again, without a word of ours: one call upstream.

With `generations.attach_retries_s`, as Codex asks again by itself, and as users of Anthropic's SDKs do.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy.tools.fake.qwen import FakeQwen
from tests.clients.anthropic_client import hear
from tests.clients.codex_cli import Run
from tests.clients.node import KEY, Node, Script, in_one_node
from tests.event_loops import GUARD_S
from tests.proxy_under_test import Tee, teed
from tests.relay import relayed

FOR_EVER = 1 << 40
SLOW = "stall; after=6; seconds=2"  # while it lasts, the client is killed, and asks again
SLOWER = SLOW.replace("seconds=2", "seconds=9")  # as long as two processes take to begin, each with an SDK
AT_ONCE = SLOW.replace("seconds=2", "seconds=0")  # for what is heard without a proxy
PROGRAM = """
import anthropic, sys
client = anthropic.Anthropic(base_url=sys.argv[1], api_key=sys.argv[2], max_retries=0)
asked = {"model": "qwen3-max", "max_tokens": 1024, "messages": [{"role": "user", "content": "说点什么"}]}
with client.messages.stream(**asked, extra_headers={"Fake-Fault": sys.argv[3]}) as stream:
    for event in stream:
        if event.type == "content_block_delta":
            print("delta", flush=True)
    print(stream.get_final_message().to_json(indent=None), flush=True)
"""


@pytest.fixture
async def attaching(fake: FakeQwen) -> AsyncIterator[Tee]:
    async with teed(fake.url, generations={"attach_retries_s": 60}) as one:
        yield one


async def process(url: str, fault: str) -> asyncio.subprocess.Process:
    """Have a process of its own ask for a message."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, url, KEY, fault, stdout=asyncio.subprocess.PIPE
    )


async def test_codex_has_one_call_for_an_answer_that_broke_off_on_its_way(codex: Run, toolless: FakeQwen) -> None:
    """It asks again with the keys of an object in another order; its turn succeeds, and says what it says otherwise."""
    async with teed(toolless.url, generations={"attach_retries_s": 60}) as tee, relayed(tee.proxy.url) as relay:
        status, _, direct = await codex(toolless.url)
        assert (status, len(direct)) == (0, 1)
        before = len(toolless.requests)
        relay.cut_each_after([1200, 1500, FOR_EVER])
        status, _, said = await codex(relay.url, retries=4, Fake_Fault=SLOW)
        assert (status, said) == (0, direct)
        assert relay.event_streams == 3
        assert len(toolless.requests) - before == 1
        assert await tee.metric("streamtee_shared_requests_total", how="retry") == 2


async def test_killed_processes_of_anthropic_python_have_one_call(fake: FakeQwen, attaching: Tee) -> None:
    """Others ask the same, one after another: the last hears the whole message from its start."""
    url = f"{attaching.proxy.url}/apps/anthropic"
    async with asyncio.timeout(4 * GUARD_S):
        for deltas in (1, 3):
            killed = await process(url, SLOWER)
            assert killed.stdout is not None
            for _ in range(deltas):
                assert await killed.stdout.readline() == b"delta\n"
            killed.send_signal(signal.SIGKILL)
            await killed.wait()
        again = await process(url, SLOWER)
        said, _ = await again.communicate()
        assert len(fake.requests) == 1
        direct = await process(f"{fake.url}/apps/anthropic", AT_ONCE)
        expected, _ = await direct.communicate()
    assert (again.returncode, said.count(b"delta\n")) == (0, expected.count(b"delta\n"))
    assert len(said) == len(expected) > 200  # only ids differ


async def test_anthropic_python_that_lost_its_connection_has_one_call(fake: FakeQwen, attaching: Tee) -> None:
    """It does not ask again by itself; whoever uses it does."""
    asked: dict[str, Any] = {"extra_headers": {"Fake-Fault": SLOW}}
    async with relayed(attaching.proxy.url) as relay:
        relay.cut_each_after([700, 900, FOR_EVER])
        heard = [await hear(f"{relay.url}/apps/anthropic", "helper", **asked) for _ in range(3)]
    assert len(fake.requests) == 1
    assert [one["error"] is None for one in heard] == [False, False, True]
    assert heard[2] == await hear(f"{fake.url}/apps/anthropic", "helper", extra_headers={"Fake-Fault": AT_ONCE})


@in_one_node
async def test_anthropic_node_that_lost_its_connection_has_one_call(node: Node, fake: FakeQwen, attaching: Tee) -> None:
    """Nor does this one."""
    script = Script(node, "messages")
    async with relayed(attaching.proxy.url) as relay:
        relay.cut_each_after([700, 900, FOR_EVER])
        headers = {"Fake-Fault": SLOW}
        heard = [await script.hear(f"{relay.url}/apps/anthropic", how="helper", headers=headers) for _ in range(3)]
    assert len(fake.requests) == 1
    assert [one["error"] is None for one in heard] == [False, False, True]
    assert heard[2] == await script.hear(f"{fake.url}/apps/anthropic", how="helper", headers={"Fake-Fault": AT_ONCE})
