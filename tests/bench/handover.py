"""What it costs a follower to be handed over, beside one that landed right: `python -m tests.bench.handover`.

One connection asks for two kept streams in turns, each twice: its first request for one is handed over, the second is
served where the connection is. So both are measured with the same client at the same time, whatever else the machine
does.
"""

import asyncio
import json
import socket
import statistics
import sys
import time
from asyncio.subprocess import PIPE

from proxy.tools.fake.qwen import FAST, FakeQwen

ROUNDS = 3000
BODY = json.dumps({"model": "qwen-plus", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}).encode()
SETTINGS = {"STREAMTEE_LISTEN": "127.0.0.1:0", "STREAMTEE_ADMIN": ""}


def asked(port: int, request: bytes, sock: socket.socket | None = None) -> tuple[float, bytes, socket.socket]:
    """Send a request; return the seconds until its first byte, all of its answer, and the connection."""
    sock = sock or socket.create_connection(("127.0.0.1", port))
    began = time.perf_counter()
    sock.sendall(request)
    data = sock.recv(1 << 20)
    first_s = time.perf_counter() - began
    while not data.endswith(b"0\r\n\r\n"):
        data += sock.recv(1 << 20)
    return first_s, data, sock


def streams(port: int) -> list[str]:
    """Return the ids of two kept streams that are in different workers."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer k\r\nStream-Retain: 600\r\n"
    found: dict[str, str] = {}
    while len(found) < 2:
        request = head + b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
        _, data, sock = asked(port, request)
        sock.close()
        ident = data.split(b"Stream-Id: ")[1].split(b"\r\n")[0].decode()
        found[ident[-2:]] = ident
    return list(found.values())


def follow(ident: str) -> bytes:
    return f"GET /v1/streams/{ident}?mode=text HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer k\r\n\r\n".encode()


def measure(port: int) -> dict[str, list[float]]:
    """Return the seconds until the first byte, of followers that were handed over and of those that were not."""
    requests = [follow(ident) for ident in streams(port)]
    times: dict[str, list[float]] = {"landed right": [], "handed over": []}
    _, _, sock = asked(port, requests[1])
    for number in range(ROUNDS):
        for kind in ("handed over", "landed right"):
            first_s, _, sock = asked(port, requests[number % 2], sock)
            if number > ROUNDS // 10:
                times[kind].append(first_s)
    return times


async def main() -> None:
    """Measure, and print the result."""
    fake = FakeQwen(pace=FAST)
    await fake.start()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy.tools.cli", "serve", "--workers", "2"),
        stdout=PIPE,
        env=SETTINGS | {"STREAMTEE_UPSTREAM__URL": fake.url, "STREAMTEE_LOG_LEVEL": "error"},
    )
    try:
        assert process.stdout is not None
        url = (await process.stdout.readline()).decode().split()[3].rstrip(",")
        times = await asyncio.to_thread(measure, int(url.rpartition(":")[2]))
    finally:
        process.terminate()
        await process.wait()
        await fake.stop()
    for kind, seconds in times.items():
        cuts = statistics.quantiles(seconds, n=100)
        print(f"{kind:14} p50 {cuts[49] * 1e6:6.0f} us  p90 {cuts[89] * 1e6:6.0f} us  p99 {cuts[98] * 1e6:6.0f} us")
    more = statistics.median(times["handed over"]) - statistics.median(times["landed right"])
    print(f"handed over, p50: {more * 1e6:.0f} us more")


if __name__ == "__main__":
    asyncio.run(main())
