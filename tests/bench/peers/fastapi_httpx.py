"""A peer: the reverse proxy one writes first with FastAPI: httpx streams, StreamingResponse, uvicorn with uvloop."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host"}


def application(origin: str) -> FastAPI:
    client = httpx.AsyncClient(base_url=origin, timeout=None, limits=httpx.Limits(max_connections=None))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with client:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.api_route("/{path:path}", methods=["GET", "POST"])
    async def forward(path: str, request: Request) -> StreamingResponse:
        asked = {name: value for name, value in request.headers.items() if name not in HOP_BY_HOP}
        body = await request.body()
        upstream = await client.send(
            client.build_request(request.method, f"/{path}", content=body, headers=asked), stream=True
        )

        async def pieces() -> AsyncIterator[bytes]:
            try:
                async for data in upstream.aiter_raw():
                    yield data
            finally:
                await upstream.aclose()

        answered = {name: value for name, value in upstream.headers.items() if name not in HOP_BY_HOP}
        return StreamingResponse(pieces(), upstream.status_code, answered)

    return app


if __name__ == "__main__":
    uvicorn.run(
        application(f"http://127.0.0.1:{sys.argv[2]}"),
        host="127.0.0.1", port=int(sys.argv[1]), loop="uvloop", http="httptools", access_log=False, log_level="warning",
        backlog=8192,
    )  # fmt: skip
