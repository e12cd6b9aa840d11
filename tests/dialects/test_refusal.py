"""Refusals as Qwen writes them: with and without a frame around, nested and flat."""

from pathlib import Path

import pytest

from proxy.dialects.error_codes import Fault, trouble
from proxy.dialects.refusal import asks_for_stream, read
from proxy.tools.fake.chat import CHAT
from proxy.tools.fake.native import NATIVE
from proxy.tools.fake.refusals import REFUSALS, Refusal
from proxy.tools.fake.text import Stamp
from tests.cuts import NOT_RECORDED, recorded

SAYING_SO = (
    "This model only support stream mode, please enable the stream parameter to access the model. ",
    "parameter.enable_thinking must be set to false for non-streaming calls",
    "parameter.enable_thinking only support stream call",
    "'audio' output only support with stream=true",
    "current user api does not support http call.",
)
STAMP = Stamp("5f6b1c1e-0000-4000-8000-000000000000", 1770764906)


@pytest.mark.parametrize("native", [False, True], ids=["compatible", "native"])
@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: f"{row.status}-{row.code}")
def test_every_refusal_is_read_in_every_form(row: Refusal, native: bool) -> None:
    """Plain JSON and a frame say the same; natively the frame's own status counts in a 200."""
    code = row.native_code if native else row.code
    api = NATIVE if native else CHAT
    plain = api.refusal_body(row, STAMP, "qwen-plus")
    framed = api.error_frame(row, STAMP, "qwen-plus", 1)
    flat = CHAT.flat_error_frame(row, STAMP, "qwen-plus", 1)
    assert read(row.status, plain) == (row.status, code, plain, False)
    status, found, body, in_frame = read(200 if native else row.status, framed)
    assert (status, found, in_frame) == (row.status, code, True)
    assert body is not None
    assert body in framed
    assert body.startswith(b"{")
    assert read(400, flat)[:2] == (400, row.native_code)


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\n", b"", b"\n\ndata: [DONE]\n\n"])
@pytest.mark.parametrize("lead", [b"", b"\xef\xbb\xbf", b": comment\n", b": comment\n\n"])
def test_frame_is_taken_off_whatever_its_line_ends(lead: bytes, end: bytes) -> None:
    """A body is one frame, terminated or not."""
    assert read(400, lead + b'data: {"error":{"code":"c"}}' + end) == (400, "c", b'{"error":{"code":"c"}}', True)


@pytest.mark.parametrize(
    "body",
    [b"", b"  ", b"<html>502 Bad Gateway</html>", b"[1]", b"data: nothing\n\n", b"data:\n\n", b"null", b"\xff\xfe"],
)
def test_what_is_no_json_object_has_no_code(body: bytes) -> None:
    """A load balancer's page, or nothing at all."""
    found = read(502, body)
    assert (found.status, found.code, found.body) == (502, None, None)


@pytest.mark.parametrize("body", [b'{"error":"busy"}', b'{"error":{"code":404}}', b'{"code":null}', b"{}"])
def test_code_that_is_no_text_is_none(body: bytes) -> None:
    """The object is read all the same."""
    assert read(500, body) == (500, None, body, False)


def test_byte_order_mark_before_plain_json_is_no_part_of_it() -> None:
    """As some gateways put one."""
    assert read(400, b'\xef\xbb\xbf{"code":"c"}')[:2] == (400, "c")


@pytest.mark.skipif(not recorded(), reason=NOT_RECORDED)
@pytest.mark.parametrize("path", [path for path in recorded() if "error" in path.name], ids=lambda path: path.stem)
def test_recorded_refusals_are_read(path: Path) -> None:
    """Each says what is wrong with its request."""
    found = read(400 if path.name.startswith("compat") else 200, path.read_bytes())
    assert (found.status, found.framed) == (400, True)
    assert trouble(found.status, found.code).fault is Fault.CALLER
    assert found.code


def test_status_in_a_refusal_that_has_one_is_not_overruled() -> None:
    """HTTP 429 is a 429, whatever a comment says."""
    assert read(429, b'event:error\n:HTTP_STATUS/500\ndata:{"code":"x"}\n\n').status == 429


@pytest.mark.parametrize("message", SAYING_SO)
def test_refusal_that_asks_for_streaming_is_known(message: str) -> None:
    """In whatever JSON it comes."""
    assert asks_for_stream(b'{"error":{"message":"%b"}}' % message.encode())
    assert asks_for_stream(b'{"code":"InvalidParameter","message":"%b"}' % message.encode())


@pytest.mark.parametrize("body", [b"", b"{}", b'{"error":{"message":"Range of top_logprobs should be [0, 5]"}}'])
def test_other_refusals_do_not_ask_for_it(body: bytes) -> None:
    """They would be the same with streaming, and paid for with another call."""
    assert not asks_for_stream(body)
