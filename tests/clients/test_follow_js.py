"""proxy/console/follow.js in Node: one page follows whatever API started the stream, in mode chat."""

import json

import pytest

from proxy.tools.fake.qwen import FakeQwen
from tests.clients.node import KEY, Script
from tests.proxy_under_test import NATIVE, RESPONSES, Tee, native_body, response_body, teed

MINE = f"Authorization: Bearer {KEY}"
MESSAGE = {"model": "qwen-plus", "max_tokens": 99, "stream": True, "messages": [{"role": "user", "content": "x"}]}
THINKING = {"thinking": {"type": "enabled", "budget_tokens": 20}}
ASKED = {
    "responses": (RESPONSES, response_body(reasoning={"effort": "low"})),
    "messages": (
        "/v1/messages",
        json.dumps(MESSAGE | THINKING).encode(),
    ),
    "native": (NATIVE, native_body(enable_thinking=True, incremental_output=True, result_format="message")),
}


@pytest.fixture
def follow_js(node: object) -> Script:
    return Script(node, "follow")  # type: ignore[arg-type]


async def followed(tee: Tee, api: str, *headers: str) -> str:
    """Begin a stream; return its id when it has ended."""
    path, body = ASKED[api]
    sse = ["X-DashScope-SSE: enable"] if api == "native" else []
    answer = await tee.ask("POST", path, MINE, *sse, *headers, body=body)
    await answer.read()
    return answer.stream_id


@pytest.mark.xdist_group("node")
@pytest.mark.parametrize("api", ASKED)
async def test_page_follows_every_api(follow_js: Script, fake: FakeQwen, api: str) -> None:
    """Its content is that of mode text, beside its reasoning; a stream that failed is an error."""
    async with teed(fake.url) as tee:
        whole, broken = await followed(tee, api), await followed(tee, api, "Fake-Fault: cut_mid_chunk; after=6")
        text = await (await tee.follow(whole, "mode=text", MINE)).read()
        url = f"{tee.proxy.url}/v1/streams/"
        heard = await follow_js.hear(f"{url}{whole}?mode=chat", key=KEY)
        failed = await follow_js.hear(f"{url}{broken}?mode=chat", key=KEY)
    assert heard["error"] is None
    assert heard["answer"]["content"] == text.decode()
    assert heard["answer"]["reasoning_content"]
    assert failed["error"] == "upstream_reset"
