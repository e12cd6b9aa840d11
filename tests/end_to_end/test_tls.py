"""TLS of both ports, by real handshakes: certificates of ours and of clients, replaced while streams run."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from proxy.downstream.tls import ServerTls, TlsFiles
from proxy.server.app import Proxy
from tests.access.keys import UPSTREAMS
from tests.access.named import NamedCallers
from tests.certificates import Authority
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.http_client import Answer, Client, request
from tests.proxy_under_test import CHAT, Tee, chat_body, configured, teed
from tests.stage import Stage


def tables(certificate: Path, **tls: Any) -> dict[str, Any]:
    return {"tls": {"certificate": str(certificate), **tls}}


async def connect(tee: Tee, context: ssl.SSLContext, *, name: str = "localhost", admin: bool = False) -> Client:
    """Connect to a port by TLS. Raises: ssl.SSLError, if the handshake fails."""
    url = tee.proxy.admin_url if admin else tee.proxy.url
    host, _, port = url.removeprefix("https://").rpartition(":")
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(Client, host, int(port), ssl=context, server_hostname=name)
    tee.clients.append(client)
    return client


async def ask(client: Client, method: str, path: str, *headers: str, body: bytes = b"") -> Answer:
    client.send(request(method, path, *headers, body=body), method=method)
    return await client.answer()


@asynccontextmanager
async def streaming(tee: Tee, stage: Stage, client: Client) -> AsyncIterator[tuple[Answer, Any]]:
    """Have a client ask for a stream, and the upstream begin it."""
    client.send(request("POST", CHAT, body=chat_body()), method="POST")
    turn = await stage.next()
    await turn.body()
    turn.begin()
    turn.chunk(chunk_frame("a"))
    yield await client.answer(), turn


def serial(client: Client) -> int:
    """Return the serial number of the certificate that a client was shown."""
    shown = client.transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(shown).serial_number


async def test_both_ports_speak_tls(stage: Stage, authority: Authority) -> None:
    """With HTTP/1.1 by ALPN; a stream passes whole; one who speaks no TLS is not answered."""
    certificate = authority.sign("localhost")
    admin = {"admin_tls": {"certificate": str(certificate)}}
    async with teed(stage.url, **tables(certificate), **admin) as tee:
        assert tee.proxy.url.startswith("https://")
        client = await connect(tee, authority.client())
        assert client.transport.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        async with streaming(tee, stage, client) as (answer, turn):
            turn.chunk(chunk_frame("b") * 20_000)
            turn.end(FINISH, DONE)
            assert (await answer.read()).count(chunk_frame("b")) == 20_000
            assert answer.end == "whole"
        page = await ask(await connect(tee, authority.client(), admin=True), "GET", "/metrics")
        assert b"streamtee_build_info" in await page.read()
        plain = await Client.connect("http://" + tee.proxy.url.removeprefix("https://"))
        tee.clients.append(plain)
        plain.send(request("GET", "/healthz"))
        assert await plain.wait_gone()
        assert not plain.buffer.startswith(b"HTTP/")


async def test_many_who_connect_at_once_are_served_by_tls(stage: Stage, authority: Authority) -> None:
    """Those that never end their handshake hold up neither the others nor the end."""
    async with teed(stage.url, **tables(authority.sign("localhost"))) as tee:
        host, _, port = tee.proxy.url.removeprefix("https://").rpartition(":")
        sockets = [socket.create_connection((host, int(port))) for _ in range(20)]
        for one in sockets[:15]:
            one.setblocking(False)
            _, client = await asyncio.get_running_loop().create_connection(
                Client, sock=one, ssl=authority.client(), server_hostname="localhost"
            )
            tee.clients.append(client)
            assert (await ask(client, "GET", "/healthz")).status == 200
        sockets[15].sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(5):
            await tee.proxy.stop()
    for one in sockets[15:]:
        one.close()


async def test_stream_that_breaks_off_looks_so_by_tls(stage: Stage, authority: Authority) -> None:
    """Law 7 holds: no end chunk comes."""
    async with teed(stage.url, **tables(authority.sign("localhost"))) as tee:
        client = await connect(tee, authority.client())
        async with streaming(tee, stage, client) as (answer, turn):
            turn.reset()
            await answer.read()
            assert answer.end in ("cut", "reset")


async def test_client_that_leaves_a_stream_by_tls_ends_it_without_a_complaint(
    stage: Stage, authority: Authority
) -> None:
    """TLS closes a connection as a whole, so no half of it is kept open for a response, and nothing is logged."""
    async with teed(stage.url, **tables(authority.sign("localhost"))) as tee:
        client = await connect(tee, authority.client())
        async with streaming(tee, stage, client) as (answer, turn):
            await answer.until(chunk_frame("a"))
            client.transport.close()  # with its close_notify
            await turn.wait_left()


async def test_client_that_does_not_trust_the_certificate_is_told_by_its_library(
    stage: Stage, authority: Authority, tmp_path: Path
) -> None:
    """Another authority, another name, and one that has expired: the handshake fails, and nothing else does."""
    async with teed(stage.url, **tables(authority.sign("localhost"))) as tee:
        with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
            await connect(tee, Authority(tmp_path, "another").client())
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            await connect(tee, authority.client(), name="proxy.test")
        assert (await ask(await connect(tee, authority.client()), "GET", "/healthz")).status == 200
    async with teed(stage.url, **tables(authority.sign("localhost", days=-1))) as tee:
        with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
            await connect(tee, authority.client())


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01"])
async def test_handshake_that_does_not_come_is_given_up(stage: Stage, authority: Authority, said: bytes) -> None:
    """In the time for a head: connections that say nothing don't take descriptors for long."""
    certificate = authority.sign("localhost")
    async with teed(stage.url, **tables(certificate), clients={"head_s": 0.1}) as tee:
        client = await Client.connect("http://" + tee.proxy.url.removeprefix("https://"))
        tee.clients.append(client)
        client.transport.write(said)
        assert await client.wait_gone()
        assert (await ask(await connect(tee, authority.client()), "GET", "/healthz")).status == 200


