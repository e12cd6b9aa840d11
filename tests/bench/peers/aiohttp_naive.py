"""A peer: the reverse proxy one writes first with aiohttp: read a piece, write a piece, one task a request."""

import sys
from collections.abc import AsyncIterator

import aiohttp
import uvloop
from aiohttp import web

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host"}
SESSION = web.AppKey("session", aiohttp.ClientSession)


async def forward(request: web.Request) -> web.StreamResponse:
    asked = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
    body = await request.read()
    session = request.app[SESSION]
    async with session.request(request.method, request.path_qs, data=body, headers=asked) as upstream:
        answer = web.StreamResponse(status=upstream.status)
        for name, value in upstream.headers.items():
            if name.lower() not in HOP_BY_HOP:
                answer.headers.add(name, value)
        answer.content_length = upstream.content_length
        await answer.prepare(request)
        async for data in upstream.content.iter_any():
            await answer.write(data)
        await answer.write_eof()
    return answer


async def application(origin: str) -> web.Application:
    async def session(app: web.Application) -> AsyncIterator[None]:
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(origin, connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as made:
            app[SESSION] = made
            yield

    app = web.Application()
    app.cleanup_ctx.append(session)
    app.router.add_route("*", "/{path:.*}", forward)
    return app


if __name__ == "__main__":
    uvloop.install()
    made = application(f"http://127.0.0.1:{sys.argv[2]}")
    web.run_app(made, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None, backlog=8192)
