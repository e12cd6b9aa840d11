"""A running proxy, the clients that came to it, and the requests they send.

When a `Tee` is closed, it asserts that nothing is left over: no stream, no follower, no task, no connection, no error
in the logs.
"""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from secrets import randbelow, token_hex
from typing import Any
from unittest import mock

import pytest

from proxy.server.app import Proxy
from proxy.server.config import Config
from proxy.stream.ended import STREAM_BYTES
from proxy.tools.fake.qwen import FakeQwen
from tests.complaints import no_complaints
from tests.event_loops import GUARD_S, POLL_S, until
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.http_client import Answer, Client, request
from tests.stage import Stage, Turn
from tests.store.redis_server import DATABASES
from tests.workers_under_test import COUNT, workers

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
NATIVE = "/api/v1/services/aigc/text-generation/generation"
PROMPT = "a prompt nobody else may read"


def chat_body(**more: Any) -> bytes:
    """Return the body of a request for a chat completion, streamed."""
    body = {"model": "qwen3-max", "messages": [{"role": "user", "content": PROMPT}], "stream": True, **more}
    return json.dumps(body).encode()


def native_body(**parameters: Any) -> bytes:
    """Return the body of a request for a generation in DashScope's own dialect."""
    return json.dumps({"model": "qwen-max", "input": {"prompt": PROMPT}, "parameters": parameters}).encode()


def response_body(**more: Any) -> bytes:
    """Return the body of a request for a response, streamed."""
    return json.dumps({"model": "qwen3.7-plus", "input": PROMPT, "stream": True, **more}).encode()


