"""The dialect of the Responses API, but for its reader: what requests ask for, and responses as objects."""

import json
from typing import Any

import pytest

from proxy.dialects.responses import RESPONSES
from proxy.wire.errors import BadRequest
from tests.dialects.response_events import ID, bare, message, numbered, response, snapshot
from tests.noted import noted

CREATED = bare("response.created", sequence_number=0, response=snapshot("queued"))


def test_heartbeat_is_never_a_block() -> None:
    """Blocks of DashScope have ids, after which openai-python can't read one without data."""
    assert noted(RESPONSES).heartbeat == noted(RESPONSES, CREATED).heartbeat == b":\n"


@pytest.mark.parametrize(
    ("asked", "sent", "streams"),
    [
        ({"model": "m", "background": True}, {"model": "m", "background": False, "stream": True}, False),
        ({"background": True, "stream": True}, {"background": False, "stream": True}, True),
        ({"model": "m", "background": False}, None, None),
        ({"model": "background"}, None, None),
        ({"background": "true"}, None, None),
    ],
)
def test_background_is_asked_for_by_true_alone(asked: Any, sent: Any, streams: bool | None) -> None:
    """It is then made as a stream, which the upstream need not keep."""
    assert RESPONSES.objects is not None
    found = RESPONSES.objects.background(json.dumps(asked).encode())
    if sent is None:
        assert found is None
    else:
        assert found is not None
        assert (json.loads(found[0]), found[1]) == (sent, streams)


@pytest.mark.parametrize(
    ("asked", "idents"),
    [
        ({"input": "x"}, []),
        ({"previous_response_id": "resp_1"}, ["resp_1"]),
        ({"PREVIOUS_RESPONSE_ID": "resp_1"}, ["resp_1"]),
        ({"previous_response_id": None}, []),
        ({"previous_response_id": [1]}, [""]),
        ({"conversation": {"id": "conv_1"}}, ["conv_1"]),
        ({"input": [{"type": "item_reference", "id": "msg_1"}, {"type": "message", "content": "x"}]}, ["msg_1"]),
    ],
)
def test_ids_that_a_request_continues_are_found(asked: Any, idents: list[str]) -> None:
    """In any spelling that an upstream may read; "" stands for one that is none."""
    assert RESPONSES.objects is not None
    assert RESPONSES.objects.continued(json.dumps(asked).encode()) == idents


def test_body_that_can_not_be_read_is_refused_where_ids_matter() -> None:
    """It might name another caller's response."""
    assert RESPONSES.objects is not None
    with pytest.raises(BadRequest, match="not a JSON object"):
        RESPONSES.objects.continued(b"[]")


def test_ids_are_those_of_the_upstream() -> None:
    """Of the response and its items, by its events or by its document; a document of another kind has none."""
    objects = RESPONSES.objects
    assert objects is not None
    reader = noted(RESPONSES, *numbered(response(message(0, ["a"]))))
    assert (objects.ident(reader), list(objects.items(reader))) == (ID, ["msg_0"])
    document = json.dumps(snapshot("completed", output=[{"id": "msg_0"}, {}, {"id": 7}])).encode()
    assert (objects.ident_of(document), list(objects.items_of(document))) == (ID, ["msg_0"])
    assert objects.ident_of(b'{"id": "x", "object": "list"}') is objects.ident_of(b"[]") is None


def test_object_that_has_not_begun_is_queued() -> None:
    """With the stream's own id, until the upstream's is known."""
    assert RESPONSES.objects is not None
    begun = json.loads(RESPONSES.objects.begun("st_1", None, 7))
    assert (begun["id"], begun["status"], begun["created_at"], begun["output"]) == ("st_1", "queued", 7, [])


@pytest.mark.parametrize(("code", "status"), [("cancelled", "cancelled"), ("upstream_reset", "failed")])
def test_object_says_how_it_was_ended(code: str, status: str) -> None:
    """Only a failure has an error."""
    assert RESPONSES.objects is not None
    reader = noted(RESPONSES, CREATED)
    ended = json.loads(RESPONSES.objects.ended(json.dumps(snapshot("queued")).encode(), reader, code, "broke off"))
    assert ended["status"] == status
    assert ended["error"] == (None if code == "cancelled" else {"code": code, "message": "broke off"})


def test_number_of_an_event_is_its_sequence_number() -> None:
    """Not its id."""
    assert RESPONSES.objects is not None
    assert RESPONSES.objects.number(CREATED) == 0
    assert RESPONSES.objects.number(b"data: {}\n\n") is None
    assert json.loads(RESPONSES.objects.deleted("resp_1")) == {"id": "resp_1", "object": "response", "deleted": True}