@pytest.mark.parametrize(("minimum", "speaks"), [("1.2", True), ("1.3", False)])
async def test_older_versions_are_refused(stage: Stage, authority: Authority, minimum: str, speaks: bool) -> None:
    """Below the configured one no handshake succeeds."""
    context = authority.client()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with teed(stage.url, **tables(authority.sign("localhost"), minimum=minimum)) as tee:
        if speaks:
            assert (await ask(await connect(tee, context), "GET", "/healthz")).status == 200
            return
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await connect(tee, context)


async def test_certificate_is_replaced_while_a_stream_runs(stage: Stage, authority: Authority) -> None:
    """New connections see the new one; the old connection goes on, and keeps what it was shown."""
    certificate = authority.sign("localhost", file="server.pem")
    async with teed(stage.url, **tables(certificate)) as tee:
        client = await connect(tee, authority.client())
        async with streaming(tee, stage, client) as (answer, turn):
            before = serial(client)
            authority.sign("localhost", file="server.pem")
            tee.proxy.refresh()
            after = serial(await connect(tee, authority.client()))
            assert after != before == serial(client)
            turn.end(FINISH, DONE)
            assert (await answer.read()).endswith(DONE)


async def test_bad_certificate_replaces_nothing(stage: Stage, authority: Authority, tmp_path: Path) -> None:
    """A file that is cut off, gone, or whose key is another's: the old one stays in use; the error names the file."""
    certificate = authority.sign("localhost", file="server.pem")
    whole, other = certificate.read_text(), authority.sign("localhost", file="other.pem").read_text()
    key = whole[whole.index("-----BEGIN PRIVATE") :]
    async with teed(stage.url, **tables(certificate)) as tee:
        before = serial(await connect(tee, authority.client()))
        for broken in (whole[:300], "", other[: other.index("-----BEGIN PRIVATE")] + key):
            certificate.write_text(broken)
            with pytest.raises(OSError, match=r"server\.pem"):
                tee.proxy.refresh()
            assert serial(await connect(tee, authority.client())) == before
        certificate.unlink()
        with pytest.raises(OSError, match="No such file"):
            tee.proxy.refresh()
        assert serial(await connect(tee, authority.client())) == before


def test_encrypted_key_is_refused_without_asking_at_the_terminal(tmp_path: Path) -> None:
    """A process that asks for a password at its start would hang for ever."""
    private = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )
    certificate = Authority(tmp_path).sign("localhost")
    key = tmp_path / "key.pem"
    key.write_bytes(private)
    with pytest.raises(OSError, match="encrypted"):
        ServerTls(TlsFiles(str(certificate), str(key)), minimum="1.2", client_required=True)


# Certificates of clients.


async def refused_handshake(tee: Tee, context: ssl.SSLContext) -> bool:
    """Return whether a client is refused: with TLS 1.3 it learns so with its first read."""
    try:
        client = await connect(tee, context)
    except (ssl.SSLError, ConnectionError):
        return True
    client.send(request("GET", "/healthz"))
    await client.wait_bytes(bool)
    return not client.buffer


