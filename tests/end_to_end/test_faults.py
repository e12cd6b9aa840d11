"""What fails, at each moment of a stream: the cells of docs/faults.md, each with real sockets.

Every cell brings a stream to its moment, has something fail there, lets the stream go on as far as it can, and looks
at what the client sees. See tests/fault_table.py for the words.
"""

import asyncio
import logging
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.access import usage_file
from tests.access.named import NamedCallers
from tests.event_loops import on_one_loop, until
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.fault_table import CELLS, MOMENTS, PLACES, TESTED_BY, Cell, document, marked
from tests.http_client import Answer, Client, request
from tests.proxy_under_test import CHAT, Tee, chat_body, teed
from tests.stage import Stage, Turn
from tests.store.nodes import stored
from tests.store.redis_server import RedisServer, redis_server
from tests.workers_under_test import workers

ROLE = chunk_frame("").replace(b'"content": ""', b'"role": "assistant", "content": ""')
FRAMES = [ROLE, chunk_frame("one"), chunk_frame("two"), FINISH, DONE]
WHOLE = b"".join(FRAMES)
HALF = chunk_frame("two")[:20]
SO_FAR = {
    "before_token": ROLE,
    "within_frame": ROLE + chunk_frame("one") + HALF,
    "between_frames": ROLE + chunk_frame("one"),
    "after_end": WHOLE,
}
"""What the upstream has said at a moment."""
ORDER = list(MOMENTS)
_WORKER_PROCESS = re.compile(r'^streamtee_worker_process\{worker="(\d+)"\} (\S+)', re.MULTILINE)


class Scene:
    """A stream at a moment: the client that asked, a follower, and the upstream's turn, as far as they are there."""

    def __init__(self, tee: Tee, stage: Stage, header: str, cell: Cell) -> None:
        self.tee = tee
        self.stage = stage
        self.header = header
        self.place = cell.place
        self.moment = cell.moment
        self.redis: RedisServer | None = None
        self.client: Client
        self.answer: Answer | None = None
        self.follower: Answer | None = None
        self.turn: Turn | None = None

    def has_come_to(self, moment: str) -> bool:
        """Return whether the scene's moment is this one or a later one."""
        return ORDER.index(self.moment) >= ORDER.index(moment)

    async def begin(self) -> None:
        """Bring the stream to the moment. The follower waits for the key before the stream begins."""
        self.follower = await self.tee.ask("GET", "/v1/keys/k/stream?wait=60", self.header)
        self.client = await self.tee.connect()
        if self.has_come_to("head"):
            await self._ask()
        if self.has_come_to("before_token"):
            await self._say(SO_FAR[self.moment])

    async def _ask(self) -> None:
        self.send()
        self.turn = await self.stage.next()
        await self.turn.body()

    def send(self) -> None:
        """Have the client ask."""
        self.client.send(request("POST", CHAT, self.header, "Stream-Key: k", body=chat_body()), method="POST")

    async def _say(self, said: bytes) -> None:
        assert self.turn is not None
        self.turn.begin()
        self.turn.chunk(said)
        self.answer = await self.client.answer()
        await self.answer.bytes(len(said) - len(HALF) * (self.moment == "within_frame"))  # half a frame is held back
        if self.moment == "after_end":
            self.turn.end()
            await self.answer.read()
            await self._wait_ended()

    async def _wait_ended(self) -> None:
        if self.place != "worker":  # else it is in another process
            await until(lambda: self.tee.proxy.hub.running == 0)

    async def go_on(self) -> bytes:
        """Have what has not happened yet happen; return the body that the client has, from the beginning."""
        if self.turn is None:
            await self._ask()
        assert self.turn is not None
        if not self.has_come_to("before_token"):
            self.turn.begin()
        if self.moment != "after_end":
            self.turn.end(WHOLE[len(SO_FAR.get(self.moment, b"")) :])
        self.answer = self.answer or await self.client.answer()
        assert self.answer.status == 200
        body = await self.answer.read()
        assert self.answer.end == "whole"
        return body

    async def kept(self) -> Answer:
        """Ask for what is kept of the stream, over the client's connection."""
        assert self.answer is not None
        self.client.send(request("GET", f"/v1/streams/{self.answer.stream_id}?mode=raw", self.header))
        return await self.client.answer()

    async def said_to_the_follower(self) -> bytes:
        """Read what the follower is sent, to the end."""
        assert self.follower is not None
        return await self.follower.read()

    async def check_broken_off(self, code: bytes) -> None:
        """See that the client's body breaks off after what came, and that the follower is told so by an event."""
        assert self.answer is not None
        assert await self.answer.read() == SO_FAR[self.moment]
        assert self.answer.end in ("cut", "reset")
        said = await self.said_to_the_follower()
        assert b'"code":"%b"' % code in said
        assert b"[DONE]" not in said
        assert b'"two"' not in said  # in quotation marks: an event id may have any letters


Fault = Callable[[Scene, pytest.MonkeyPatch], Awaitable[None]]


