"""`streamtee check` against streamtee, a real nginx, a naive proxy, and gateways that do one thing wrong each."""

import asyncio
import string
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from proxy.tools.check.delays import every_event, first_event
from proxy.tools.check.disconnects import disconnects
from proxy.tools.check.endings import endings
from proxy.tools.check.fidelity import refusals, same_bytes, stream
from proxy.tools.check.findings import MEANINGS, Finding, Verdict
from proxy.tools.check.own_upstream import CheckUpstream
from proxy.tools.check.probes import Probe
from proxy.tools.check.run import with_upstream
from proxy.tools.check.silence import heartbeats
from proxy.tools.endpoint import APIS, Endpoint
from tests.bench.peers import aiohttp_naive
from tests.bench.processes import free_port
from tests.programs import system_tool, wait_listening
from tests.proxy_under_test import teed
from tests.tools.check.gateway import gateway, serving

PASS, WARN, FAIL, NONE = Verdict.PASS, Verdict.WARN, Verdict.FAIL, Verdict.NONE
SILENCE_S = 0.5
NGINX = Path(__file__).parents[2] / "bench" / "peers" / "nginx.conf"


@pytest.fixture
async def upstream() -> AsyncIterator[CheckUpstream]:
    """The upstream of a check, on a free port."""
    one = CheckUpstream()
    await one.start()
    yield one
    await one.stop()


@asynccontextmanager
async def probed(url: str, upstream: CheckUpstream, api: str = "chat") -> AsyncIterator[Probe]:
    endpoint = Endpoint(url, api)
    try:
        yield Probe(endpoint, upstream, "qwen-plus")
    finally:
        await endpoint.close()


async def found(
    url: str, upstream: CheckUpstream, api: str = "chat", *, silence_s: float = SILENCE_S
) -> dict[str, Finding]:
    """Run all checks; return the findings by their names, in their order."""
    async with probed(url, upstream, api) as probe:
        return {one.check: one for one in await with_upstream(probe, silence_s)}


def verdicts(findings: dict[str, Finding]) -> dict[str, Verdict]:
    """Return what is not as good as it can be."""
    return {name: one.verdict for name, one in findings.items() if one.verdict is not PASS}


async def test_streamtee_passes_every_check_in_all_apis(upstream: CheckUpstream) -> None:
    """With keepalives, which are none of those that crash SDKs."""
    async with teed(upstream.url, streams={"client_keepalive_s": 0.7, "keepalive_before_head_s": 0.7}) as tee:
        by_api = await asyncio.gather(*(found(tee.proxy.url, upstream, api, silence_s=1.0) for api in APIS))
    assert "starting_after" in by_api[1]["resume"].saw
    for findings in by_api:
        assert verdicts(findings) == {}, findings
        assert list(findings) == list(MEANINGS)


@asynccontextmanager
async def naive(upstream: CheckUpstream, folder: Path) -> AsyncIterator[str]:
    """Run the proxy that one writes first with aiohttp."""
    async with serving(await aiohttp_naive.application(upstream.url)) as url:
        yield url


