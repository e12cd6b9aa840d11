"""What a client asks for in headers: what is taken, what is refused, and that none of it crosses."""

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from proxy.server.generations.options import GenerationOptions, read_options
from proxy.tools.fake.qwen import FakeQwen
from tests.proxy_under_test import CHAT, NATIVE, Tee, chat_body, configured, native_body


@pytest.mark.parametrize(("path", "body"), [(CHAT, chat_body()), (NATIVE, native_body())], ids=["chat", "native"])
@pytest.mark.parametrize(
    ("header", "code", "words"),
    [
        ("Stream-Mode: cooked", "unknown_mode", ["'cooked'", "raw", "events"]),
        ("Stream-Mode: RAW", "unknown_mode", ["'RAW'", "raw", "events"]),
        ("Stream-Mode:", "unknown_mode", ["raw", "events"]),
        ("Stream-Key:", "bad_request", ["Stream-Key", "1 to 200", "ASCII"]),
        ("Stream-Key: two words", "bad_request", ["Stream-Key", "1 to 200", "ASCII"]),
        ("Stream-Key: " + "k" * 201, "bad_request", ["Stream-Key", "1 to 200", "ASCII"]),
        ("Stream-Key: caf\xe9", "bad_request", ["Stream-Key", "1 to 200", "ASCII"]),
        ("Idempotency-Key:", "bad_request", ["Idempotency-Key", "1 to 255", "ASCII"]),
        ("Idempotency-Key: two words", "bad_request", ["Idempotency-Key", "1 to 255", "ASCII"]),
        ("Idempotency-Key: " + "k" * 256, "bad_request", ["Idempotency-Key", "1 to 255", "ASCII"]),
        ("Idempotency-Key: caf\xe9", "bad_request", ["Idempotency-Key", "1 to 255", "ASCII"]),
        ("Stream-Retain: soon", "bad_request", ["Stream-Retain", "'soon'", "seconds"]),
        ("Stream-Retain: -1", "bad_request", ["Stream-Retain", "'-1'", "seconds"]),
        ("Stream-Retain: \xb2", "bad_request", ["Stream-Retain", "seconds"]),
        ("Stream-On-Disconnect: stay", "bad_request", ["'stay'", "cancel", "continue", "grace=SECONDS"]),
        ("Stream-On-Disconnect: grace", "bad_request", ["'grace'", "grace=SECONDS"]),
        ("Stream-On-Disconnect: grace=", "bad_request", ["grace=SECONDS"]),
        ("Stream-On-Disconnect: grace=-1", "bad_request", ["grace=SECONDS"]),
        ("Stream-On-Disconnect: grace=nan", "bad_request", ["grace=SECONDS"]),
        ("Stream-On-Disconnect: grace=inf", "bad_request", ["grace=SECONDS"]),
        ("Stream-On-Disconnect: grace=999999", "bad_request", ["grace=SECONDS"]),
        ("Stream-On-Disconnect: Grace=1", "bad_request", ["grace=SECONDS"]),
    ],
)
async def test_option_that_is_wrong_is_refused(
    tee: Tee, fake: FakeQwen, path: str, body: bytes, header: str, code: str, words: list[str]
) -> None:
    """400 with what was given and what is allowed, and nothing is sent upstream."""
    answer = await tee.ask("POST", path, header.encode("latin-1"), body=body)
    told = await answer.json()
    error = told.get("error", told)
    assert (answer.status, error["code"]) == (400, code)
    assert [word for word in words if word not in error["message"]] == []
    assert fake.requests == []


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ("Stream-Mode: raw",),
        ("Stream-Key: !~" + "k" * 198,),
        ("Stream-Retain: 0",),
        ("Stream-Retain: 99999999999999999999",),
        ("Stream-On-Disconnect: cancel",),
        ("Stream-On-Disconnect: continue",),
        ("Stream-On-Disconnect: grace=0",),
        ("Stream-On-Disconnect: grace=0.5",),
        ("stream-mode: raw", "STREAM-KEY: k"),
        ("Idempotency-Key: !~" + "k" * 253,),
    ],
)
async def test_option_that_is_right_stays_here(tee: Tee, fake: FakeQwen, headers: tuple[str, ...]) -> None:
    """It is taken, and does not cross."""
    answer = await tee.chat(*headers)
    assert await answer.read() == bytes(fake.requests[0].sent)
    assert [name for name, _ in fake.requests[0].headers if name.lower().startswith((b"stream-", b"idem"))] == []


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (["respond-async"], True),
        (["RESPOND-ASYNC"], True),
        (['respond-async=""'], True),
        (["wait=10, respond-async"], True),
        (["respond-async;a=b,wait=10"], True),
        (["return=minimal", " respond-async "], True),
        (["respond-asynchronously"], False),
        (["respond-async=1"], False),
        (["wait=10"], False),
        ([""], False),
        ([], False),
    ],
)
def test_preference_is_found_among_others(values: list[str], wanted: bool) -> None:
    """As RFC 7240 writes them: in one header or several, with parameters, in any case."""
    assert options(*(("Prefer", value) for value in values)).respond_async == wanted


@pytest.mark.parametrize(
    ("configured_policy", "header", "key", "grace_s"),
    [
        ("cancel", None, False, 0),
        ("cancel", None, True, 30),
        ("grace=5", None, True, 30),
        ("grace=50", None, True, 50),
        ("continue", None, True, None),
        ("continue", "cancel", True, 0),
        ("cancel", "grace=1", True, 1),
    ],
)
def test_client_that_may_ask_again_has_the_time_for_it(
    configured_policy: str, header: str | None, key: bool, grace_s: float | None
) -> None:
    """With an Idempotency-Key the configured policy is at least a grace; what the client says goes over both."""
    given = [("Stream-On-Disconnect", header)] if header else []
    given += [("Idempotency-Key", "k")] if key else []
    assert options(*given, on_disconnect=configured_policy).on_disconnect.grace_s == grace_s


def options(*headers: tuple[str, str], **streams: str) -> GenerationOptions:
    """Return what a request with these headers asks for."""
    request = make_mocked_request("POST", CHAT, CIMultiDict(headers))
    return read_options(request.headers, configured("http://upstream.test", streams=streams))


async def test_errors_of_options_come_before_the_body(tee: Tee, fake: FakeQwen) -> None:
    """A client need not send a large prompt to hear that its option is wrong."""
    client = await tee.send("POST", CHAT, "Stream-Mode: cooked", "Content-Length: 1000000", body=b"")
    assert (await client.answer()).status == 400
    assert fake.requests == []
