"""Endpoints: which URL is posted to, and what is sent."""

import json

import pytest

from proxy.dialects.question import Question
from proxy.tools.endpoint import APIS, Endpoint, endpoint_url
from proxy.tools.fake.qwen import FakeQwen


@pytest.mark.parametrize(
    ("text", "api", "url", "name"),
    [
        ("http://h:1", None, "http://h:1/v1/chat/completions", "chat"),
        ("http://h:1/", None, "http://h:1/v1/chat/completions", "chat"),
        ("http://h/v1", None, "http://h/v1/chat/completions", "chat"),
        ("http://h/v1/", "responses", "http://h/v1/responses", "responses"),
        ("https://h/compatible-mode/v1", None, "https://h/compatible-mode/v1/chat/completions", "chat"),
        ("https://h/api/paas/v4", None, "https://h/api/paas/v4/chat/completions", "chat"),
        ("https://h/v1beta", None, "https://h/v1beta/chat/completions", "chat"),
        ("https://h/apps/anthropic", "messages", "https://h/apps/anthropic/v1/messages", "messages"),
        ("http://h/v1/responses", None, "http://h/v1/responses", "responses"),
        ("http://h/openai/chat/completions?v=1", None, "http://h/openai/chat/completions?v=1", "chat"),
    ],
)
def test_url_is_completed_as_sdks_do(text: str, api: str | None, url: str, name: str) -> None:
    """A base URL gets the path of the API; a whole one says itself which it is."""
    found, api_name = endpoint_url(text, api)
    assert (str(found), api_name) == (url, name)


@pytest.mark.parametrize(
    ("text", "api"), [("h:1", None), ("ftp://h", None), ("http://u:p@h", None), ("http://h/v1/messages", "chat")]
)
def test_url_that_is_none_is_refused(text: str, api: str | None) -> None:
    """As is one whose path is that of another API than the given one."""
    with pytest.raises(ValueError, match=r"URL|API"):
        endpoint_url(text, api)


@pytest.mark.parametrize("api", APIS)
async def test_request_asks_for_a_stream_with_its_key_where_the_api_has_it(fake: FakeQwen, api: str) -> None:
    """And the upstream answers it with one."""
    endpoint = Endpoint(f"{fake.url}/apps/anthropic" if api == "messages" else fake.url, api, "sk-secret")
    try:
        exchange = await endpoint.ask(endpoint.body(Question("qwen-plus", "Hello", 50)))
        assert (exchange.status, exchange.is_event_stream) == (200, True)
        exchange.close()
    finally:
        await endpoint.close()
    (received,) = fake.requests
    body = json.loads(received.body)
    assert (body["model"], body["stream"]) == ("qwen-plus", True)
    assert 50 in body.values()
    name, key = ("x-api-key", "sk-secret") if api == "messages" else ("authorization", "Bearer sk-secret")
    assert received.header(name) == key
