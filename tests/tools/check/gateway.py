"""A gateway in front of an upstream that does one thing wrong, chosen by name; without a name it does none."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aiohttp
from aiohttp import web

HEARTBEAT_S = 0.15
BEATS = {
    "comments": b": still here\n\n",
    "empty events": b"event: ping\n\n",
    "pings": b'data: {"type":"ping"}\n\n',
    "words": b"data: ping\n\n",
}


class Gateway:
    """Sends requests on, and streams the answers back, but for its quirk."""

    def __init__(self, upstream: str, quirk: str = "") -> None:
        self._upstream = upstream
        self._quirk = quirk

    async def forward(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:
            if self._quirk == "asks twice":
                with suppress(aiohttp.ClientError):
                    async with session.post(self._upstream + request.path_qs, data=body) as first:
                        await first.read()
            async with session.post(self._upstream + request.path_qs, data=body) as upstream:
                return await self._send_back(request, upstream)

    async def _send_back(self, request: web.Request, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
        status = 500 if self._quirk == "hides refusals" and upstream.status == 429 else upstream.status
        kind = "text/plain" if self._quirk == "names no stream" else upstream.headers.get("Content-Type", "")
        response = web.StreamResponse(status=status, headers={"Content-Type": kind})
        if status == 429:
            response.headers["Retry-After"] = upstream.headers["Retry-After"]
        response.enable_chunked_encoding()
        if self._quirk != "gathers":
            await response.prepare(request)
        try:
            async for data in self._rewritten(upstream):
                if not response.prepared:
                    await response.prepare(request)
                if data:
                    await response.write(data)
        except aiohttp.ClientError:
            if self._quirk != "ends properly":
                raise
        await response.write_eof()
        return response

    async def _rewritten(self, upstream: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """Yield the body, or what the quirk makes of it."""
        if self._quirk == "gathers":
            yield await upstream.read()
            return
        if self._quirk == "drops comments":
            for line in (await upstream.read()).splitlines(keepends=True):
                yield b"" if line.startswith(b":") else line
            return
        async for data in _with_beats(upstream, BEATS.get(self._quirk, b"")):
            if self._quirk == "alters text":
                data = data.replace(b'"content":"', b'"content":"!')
            yield data


async def _with_beats(upstream: aiohttp.ClientResponse, beat: bytes) -> AsyncIterator[bytes]:
    reading = asyncio.ensure_future(upstream.content.readany())
    while True:
        done, _ = await asyncio.wait((reading,), timeout=HEARTBEAT_S if beat else None)
        if not done:
            yield beat
            continue
        data = await reading
        if not data:
            return
        yield data
        reading = asyncio.ensure_future(upstream.content.readany())


@asynccontextmanager
async def serving(application: web.Application) -> AsyncIterator[str]:
    """Serve an application on a free port; yields its URL."""
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1, handler_cancellation=False)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def gateway(upstream: str, quirk: str = "") -> AsyncIterator[str]:
    """Serve a gateway with a quirk; yields its URL."""
    application = web.Application()
    application.router.add_post("/{path:.*}", Gateway(upstream, quirk).forward)
    async with serving(application) as url:
        yield url
