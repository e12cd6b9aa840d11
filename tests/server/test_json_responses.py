"""What the proxy says by itself: its errors in both dialects, as clients' SDKs read them."""

import json
from typing import Any

import orjson
import pytest

from proxy.dialects.chat import CHAT as CHATS
from proxy.dialects.dashscope import DASHSCOPE as NATIVES
from proxy.dialects.dialect import Dialect
from proxy.server.json_responses import answer, refuse
from proxy.wire import errors
from proxy.wire.errors import OffsetGone, Overloaded, ProxyError, RequestError
from tests.proxy_under_test import CHAT, NATIVE, chat_body, faked, native_body, teed


def leaves(base: type[ProxyError] = ProxyError) -> list[type[ProxyError]]:
    """Return every class of error there is."""
    return [base, *(leaf for child in base.__subclasses__() for leaf in leaves(child))]


def made(kind: type[ProxyError]) -> ProxyError:
    more = {OffsetGone: (5,), errors.RateLimited: (7,)}
    return kind("what happened", *more.get(kind, ()))  # type: ignore[arg-type]


def told(error: ProxyError, dialect: Dialect) -> tuple[Any, dict[str, Any]]:
    response = refuse(error, dialect)
    assert isinstance(response.body, bytes)
    return response, json.loads(response.body)


@pytest.mark.parametrize("kind", leaves(), ids=lambda kind: kind.__name__)
def test_error_has_openais_shape(kind: type[ProxyError]) -> None:
    """One object `error` with message, type, param and code; the type says whose fault it is."""
    response, body = told(made(kind), CHATS)
    assert response.status == kind.status
    assert response.content_type == "application/json"
    fault = "invalid_request_error" if issubclass(kind, RequestError) else "server_error"
    assert body["error"] == {"message": "what happened", "type": fault, "param": None, "code": kind.code}


@pytest.mark.parametrize("kind", leaves(), ids=lambda kind: kind.__name__)
def test_error_has_dashscopes_shape(kind: type[ProxyError]) -> None:
    """Flat: code, message and request_id."""
    response, body = told(made(kind), NATIVES)
    assert response.status == kind.status
    assert {name: body[name] for name in ("code", "message", "request_id")} == {
        "code": kind.code,
        "message": "what happened",
        "request_id": "",
    }


def test_every_error_has_a_status_that_fits_the_fault() -> None:
    """Faults below are 4xx, others 5xx; the docstring states the fact."""
    for kind in leaves():
        assert kind.__doc__
        assert 400 <= kind.status < 500 if issubclass(kind, RequestError) else 500 <= kind.status < 600
    assert {kind.code for kind in leaves()} > {"overloaded", "too_large", "stream_not_found"}


def test_error_that_passes_says_when_to_come_back() -> None:
    """Retry-After in whole seconds; other errors have none."""
    assert told(Overloaded("full"), CHATS)[0].headers["Retry-After"] == "1"
    assert "Retry-After" not in told(errors.TooLarge("much"), CHATS)[0].headers


def test_conflict_is_not_to_be_tried_again() -> None:
    """OpenAI's SDKs repeat what was answered with 409, unless they are told that it does not help."""
    for kind in leaves():
        never = told(made(kind), CHATS)[0].headers.get("x-should-retry") == "false"
        assert never == (kind.status == 409)


@pytest.mark.parametrize("dialect", [CHATS, NATIVES])
def test_offset_that_is_gone_names_the_earliest(dialect: Dialect) -> None:
    """Beside the error, where a program finds it."""
    assert told(OffsetGone("gone", 17), dialect)[1]["earliest"] == 17


def test_text_is_utf_8() -> None:
    """Whatever is in a message, quotes and newlines too, it stays JSON."""
    message = 'a "quoted" 路\n\x00'
    assert told(ProxyError(message), CHATS)[1]["error"]["message"] == message
    assert told(ProxyError(message), NATIVES)[1]["message"] == message
    response = answer({"path": "路"}, 201, {"X-A": "b"})
    assert (response.status, response.headers["X-A"]) == (201, "b")
    assert response.headers["Content-Type"] == "application/json; charset=utf-8"
    assert response.body == orjson.dumps({"path": "路"})


async def test_error_on_the_wire() -> None:
    """The connection goes on; a client that sent HEAD gets the head alone."""
    async with faked() as fake, teed(fake.url) as tee:
        client = await tee.send("GET", "/v1/streams/none")
        refused = await client.answer()
        assert (refused.status, refused.header("content-type")) == (404, "application/json; charset=utf-8")
        assert (await refused.json())["error"]["code"] == "stream_not_found"
        client.send(b"HEAD /v1/streams/none HTTP/1.1\r\nHost: x\r\n\r\n", method="HEAD")
        refused = await client.answer()
        assert refused.status == 404
        client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await client.answer()).status == 200


@pytest.mark.parametrize(("path", "body", "nested"), [(CHAT, chat_body(), True), (NATIVE, native_body(), False)])
async def test_error_speaks_the_routes_dialect(path: str, body: bytes, nested: bool) -> None:
    """So that the SDK that called understands it."""
    async with faked() as fake, teed(fake.url) as tee:
        refused = await tee.ask("POST", path, "Stream-Mode: none", body=body)
        assert refused.status == 400
        told = await refused.json()
        assert ("error" in told) == nested
        assert told.get("error", told)["code"] == "unknown_mode"
