"""How a worker ends that others have replaced: no request is lost that comes while it does."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from proxy.tools.fake.qwen import FakeQwen
from proxy.workers import worker
from proxy.workers.handover import Connection
from proxy.workers.worker import Worker
from tests.certificates import Authority
from tests.event_loops import until
from tests.http_client import Client, request
from tests.proxy_under_test import CHAT, chat_body
from tests.several_workers import Several, several

GET = request("GET", "/healthz")
POST = request("POST", CHAT, "Idempotency-Key: i", body=chat_body())  # its body is read before it goes elsewhere


@pytest.fixture
async def one(fake: FakeQwen) -> AsyncIterator[Several]:
    async with several(fake.url, 1) as worker:
        yield worker


async def idle(one: Several) -> Client:
    """Return a client of worker 0 that asks for nothing now."""
    client = await one.connect(0)
    client.send(GET)
    assert await (await client.answer()).read()
    return client


async def retired(one: Several) -> Worker:
    """Have worker 1 replace worker 0, which ends; worker 1 takes no connection yet. Return worker 0."""
    await one.add(1)
    await one.tell("retire", 0, current=[1])
    return one.workers.pop(0)


async def test_requests_that_come_while_idle_connections_are_left_are_answered(
    one: Several, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On connections that the worker has not left yet; they are left when that is over."""
    monkeypatch.setattr(worker, "_MOVED_AT_ONCE", 1)
    clients = [await idle(one) for _ in range(3)]
    old = await retired(one)
    opened: set[object] = set(old.proxy.clients.open)
    await until(lambda: not all(connection.transport.is_reading() for connection in opened))  # type: ignore[attr-defined]
    for client in clients:
        client.send(POST[:-10], method="POST")
    await until(lambda: old.proxy.clients.busy)
    await one.tell("serve", 1, current=[1])
    await until(lambda: len(old.proxy.clients.open) == 2)
    for client in clients:
        client.send(POST[-10:], method="POST")
        answer = await client.answer()
        await answer.read()
        assert (answer.status, answer.end) == (200, "whole")
        assert one.home(answer) == 1
    await old.wait_over()
    for client in clients:
        client.send(GET)
        assert (await client.answer()).status == 200


async def test_worker_does_not_end_while_a_connection_is_handed_over_to_it(
    one: Several, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that hands it over has forgotten it by then."""
    adopted, may_go_on = Worker._adopted, asyncio.Event()

    async def slowly(self: Worker, offered: Connection) -> None:
        await may_go_on.wait()
        await adopted(self, offered)

    monkeypatch.setattr(Worker, "_adopted", slowly)
    await one.add(1)
    await one.tell("serve", 1, current=[1])
    client = await one.send(1, "GET", f"/v1/streams/st_{24 * 'a'}aa")
    await until(lambda: one.handed_over() == 1)
    old = one.workers.pop(0)
    await old.heed({"kind": "retire", "current": [1], "draining": [0], "older": {}})
    over = asyncio.create_task(old.wait_over())
    await asyncio.wait({over}, timeout=0.2)
    assert not over.done()
    may_go_on.set()
    answer = await client.answer()
    assert answer.status == 404
    await answer.read()
    await over


@pytest.mark.parametrize("is_greeted", [True, False])
async def test_client_by_tls_that_has_connected_is_answered_before_the_worker_ends(
    is_greeted: bool, authority: Authority, fake: FakeQwen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection can't go to another one, not even while its handshake goes on."""
    monkeypatch.setattr(worker, "_HANDSHAKES_S", 0.0 if is_greeted else 60.0)
    async with several(fake.url, 1, tls={"certificate": str(authority.sign("server"))}) as one:
        sock = connected(one)
        greeting = asyncio.create_task(greeted(sock, authority)) if is_greeted else None
        other = await greeted(connected(one), authority)  # it comes later, so the first one has been accepted
        other.send(GET)
        assert await (await other.answer()).read()
        old = await retired(one)
        await one.tell("serve", 1, current=[1])
        over = asyncio.create_task(old.wait_over())
        await asyncio.wait({over}, timeout=0.2)
        assert not over.done()
        client = await (greeting or greeted(sock, authority))
        client.send(GET)
        answer = await client.answer()
        assert (answer.status, await answer.read()) == (200, b'{"status":"ok"}')
        monkeypatch.setattr(worker, "_HANDSHAKES_S", 0.0)
        await over
        assert (await client.wait_gone(), await other.wait_gone()) == ("fin", "fin")


def connected(one: Several) -> socket.socket:
    """Return a socket that is connected to worker 0."""
    host, _, port = one.urls[0].removeprefix("http://").rpartition(":")
    sock = socket.create_connection((host, int(port)))
    sock.setblocking(False)
    return sock


async def greeted(sock: socket.socket, authority: Authority) -> Client:
    """Return a client that has shaken hands."""
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(Client, sock=sock, ssl=authority.client(), server_hostname="localhost")
    return client
