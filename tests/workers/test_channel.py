"""Messages between the supervisor and a worker, over a socket pair: whole and in order, or the end."""

import asyncio
import socket

import pytest

from proxy.workers.channel import Channel


async def pair() -> tuple[Channel, Channel]:
    ours, theirs = socket.socketpair()
    return await Channel.over(ours), await Channel.over(theirs)


async def test_messages_come_whole_and_in_order() -> None:
    """In both directions, also those that are larger than a socket's buffer, and texts with line breaks."""
    one, other = await pair()
    large = ["x" * 1000] * 3000
    one.send("start", text="a\nb", number=1)
    one.send("retired", names=large)
    other.send("ready")
    assert await other.receive() == {"kind": "start", "text": "a\nb", "number": 1}
    assert await other.receive() == {"kind": "retired", "names": large}
    assert await one.receive() == {"kind": "ready"}
    await one.close()
    await other.close()


async def test_end_of_one_side_is_read_by_the_other_after_all_messages() -> None:
    """What was sent before still comes; what is sent to it then is nobody's, and no error."""
    one, other = await pair()
    one.send("ended", families=[])
    await one.close()
    assert await other.receive() == {"kind": "ended", "families": []}
    assert await other.receive() is None
    for _ in range(3):
        other.send("drain")
    assert await other.receive() is None
    await other.close()


@pytest.mark.parametrize("sent", [b"", b'{"kind": "rea', b'{"kind": "ready"}'])
async def test_message_that_breaks_off_is_none(sent: bytes) -> None:
    """Of a process that was killed while it wrote."""
    ours, theirs = socket.socketpair()
    channel = await Channel.over(ours)
    with theirs:
        theirs.setblocking(False)
        await asyncio.get_running_loop().sock_sendall(theirs, sent)
    assert await channel.receive() is None
    await channel.close()
