"""The presets: which host a name stands for, and what is said of one that stands for none."""

import pytest

from proxy.dialects.presets import resolve


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("qwen-beijing", "https://dashscope.aliyuncs.com"),
        ("qwen-singapore", "https://dashscope-intl.aliyuncs.com"),
        ("qwen-us", "https://dashscope-us.aliyuncs.com"),
        ("qwen-hongkong", "https://cn-hongkong.dashscope.aliyuncs.com"),
        ("qwen-coding", "https://coding.dashscope.aliyuncs.com/v1"),
        ("qwen-coding-intl", "https://coding-intl.dashscope.aliyuncs.com/v1"),
        ("qwen-tokens-singapore", "https://token-plan.ap-southeast-1.maas.aliyuncs.com/compatible-mode/v1"),
        ("qwen-tokens", "https://token-plan.cn-beijing.maas.aliyuncs.com/compatible-mode/v1"),
        ("qwen-singapore/llm-abc123", "https://llm-abc123.ap-southeast-1.maas.aliyuncs.com"),
        ("qwen-beijing/ws1", "https://ws1.cn-beijing.maas.aliyuncs.com"),
        ("qwen-frankfurt/ws1", "https://ws1.eu-central-1.maas.aliyuncs.com"),
        ("https://example.com/qwen-beijing", "https://example.com/qwen-beijing"),
    ],
)
def test_name_stands_for_its_host(name: str, url: str) -> None:
    """And a URL for itself."""
    assert resolve(name) == url


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("qwen-mars", "qwen-beijing, qwen-singapore, qwen-us, qwen-hongkong"),
        ("qwen-", "qwen-coding"),
        ("qwen-mars/ws", "REGION/WORKSPACE"),
        ("qwen-tokyo", "qwen-tokyo/WORKSPACE"),
        ("qwen-beijing/", "not a workspace id"),
        ("qwen-beijing/evil.example.com#", "not a workspace id"),
        ("qwen-coding/ws", "is not a preset"),
    ],
)
def test_unknown_name_is_told_which_there_are(name: str, said: str) -> None:
    """The message is the documentation."""
    with pytest.raises(ValueError, match=said):
        resolve(name)
