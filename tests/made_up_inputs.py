"""What clients might send in place of what is read here, made up by hypothesis."""

from hypothesis import strategies as st

from proxy.wire.http import chunk
from tests.frames import masked

# Cursors
numbers = st.integers(-(10**20), 10**20).map(str)
ids = st.from_regex(r"[a-z2-7]{6}-[0-9]{1,18}", fullmatch=True)
cursors = st.one_of(ids, numbers, st.sampled_from(["now", "-1", "", "٣", "1e3", "+1", "abcdef-1,abcdeg-2"]), st.text())

# Frames of WebSockets
frames = st.one_of(
    st.builds(
        lambda opcode, payload, final, mask: masked(opcode, payload, final=final, mask=mask),
        st.integers(0, 15),
        st.binary(max_size=140) | st.just(b"x" * 70_000),
        st.booleans(),
        st.binary(min_size=4, max_size=4),
    ),
    st.binary(max_size=14),
    st.sampled_from([b"\x81\xff" + b"\xff" * 12, b"\x82\xfe\0\0aaaa", b"\x88\x80aaaa", b"\x01\x80aaaa", b"\x81\x7f"]),
)

# Chunks
blocks = st.sampled_from(
    [b"data: a\n\n", b"data:a\r\n\r\n", b": c\n\n", b"data: a\n", b"\n\n", b"data: \n\r\n\n", b"x" * 5000]
)
framed = st.one_of(
    blocks.map(chunk),
    st.lists(blocks, min_size=1, max_size=3).map(lambda parts: chunk(b"".join(parts))),
    blocks.map(lambda block: b"%X;ext=1\r\n%b\r\n" % (len(block), block)),
    st.sampled_from([b"0\r\n\r\n", b"9\r\ndata: a\n\n", b"0009\r\ndata: a\n\n\r\n", b"-1\r\n\r\n", b"a\r\n"]),
    st.binary(max_size=12),
)

# Heads of requests
LINES = [
    b"GET / HTTP/1.1", b"POST /v1/chat/completions HTTP/1.1", b"GET http://x/v1/streams HTTP/1.1", b"GET * HTTP/1.0",
    b"PRI * HTTP/2.0", b"CONNECT x:1 HTTP/1.1", b"Host: x", b"Host: a b", b"Content-Length: 3", b"Content-Length: 3, 3",
    b"Content-Length: -1", b"Content-Length: +3", b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked, gzip",
    b"Transfer-Encoding : chunked", b"transfer-encoding:\tchunked", b" folded", b"Expect: 100-continue",
    b"Upgrade: websocket", b"Connection: upgrade", b"Connection: close", b"Sec-WebSocket-Version: 13",
    b"Stream-Mode: text", b"a:" + b"b" * 9000, b"Authorization: Bearer k", b"", b"3\r\nabc\r\n0\r\n", b"abc", b"\0",
    b"x" * 70_000,
]  # fmt: skip
heads = st.lists(st.sampled_from(LINES) | st.binary(max_size=30), min_size=1, max_size=8).map(
    lambda lines: b"\r\n".join([*lines, b"", b""])
)
