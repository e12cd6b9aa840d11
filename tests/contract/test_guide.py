"""The examples of a streaming guide, as their readers write them: nothing is changed but the base URL."""

from pathlib import Path

from tests.contract.playback import Playback
from tests.contract.sdks import Question, Sdks, both_majors
from tests.proxy_under_test import Tee

ORIGIN = "https://dashscope-intl.aliyuncs.com"
EXAMPLES = sorted((Path(__file__).parent / "guide").glob("*.py"))


@both_majors
async def test_example_prints_the_same_with_another_base_url(sdks: Sdks, fake: Playback, tee: Tee) -> None:
    """Text, reasoning, usage and tool calls; increments, the SDK's sum of them, and all so far."""
    asked: list[Question] = [
        {"sdk": "script", "script": str(path), "origin": ORIGIN, "url": url}
        for path in EXAMPLES
        for url in (fake.url, tee.proxy.url)
    ]
    heard = [told["printed"] for told in await sdks.hear(asked)]
    direct = {path.stem: printed for path, printed in zip(EXAMPLES, heard[::2], strict=True)}
    assert {path.stem: printed for path, printed in zip(EXAMPLES, heard[1::2], strict=True)} == direct
    assert len(fake.requests) == 2 * len(EXAMPLES)
    assert not [name for name, printed in direct.items() if len(printed) < 100 or "请求失败" in printed]


@both_majors
async def test_examples_with_and_without_increments_end_with_the_same_text(
    sdks: Sdks, fake: Playback, tee: Tee
) -> None:
    """What the SDK adds up is what the upstream adds up: nothing is said twice."""
    names = ("dashscope_cumulative", "dashscope_added_up")
    asked: list[Question] = [
        {"sdk": "script", "script": str(path), "origin": ORIGIN, "url": tee.proxy.url}
        for path in EXAMPLES
        if path.stem in names
    ]
    one, other = [told["printed"].rpartition("--- 完整回复 ---\n")[2] for told in await sdks.hear(asked)]
    assert one == other != ""
