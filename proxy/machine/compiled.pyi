"""The types of compiled.c; those of what `plain` has, too, are there."""

from typing import Any

from proxy.machine.plain import Forward as Forward
from proxy.machine.plain import chunked_body as chunked_body
from proxy.machine.plain import data_frames as data_frames
from proxy.machine.plain import events as events
from proxy.machine.plain import head as head
from proxy.machine.plain import lost as lost
from proxy.machine.plain import response_head as response_head
from proxy.machine.plain import write_all as write_all

class DirectWriter:
    """A transport, past which bytes are sent while none wait in it."""

    def __init__(self, transport: Any) -> None: ...
    def abort(self) -> None: ...
    def get_write_buffer_size(self) -> int: ...
    def write(self, data: bytes) -> None: ...
