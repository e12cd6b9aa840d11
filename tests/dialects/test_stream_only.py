"""Which refusals ask for the same request with streaming."""

import pytest

from proxy.dialects.stream_only import is_stream_only

SAYING_SO = (
    "This model only support stream mode, please enable the stream parameter to access the model. ",
    "parameter.enable_thinking must be set to false for non-streaming calls",
    "parameter.enable_thinking only support stream call",
    "'audio' output only support with stream=true",
    "current user api does not support http call.",
)


@pytest.mark.parametrize("message", SAYING_SO)
def test_refusal_that_asks_for_streaming_is_known(message: str) -> None:
    """In whatever JSON it comes."""
    assert is_stream_only(b'{"error":{"message":"%b"}}' % message.encode())
    assert is_stream_only(b'{"code":"InvalidParameter","message":"%b"}' % message.encode())


@pytest.mark.parametrize("body", [b"", b"{}", b'{"error":{"message":"Range of top_logprobs should be [0, 5]"}}'])
def test_other_refusals_do_not_ask_for_it(body: bytes) -> None:
    """They would be the same with streaming, and paid for with another call."""
    assert not is_stream_only(body)
