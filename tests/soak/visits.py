"""The clients of a soak, visit by visit: what a visit's clients do follows from its number and the seed.

A visit is one answer of the upstream, or one plain request, and all who have to do with it. It notes what went wrong.
"""

import asyncio
import json
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from hashlib import sha256
from random import Random

from tests.soak import checks, generation_visit
from tests.soak.connection import Connection, Manner, Reply, exchange, request
from tests.soak.ground import Ground

_SPELLS = 20  # how many rooms of the shared route there are


async def plain(ground: Ground, random: Random, ident: str) -> None:
    """Send some requests that are no streams, one after another on one connection; each answer is what was sent."""
    try:
        connection = await Connection.open(ground.port)
    except OSError:
        return ground.say("a connection was refused", ident)
    try:
        for _ in range(random.randint(1, 4)):
            if not await _one_plain(ground, random, ident, connection):
                return None
    finally:
        connection.close()
    return None


async def _one_plain(ground: Ground, random: Random, ident: str, connection: Connection) -> bool:
    """Send one, and check the answer; return whether the connection is good for another."""
    body = json.dumps({"model": "m", "input": "word " * random.choice((1, 10, 20_000))}).encode()
    began_at = time.monotonic()
    connection.send(request("POST", "/v1/embeddings", f"soak-id: {ident}", key=_caller(random), body=body))
    reply = await connection.reply()
    ground.tally["plain", reply.status] += 1
    if reply.status in ground.refusals:
        return reply.end == "whole" and reply.headers.get("connection") != "close"
    if _is_late(ground, reply, began_at):
        return False
    if reply.status != 200 or reply.end != "whole":
        ground.say(f"a plain request was answered {reply.status}, {reply.end}: {bytes(reply.body[-200:])!r}", ident)
        return False
    if json.loads(reply.body)["body_sha256"] != sha256(body).hexdigest():
        ground.say("the upstream was sent another body than the client sent", ident)
    return True


async def document(ground: Ground, random: Random, ident: str) -> None:
    """Ask for an answer that is no stream; it is what the upstream sent, byte for byte."""
    body = {"model": "qwen-plus", "messages": [{"role": "user", "content": ident}], "max_tokens": 40}
    headers = [f"soak-id: {ident}"]
    status = random.choice((0, 0, 400, 429, 500))
    if status:
        headers.append(f"Fake-Fault: status; status={status}")
    manner = Manner(leave_s=random.random()) if random.random() < 0.2 else Manner()
    data = request("POST", "/v1/chat/completions", *headers, key=_caller(random), body=json.dumps(body).encode())
    began_at = time.monotonic()
    reply = await exchange(ground.port, data, manner)
    ground.tally["document", reply.status] += 1
    asked = ground.upstream.asked(ident)
    if len(asked) > 1:
        ground.say(f"one request was sent upstream {len(asked)} times", ident)
    if reply.end == "late":
        ground.say("a document did not come", ident)
    if reply.end == "left" or reply.status in ground.refusals or _is_late(ground, reply, began_at):
        return
    if not asked or reply.status != (status or 200) or reply.body != asked[0].sent:
        ground.say(f"a document came as {reply.status}, {reply.end}: {bytes(reply.body[-200:])!r}", ident)


async def stopped_upload(ground: Ground, random: Random, ident: str) -> None:
    """Stop amid a request: leave, or wait until the proxy answers 408 or disconnects."""
    body = b'{"model":"qwen-plus","stream":true,"messages":[{"role":"user","content":"%b"}]}' % (b"x" * 20_000)
    whole = request("POST", random.choice(("/v1/chat/completions", "/v1/embeddings")), f"soak-id: {ident}", body=body)
    stays = random.random() < 0.6
    manner = Manner() if stays else Manner(leave_s=random.random() * 2)
    reply = await exchange(ground.port, whole[: random.randint(1, len(whole) - 1)], manner)
    ground.tally["stopped upload", reply.status if reply.status else reply.end] += 1
    if reply.end == "late":
        ground.say("a client that stopped amid its request was never disconnected", ident)
    if reply.status not in (0, 408, *ground.refusals):
        ground.say(f"half a request was answered {reply.status}: {bytes(reply.body[-200:])!r}", ident)


async def shared(ground: Ground, random: Random, ident: str) -> None:
    """Follow an event stream that others follow, too; leave and come back: no event is missing or comes twice."""
    room = random.randrange(_SPELLS)
    target = f"/events?every_ms={random.choice((20, 50))}&room={room}"
    heard, epoch = b"", ""
    for _ in range(random.randint(1, 4)):
        last = checks.last_id(heard)
        headers = [f"Last-Event-ID: {last}"] if last else []
        reply = await exchange(ground.port, request("GET", target, *headers), Manner(leave_s=random.random() * 3))
        ground.tally["shared", reply.status] += 1
        if reply.status not in (0, 200, 410, *ground.refusals):
            ground.say(f"an event stream was answered {reply.status}: {bytes(reply.body[-200:])!r}", ident)
        if reply.status != 200:
            return
        if checks.epoch(checks.first_id(bytes(reply.body))) != epoch:
            heard = b""
        heard = checks.resumable(heard + reply.body)
        epoch = checks.epoch(checks.last_id(heard))
        if found := checks.ticks_apart(heard):
            ground.say(f"{found} (room {room})", ident)
        await asyncio.sleep(random.random())


def _is_late(ground: Ground, reply: Reply, began_at: float) -> bool:
    """Return whether this process did not run for long, and so its upstream was late, or its client a time-out's."""
    return (reply.status == 504 or (not reply.status and reply.end == "cut")) and ground.starved_at > began_at


def _caller(random: Random) -> str:
    return f"caller{random.randrange(7)}"


Visit = Callable[[Ground, Random, str], Awaitable[None]]
KINDS: tuple[tuple[int, Visit], ...] = (
    (60, generation_visit.visit),
    (10, plain),
    (10, document),
    (10, stopped_upload),
    (10, shared),
)


async def visits(ground: Ground, seed: int, client: int, until: Callable[[], bool]) -> None:
    """Be one client after another until it is time to end."""
    number = 0
    while not until():
        number += 1
        ident = f"{seed}-{client}-{number}"
        random = Random(ident)
        (visit,) = random.choices([kind for _, kind in KINDS], [weight for weight, _ in KINDS])
        try:
            await visit(ground, random, ident)
        except Exception as error:
            ground.say(f"a client failed: {''.join(traceback.format_exception(error))}", ident)
        finally:
            ground.upstream.forget(ident)
        ground.visits += 1


def shown(tally: Counter[tuple[str, object]]) -> str:
    """Return a tally in a few lines."""
    parts: dict[str, list[str]] = {}
    for (name, value), count in sorted(tally.items(), key=str):
        parts.setdefault(name, []).append(f"{value} {count}")
    return "\n".join(f"  {name}: {', '.join(values)}" for name, values in parts.items())