class Tee:
    """A proxy that runs in front of an upstream, and the clients that came to it."""

    def __init__(self, proxy: Any) -> None:
        """`proxy`: a Proxy, or several workers in its place."""
        self.proxy = proxy
        self.clients: list[Client] = []

    async def connect(self, *, receive_bytes: int = 0, admin: bool = False) -> Client:
        client = await Client.connect(self.proxy.admin_url if admin else self.proxy.url, receive_bytes=receive_bytes)
        self.clients.append(client)
        return client

    async def send(self, method: str, target: str, *headers: str | bytes, **more: Any) -> Client:
        """Send a request on a connection of its own; see `request`."""
        client = await self.connect()
        client.send(request(method, target, *headers, **more), method=method)
        return client

    async def ask(self, method: str, target: str, *headers: str | bytes, **more: Any) -> Answer:
        """Send a request, and read the head of its answer."""
        return await (await self.send(method, target, *headers, **more)).answer()

    async def send_chat(self, *headers: str | bytes, fault: str = "", **more: Any) -> Client:
        faults = (f"Fake-Fault: {fault}",) if fault else ()
        return await self.send("POST", CHAT, *headers, *faults, body=chat_body(**more))

    async def chat(self, *headers: str | bytes, fault: str = "", **more: Any) -> Answer:
        """Ask for a chat completion in the OpenAI dialect, streamed."""
        return await (await self.send_chat(*headers, fault=fault, **more)).answer()

    async def native(self, *headers: str | bytes, fault: str = "", **parameters: Any) -> Answer:
        """Ask for a generation in the native dialect, streamed."""
        faults = (f"Fake-Fault: {fault}",) if fault else ()
        return await self.ask(
            "POST", NATIVE, "X-DashScope-SSE: enable", *headers, *faults, body=native_body(**parameters)
        )

    async def generate(self, dialect: str, *headers: str | bytes, fault: str = "") -> Answer:
        """Ask in the dialect of that name."""
        if dialect == "responses":
            faults = (f"Fake-Fault: {fault}",) if fault else ()
            return await self.ask("POST", RESPONSES, *headers, *faults, body=response_body())
        return await (self.native if dialect == "native" else self.chat)(*headers, fault=fault)

    async def follow(self, ident: str, query: str = "", *headers: str | bytes) -> Answer:
        """Follow a stream: `ident` is its id, or `keys/KEY`."""
        path = f"/v1/{ident}/stream" if ident.startswith("keys/") else f"/v1/streams/{ident}"
        return await self.ask("GET", f"{path}?{query}" if query else path, *headers)

    async def info(self, ident: str) -> dict[str, Any]:
        answer = await self.ask("GET", f"/v1/streams/{ident}/info")
        assert answer.status == 200, answer.status
        described: dict[str, Any] = await answer.json()
        return described

    async def listed(self, *headers: str) -> list[dict[str, Any]]:
        answer = await self.ask("GET", "/v1/streams", *headers)
        streams: list[dict[str, Any]] = (await answer.json())["data"]
        return streams

    async def admin(self, path: str, *headers: str, method: str = "GET", body: bytes = b"") -> Answer:
        """Send a request to the admin port, with its token unless `headers` has another Authorization."""
        client = await self.connect(admin=True)
        if not any(header.startswith("Authorization:") for header in headers):
            headers = (f"Authorization: Bearer {self.proxy.operators.token}", *headers)
        client.send(request(method, path, *headers, body=body), method=method)
        return await client.answer()

    async def metrics(self) -> str:
        return (await (await self.admin("/metrics")).read()).decode()

    async def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that have these labels."""
        total = 0.0
        for line in (await self.metrics()).splitlines():
            found = re.fullmatch(rf"{name}(?:\{{(.*?)\}})? (\S+)(?: #.*)?", line)
            if found and all(f'{key}="{value}"' in (found[1] or "") for key, value in labels.items()):
                total += float(found[2])
        return total

    async def wait_ended(self, ident: str) -> dict[str, Any]:
        """Wait until a stream has ended; return what is told of it."""
        async with asyncio.timeout(GUARD_S):
            while (info := await self.info(ident))["state"] == "open":
                await asyncio.sleep(POLL_S)
        return info

    async def wait_followers(self, count: int) -> None:
        """Wait until so many follow, in all."""
        if COUNT > 1:
            until_s = asyncio.get_running_loop().time() + 1  # the metric leaves out who waits for a stream to begin
            while await self.metric("streamtee_subscribers") != count and asyncio.get_running_loop().time() < until_s:
                await asyncio.sleep(POLL_S)
            return
        await until(lambda: self.proxy.hub.followers == count)

    async def leave(self) -> None:
        """Have all clients leave."""
        for client in self.clients:
            await client.leave()

    async def settled(self, number: Callable[[], int], turns: int = 30) -> int:
        """Return a number once it has not moved while so many requests went through the proxy."""
        client = await self.connect()
        still, last = 0, number()
        async with asyncio.timeout(GUARD_S):
            while still < turns:
                client.send(request("GET", "/healthz"))
                await (await client.answer()).read()
                still = still + 1 if number() == last else 0
                last = number()
        return last


@asynccontextmanager
async def faked(**options: Any) -> AsyncIterator[FakeQwen]:
    """Run a fake Qwen."""
    fake = FakeQwen(**options)
    await fake.start()
    try:
        yield fake
    finally:
        await fake.stop()


async def begun(tee: Tee, stage: Stage, *headers: str | bytes, frames: int = 0) -> tuple[Answer, Turn]:
    """Have a client ask for a stream and the upstream begin it, with so many frames; both have seen them."""
    client = await tee.send_chat(*headers)
    turn = await stage.next()
    await turn.body()
    turn.begin()
    said = [chunk_frame(f"word {n}") for n in range(1, frames + 1)]
    for frame in said:
        turn.chunk(frame)
    answer = await client.answer()
    await answer.bytes(sum(map(len, said)) if not headers else 0)
    return answer, turn


async def chatted(client: Client, stage: Stage, *, admitted: bool) -> int:
    """Have the upstream say one word to a client whose request is `admitted`; return the status, all being read."""
    if admitted:
        turn = await stage.next()
        await turn.body()
        turn.begin()
        turn.end(chunk_frame("a"), FINISH, DONE)
    answer = await client.answer()
    await answer.read()
    return answer.status


def configured(url: str, **tables: Any) -> Config:
    """Return a configuration of free ports and this upstream, untouched by the environment.

    With STORE_URL set, proxies have a store there, each by itself: what one process does it does with a store, too.
    """
    if "STORE_URL" in os.environ:
        # In a database of their own: what a caller may still ask today is counted for all that share one.
        url_of_store = f"{os.environ['STORE_URL']}/{randbelow(DATABASES)}"
        tables.setdefault("store", {"url": url_of_store, "secret": token_hex(16)})
    tables["upstream"] = {"url": url, **tables.get("upstream", {})}
    with mock.patch.dict(os.environ):
        for name in [name for name in os.environ if name.startswith("STREAMTEE_")]:
            del os.environ[name]
        return Config(**{"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", **tables})


@asynccontextmanager
async def teed(url: str, *, tracing: Any = None, **tables: Any) -> AsyncIterator[Tee]:
    """Run a proxy in front of the upstream at `url`; see afterwards that nothing is left over."""
    if COUNT > 1:
        async with _workers_teed(url, tracing, tables) as tee:
            yield tee
        return
    with no_complaints():
        proxy = Proxy(configured(url, **tables), tracing)
        await proxy.start()
        tee = Tee(proxy)
        try:
            yield tee
        finally:
            async with asyncio.timeout(GUARD_S):
                await tee.leave()
                await proxy.stop()
        await until(lambda: not any(map(is_proxys, asyncio.all_tasks())))
    assert proxy.hub.running == 0
    assert proxy.hub.followers == 0
    held = sum(STREAM_BYTES + stream.log.size_bytes for stream in proxy.hub)
    assert proxy.hub.ledger.bytes == held
    assert proxy.hub.ledger.total_bytes == sum(STREAM_BYTES + stream.held_bytes for stream in proxy.hub)
    assert not proxy.hub.heartbeats


@asynccontextmanager
async def _workers_teed(url: str, tracing: Any, tables: dict[str, Any]) -> AsyncIterator[Tee]:
    """Run several workers instead of a proxy in this process."""
    if tracing is not None:
        pytest.skip("with workers, no test can look at their spans")
    ports = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"}
    with no_complaints():
        async with workers({**ports, **tables, "upstream": {"url": url, **tables.get("upstream", {})}}) as served:
            tee = Tee(served)
            try:
                yield tee
            finally:
                async with asyncio.timeout(GUARD_S):
                    await tee.leave()


def is_proxys(task: asyncio.Task[Any]) -> bool:
    """Return whether a task is of the proxy, or of the server it stands on."""
    code = getattr(task.get_coro(), "cr_code", None)
    path = Path(code.co_filename if code else "").as_posix()
    return "/aiohttp/" in path or ("/proxy/" in path and "/proxy/tools/" not in path)


Serve = Callable[..., Awaitable[Tee]]


@asynccontextmanager
async def serving(url: str) -> AsyncIterator[Serve]:
    """Yield a function that starts a proxy in front of the upstream at `url`; all of them are stopped at the end."""
    tees: list[Any] = []

    async def serve(**tables: Any) -> Tee:
        context = teed(tables.pop("url", url), **tables)
        tee = await context.__aenter__()
        tees.append(context)
        return tee

    try:
        yield serve
    finally:
        while tees:
            await tees.pop().__aexit__(None, None, None)