async def test_client_without_a_good_certificate_is_refused(stage: Stage, authority: Authority, tmp_path: Path) -> None:
    """None, one of another authority, one that has expired; a good one is served."""
    another = Authority(tmp_path, "another")
    files = tables(authority.sign("localhost"), client_ca=str(authority.file))
    async with teed(stage.url, **files) as tee:
        for context in (
            authority.client(),
            authority.client(another.sign("mallory")),
            authority.client(authority.sign("alice", days=-1)),
        ):
            assert await refused_handshake(tee, context)
        assert not await refused_handshake(tee, authority.client(authority.sign("alice")))


async def test_subject_of_a_certificate_is_a_caller_with_limits(
    stage: Stage, authority: Authority, tmp_path: Path
) -> None:
    """In mode keys without any key, with the limits that the file has for it; it sees no other's streams."""
    callers = NamedCallers(tmp_path, bob={})
    callers.add("alice", subject="CN=alice,O=Example\\, Inc.", requests_per_day=1)
    files = tables(authority.sign("localhost"), client_ca=str(authority.file), client_required=False)
    alice = authority.client(authority.sign("alice", organization="Example, Inc."))
    carol = authority.client(authority.sign("carol"))
    nokey = "Authorization:"
    async with teed(stage.url, **files, **callers.tables()) as tee:
        client = await connect(tee, alice)
        client.send(request("POST", CHAT, nokey, body=chat_body()), method="POST")
        turn = await stage.next()
        await turn.body()
        turn.begin()
        answer = await client.answer()
        assert answer.header("x-ratelimit-remaining-requests") == "0"
        usage = await (await ask(await connect(tee, alice), "GET", "/v1/usage", nokey)).json()
        assert (usage["name"], usage["requests"]["day"]["used"]) == ("alice", 1)
        path = f"/v1/streams/{answer.stream_id}/info"
        assert (await ask(await connect(tee, alice), "GET", path, nokey)).status == 200
        assert (await ask(await connect(tee, carol), "GET", path, nokey)).status == 404
        told = await (await ask(await connect(tee, carol), "GET", "/v1/usage", nokey)).json()
        assert told["name"] == "CN=carol"
        assert (await ask(await connect(tee, authority.client()), "GET", path, nokey)).status == 401
        by_key = await ask(await connect(tee, carol), "GET", "/v1/usage", callers.header("bob"))
        assert (await by_key.json())["name"] == "bob"  # a key goes before the certificate
        record = callers.records.callers["alice"]
        callers.put("alice", record.model_copy(update={"disabled": True}))
        tee.proxy.refresh()
        assert (await ask(await connect(tee, alice), "GET", path, nokey)).status == 401
        turn.end(FINISH, DONE)
        await answer.read()


async def test_certificates_alone_are_enough_in_mode_keys(stage: Stage, authority: Authority) -> None:
    """Without any key: each subject is a caller, whose usage is counted; the key of the proxy goes upstream."""
    files = tables(authority.sign("localhost"), client_ca=str(authority.file))
    alice = authority.client(authority.sign("alice"))
    async with teed(stage.url, **files, auth={"mode": "keys"}, upstream={"key": UPSTREAMS}) as tee:
        client = await connect(tee, alice)
        client.send(request("GET", "/v1/models", "Authorization:"))
        turn = await stage.next()
        assert turn.all("authorization") == [f"Bearer {UPSTREAMS}".encode()]
        turn.reply("200 OK")
        assert (await client.answer()).status == 200
        told = await (await ask(client, "GET", "/v1/usage", "Authorization:")).json()
        assert (told["name"], told["requests"]["total"]) == ("CN=alice", 1)


async def test_in_mode_pass_certificates_tell_callers_with_one_key_apart(stage: Stage, authority: Authority) -> None:
    """Two who share an upstream's key don't share streams."""
    files = tables(authority.sign("localhost"), client_ca=str(authority.file))
    alice, bob = (authority.client(authority.sign(name)) for name in ("alice", "bob"))
    async with teed(stage.url, **files) as tee, streaming(tee, stage, await connect(tee, alice)) as (answer, turn):
        path = f"/v1/streams/{answer.stream_id}/info"
        assert (await ask(await connect(tee, alice), "GET", path)).status == 200
        assert (await ask(await connect(tee, bob), "GET", path)).status == 404
        turn.end(FINISH, DONE)
        await answer.read()


@pytest.mark.parametrize("missing", ["certificate", "client_ca"])
async def test_proxy_does_not_start_without_its_files(
    stage: Stage, authority: Authority, tmp_path: Path, missing: str
) -> None:
    """Rather than without TLS, or without asking for certificates."""
    files: dict[str, Any] = {"certificate": str(authority.sign("localhost")), "client_ca": str(authority.file)}
    files[missing] = str(tmp_path / "not-there.pem")
    with pytest.raises(OSError, match="No such file"):
        Proxy(configured(stage.url, tls=files))