async def client(scene: Scene, patch: pytest.MonkeyPatch) -> None:
    """The client that asked resets its connection."""
    scene.client.transport.abort()
    await scene.client.lost.wait()
    if scene.moment == "connect":
        await until(lambda: len(scene.tee.proxy.clients.open) == 1)
        assert scene.stage.turns == []
    elif scene.moment == "head":
        assert scene.follower is not None
        scene.follower.client.transport.abort()  # it follows by the key, and would keep the stream
        assert scene.turn is not None
        await scene.turn.wait_left()
    else:
        assert scene.turn is not None
        if scene.moment != "after_end":
            await until(lambda: scene.tee.proxy.hub.followers == 1)
            scene.turn.end(WHOLE[len(SO_FAR[scene.moment]) :])
        said = await scene.said_to_the_follower()
        assert b"one" in said
        assert b"two" in said
        assert b"[DONE]" in said
        assert scene.answer is not None
        later = await scene.tee.follow(scene.answer.stream_id, "mode=raw", scene.header)
        assert await later.read() == WHOLE


async def follower(scene: Scene, patch: pytest.MonkeyPatch) -> None:
    """A follower resets its connection; at the end one that reads what is kept does."""
    if scene.moment == "after_end":
        assert scene.answer is not None
        scene.follower = await scene.tee.follow(scene.answer.stream_id, "mode=raw", scene.header)
    assert scene.follower is not None
    scene.follower.client.transport.abort()
    await scene.follower.client.lost.wait()
    assert await scene.go_on() == WHOLE


async def upstream(scene: Scene, patch: pytest.MonkeyPatch) -> None:
    """The upstream's connection is reset, or none can be made."""
    if scene.moment == "connect":
        await scene.stage.stop()
        scene.send()
    else:
        assert scene.turn is not None
        scene.turn.reset()
    if scene.moment in ("connect", "head"):
        answer = await scene.client.answer()
        assert (answer.status, (await answer.json())["error"]["code"]) == (502, "upstream_unreachable")
    elif scene.moment == "after_end":
        assert await (await scene.kept()).read() == WHOLE
    else:
        await scene.check_broken_off(b"upstream_reset")


async def store(scene: Scene, patch: pytest.MonkeyPatch) -> None:
    """Redis is killed; it is begun anew, and empty, when the client has all of it."""
    assert scene.redis is not None
    scene.redis.kill()
    assert await scene.go_on() == WHOLE
    assert await (await scene.kept()).read() == WHOLE
    await scene.redis.start()


async def worker(scene: Scene, patch: pytest.MonkeyPatch) -> None:
    """The worker that has the stream is killed; where there is none yet, all are."""
    await _kill_workers(scene)
    if scene.moment in ("connect", "head"):
        await scene.client.wait_gone()
        assert not scene.client.buffer
        assert len(scene.stage.turns) == (scene.moment == "head")
    elif scene.moment == "after_end":
        assert scene.answer is not None
        while (later := await scene.tee.follow(scene.answer.stream_id, "mode=raw", scene.header)).status == 503:
            pass  # it is being replaced
        assert later.status == 404
    else:
        assert scene.answer is not None
        assert scene.follower is not None
        assert await scene.answer.read() == SO_FAR[scene.moment].removesuffix(HALF)
        assert b"[DONE]" not in await scene.said_to_the_follower()
        assert {scene.answer.end, scene.follower.end} <= {"cut", "reset"}
    again = await scene.tee.send_chat(scene.header)
    turn = await scene.stage.next()
    await turn.body()
    turn.begin()
    turn.end(WHOLE)
    assert await (await again.answer()).read() == WHOLE


async def _kill_workers(scene: Scene) -> None:
    """Kill the worker of the stream, whose number its id says; before there is a stream, all."""
    listed = (await (await scene.tee.admin("/admin/streams")).json())["data"]
    doomed = {"ab".index(stream["id"][-1]) for stream in listed} if scene.has_come_to("head") else {0, 1}
    page = await scene.tee.metrics()
    pids = {int(number): int(float(pid)) for number, pid in _WORKER_PROCESS.findall(page)}
    for number in doomed:
        os.kill(pids[number], signal.SIGKILL)


async def process(scene: Scene, patch: pytest.MonkeyPatch) -> None:
    """The process ends, as after SIGTERM when `drain_s` is over."""
    await scene.tee.proxy.drain()
    if scene.moment == "connect":
        assert await scene.client.wait_gone()
        assert not scene.client.buffer
    elif scene.moment == "head":
        answer = await scene.client.answer()
        assert (answer.status, (await answer.json())["error"]["code"]) == (503, "drained")
        assert answer.header("retry-after") == "1"
    elif scene.moment == "after_end":
        with pytest.raises(ConnectionRefusedError):
            await scene.tee.connect()
    else:
        await scene.check_broken_off(b"drained")