@asynccontextmanager
async def nginx(upstream: CheckUpstream, folder: Path, *, tuned: bool) -> AsyncIterator[str]:
    """Run nginx in front of the upstream: as one who knows streams configures it, or with its defaults."""
    port = free_port()
    text = string.Template(NGINX.read_text()).safe_substitute(
        port=port, origin=upstream.url.rpartition(":")[2], tmp=folder
    )
    if not tuned:
        for line in ("proxy_http_version 1.1;", 'proxy_set_header Connection "";', "proxy_buffering off;"):
            assert line in text
            text = text.replace(line, "")
    (folder / "nginx.conf").write_text(text)
    command = (system_tool("nginx"), "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf"))
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    try:
        async with asyncio.timeout(10):
            assert await wait_listening(process, port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


SERVERS: dict[str, Callable[[CheckUpstream, Path], AbstractAsyncContextManager[str]]] = {
    "nginx, tuned": partial(nginx, tuned=True),
    "nginx": partial(nginx, tuned=False),
    "naive": naive,
}
LACKS = {"heartbeats": NONE, "resume": NONE}
"""What only a proxy with a log has; nothing is wrong."""
EXPECTED = {
    "nginx, tuned": LACKS,
    "nginx": {"endings": FAIL, "first event": FAIL, "every event": FAIL, **LACKS},
    "naive": {"endings": FAIL, "disconnect": FAIL, **LACKS},
}
WORDS = [
    ("nginx", "endings", "a connection closed between two events"),  # with HTTP/1.0 a body that was cut off looks whole
    ("naive", "endings", "1 of 6 do not look failed: a reset without a stated length"),  # aiohttp's client hides it
    ("naive", "disconnect", "connection was still open: while the upstream is silent"),
]


async def test_other_servers_are_told_apart(upstream: CheckUpstream, tmp_path: Path) -> None:
    """Each fails where it is known to. All at once, since most of the time is waiting."""

    async def checked(name: str) -> dict[str, Finding]:
        folder = tmp_path / name.replace(", ", "-")
        folder.mkdir()
        async with SERVERS[name](upstream, folder) as url:
            return await found(url, upstream)

    by_name = dict(zip(SERVERS, await asyncio.gather(*map(checked, SERVERS)), strict=True))
    assert {name: verdicts(findings) for name, findings in by_name.items()} == EXPECTED, by_name
    assert [(name, check) for name, check, words in WORDS if words not in by_name[name][check].saw] == []


async def _endings(probe: Probe) -> Finding:
    return (await endings(probe))[0]


async def _repeats(probe: Probe) -> Finding:
    return (await endings(probe))[1]


async def _heartbeats(probe: Probe) -> Finding:
    return await heartbeats(probe, SILENCE_S)


CHECKS: list[tuple[str, Callable[[Probe], Awaitable[Finding]], Verdict, str]] = [
    ("", stream, PASS, "status 200"),
    ("names no stream", stream, FAIL, "text/plain"),
    ("", same_bytes, PASS, "byte for byte"),
    ("drops comments", same_bytes, WARN, "comments"),
    ("alters text", same_bytes, FAIL, "plain"),
    ("", _endings, FAIL, "1 of 6 do not look failed: a reset without a stated length"),  # which aiohttp's client hides
    ("ends properly", _endings, FAIL, "a reset connection: ended properly"),
    ("", _repeats, PASS, "once"),
    ("asks twice", _repeats, WARN, "2 times"),
    ("", first_event, PASS, "ms after"),
    ("gathers", first_event, FAIL, "ms after"),
    ("gathers", every_event, FAIL, "in 1 reads"),
    ("hides refusals", refusals, FAIL, "status 500"),
    ("", disconnects, FAIL, "silent"),
    ("", _heartbeats, NONE, "none in"),
    ("comments", _heartbeats, PASS, "comments"),
    ("empty events", _heartbeats, FAIL, "without data"),
    ("words", _heartbeats, FAIL, "not JSON"),
    ("pings", _heartbeats, WARN, "an event that the API does not have"),
]


async def test_quirk_is_found_by_the_check_that_is_for_it(upstream: CheckUpstream) -> None:
    """And a gateway without it passes. All at once, since most of the time is waiting."""

    async def checked(quirk: str, check: Callable[[Probe], Awaitable[Finding]]) -> Finding:
        async with gateway(upstream.url, quirk) as url, probed(url, upstream) as probe:
            return await check(probe)

    findings = await asyncio.gather(*(checked(quirk, check) for quirk, check, *_ in CHECKS))
    wrong = [
        (quirk, finding)
        for (quirk, _, verdict, words), finding in zip(CHECKS, findings, strict=True)
        if finding.verdict is not verdict or words not in finding.saw
    ]
    assert wrong == []
