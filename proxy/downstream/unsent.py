"""What the system holds of a connection's bytes that the client has not acknowledged."""

import asyncio
import fcntl
import struct
import sys
import termios


def unsent_in_kernel(transport: asyncio.Transport) -> int:
    """Return how many bytes were sent and not acknowledged, or wait in the system to be sent; 0 where it can't tell.

    A client that reads slowly takes some of these long before the transport is writable again (SIOCOUTQ, tcp(7)).
    """
    try:
        number = transport.get_extra_info("socket").fileno()
        waiting: int = struct.unpack("i", fcntl.ioctl(number, termios.TIOCOUTQ, b"\0\0\0\0"))[0]
    except (OSError, ValueError, AttributeError):
        return 0
    return waiting if sys.platform == "linux" else 0
