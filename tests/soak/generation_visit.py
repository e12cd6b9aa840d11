"""One generation and all who have to do with it: who asks, asks again, follows, resumes, cancels, deletes."""

import asyncio
import json
import time
from collections.abc import Coroutine
from random import Random
from typing import Any

from tests.soak import checks
from tests.soak.checks import Heard, Sent
from tests.soak.connection import WEBSOCKET, Manner, Reply, exchange, request
from tests.soak.ground import Ground
from tests.soak.upstream import Fault, some_fault

_CHAT = "/v1/chat/completions"
_NATIVE = "/api/v1/services/aigc/text-generation/generation"
_MODES = ("raw", "raw", "events", "events", "coalesced", "incremental", "cumulative", "text", "json")
_IN_BYTES = ("raw", "text")
_ENDED_S = 60.0
_STALLED = Fault("huge_frame; after=1; bytes=2000000", True)
_TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"properties": {"place": {}}}}}]


async def visit(ground: Ground, random: Random, ident: str) -> None:
    """Have one answer be asked for and followed; check what each of its clients heard."""
    await GenerationVisit(ground, random, ident).run()


class GenerationVisit:
    """What one answer is asked for with, who hears it, and what may keep it from being whole."""

    def __init__(self, ground: Ground, random: Random, ident: str) -> None:
        self._ground, self._random, self._ident = ground, random, ident
        self._native = random.random() < 0.3
        self._cumulative = self._native and random.random() < 0.6
        self._stalls = random.random() < 0.05
        self._fault = _STALLED if self._stalls else some_fault(random)
        self._cumulative = self._cumulative and not self._fault.words.startswith("huge")  # it would repeat that
        self._caller = f"caller{random.randrange(7)}"
        self._key = f"soak-{ident}"
        self._idempotent = random.random() < 0.3
        self._disturbed = False  # by a client that cancelled it, or whose leaving may end it
        self._began_at = time.monotonic()
        self._heard: list[Heard] = []
        self._askers = 0
        self._body = self._written_body()
        self._headers = self._written_headers(ground.kept_s)

    async def run(self) -> None:
        """Run all clients to their end, then judge."""
        async with asyncio.TaskGroup() as clients:
            for client in self._clients():
                clients.create_task(client)
        await self._upstream_ended()
        self._judge()

    def _clients(self) -> list[Coroutine[Any, Any, None]]:
        random = self._random
        clients = [self._ask_in_background() if random.random() < 0.08 else self._ask()]
        if self._idempotent:
            clients += [
                self._ask(after_s=random.random() * self._ground.late_s / 3) for _ in range(random.randint(0, 2))
            ]
        clients += [self._follow() for _ in range(random.choice((0, 0, 1, 1, 2, 4)))]
        if random.random() < 0.08:
            clients.append(self._end(random.choice(("cancel", "delete"))))
        if random.random() < 0.1:
            clients.append(self._look())
        return clients

    def _written_body(self) -> bytes:
        random = self._random
        asked: dict[str, Any] = {"max_tokens": random.randint(1, 120), "n": random.choice((1, 1, 2))}
        if self._stalls:  # and what repeats all so far repeats little
            asked = {"max_tokens": 10, "n": 1}
        if random.random() < 0.2:
            asked["tools"] = _TOOLS
        said = [{"role": "user", "content": self._ident}]
        if self._native:
            asked |= {"incremental_output": not self._cumulative, "result_format": "message"}
            return json.dumps({"model": "qwen-plus", "input": {"messages": said}, "parameters": asked}).encode()
        asked |= {"enable_thinking": random.random() < 0.2, "thinking_budget": 30}
        options = {"include_usage": random.random() < 0.5}
        body = {"model": "qwen-plus", "messages": said, "stream": True, "stream_options": options, **asked}
        return json.dumps(body).encode()

    def _written_headers(self, kept_s: int) -> list[str]:
        random = self._random
        headers = [
            f"soak-id: {self._ident}",
            f"Stream-Key: {self._key}",
            f"Stream-Retain: {kept_s if self._idempotent else random.choice((1, 2, 4))}",
        ]
        if policy := random.choice(("", "", "cancel", "continue", "grace=1.5")):
            headers.append(f"Stream-On-Disconnect: {policy}")
        if self._fault.words:
            headers.append(f"Fake-Fault: {self._fault.words}")
        if self._idempotent:
            headers.append(f"Idempotency-Key: {self._key}")
        if self._native:
            headers.append("X-DashScope-SSE: enable")
        return headers

    def _request(self, *headers: str) -> bytes:
        path = _NATIVE if self._native else _CHAT
        self._ground.streams += 1
        self._askers += 1
        return request("POST", path, *self._headers, *headers, key=self._caller, body=self._body)

    async def _ask(self, after_s: float = 0.0) -> None:
        await asyncio.sleep(after_s)
        mode = self._random.choice(_MODES)
        manner = self._manner()
        if manner.leave_s is not None:
            self._disturbed = True
        reply = await exchange(self._ground.port, self._request(f"Stream-Mode: {mode}"), manner)
        self._ground.tally[f"asker {mode}", f"{reply.status} {reply.end}"] += 1
        heard = Heard(mode)
        self._hear(heard, reply)
        if self._fault.harmless and self._is_undisturbed and reply.status != 200 and reply.end != "left":
            self._say(f"an asker in mode {mode} was answered {reply.status}: {bytes(reply.body[-200:])!r}")

    def _manner(self) -> Manner:
        random = self._random
        if self._stalls:
            return Manner(leave_s=random.uniform(1, 2 * self._ground.late_s), rest_s=30.0, receive_bytes=4096)
        leave_s = random.random() * 3 if random.random() < 0.2 else None
        slow = random.random() < 0.1
        return Manner(leave_s, 0.01 if slow else 0.0, 4096 if slow else 0)

    async def _ask_in_background(self) -> None:
        self._disturbed = True  # nobody may follow
        reply = await exchange(self._ground.port, self._request("Prefer: respond-async"))
        self._ground.tally["respond-async", reply.status] += 1
        if reply.status not in (202, *self._ground.refusals) and self._fault.harmless:
            self._say(f"respond-async was answered {reply.status}: {bytes(reply.body[-200:])!r}")

    async def _follow(self) -> None:
        random = self._random
        websocket = random.random() < 0.2
        mode = random.choice([mode for mode in _MODES if not websocket or mode not in (*_IN_BYTES, "json")])
        await asyncio.sleep(random.random() * self._ground.late_s / 2)
        heard = Heard(mode)
        target, query = f"/v1/keys/{self._key}/stream", f"mode={mode}&wait=3"
        for attempt in range(6):
            leaves = mode != "json" and attempt < 5 and random.random() < 0.5
            manner = Manner(random.uniform(0.1, 1.5) if leaves else None, 0.01 if random.random() < 0.1 else 0.0)
            reply = await self._come(heard, f"{target}?{query}", manner, websocket=websocket)
            if "stream-id" in reply.headers:
                target, query = f"/v1/streams/{reply.headers['stream-id']}", f"mode={mode}"
            if reply.end != "left":
                break
            self._lose(heard, known=target.startswith("/v1/streams/"))
            await asyncio.sleep(random.random() * 0.5)
        self._ground.tally[f"follower {mode}{' ws' if websocket else ''}", f"{reply.status} {reply.end}"] += 1

    async def _come(self, heard: Heard, target: str, manner: Manner, *, websocket: bool) -> Reply:
        headers = list(WEBSOCKET) if websocket else []
        if heard.body and heard.mode in _IN_BYTES:
            target += f"&offset={len(heard.body)}"
        elif heard.body:
            headers.append(f"Last-Event-ID: {checks.last_id(heard.body)}")
        reply = await exchange(self._ground.port, request("GET", target, *headers, key=self._caller), manner)
        allowed = reply.status in (0, 101, 200, 202, 204, 404, 409, *self._ground.refusals)
        explained = reply.status != 410 and (self._disturbed or not self._fault.harmless)
        if not (allowed or explained or (self._ground.tight and reply.status == 410)):
            self._say(f"a follower in mode {heard.mode} was answered {reply.status}: {bytes(reply.body[-200:])!r}")
        self._hear(heard, reply)
        return reply

    def _hear(self, heard: Heard, reply: Reply) -> None:
        """Add what came, if it is of the answer: refusals are judged by who asked."""
        if not any(heard is one for one in self._heard):
            self._heard.append(heard)
        heard.status, heard.end, heard.close_code = reply.status, reply.end, reply.close_code
        heard.complete = reply.status == 204
        if reply.status in (200, 101):
            heard.body += bytes(reply.body)
            nothing_came = not reply.body.strip(b":\r\n ") and "stream-id" not in reply.headers
            if nothing_came and reply.end == ("cut" if heard.mode == "raw" else "whole"):  # it waited, and none began
                heard.end, heard.close_code = "left", 0
        elif reply.status != 204 and reply.end != "late":
            heard.end = "left"

    def _lose(self, heard: Heard, *, known: bool) -> None:
        """Keep of what was heard what can be resumed: nothing of a stream whose id is not known, in bytes."""
        if heard.mode in _IN_BYTES:
            if not known:
                heard.body = b""
        else:
            heard.body = checks.resumable(heard.body)

    async def _end(self, how: str) -> None:
        await asyncio.sleep(self._random.random() * self._ground.late_s / 2)
        self._disturbed = True
        port = self._ground.port
        if how == "cancel":
            reply = await exchange(port, request("POST", f"/v1/keys/{self._key}/cancel", key=self._caller))
        else:
            found = await exchange(port, request("GET", f"/v1/keys/{self._key}", key=self._caller))
            ident = json.loads(found.body).get("id", "none") if found.status == 200 else "none"
            reply = await exchange(port, request("DELETE", f"/v1/streams/{ident}", key=self._caller))
        self._ground.tally[how, reply.status] += 1
        if reply.end == "late" or reply.status not in (0, 200, 202, 204, 404, 409, *self._ground.refusals):
            self._say(f"{how} was answered {reply.status}, {reply.end}: {bytes(reply.body[-200:])!r}")

    async def _look(self) -> None:
        for target in (f"/v1/keys/{self._key}", "/v1/streams"):
            reply = await exchange(self._ground.port, request("GET", target, key=self._caller))
            if reply.end == "late" or reply.status not in (0, 200, 404, *self._ground.refusals):
                self._say(f"{target} was answered {reply.status}, {reply.end}")

    async def _upstream_ended(self) -> None:
        for received in self._ground.upstream.asked(self._ident):
            try:
                await asyncio.wait_for(received.closed.wait(), _ENDED_S)
            except TimeoutError:
                self._say("its upstream request never ended")

    @property
    def _is_undisturbed(self) -> bool:
        """Return whether nothing but the upstream can have kept the answer from being whole."""
        starved = self._ground.starved_at > self._began_at
        return not (self._disturbed or self._ground.tight or self._stalls or starved)

    def _judge(self) -> None:
        asked = self._ground.upstream.asked(self._ident)
        cut_cleanly = self._fault.words.startswith("cut_clean")
        sent = [Sent(received, cumulative=self._cumulative, cut_cleanly=cut_cleanly) for received in asked]
        undisturbed = self._is_undisturbed
        for heard in self._heard:
            if found := checks.wrong(heard, sent, must_be_whole=undisturbed and len(sent) == 1):
                self._say(f"mode {heard.mode}, {heard.status} {heard.end} {heard.close_code or ''}: {found}")
        if len(asked) > self._askers or (len(asked) > 1 and undisturbed and sent[0].whole):
            self._say(f"{self._askers} asked, and the upstream was asked {len(asked)} times")

    def _say(self, what: str) -> None:
        self._ground.say(f"{what} ({self._fault.words or 'no fault'})", self._ident)
