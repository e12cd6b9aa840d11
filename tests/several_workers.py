"""Several workers in the tests' own process and event loop: a client chooses on which of them its connection lands.

They hand connections over and ask each other as processes do; only the supervisor is missing.
"""

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson

from proxy.server.app import Proxy
from proxy.workers.counting.sums import Sums
from proxy.workers.ids import worker_of
from proxy.workers.names import owner_of
from proxy.workers.worker import Worker
from tests.complaints import no_complaints
from tests.event_loops import GUARD_S, until
from tests.http_client import Answer, Client, request
from tests.proxy_under_test import CHAT, chat_body, configured, is_proxys

SECRET = "5a" * 16


class Told:
    """A channel to a supervisor that is not there: it keeps what it is told, and has questions about callers answered.

    What is said of callers goes through JSON, and is heeded in another turn, in its order.
    """

    def __init__(self, number: int, sums: Sums) -> None:
        self.said: list[dict[str, Any]] = []
        self.worker: Worker
        self.is_answering = True
        self._number = number
        self._sums = sums

    def send(self, kind: str, **said: Any) -> None:
        if kind == "count":
            asyncio.get_running_loop().call_soon(self._count, orjson.dumps(said))
        else:
            self.said.append({"kind": kind, **said})

    def _count(self, written: bytes) -> None:
        said = orjson.loads(written)
        answer = orjson.loads(orjson.dumps(self._sums.heed(self._number, said)))
        if "number" in said and self.is_answering:
            self.worker.questions.answered({"number": said["number"], "answer": answer})


class Several:
    """Several workers, and the clients that came to them."""

    def __init__(self, directory: str, url: str, tables: dict[str, Any]) -> None:
        self.directory = directory
        self.url = url
        self.tables = tables
        self.workers: dict[int, Worker] = {}
        self.urls: dict[int, str] = {}
        self.told: dict[int, Told] = {}
        self.sums = Sums(tables.get("auth", {}).get("usage_file", ""))
        self.clients: list[Client] = []

    def proxy(self, number: int) -> Proxy:
        return self.workers[number].proxy

    async def add(self, number: int) -> None:
        """Make a worker ready; it serves once it is told the membership."""
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        sock.listen(100)
        sock.setblocking(False)
        host, port = sock.getsockname()
        start = {"number": number, "listening": sock.detach(), "directory": self.directory, "secret": SECRET}
        self.told[number] = told = Told(number, self.sums)
        channel: Any = told
        worker = Worker(configured(self.url, **self.tables), channel, start)
        told.worker = worker
        await worker.open()
        self.workers[number], self.urls[number] = worker, f"http://{host}:{port}"

    async def tell(self, kind: str, *numbers: int, current: list[int], older: dict[str, int] | None = None) -> None:
        """Tell some workers who they all are."""
        draining = [number for number in self.workers if number not in current]
        for number in numbers:
            said = {"kind": kind, "current": current, "draining": draining, "older": older or {}}
            await self.workers[number].heed(said)

    async def connect(self, at: int) -> Client:
        client = await Client.connect(self.urls[at])
        self.clients.append(client)
        return client

    async def send(self, at: int, method: str, target: str, *headers: str | bytes, **more: Any) -> Client:
        """Send a request on a connection that lands on a worker."""
        client = await self.connect(at)
        client.send(request(method, target, *headers, **more), method=method)
        return client

    async def ask(self, at: int, method: str, target: str, *headers: str | bytes, **more: Any) -> Answer:
        """Send a request on a connection that lands on a worker, and read the head of its answer."""
        return await (await self.send(at, method, target, *headers, **more)).answer()

    async def send_chat(self, at: int, *headers: str | bytes, **more: Any) -> Client:
        """Send a request for a chat completion, streamed."""
        return await self.send(at, "POST", CHAT, *headers, body=chat_body(**more))

    async def chat(self, at: int, *headers: str | bytes, **more: Any) -> Answer:
        """Ask for a chat completion, streamed."""
        return await self.ask(at, "POST", CHAT, *headers, body=chat_body(**more))

    def home(self, answer: Answer) -> int | None:
        """Return the worker of a response's stream."""
        return worker_of(answer.stream_id)

    def handed_over(self, outcome: str = "taken") -> int:
        """Return how many connections were handed over, with this outcome."""
        return sum(worker.placement.handovers[outcome] for worker in self.workers.values())

    async def stop(self, *numbers: int) -> None:
        """Stop workers, as a signal does."""
        for number in numbers:
            worker = self.workers.pop(number)
            await worker.heed({"kind": "hurry"})
            await worker.wait_over()


@asynccontextmanager
async def several(url: str, count: int = 3, **tables: Any) -> AsyncIterator[Several]:
    """Run so many workers in front of the upstream at `url`; see afterwards that nothing is left over."""
    with no_complaints(), tempfile.TemporaryDirectory() as directory:
        one = Several(directory, url, tables)
        for number in range(count):
            await one.add(number)
        await one.tell("serve", *one.workers, current=list(one.workers))
        proxies = [worker.proxy for worker in one.workers.values()]
        try:
            yield one
        finally:
            async with asyncio.timeout(GUARD_S):
                for client in one.clients:
                    await client.leave()
                await one.stop(*one.workers)
        await until(lambda: not any(map(is_proxys, asyncio.all_tasks())))
    for proxy in proxies:
        assert proxy.hub.running == 0
        assert proxy.hub.followers == 0
        assert proxy.clients.body_bytes == 0
        assert not proxy.clients.open


def key_of(number: int, workers: Any, name: Any) -> str:
    """Return a text whose name, as `name` makes it, belongs to a worker."""
    return next(text for text in map(str, range(1000)) if owner_of(name(text), workers) == number)
