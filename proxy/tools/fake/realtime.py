"""The WebSockets of the fake: sessions of the Realtime API, and tasks of DashScope's own protocol.

A handshake chooses its faults like any request: by `Fake-Fault: name; after=N`, or by its model, `MODEL+name,after=N`,
where `after` counts the messages that are sent before. What the client sends is kept in `heard`.
"""

import asyncio
import struct
from base64 import b64encode
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

import orjson

from proxy.wire.errors import BadRequest
from proxy.wire.websocket import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Message,
    MessageReader,
    accept,
    close_frame,
    frame,
)

PREFIX = "/api-ws/v1/"
_LINGER = struct.pack("ii", 1, 0)
_MAX_BYTES = 64 << 20
_TOKENS = ("Tea", " is", " a", " leaf", ".")

SOCKET_FAULTS = {
    "socket_refuse": "The handshake is answered with an HTTP error (status=401).",
    "socket_bad_accept": "The handshake is accepted with another key.",
    "socket_extension": "An extension is agreed to that was not offered.",
    "socket_close": "The session is closed within an answer (after=3, code=1011, reason=).",
    "socket_drop": "The connection is closed without a close frame (after=3).",
    "socket_reset": "The connection is reset (after=3).",
    "socket_garbled": "A frame with a reserved opcode is sent (after=3).",
    "socket_masked": "A masked frame is sent, as only clients may (after=3).",
    "socket_bad_code": "The session is closed with a code that may not be sent (after=3).",
    "socket_fragments": "Messages are sent in fragments of a byte, with pings between.",
    "socket_stall": "Nothing more is sent (after=3).",
    "socket_deaf": "Nothing is read after the handshake.",
    "socket_no_answer": "A close frame is not answered.",
}


class SocketFault(NamedTuple):
    """A fault that a handshake asks for."""

    name: str = ""
    options: Mapping[str, str] = {}

    def number(self, option: str, default: int) -> int:
        """Return the value of an option."""
        return int(self.options.get(option, default))


def read_socket_fault(target: str, header: str) -> tuple[str, SocketFault]:
    """Return the model that a target names, and the fault that it or the header asks for, if there is such a one."""
    query = target.partition("?")[2]
    pairs = dict(pair.partition("=")[::2] for pair in query.split("&"))
    model, _, suffix = unquote(pairs.get("model", "")).partition("+")
    words, within = (suffix, ",") if suffix else (header, ";")
    name, *options = (word.strip() for word in words.split(within))
    if name not in SOCKET_FAULTS:
        return model, SocketFault()
    return model, SocketFault(name, dict(option.partition("=")[::2] for option in options))


