"""Tokens are keys: a process that logs all it can, and goes through all that can go wrong, never writes one down.

Nor does it write down a prompt that an upstream's error quotes.
"""

import asyncio
import json
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT
from contextlib import suppress

import pytest

from proxy.access.capabilities import Capabilities, Capability
from tests.event_loops import GUARD_S, on_one_loop
from tests.event_streams import chunk_frame
from tests.http_client import Client, request
from tests.proxy_under_test import CHAT, PROMPT, Serve, begun, chat_body
from tests.stage import Stage

SECRET = "a secret of thirty-two characters"
ADMIN_TOKEN = "an-admin-token-of-the-test"
AS_OPERATOR = f"Authorization: Bearer {ADMIN_TOKEN}"


async def asked(url: str, *sent: bytes) -> bytes:
    """Send bytes on a connection of its own, then a request to close it; return all that came back."""
    client = await Client.connect(url)
    client.send(b"".join(sent))
    await client.wait_gone()
    return bytes(client.buffer)


@on_one_loop
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_output_and_metrics_never_hold_a_token(stage: Stage, loop: str) -> None:
    """At log level debug, with asyncio's own debug mode: no good one, and none that is over, forged or misplaced."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STREAMTEE_")} | {
        "STREAMTEE_LISTEN": "127.0.0.1:0",
        "STREAMTEE_ADMIN": "127.0.0.1:0",
        "STREAMTEE_ADMIN_TOKEN": ADMIN_TOKEN,
        "STREAMTEE_LOG_LEVEL": "debug",
        "STREAMTEE_UPSTREAM__URL": stage.url,
        "STREAMTEE_CAPABILITIES__SECRETS": json.dumps([SECRET]),
        "STREAMTEE_DRAIN_S": "0",
        "PYTHONASYNCIODEBUG": "1",
    }
    command = (sys.executable, "-m", "proxy.tools.cli", "serve", "--loop", loop)
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=STDOUT, env=environment)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(2 * GUARD_S):
            first = (await process.stdout.readuntil(b"upstream")).decode()
            told = (await process.stdout.readuntil(b"/metrics")).decode()
            urls = re.findall(r"http://127\.0\.0\.1:\d+", first) + re.findall(r"http://[\d.:]+(?=/metrics)", told)
            tokens = await _go_wrong(stage, urls[0])
            pages = b""
            for path in ("/metrics", "/admin/streams"):
                pages += await asked(urls[1], request("GET", path, AS_OPERATOR, "Connection: close"))
            process.send_signal(signal.SIGTERM)
            output, _ = await process.communicate()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    assert loop == "uvloop" or b"DEBUG" in output
    assert b'subscriptions_ended_total{mode="events"' in pages
    for token in tokens:
        for part in (token, token.partition(".")[2], token.partition(".")[0]):
            assert part.encode() not in output + pages
    assert not re.search(rb"[?&]t=", output + pages)
    assert SECRET.encode() not in output + pages
    assert ADMIN_TOKEN.encode() not in output + pages


@on_one_loop
@pytest.mark.parametrize(("code", "shown"), [("DataInspectionFailed", True), (PROMPT, False), ("\ud800", False)])
async def test_operators_are_not_told_what_an_error_quotes(
    perform: Serve, stage: Stage, code: str, shown: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """An upstream may quote the prompt: its clients read that, logs, metrics, list and feed have the error's code."""
    caplog.set_level("DEBUG")
    tee = await perform()
    feed = await tee.admin("/admin/events")
    asked, turn = await begun(tee, stage, "Stream-Mode: events")
    error = {"error": {"message": f"inappropriate: {PROMPT}", "code": code}}
    turn.end(b"data: %b\n\n" % json.dumps(error).encode())
    assert PROMPT.encode() in await asked.read()
    assert PROMPT in (await tee.wait_ended(asked.stream_id))["ending"]["message"]
    listed = await (await tee.admin("/admin/streams")).read()
    told = await feed.until(b"upstream_error")
    pages = listed + told + (await tee.metrics()).encode() + caplog.text.encode()
    assert PROMPT.encode() not in pages
    for page in (listed, told):
        assert (b"the upstream reported an error" + (f": {code}".encode() if shown else b'"')) in page


async def _go_wrong(stage: Stage, url: str) -> list[str]:
    """Use tokens well and badly; return them."""
    client = await Client.connect(url)
    client.send(request("POST", CHAT, body=chat_body()), method="POST")
    turn = await stage.next()
    await turn.body()
    turn.begin()
    turn.chunk(chunk_frame())
    answer = await client.answer()
    await answer.bytes(1)
    path, _, given = (answer.header("stream-follow-url") or "").partition("?t=")
    signer = Capabilities([SECRET])
    over = signer.sign(Capability(answer.stream_id, ("read",), 1))
    forged = given[:-4] + "AAAA"
    leaving = await Client.connect(url)
    leaving.send(request("GET", f"{path}?t={given}"))
    await (await leaving.answer()).bytes(1)
    await leaving.leave()
    close, nobody = "Connection: close", "Authorization:"
    for token in (given, over, forged):
        bearer, cookie = f"Authorization: Bearer {token}", f"Cookie: stream_token={token}"
        for target in (
            f"{path}/info?t={token}",
            f"{path}?t={token}&after=x",
            f"/nowhere?t={token}",
            f"{path}x?t={token}",
        ):
            await asked(url, request("GET", target, nobody, close))
        for method, target in (
            ("DELETE", path),
            ("POST", f"{path}/share"),
            ("POST", f"{path}/cancel"),
            ("GET", "/v1/streams"),
        ):
            await asked(url, request(method, target, bearer if token != given else nobody, cookie, close))
        for broken in (
            f"GET {path}?t={token} HTTP/9\r\n\r\n",
            f"GET {path}?t={token}\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
            f"GET / HTTP/1.1\r\nHost: x\r\n{cookie}\x01\r\n\r\n",
            f"GET / HTTP/1.1\r\nHost: x\r\nCookie {token}\r\n\r\n",
            f"t={token}\r\n\r\n",
        ):
            await asked(url, broken.encode())
        up = await Client.connect(url)
        up.send(request("GET", f"/v1/files?t={token}", "Authorization: Bearer k", cookie))
        other = await stage.next()
        assert token.encode() not in other.head
        other.reset()
        await up.answer()
        await up.leave()
    turn.reset()
    await client.leave()
    return [given, over, forged]