async def clock(scene: Scene, patch: pytest.MonkeyPatch) -> None:
    """The wall clock jumps, a day back and then a day ahead."""
    really = time.time
    for day_s in (-86400, 86400):
        patch.setattr(time, "time", lambda day_s=day_s: really() + day_s)
        scene.tee.proxy.hub.tick(time.monotonic())
        assert scene.tee.proxy.identification is not None
        scene.tee.proxy.identification.refresh()
    assert await scene.go_on() == WHOLE
    assert await (await scene.kept()).read() == WHOLE


async def disk(scene: Scene, patch: pytest.MonkeyPatch) -> None:
    """No file can be written, and the keys file can't be read."""

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    patch.setattr(usage_file, "replace", full)
    identification = scene.tee.proxy.identification
    assert identification is not None
    assert identification.known._file is not None
    identification.known._file.unlink()
    identification.refresh()
    assert identification._usage is not None
    await identification._usage.save()
    assert await scene.go_on() == WHOLE
    assert await (await scene.kept()).read() == WHOLE


async def descriptors(scene: Scene, patch: pytest.MonkeyPatch) -> None:
    """All are in use, but those that are kept for the admin port."""
    patch.setattr(scene.tee.proxy.upstreams._descriptors, "_in_use", 1 << 40)
    patch.setattr(scene.tee.proxy.upstreams._descriptors, "_spare", 0)
    if scene.moment == "connect":
        scene.send()
        answer = await scene.client.answer()
        assert (answer.status, (await answer.json())["error"]["code"]) == (503, "overloaded")
        await until(lambda: bool(scene.tee.proxy.clients.idle))
        await scene.tee.connect()
        assert scene.follower is not None  # it has been told, and its connection is idle since
        assert await scene.follower.client.wait_gone()
        assert (await scene.tee.admin("/readyz")).status == 200
        return
    assert await scene.go_on() == WHOLE
    assert await (await scene.kept()).read() == WHOLE


async def memory(scene: Scene, patch: pytest.MonkeyPatch) -> None:
    """What is held for streams reaches its limit."""
    ledger = scene.tee.proxy.hub.ledger
    ledger.max_bytes = 1
    ledger.bytes += 10
    scene.tee.proxy.hub.tick(time.monotonic())
    if scene.moment == "connect":
        scene.send()
        answer = await scene.client.answer()
        assert (answer.status, (await answer.json())["error"]["code"]) == (503, "overloaded")
        assert answer.header("retry-after") == "1"
    else:
        assert await scene.go_on() == WHOLE
    if scene.moment == "after_end":
        assert (await scene.kept()).status == 404
    ledger.bytes -= 10


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (client, follower, upstream, store, worker, process, clock, disk, descriptors, memory)
}


@asynccontextmanager
async def staged_at(cell: Cell, stage: Stage, folder: Path) -> AsyncIterator[Scene]:
    """Bring a stream to the moment of a cell."""
    callers = NamedCallers(folder, alice={"requests_per_day": 1000})
    tables: dict[str, Any] = {**callers.tables(usage_file=str(folder / "usage.json")), "drain_s": 0}
    async with AsyncExitStack() as stack:
        redis: RedisServer | None = None
        if cell.place == "store":
            redis = await stack.enter_async_context(redis_server())
            tables["store"] = stored(redis.url)
        if cell.place == "worker":
            tables["upstream"]["url"] = stage.url
            tee = Tee(await stack.enter_async_context(workers(tables, 2, complain=True)))
        else:
            tee = await stack.enter_async_context(teed(stage.url, **tables))
        scene = Scene(tee, stage, callers.header("alice"), cell)
        scene.redis = redis
        await scene.begin()
        yield scene
        for one in tee.clients if cell.place == "worker" else ():
            await one.leave()


@on_one_loop
@pytest.mark.parametrize("cell", CELLS, ids=[f"{cell.place}-{cell.moment}" for cell in CELLS])
async def test_client_sees_what_the_table_says(
    cell: Cell, stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever fails, and whenever: see docs/faults.md."""
    monkeypatch.setattr(logging.getLogger("streamtee"), "propagate", False)  # what is short is logged, and may be
    async with staged_at(cell, stage, tmp_path) as scene, asyncio.timeout(20):
        with monkeypatch.context() as patch:
            await FAULTS[cell.place](scene, patch)


def test_table_has_no_empty_cell() -> None:
    """Each place by each moment, once; and each has a fault that is tested."""
    assert [(cell.place, cell.moment) for cell in CELLS] == [(place, moment) for place in PLACES for moment in MOMENTS]
    assert list(FAULTS) == list(PLACES)
    assert all(cell.sees for cell in CELLS)
    assert Path(__file__).as_posix().endswith(TESTED_BY)


def test_tests_that_look_closer_name_a_cell() -> None:
    """Of the table."""
    cells = {(cell.place, cell.moment) for cell in CELLS}
    assert {(one.place, one.moment) for one in marked()} <= cells


def test_document_is_what_the_tests_say() -> None:
    """`python -m tests.fault_table > docs/faults.md` makes it so."""
    assert (Path(__file__).parents[2] / "docs" / "faults.md").read_text() == document()
