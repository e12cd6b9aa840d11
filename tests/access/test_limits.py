"""The limits of one caller: which models they allow, when tokens must be known, and a process's share of them."""

import pytest
from pydantic import ValidationError

from proxy.access.limits import DIVIDED, CallerLimits


def test_every_number_is_divided_but_for_the_size_of_a_body() -> None:
    """A limit that is added is one of one request, or of all processes together: the table says which."""
    numbers = {name for name, value in CallerLimits().model_dump().items() if value == 0}
    assert numbers - set(DIVIDED) == {"body_bytes"}


@pytest.mark.parametrize(
    ("allowed", "name", "may"),
    [
        ((), "anything", True),
        (("qwen-plus",), "qwen-plus", True),
        (("qwen-plus",), "qwen-plus-latest", False),
        (("qwen-*",), "qwen-", True),
        (("qwen-*",), "qwen3-max", False),
        (("*",), "", True),
        (("a", "b*"), "bc", True),
        (("q*n",), "qwen", False),
        (("q*n",), "q*", False),
    ],
)
def test_model_is_allowed_by_its_name_or_its_beginning(allowed: tuple[str, ...], name: str, may: bool) -> None:
    """Only a * at the end stands for anything."""
    assert CallerLimits(models=allowed).allows_model(name) is may


@pytest.mark.parametrize(
    ("limits", "counts"),
    [({}, False), ({"requests_per_day": 1}, False), ({"tokens_per_minute": 1}, True), ({"tokens_per_day": 1}, True)],
)
def test_tokens_must_be_known_where_they_are_limited(limits: dict[str, int], counts: bool) -> None:
    """Else a client's request is sent on without asking for the usage."""
    assert CallerLimits(**limits).counts_tokens is counts


@pytest.mark.parametrize("limits", [{"streams": -1}, {"streams": 1.5}, {"requests": 5}])
def test_limit_that_can_not_hold_is_refused(limits: dict[str, float]) -> None:
    """A negative number, a half, a name that there is not."""
    with pytest.raises(ValidationError):
        CallerLimits(**limits)  # type: ignore[arg-type]
