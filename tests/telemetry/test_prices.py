"""What tokens cost: which row holds for a model, what each kind of token is charged with, and the metrics of it."""

from typing import Any

import pytest
from pydantic import ValidationError

from proxy.dialects.usage import Usage
from proxy.server.config import Config
from proxy.server.reload import reload
from proxy.telemetry.prices import Prices
from proxy.telemetry.settings import PricesConfig
from proxy.tools.fake.qwen import FakeQwen
from tests.event_streams import DONE, FINISH
from tests.proxy_under_test import begun, teed
from tests.stage import Stage

MILLION = 1_000_000
ROW = {"name": "qwen-plus", "prompt": 1, "completion": 10}
COUNTED = b'data: {"choices":[],"model":"qwen3-max","usage":{"prompt_tokens":1000,"completion_tokens":500}}\n\n'


def prices(*rows: dict[str, Any]) -> Prices:
    return Prices(PricesConfig.model_validate({"currency": "CNY", "models": rows}))


def cost(found: Prices, usage: Usage, model: str = "qwen-plus", *, cached_apart: bool = False) -> dict[str, float]:
    return dict(found.of(model, usage, cached_apart=cached_apart))


def test_no_token_is_charged_twice() -> None:
    """What a cache had is not among the prompt's, nor reasoning among the completion's."""
    row = {**ROW, "cached": 0.1, "cache_written": 1.5}
    read = {"prompt": 4 * MILLION, "cached": 2 * MILLION, "cache_written": MILLION}
    usage = Usage(**read, completion=3 * MILLION, reasoning=MILLION)
    expected = {"prompt": 1, "cached": 0.2, "cache_written": 1.5, "completion": 20, "reasoning": 10}
    assert cost(prices(row), usage) == pytest.approx(expected)


def test_cache_that_is_counted_apart_is_not_taken_from_the_prompt() -> None:
    """As in Messages."""
    usage = Usage(prompt=MILLION, cached=2 * MILLION)
    assert cost(prices({**ROW, "cached": 0.1}), usage, cached_apart=True) == pytest.approx({"prompt": 1, "cached": 0.2})


def test_price_that_is_left_out_is_that_of_the_prompt_or_the_completion() -> None:
    """And nothing is charged for kinds that there are none of."""
    usage = Usage(prompt=2 * MILLION, cached=MILLION, completion=MILLION, reasoning=MILLION)
    assert cost(prices(ROW), usage) == pytest.approx({"prompt": 1, "cached": 1, "reasoning": 10})


def test_thinking_is_the_price_of_the_whole_completion() -> None:
    """But not of a completion without any."""
    found = prices({**ROW, "thinking": 40})
    thought = Usage(completion=2 * MILLION, reasoning=MILLION)
    assert cost(found, thought) == pytest.approx({"completion": 40, "reasoning": 40})
    assert cost(found, Usage(completion=MILLION)) == pytest.approx({"completion": 10})


def test_row_of_a_model_is_its_own_name_or_the_longest_beginning() -> None:
    """A model without either has no cost."""
    found = prices({**ROW, "name": "qwen*"}, {**ROW, "name": "qwen-plus*", "prompt": 2}, {**ROW, "prompt": 3})
    one = Usage(prompt=MILLION)
    assert [cost(found, one, model) for model in ("qwen-max", "qwen-plus-latest", "qwen-plus", "gpt-4")] == [
        {"prompt": 1},
        {"prompt": 2},
        {"prompt": 3},
        {},
    ]
    assert found.of(None, one, cached_apart=False) == []


def test_long_prompts_have_the_prices_of_their_row() -> None:
    """Cached tokens are part of the prompt's length, however they are counted; beyond all rows the last one holds."""
    rows = ({**ROW, "max_prompt_tokens": 2000, "prompt": 3}, {**ROW, "max_prompt_tokens": 1000}, {**ROW, "prompt": 7})
    found = prices(*rows)
    charged = [cost(found, Usage(prompt=count))["prompt"] * MILLION / count for count in (1000, 1001, 2000, 2001)]
    assert charged == pytest.approx([1, 3, 3, 7])
    assert cost(found, Usage(prompt=10, cached=991), cached_apart=True)["prompt"] == pytest.approx(30 / MILLION)
    assert cost(prices(*rows[:2]), Usage(prompt=MILLION)) == pytest.approx({"prompt": 3})


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"models": [ROW]}, "prices need a currency"),
        ({"currency": "CNY", "models": [ROW, ROW]}, "qwen-plus is listed twice"),
        ({"currency": "CNY", "models": [{**ROW, "max_prompt_tokens": 5}] * 2}, "twice with max_prompt_tokens = 5"),
        ({"currency": "CNY", "models": [{**ROW, "name": "q*n"}]}, "is not the name of a model"),
        ({"currency": "CNY", "models": [{**ROW, "prompt": -1}]}, "greater than or equal to 0"),
        ({"currency": "CNY", "models": [{"name": "q"}]}, "Field required"),
        ({"currency": 'C"'}, "should match pattern"),
    ],
)
def test_prices_that_make_no_sense_are_refused(table: dict[str, Any], told: str) -> None:
    """With what is wrong."""
    with pytest.raises(ValidationError, match=told):
        Config(prices=table)


async def test_cost_is_counted_by_model_and_kind(stage: Stage) -> None:
    """In the currency that was named; what shares the call has its own count of what it saved."""
    table = {"currency": "CNY", "models": [{"name": "qwen3*", "prompt": 2, "completion": 8}]}
    async with teed(stage.url, prices=table, generations={"share": "body"}) as tee:
        answer, turn = await begun(tee, stage)
        other = await tee.chat()
        turn.end(FINISH, COUNTED, DONE)
        await answer.read()
        await other.read()
        labels = {"route": "chat", "model": "qwen3-max", "currency": "CNY"}
        kinds = ("prompt", "completion")
        spent = {kind: await tee.metric("streamtee_cost_total", kind=kind, **labels) for kind in kinds}
        saved = await tee.metric("streamtee_shared_cost_total", route="chat", how="body", currency="CNY")
    assert spent == pytest.approx({"prompt": 0.002, "completion": 0.004})
    assert saved == pytest.approx(0.006)


async def test_without_prices_nothing_is_counted(tee: Any, fake: FakeQwen) -> None:
    """Tokens are."""
    await (await tee.chat(stream_options={"include_usage": True})).read()
    page = await tee.metrics()
    assert "streamtee_tokens_total{" in page
    assert "streamtee_cost_total{" not in page


async def test_prices_change_while_the_proxy_runs(stage: Stage) -> None:
    """From none, to others, and to none: what was counted stays, under its currency."""
    async with teed(stage.url) as tee:
        for currency in ("CNY", "USD", ""):
            rows = [{"name": "qwen3-max", "prompt": 1000, "completion": 0}] if currency else []
            table = PricesConfig.model_validate({"currency": currency, "models": rows})
            changes = reload(tee.proxy, tee.proxy.config.model_copy(update={"prices": table}))
            assert "prices.currency" in changes.made
            assert changes.later == []
            answer, turn = await begun(tee, stage)
            turn.end(FINISH, COUNTED, DONE)
            await answer.read()
        spent = [await tee.metric("streamtee_cost_total", currency=one) for one in ("CNY", "USD")]
    assert spent == pytest.approx([1, 1])
