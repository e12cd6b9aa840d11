"""The fake's WebSockets, as a strict client finds them: its answers, and each way to misbehave."""

import json

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from proxy.tools.fake.qwen import FakeQwen
from proxy.tools.fake.realtime import SOCKET_FAULTS, read_socket_fault
from tests.event_loops import GUARD_S

CREATE = json.dumps({"type": "response.create"})


def url_of(fake: FakeQwen, model: str = "qwen-omni") -> str:
    return fake.url.replace("http", "ws", 1) + f"/api-ws/v1/realtime?model={model}"


async def test_session_answers(fake: FakeQwen) -> None:
    """What is not understood is an error event, and the session goes on."""
    async with connect(url_of(fake)) as socket:
        created = json.loads(await socket.recv())
        assert (created["type"], created["session"]["model"]) == ("session.created", "qwen-omni")
        for sent, kind in (
            ("no json", "error"),
            (b"binary", "error"),
            ('{"type":"input_audio_buffer.commit"}', "input_audio_buffer.committed"),
            ('{"type":"conversation.item.create","item":{}}', "conversation.item.created"),
        ):
            await socket.send(sent)
            assert json.loads(await socket.recv())["type"] == kind
        await socket.send(CREATE)
        kinds = [json.loads(await socket.recv())["type"] for _ in range(12)]
        assert (kinds[0], kinds[-1]) == ("response.created", "response.done")
    assert [opcode for opcode, _ in fake.sockets[0].heard] == [1, 2, 1, 1, 1, 8]


async def test_task_that_can_not_be_done_fails(fake: FakeQwen) -> None:
    """In DashScope's own words."""
    async with connect(fake.url.replace("http", "ws", 1) + "/api-ws/v1/inference/") as socket:
        message = {"header": {"action": "continue-task", "task_id": "t"}, "payload": {"input": {"text": "fail"}}}
        await socket.send(json.dumps(message))
        assert json.loads(await socket.recv())["header"]["event"] == "task-failed"


@pytest.mark.parametrize("fault", [name for name in SOCKET_FAULTS if name not in ("socket_deaf", "socket_stall")])
async def test_fault_is_one_to_a_strict_client(fake: FakeQwen, fault: str) -> None:
    """But for fragments, which are allowed, and for a close that is not answered."""
    if fault in ("socket_refuse", "socket_bad_accept", "socket_extension"):
        with pytest.raises(InvalidStatus if fault == "socket_refuse" else InvalidHandshake):
            async with connect(url_of(fake, f"qwen-omni+{fault}"), compression=None):
                pass
        return
    async with connect(url_of(fake, f"qwen-omni+{fault},after=2"), close_timeout=0.1, ping_interval=0.5) as socket:
        await socket.send(CREATE)
        if fault in ("socket_fragments", "socket_no_answer"):
            assert [json.loads(await socket.recv())["type"] for _ in range(2)] == [
                "session.created",
                "response.created",
            ]
            return
        for _ in range(2):
            await socket.recv()
        with pytest.raises(ConnectionClosed):
            await socket.recv()
    codes = {"socket_close": 1011, "socket_drop": 1006, "socket_reset": 1006}
    assert fault not in codes or socket.close_code == codes[fault]


@pytest.mark.parametrize(
    ("target", "header", "found"),
    [
        ("/x?model=m", "", ("m", "", {})),
        ("/x?model=m%2Bsocket_close,code=1000", "", ("m", "socket_close", {"code": "1000"})),
        ("/x", "socket_drop; after=2", ("", "socket_drop", {"after": "2"})),
        ("/x?model=m", "reset; after=2", ("m", "", {})),
    ],
)
def test_fault_is_asked_for_by_model_or_header(
    target: str, header: str, found: tuple[str, str, dict[str, str]]
) -> None:
    """One that is of streams is none here."""
    model, fault = read_socket_fault(target, header)
    assert (model, fault.name, dict(fault.options)) == found


async def test_other_path_does_not_switch(fake: FakeQwen) -> None:
    """A path without WebSockets answers as if it had not been asked to switch."""
    with pytest.raises(InvalidStatus) as refused:
        async with connect(fake.url.replace("http", "ws", 1) + "/v1/models", open_timeout=GUARD_S):
            pass
    assert refused.value.response.status_code == 200
