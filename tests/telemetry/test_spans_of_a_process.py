"""The spans of a server in a process of its own, of each API and its followers, as a collector is sent them."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.http_client import Client, request
from tests.proxy_under_test import CHAT, PROMPT, RESPONSES, chat_body, faked, response_body
from tests.spawned import BEGUN_S, FREE, serving_at, spawned

KEY = "sk-of-the-caller"
MESSAGES = "/v1/messages"
MODEL = "qwen3-max"
Attributes = dict[str, Any]
ASKED = {
    "chat": (CHAT, chat_body(model=MODEL, stream=True, stream_options={"include_usage": True})),
    "responses": (RESPONSES, response_body(model=MODEL, stream=True)),
    "messages": (
        MESSAGES,
        json.dumps(
            {"model": MODEL, "stream": True, "max_tokens": 99, "messages": [{"role": "user", "content": PROMPT}]}
        ).encode(),
    ),
}


class Collector:
    """A collector of OTLP over HTTP: the names and the attributes of the spans that came, and all bytes."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[tuple[str, Attributes]] = []
        self.received = b""

    async def take(self, taken: web.Request) -> web.Response:
        body = await taken.read()
        self.received += body
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                self.spans += [
                    (span.name, {one.key: _value(one.value) for one in span.attributes}) for span in scope.spans
                ]
        return web.Response(content_type="application/x-protobuf")

    def named(self, name: str) -> list[Attributes]:
        """Return the attributes of the spans of a name."""
        return [attributes for one, attributes in self.spans if one == name]


def _value(told: Any) -> Any:
    kind = told.WhichOneof("value")
    found = getattr(told, kind)
    return [_value(one) for one in found.values] if kind == "array_value" else found


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    """Yield a collector that listens."""
    one, app = Collector(), web.Application()
    app.router.add_post("/v1/traces", one.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    one.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield one
    await runner.cleanup()


async def asked(client: Client, method: str, path: str, body: bytes = b"", *headers: str) -> str:
    """Send a request, read its answer to the end, and return the id of its stream."""
    client.send(request(method, path, f"Authorization: Bearer {KEY}", *headers, body=body))
    answer = await client.answer()
    assert answer.status == 200
    assert await answer.read()
    return answer.stream_id


@pytest.mark.parametrize(("opt_in", "old"), [("", True), ("gen_ai_latest_experimental", False)])
async def test_spans_of_each_api_and_of_its_follower_get_to_a_collector(
    opt_in: str, old: bool, collector: Collector
) -> None:
    """Under the names of both generations of the conventions or of the latest; only the call upstream has tokens."""
    environment = {
        "STREAMTEE_OTEL__ENABLED": "true",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_SEMCONV_STABILITY_OPT_IN": opt_in,
    }
    idents = {}
    async with (
        faked() as fake,
        spawned("serve", guard_s=BEGUN_S, STREAMTEE_UPSTREAM__URL=fake.url, **environment, **FREE) as process,
    ):
        url, _ = await serving_at(process)
        client = await Client.connect(url)
        for api, (path, body) in ASKED.items():
            idents[api] = await asked(client, "POST", path, body, f"Stream-Key: {api}")
            assert await asked(client, "GET", f"/v1/keys/{api}/stream") == idents[api]
        client.send(request("POST", CHAT, f"Authorization: Bearer {KEY}", body=chat_body(model=MODEL, stream=False)))
        assert await (await client.answer()).read()
        await client.leave()
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(BEGUN_S):
            await process.wait()
    *calls, whole = collector.named(f"chat {MODEL}")
    followers = collector.named("fetch_response")
    requests = [collector.named(f"POST {path}")[0] for path, _ in ASKED.values()]
    for call, follower, server, ident in zip(calls, followers, requests, idents.values(), strict=True):
        for span in (call, follower):
            assert span["gen_ai.provider.name"] == "dashscope"
            assert span.get("gen_ai.system") == ("dashscope" if old else None)
            assert span["streamtee.stream.id"] == ident
        assert (call["gen_ai.operation.name"], call["gen_ai.request.model"]) == ("chat", MODEL)
        assert (call["gen_ai.request.stream"], call["gen_ai.response.model"]) == (True, MODEL)
        assert call["gen_ai.response.time_to_first_chunk"] > 0
        assert call["gen_ai.usage.input_tokens"] > 0 < call["gen_ai.usage.output_tokens"]
        assert len(call["gen_ai.response.finish_reasons"]) == 1
        assert follower["gen_ai.operation.name"] == "fetch_response"
        assert follower["gen_ai.response.id"] == ident
        assert server["streamtee.stream.id"] == ident
        for span in (follower, server):
            assert not [name for name in span if name.startswith("gen_ai.usage")]
    assert "gen_ai.request.stream" not in whole
    assert "gen_ai.response.time_to_first_chunk" not in whole
    assert PROMPT.encode() not in collector.received
    assert KEY.encode() not in collector.received
