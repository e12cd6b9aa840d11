"""Which refusals say that a model, or its thinking mode, answers nothing but streams.

Source: Model Studio's error messages, as recorded in reports of their users.
"""

_SAYING_SO = (
    b"only support stream mode",
    b"must be set to false for non-streaming calls",
    b"enable_thinking only support stream call",
    b"only support with stream=true",
    b"does not support http call",
)


def is_stream_only(body: bytes) -> bool:
    """Tell whether a refusal's body asks for the same request with streaming."""
    return any(words in body for words in _SAYING_SO)
