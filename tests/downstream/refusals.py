"""Refusals of what can't be read: requests with a secret that no refusal may quote, and what is said of them."""

import json

from tests.http_client import Answer
from tests.proxy_under_test import CHAT, NATIVE, Tee

SECRET = "sk-never-to-be-quoted"
LIMIT = 20_000
"""The bytes that a head may have before these tests' proxy; it may have 30 headers."""
LONG = SECRET + "x" * LIMIT
PATHS = ["/v1/models", CHAT, NATIVE, "/api/v1/tasks/1", "/v1/streams/st_x", "/nowhere"]


async def refused(tee: Tee, *reads: bytes) -> Answer:
    """Send a request in pieces, each in a read of its own; return its refusal, when the connection is closed."""
    client = await tee.connect()
    for data in reads:
        client.send(data)
        if len(reads) > 1:
            await (await tee.ask("GET", "/healthz")).read()
    answer = await client.answer()
    await answer.read()
    assert (answer.end, await client.wait_gone()) == ("whole", "fin")
    assert answer.header("content-type") == "application/json; charset=utf-8"
    assert SECRET.encode() not in answer.body + answer.head
    return answer


def code(answer: Answer, path: str) -> str:
    """Return the code of an error, which has the shape of the API at that path."""
    told = json.loads(bytes(answer.body))
    if path.startswith("/api/v1/"):
        assert set(told) >= {"code", "message", "request_id"}
        return str(told["code"])
    return str(told["error"]["code"])
