"""A peer: the broadcaster one writes first: an asyncio.Queue and a task for each follower. No history, no limits.

Followers come before their stream, as in the measurement: GET /v1/keys/{key}/stream, then the POST with that key.
"""

import asyncio
import sys
from collections import defaultdict

import uvloop
from aiohttp import web

from tests.bench.peers.aiohttp_naive import SESSION, application

QUEUES = web.AppKey("queues", dict[str, set[asyncio.Queue[bytes]]])
STREAM = {"Content-Type": "text/event-stream"}


async def follow(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(headers=STREAM)
    await answer.prepare(request)
    queue: asyncio.Queue[bytes] = asyncio.Queue()
    queues = request.app[QUEUES][request.match_info["key"]]
    queues.add(queue)
    try:
        while data := await queue.get():
            await answer.write(data)
    finally:
        queues.discard(queue)
    return answer


async def generate(request: web.Request) -> web.StreamResponse:
    queues = request.app[QUEUES][request.headers["Stream-Key"]]
    async with request.app[SESSION].post(request.path, data=await request.read()) as upstream:
        answer = web.StreamResponse(headers=STREAM)
        await answer.prepare(request)
        async for data in upstream.content.iter_any():
            for queue in queues:
                queue.put_nowait(data)
            await answer.write(data)
    for queue in queues:
        queue.put_nowait(b"")
    return answer


async def broadcaster(origin: str) -> web.Application:
    app = web.Application()
    app.cleanup_ctx.append((await application(origin)).cleanup_ctx[0])
    queues: dict[str, set[asyncio.Queue[bytes]]] = defaultdict(set)
    app[QUEUES] = queues
    app.router.add_get("/v1/keys/{key}/stream", follow)
    app.router.add_post("/v1/chat/completions", generate)
    return app


if __name__ == "__main__":
    uvloop.install()
    made = broadcaster(f"http://127.0.0.1:{sys.argv[2]}")
    web.run_app(made, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None, backlog=8192)
