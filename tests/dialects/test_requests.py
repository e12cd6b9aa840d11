"""How each API is asked: the same request as a stream, or with usage, and nothing else of it changed."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects import table
from proxy.dialects.chat import CHAT
from proxy.dialects.dashscope import DASHSCOPE
from proxy.dialects.dialect import Dialect
from proxy.dialects.messages import MESSAGES
from proxy.dialects.responses import RESPONSES

DIALECTS = list({row.name: row.dialect for row in table.ROWS}.values())
SSE = (b"X-DashScope-SSE", b"enable")
each_dialect = pytest.mark.parametrize("dialect", DIALECTS)
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just([]) | st.just({})
OPTIONS = VALUES | st.dictionaries(st.sampled_from(["include_usage", "incremental_output", "x"]), VALUES)
ASKED = st.dictionaries(st.sampled_from(["stream", "model", "x"]), VALUES) | st.fixed_dictionaries(
    {}, optional={"stream": st.booleans(), "stream_options": OPTIONS, "parameters": OPTIONS, "model": VALUES}
)


def read(body: bytes) -> Any:
    return json.loads(body, parse_int=str, parse_float=str, parse_constant=str)


def merged(before: dict[str, Any], name: str, more: dict[str, Any]) -> dict[str, Any]:
    return before | {name: (before.get(name) or {}) | more}


@each_dialect
@given(st.binary() | ASKED.map(lambda asked: json.dumps(asked).encode()))
def test_any_body_is_asked_as_it_came_or_with_the_same_meaning(dialect: Dialect, body: bytes) -> None:
    """Only that it is a stream, with its usage, in increments; what is no object where one should be is left alone."""
    requests = dialect.requests
    requests.model(body)
    requests.asks_cumulative(body)
    streamed, with_usage = requests.as_stream([], body), requests.with_usage(body)
    if with_usage is not None:
        assert read(with_usage) == merged(read(body), "stream_options", {"include_usage": True})
        assert read(body)["stream"] is True
    if streamed is not None and dialect is CHAT:
        assert read(streamed[1]) == merged(read(body), "stream_options", {"include_usage": True}) | {"stream": True}
    elif streamed is not None and dialect in (RESPONSES, MESSAGES):
        assert read(streamed[1]) == read(body) | {"stream": True}
    elif streamed is not None and streamed[1] != body:
        assert read(streamed[1]) == merged(read(body), "parameters", {"incremental_output": True})


@each_dialect
@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'"stream"', b"\xff", b'{"a":' * 100_000])
def test_what_is_no_object_is_left_to_the_upstream(dialect: Dialect, body: bytes) -> None:
    """It says what is wrong with it."""
    assert dialect.requests.as_stream([], body) is None
    assert dialect.requests.with_usage(body) is None


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        (CHAT, {"stream": True}),
        (CHAT, {"stream": 1}),
        (CHAT, {"stream": "false"}),
        (CHAT, {"stream_options": []}),
        (MESSAGES, {"stream": True}),
        (MESSAGES, {"stream": "false"}),
        (CHAT, {"stream_options": "x"}),
        (RESPONSES, {"stream": True}),
        (RESPONSES, {"stream": "false"}),
        (RESPONSES, {"background": True}),
        (DASHSCOPE, {"parameters": "x"}),
        (DASHSCOPE, {"parameters": []}),
    ],
)
def test_stream_is_not_asked_for_where_that_could_mean_another_thing(dialect: Dialect, body: dict[str, Any]) -> None:
    """It is one already, or something else stands where an object or a boolean should."""
    assert dialect.requests.as_stream([], json.dumps(body).encode()) is None


@pytest.mark.parametrize("stream", [1, "true", "false", None, False, [], {}])
def test_usage_is_asked_for_of_streams_alone(stream: Any) -> None:
    """Qwen refuses stream_options without a stream."""
    assert CHAT.requests.with_usage(json.dumps({"stream": stream}).encode()) is None


@pytest.mark.parametrize("odd", [b"NaN", b"1" * 400, b"1e400", b'"\\ud83d"', b'"\xff"', b"[" * 500 + b"]" * 500])
def test_odd_json_goes_up_as_it_came(odd: bytes) -> None:
    """What other parsers read is read here, too, and none of it is spelt anew."""
    body = b'\xef\xbb\xbf{"a":%b,"stream":true}' % odd
    assert CHAT.requests.with_usage(body) == (
        b'\xef\xbb\xbf{"stream_options":{"include_usage":true},"a":%b,"stream":true}' % odd
    )


@pytest.mark.parametrize("given", [None, True, False])
def test_native_stream_is_asked_for_by_header_and_in_increments(given: bool | None) -> None:
    """Unless the client has said otherwise: its model may know only one of the two."""
    parameters = {} if given is None else {"incremental_output": given}
    asked = DASHSCOPE.requests.as_stream(
        [(b"accept", b"application/json"), (b"X", b"y")], json.dumps({"parameters": parameters}).encode()
    )
    assert asked is not None
    assert asked[0] == [(b"X", b"y"), (b"Accept", b"text/event-stream"), SSE]
    assert json.loads(asked[1])["parameters"]["incremental_output"] is (given is not False)


@pytest.mark.parametrize(
    ("headers", "streamed"),
    [
        ([(b"X-DASHSCOPE-SSE", b"Enable")], True),
        ([(b"accept", b"Text/Event-Stream, */*")], True),
        ([(b"accept", b"*/*"), (b"X-DashScope-SSE", b"disable")], False),
    ],
)
def test_native_stream_is_known_by_its_headers(headers: list[tuple[bytes, bytes]], streamed: bool) -> None:
    """On OpenAI's routes it is the body that says so."""
    assert DASHSCOPE.requests.asks_stream(headers) is streamed
    assert (DASHSCOPE.requests.as_stream(headers, b"{}") is None) is streamed
    assert not CHAT.requests.asks_stream(headers)


@pytest.mark.parametrize(
    ("body", "cumulative"),
    [(b'{"parameters":{"incremental_output" : true}}', False), (b'{"incremental_output":false}', True), (b"{}", None)],
)
def test_native_request_may_say_which_of_the_two_it_wants(body: bytes, cumulative: bool | None) -> None:
    """Then the first texts of its answer are not in doubt."""
    assert DASHSCOPE.requests.asks_cumulative(body) is cumulative
    assert CHAT.requests.asks_cumulative(body) is None


@each_dialect
def test_model_is_found_near_the_beginning(dialect: Dialect) -> None:
    """A body may have megabytes, of which none is parsed for it."""
    assert dialect.requests.model(b'{"input":"\\"model\\": \\"x\\"", "model" : "qwen-max"}') == "qwen-max"
    assert dialect.requests.model(b'{"input":"%b","model":"qwen-max"}' % (b"x" * 70_000)) is None
    assert dialect.requests.model(b'{"model":1}') is None
