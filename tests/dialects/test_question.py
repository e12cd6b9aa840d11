"""How clients ask each API for a stream: the request that commands and console send is one that the row knows."""

import json

import pytest

from proxy.dialects.question import Question
from proxy.dialects.table import ROWS, Row

ASKED = [row for row in ROWS if row.asking is not None]
each_api = pytest.mark.parametrize("row", ASKED, ids=[row.name for row in ASKED])


def test_prompt_is_a_conversation_of_one_message() -> None:
    """The format that several APIs share."""
    assert Question("m", "Hello").messages == [{"role": "user", "content": "Hello"}]
    assert Question("m", "Hello").max_tokens == 0


def test_several_apis_are_asked() -> None:
    """Under different titles."""
    assert len({row.asking and row.asking.title for row in ASKED}) == len(ASKED) > 2


@each_api
def test_body_asks_for_a_stream_of_the_model(row: Row) -> None:
    """With the prompt, and a limit only if there is one, or the API demands it."""
    assert row.asking is not None
    body = row.asking.body(Question("qwen-plus", "Say it", 50))
    written = json.dumps(body)
    assert (body["model"], body["stream"]) == ("qwen-plus", True)
    assert "Say it" in written
    assert 50 in body.values()
    assert 0 not in row.asking.body(Question("qwen-plus", "Say it")).values()
    requests = row.dialect.requests
    assert requests.model(written.encode()) == "qwen-plus"
    assert requests.as_stream([], written.encode()) is None  # it is one already


@each_api
def test_path_is_that_of_a_generation(row: Row) -> None:
    """Below a base URL that ends with a version."""
    assert row.asking is not None
    path = row.asking.path
    served = [prefix + generation for prefix in row.prefixes for generation in row.generations or ("",)]
    assert path.startswith("/")
    assert any(f"/{one.strip('/')}".endswith(path) for one in served)


@each_api
def test_headers_that_the_api_demands_are_in_lower_case(row: Row) -> None:
    """As pages and HTTP/2 write them; none is the key."""
    assert row.asking is not None
    names = [name for name, _ in row.asking.headers]
    assert names == [name.lower() for name in names]
    assert row.key_header.lower().encode() not in names
