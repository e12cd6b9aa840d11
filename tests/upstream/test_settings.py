"""The tables that say where requests go: presets, spares, and what is said of mistakes."""

from typing import Any

import pytest
from pydantic import ValidationError

from proxy.dialects import table
from proxy.server.config import Config
from proxy.upstream.settings import RetriesConfig, UpstreamConfig

pytestmark = pytest.mark.usefixtures("bare_environment")


@pytest.mark.parametrize(
    ("url", "is_url", "base"),
    [
        ("qwen-beijing", "https://dashscope.aliyuncs.com", "/compatible-mode/v1"),
        ("qwen-us/ws-1", "https://ws-1.us-east-1.maas.aliyuncs.com", "/compatible-mode/v1"),
        ("qwen-coding", "https://coding.dashscope.aliyuncs.com/v1", "/v1"),
        ("https://qwen.test/", "https://qwen.test", "/compatible-mode/v1"),
    ],
)
def test_url_is_a_preset_or_a_url(url: str, is_url: str, base: str) -> None:
    """A preset and a key are a configuration."""
    upstream = UpstreamConfig(url=url)
    assert (upstream.url, upstream.compatible_base) == (is_url, base)


def test_unknown_preset_is_told_which_there_are() -> None:
    """And under which key it stands."""
    with pytest.raises(ValidationError, match=r"(?s)upstream.url.*qwen-mars.*qwen-singapore"):
        Config.model_validate({"upstream": {"url": "qwen-mars"}})


def spared(**tables: Any) -> Config:
    return Config.model_validate(tables)


def test_nothing_is_on_by_default() -> None:
    """No retries, no spares, no queue."""
    config = Config()
    assert config.retries.attempts == 0
    assert not config.upstream.spares
    assert config.upstream.max_concurrent == config.upstream.requests_per_minute == 0
    assert not config.generations.unwrap_errors


def test_spares_are_named_upstreams() -> None:
    """Of routes of the user's own, too."""
    one, two = {"url": "http://one.test", "spares": ["two"]}, {"url": "http://two.test"}
    assert spared(upstream={"spares": ["one"]}, upstreams={"one": one, "two": two}).upstreams["one"].spares == ("two",)


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"upstream": {"spares": ["two"]}}, "'two' of default is not another of: none"),
        ({"upstreams": {"one": {"url": "http://a.test", "spares": ["one"]}}}, "'one' of one is not another of: none"),
        (
            {"upstream": {"spares": ["one", "one"]}, "upstreams": {"one": {"url": "http://a.test"}}},
            "'one' of default is not another of: one, named once",
        ),
        (
            {"upstream": {"key": "sk-1", "spares": ["one"]}, "upstreams": {"one": {"url": "http://a.test"}}},
            "default has a key and one has none",
        ),
        (
            {"upstream": {"spares": ["one"]}, "upstreams": {"one": {"url": "http://a.test", "key": "sk-1"}}},
            "one has a key and default has none",
        ),
        ({"upstreams": {"default": {"url": "http://a.test"}}}, "'default' is the name of"),
    ],
)
def test_spare_that_can_not_be_one_is_refused(tables: dict[str, Any], said: str) -> None:
    """With what there is; no key is told."""
    with pytest.raises(ValidationError, match=said) as caught:
        spared(**tables)
    assert not [error for error in caught.value.errors() if "sk-1" in error["msg"]]


@pytest.mark.parametrize(
    "path", ["", "files", "/files", "/v2/files", "/v1/../x", "/v1/%2e%2e/x", "/v1/a%2fb", "/v1//x", "/v1/x?y", "/v1/*"]
)
def test_path_that_would_add_nothing_or_more_than_it_says_is_refused(path: str) -> None:
    """It stands below a prefix of Qwen's API, and is spelled in one way."""
    with pytest.raises(ValidationError, match=f"is not a path below {', '.join(table.served())}, without"):
        spared(upstream={"paths": [path]})
    assert spared(upstream={"paths": ["/v1/files/", "/api/v1/tasks"]}).upstream.paths == ("/v1/files/", "/api/v1/tasks")


@pytest.mark.parametrize(
    ("preset", "base"),
    [
        ("qwen-coding", "/v1"),
        ("qwen-coding-intl", "/v1"),
        ("qwen-tokens", "/compatible-mode/v1"),
        ("qwen-tokens-singapore", "/compatible-mode/v1"),
        ("qwen-beijing/ws1", "/compatible-mode/v1"),
    ],
)
def test_preset_knows_the_path_of_every_api(preset: str, base: str) -> None:
    """Nothing needs to be said beside its name, so that plans can be spares of each other."""
    prefixes = spared(upstream={"url": preset}).upstream.prefixes
    assert (prefixes["chat"], prefixes["responses"]) == (f"{base}/", f"{base}/responses")
    assert prefixes["messages"] == "/apps/anthropic/v1/messages"


def test_other_upstreams_have_no_paths() -> None:
    """What of theirs is served, routes say."""
    with pytest.raises(ValidationError, match=r"upstreams\.one\.paths: only \[upstream\] has paths"):
        spared(upstreams={"one": {"url": "http://a.test", "paths": ["/v1/files"]}})


@pytest.mark.parametrize("status", [200, 400, 408, 499, 600])
def test_status_that_does_not_pass_is_not_retried(status: int) -> None:
    """What is wrong stays wrong."""
    with pytest.raises(ValidationError, match=f"{status} is not allowed; only 429 and 500 to 599 are"):
        RetriesConfig(statuses=(429, status))


@pytest.mark.parametrize("path", ["v1/responses", "/v1/responses/", "/v1/../x", "/", "/a%20b", "/a?b"])
def test_path_of_an_api_is_spelled_in_one_way(path: str) -> None:
    """Else the setting is refused by name, with what is allowed."""
    with pytest.raises(ValidationError, match=r"upstream.messages_path"):
        Config.model_validate({"upstream": {"messages_path": path}})
    with pytest.raises(ValidationError, match=r"upstream.responses_path\n.* is not a path like /v1/name"):
        Config.model_validate({"upstream": {"responses_path": path}})


def test_api_is_where_the_setting_says() -> None:
    """Or below the path of the OpenAI routes."""
    upstream = Config.model_validate({"upstream": {"url": "http://x/v1", "responses_path": "/r/responses"}}).upstream
    assert (upstream.prefixes["chat"], upstream.prefixes["responses"]) == ("/v1/", "/r/responses")
    upstream = Config.model_validate({"upstream": {"url": "http://x/v1"}}).upstream
    assert upstream.prefixes["responses"] == "/v1/responses"