class FakeSocket:
    """One session, on the connection that its handshake came on."""

    def __init__(self, transport: asyncio.Transport, target: str, headers: Mapping[str, str]) -> None:
        """`headers` of the handshake, their names in lower case."""
        self.target = target
        self.headers = headers
        self.heard: list[Message] = []
        self.closed = asyncio.Event()
        self.writable = asyncio.Event()
        self.writable.set()
        self._transport = transport
        self._reader = MessageReader(_MAX_BYTES, masked=True)
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._model, self._fault = read_socket_fault(target, headers.get("fake-fault", ""))
        self._sent = 0
        self._is_task = "/inference" in target.partition("?")[0]
        self._over = False
        self._task = asyncio.get_running_loop().create_task(self._run())

    def feed(self, data: bytes) -> None:
        """Take the client's bytes."""
        try:
            more = True
            while more:
                for message in self._reader.feed(data):
                    self.heard.append(message)
                    self._inbox.put_nowait(message)
                data, more = b"", self._reader.behind
        except BadRequest:
            self._transport.write(close_frame(1002))
            self._transport.close()

    def lost(self) -> asyncio.Task[None]:
        """End: the connection has gone. Return the task to wait for."""
        self.closed.set()
        self._task.cancel()
        return self._task

    def texts(self) -> list[dict[str, Any]]:
        """Return the JSON of the text messages that were heard."""
        return [orjson.loads(payload) for opcode, payload in self.heard if opcode == TEXT]

    async def wait_heard(self, count: int) -> None:
        """Return once so many messages were heard."""
        while len(self.heard) < count:
            await asyncio.sleep(0.005)

    # Its side

    async def _run(self) -> None:
        if not self._switched():
            return
        if self._fault.name == "socket_deaf":
            self._transport.pause_reading()
        if not self._is_task:
            session = {"id": "sess_1", "object": "realtime.session", "model": self._model}
            await self._say("session.created", session=session)
        while not self._over:
            opcode, payload = await self._inbox.get()
            if opcode == CLOSE:
                await self._answer_close(payload)
            elif opcode == PING:
                self._transport.write(frame(PONG, payload))
            elif opcode in (TEXT, BINARY):
                await (self._task_step if self._is_task else self._event)(opcode, payload)

    def _switched(self) -> bool:
        """Answer the handshake; return whether it was accepted."""
        name = self._fault.name
        if name == "socket_refuse":
            body = b'{"error":{"code":"invalid_api_key","message":"no such key"}}'
            head = f"HTTP/1.1 {self._fault.number('status', 401)} Refused\r\ncontent-type: application/json\r\n"
            self._transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            return False
        key = self.headers.get("sec-websocket-key", "") if name != "socket_bad_accept" else "another"
        lines = [
            "HTTP/1.1 101 Switching Protocols",
            "upgrade: websocket",
            "connection: Upgrade",
            f"sec-websocket-accept: {accept(key).decode()}",
            "x-request-id: req-ws-1",
        ]
        if name == "socket_extension":
            lines.append("sec-websocket-extensions: permessage-deflate")
        if protocols := self.headers.get("sec-websocket-protocol"):
            lines.append(f"sec-websocket-protocol: {protocols.partition(',')[0].strip()}")
        self._transport.write("\r\n".join([*lines, "", ""]).encode())
        return True

    async def _event(self, opcode: int, payload: bytes) -> None:
        """Answer an event of a Realtime client."""
        try:
            event: Any = orjson.loads(payload) if opcode == TEXT else None
            kind = event["type"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            error = {"type": "invalid_request_error", "code": "invalid_value", "message": "no event", "param": None}
            await self._say("error", error=error)
            return
        if kind == "session.update":
            await self._say("session.updated", session={**event.get("session", {}), "model": self._model})
        elif kind == "input_audio_buffer.commit":
            await self._say("input_audio_buffer.committed", item_id="item_1")
        elif kind == "conversation.item.create":
            await self._say("conversation.item.created", item=event.get("item"))
        elif kind == "response.create":
            for kind, fields in _answer(event.get("fake", {})):
                await self._say(kind, **fields)

    async def _task_step(self, opcode: int, payload: bytes) -> None:
        """Answer a message of the run-task protocol."""
        if opcode == BINARY:
            return
        told = orjson.loads(payload)
        header = told["header"]
        action, task = header["action"], header["task_id"]
        if action == "run-task":
            await self._report("task-started", task, {})
        elif action == "continue-task" and told["payload"].get("input", {}).get("text") == "fail":
            failure = {"error_code": "InvalidParameter", "error_message": "no such voice"}
            await self._report("task-failed", task, {}, **failure)
        elif action == "continue-task":
            await self._report("result-generated", task, {"output": {"sentence": told["payload"].get("input")}})
            await self._send(BINARY, b"\x00\xff audio")
        elif action == "finish-task":
            await self._report("task-finished", task, {"output": {}, "usage": {"input_tokens": 4, "output_tokens": 6}})

    async def _report(self, event: str, task: str, payload: dict[str, Any], **more: str) -> None:
        await self._send(TEXT, orjson.dumps({"header": {"task_id": task, "event": event, **more}, "payload": payload}))

    async def _say(self, kind: str, **fields: Any) -> None:
        await self._send(TEXT, orjson.dumps({"event_id": f"event_{self._sent + 1}", "type": kind, **fields}))

    async def _send(self, opcode: int, payload: bytes) -> None:
        """Send a message, or let the fault happen if it is due."""
        if self._fault.name in _DUE and self._sent >= self._fault.number("after", 3):
            await self._fail()
            return
        self._sent += 1
        if self._fault.name == "socket_fragments":
            self._transport.write(b"".join(_fragments(opcode, payload)))
        else:
            self._transport.write(frame(opcode, payload))
        await asyncio.sleep(0)
        await self.writable.wait()

    async def _fail(self) -> None:
        self._over = True
        fault, transport = self._fault, self._transport
        if fault.name == "socket_close":
            self._over = False  # it reads the answer
            transport.write(close_frame(fault.number("code", 1011), fault.options.get("reason", "")))
        elif fault.name == "socket_bad_code":
            transport.write(close_frame(1006))
        elif fault.name == "socket_garbled":
            transport.write(b"\x83\x00")
        elif fault.name == "socket_masked":
            transport.write(b"\x81\x81\x00\x00\x00\x00x")
        elif fault.name == "socket_drop":
            transport.close()
        elif fault.name == "socket_reset":
            transport.get_extra_info("socket").setsockopt(1, 13, _LINGER)  # SOL_SOCKET, SO_LINGER
            transport.abort()
        await asyncio.Event().wait()

    async def _answer_close(self, payload: bytes) -> None:
        self._over = True
        if self._fault.name == "socket_no_answer":
            await asyncio.Event().wait()
        if self._fault.name != "socket_close":
            self._transport.write(frame(CLOSE, payload))
        self._transport.close()


_DUE = (
    "socket_close", "socket_drop", "socket_reset", "socket_garbled", "socket_masked", "socket_bad_code", "socket_stall",
)  # fmt: skip


def _answer(fake: Mapping[str, int]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the events of one answer: their types and fields. `fake` may ask for more or larger pieces of audio."""
    at = {"response_id": "resp_1", "item_id": "item_2", "output_index": 0, "content_index": 0}
    yield "response.created", {"response": {"id": "resp_1", "status": "in_progress", "output": []}}
    yield "response.output_item.added", {"response_id": "resp_1", "output_index": 0, "item": {"id": "item_2"}}
    yield "response.content_part.added", {**at, "part": {"type": "audio"}}
    for token in _TOKENS:
        yield "response.audio_transcript.delta", {**at, "delta": token}
    for number in range(fake.get("pieces", 2)):
        audio = bytes([number % 256]) * fake.get("piece_bytes", 32)
        yield "response.audio.delta", {**at, "delta": b64encode(audio).decode()}
    yield "response.audio_transcript.done", {**at, "transcript": "".join(_TOKENS)}
    usage = {"total_tokens": 30, "input_tokens": 10, "output_tokens": 20, "input_tokens_details": {"cached_tokens": 2}}
    yield "response.done", {"response": {"id": "resp_1", "status": "completed", "usage": usage}}


def _fragments(opcode: int, payload: bytes) -> Iterator[bytes]:
    """Yield a message in frames of a byte each, a ping after the first; the last one is empty."""
    for place in range(len(payload)):
        yield bytes([opcode if place == 0 else 0, 1, payload[place]])
        if place == 0:
            yield frame(PING, b"amid")
    yield b"\x80\x00" if payload else frame(opcode, b"")
