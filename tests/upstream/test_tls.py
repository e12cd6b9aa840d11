"""TLS towards an upstream, by real handshakes: whose certificate is taken, and which one is shown."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.server.app import Proxy
from tests.certificates import Authority
from tests.proxy_under_test import configured, teed


class Upstream:
    """An upstream that speaks TLS, and the subjects of the certificates that it was shown."""

    def __init__(self) -> None:
        self.url = ""
        self.subjects: list[Any] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer every request."""
        shown = writer.get_extra_info("peercert") or {}
        self.subjects.append(dict(rdn[0] for rdn in shown.get("subject", ())).get("commonName"))
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        except (asyncio.IncompleteReadError, OSError):
            writer.transport.abort()


@asynccontextmanager
async def upstream(context: ssl.SSLContext) -> AsyncIterator[Upstream]:
    """Run an upstream with these certificates."""
    one = Upstream()
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0, ssl=context)
    one.url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield one


async def status(one: Upstream, **settings: Any) -> int:
    """Return the status of a request that the proxy sends to an upstream with these settings."""
    async with teed(one.url, upstream=settings) as tee:
        answer = await tee.ask("GET", "/v1/models")
        body = await answer.read()
        assert answer.status != 200 or body == b"ok"
        return answer.status


async def test_only_a_good_certificate_of_the_configured_authority_is_taken(
    authority: Authority, tmp_path: Path
) -> None:
    """Not one of another authority, one that has expired, or one for another name; nor any without the setting."""
    another = Authority(tmp_path, "another")
    ours = {"ca_file": str(authority.file)}
    for certificate, settings, expected in (
        (authority.sign("good"), ours, 200),
        (authority.sign("good"), {}, 502),
        (authority.sign("good"), {"ca_file": str(another.file)}, 502),
        (another.sign("mallory"), ours, 502),
        (authority.sign("old", days=-1), ours, 502),
        (authority.sign("other", dns="other.test"), ours, 502),
    ):
        async with upstream(authority.server(certificate)) as one:
            assert await status(one, **settings) == expected, (certificate.name, settings)


async def test_name_of_the_certificate_can_be_another_than_the_hosts(authority: Authority) -> None:
    """Then it must be that one: the host's own is no longer good."""
    pinned = {"ca_file": str(authority.file), "server_name": "qwen.test"}
    async with upstream(authority.server(authority.sign("pinned", dns="qwen.test"))) as one:
        assert await status(one, **pinned) == 200
    async with upstream(authority.server(authority.sign("localhost"))) as one:
        assert await status(one, **pinned) == 502


async def test_upstream_that_demands_a_certificate_is_shown_ours(authority: Authority) -> None:
    """And answers no one without it."""
    ours, certificate = {"ca_file": str(authority.file)}, str(authority.sign("streamtee"))
    server = authority.server(authority.sign("localhost"), client_ca=authority.file)
    async with upstream(server) as one:
        assert await status(one, **ours, certificate=certificate) == 200
        assert one.subjects == ["streamtee"]
        assert await status(one, **ours) == 502


@pytest.mark.parametrize("setting", ["ca_file", "certificate"])
async def test_proxy_does_not_start_without_its_files(authority: Authority, tmp_path: Path, setting: str) -> None:
    """Rather than with the system's authorities; the error names the file."""
    missing = str(tmp_path / "not-there.pem")
    with pytest.raises(OSError, match=r"not-there\.pem"):
        Proxy(configured("https://localhost:1", upstream={setting: missing}))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"certificate_key": "k.pem"}, "needs a certificate"),
        ({"url": "http://localhost", "ca_file": "ca.pem"}, "https://"),
        ({"url": "http://localhost", "server_name": "x"}, "https://"),
        ({"url": "https://localhost", "server_name": "https://x"}, "server_name"),
        ({"url": "https://localhost", "server_name": "x:443"}, "server_name"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(settings: dict[str, str], said: str) -> None:
    """A CA for a plain URL would be a false comfort."""
    url = settings.pop("url", "https://localhost")
    with pytest.raises(ValueError, match=said):
        configured(url, upstream=settings)
