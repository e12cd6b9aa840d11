"""The Vercel AI SDK's text transport: mode text is all it takes."""

import pytest

from proxy.tools.fake.qwen import FakeQwen
from tests.clients.node import Node, Script, in_one_node
from tests.proxy_under_test import Tee

pytestmark = in_one_node


@pytest.fixture
def ai_text(node: Node) -> Script:
    return Script(node, "ai_text")


async def test_text_transport_builds_the_message(ai_text: Script, ai_sdk: Script, fake: FakeQwen, tee: Tee) -> None:
    """The text of the answer, to the letter: what the provider for chunks hears at the upstream itself."""
    heard = await ai_text.hear(tee.proxy.url)
    assert heard == {"text": (await ai_sdk.hear(fake.url))["text"], "error": None}
    assert len(heard["text"]) > 50


async def test_text_transport_is_told_of_errors(ai_text: Script, tee: Tee) -> None:
    """A refusal, and an answer that breaks off: neither passes for a message."""
    refused = await ai_text.hear(tee.proxy.url, headers={"Fake-Fault": "status; status=429"})
    assert refused["error"]
    broken = await ai_text.hear(tee.proxy.url, headers={"Fake-Fault": "cut_mid_frame; after=5"})
    assert broken["error"]
