"""What is said of values that are not what they must be, for every key of the configuration and every kind of value."""

import re
import tomllib
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import pytest
from pydantic import SecretStr, ValidationError

from proxy.objections import OBJECT, objection
from proxy.server.config import Config, load
from proxy.server.configuration.mistakes import explained
from proxy.settings import is_table, table_below
from proxy.upstream.settings import RetriesConfig

pytestmark = pytest.mark.usefixtures("bare_environment")
SECRET = "sk-never-to-be-printed"
VALUES: dict[str, Any] = {
    "a string": SECRET,
    "an integer": 7,
    "a float": 7.5,
    "a boolean": True,
    "an array": [SECRET],
    "a table": {"a": SECRET},
    "a date or a time": tomllib.loads("a = 2026-11-28T05:00:00Z")["a"],
}
"""A value of each kind that TOML has, by its kind."""
ALLOWED = {
    "a string": {"a string"},
    "an integer": {"an integer", "a boolean"},  # pydantic takes true for 1
    "a number": {"an integer", "a float", "a boolean"},
    "true or false": {"a boolean"},
    "an array": {"an array"},
    "a table": {"a table"},
}
"""The kinds of values that are right, or wrong for another reason, by what is said that a value must be."""
PYTHON = re.compile(
    r"Input|input|valid |instance|dictionary|tuple|list\b|dict\b|\bNone\b|\bstr\b|\bint\b|Config\b|Secret"
)


def keys(table: Any = Config, above: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Yield all keys of a table and those below it, each with its type."""
    for name, field in table.model_fields.items():
        yield (*above, name), field.annotation
        below = table_below(table, name)
        if is_table(below):
            yield from keys(below, (*above, name))
        row = next((one for one in get_args(below) if is_table(one)), None)
        if row is not None:
            place = (*above, name, 0 if get_origin(below) is tuple else "any")
            yield place, row
            yield from keys(row, place)


KEYS = dict(keys())


def expected(kind: Any) -> str:
    """Return what a value of a type must be, in the words of TOML; "": one of some words."""
    origin = get_origin(kind)
    if is_table(kind) or origin is dict:
        return "a table"
    if origin is tuple:
        return "an array"
    plain = {str: "a string", SecretStr: "a string", int: "an integer", float: "a number", bool: "true or false"}
    return plain.get(next((one for one in get_args(kind) if one in plain), kind), "")


def given(key: tuple[str | int, ...], value: Any) -> Any:
    """Return a configuration with one value."""
    for name in reversed(key):
        value = [value] if name == 0 else {name: value}
    return value


def objections(key: tuple[str | int, ...], value: Any) -> list[str]:
    """Return what is said of a value of the configuration, each key with its objection."""
    try:
        Config(**given(key, value))
    except ValidationError as error:
        return [line.strip() for line in explained(error).splitlines()[1:]]
    return []


def test_keys_of_all_kinds_are_found() -> None:
    """Else the tests below would pass for having none."""
    kinds = {expected(kind) for kind in KEYS.values()}
    assert kinds == {*ALLOWED, ""}
    assert {("auth", "keys"), ("routes", 0, "path"), ("upstreams", "any", "key"), ("listen",)} <= set(KEYS)


@pytest.mark.parametrize("kind", VALUES)
def test_value_of_the_wrong_kind_is_told_what_it_must_be_and_what_it_is(kind: str) -> None:
    """For each key; in words of TOML, and without the value."""
    for key, type_ in KEYS.items():
        must = expected(type_)
        said = objections(key, VALUES[kind])
        assert [line for line in said if PYTHON.search(line)] == [], key
        if must and kind not in ALLOWED[must]:
            assert f"{'.'.join(map(str, key))}: must be {must}, not {kind}" in said
            assert SECRET not in str(said)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("AUTH__KEYS", SECRET, "STREAMTEE_AUTH__KEYS: an array or a table is given there as JSON"),
        ("AUTH", SECRET, "STREAMTEE_AUTH: an array or a table"),
        ("HOSTS", "", "STREAMTEE_HOSTS: an array or a table"),
        ("AUTH__KEYS", f'{{"a": "{SECRET}"}}', "auth.keys: must be an array, not a table (STREAMTEE_AUTH__KEYS)"),
        ("UPSTREAMS__b", "1", "upstreams.b: must be a table, not an integer (STREAMTEE_UPSTREAMS__b)"),
        ("ACCESS_LOG", SECRET, "access_log: must be true or false, not a string (STREAMTEE_ACCESS_LOG)"),
        ("LISTEN__PORT", "1", "STREAMTEE_LISTEN__PORT is not known; did you mean STREAMTEE_LISTEN?"),
        ("DRAIN_S__X", "1", "STREAMTEE_DRAIN_S__X is not known; did you mean STREAMTEE_DRAIN_S?"),
    ],
)
def test_mistake_in_the_environment_is_told_in_the_same_words(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    """With the variable; also where its text is no JSON, or it is below a key that has no keys."""
    monkeypatch.setenv(f"STREAMTEE_{name}", value)
    with pytest.raises(ValueError) as error:  # noqa: PT011 -- what it says is explained first
        load(None)
    told = explained(error.value)
    assert said in told
    assert not PYTHON.search(told)
    assert SECRET not in told


def test_value_out_of_range_is_told_the_range() -> None:
    """And one of some words, which they are."""
    assert objections(("retries", "attempts"), 11) == ["retries.attempts: must be less than or equal to 10"]
    assert objections(("log_format",), "xml") == ["log_format: must be 'console' or 'json'"]
    assert objections(("workers",), float("inf")) == ["workers: must be a finite number"]
    assert objections(("workers",), 1e308) == ["workers: must be a smaller integer"]
    assert objections(("log_level",), "\udcff") == ["log_level: must be text in UTF-8"]
    assert objections(("routes",), [{}]) == ["routes.0.path: required, but not given"]
    assert objections(("prices", "currency"), "¥") == [
        "prices.currency: must match the regular expression ^[A-Za-z]{0,10}$"
    ]


def test_json_has_its_own_word_for_a_table_and_null() -> None:
    """As in the file of keys."""
    with pytest.raises(ValidationError) as error:
        RetriesConfig.model_validate({"statuses": {}, "attempts": None})
    said = {one["loc"]: objection(one, OBJECT) for one in error.value.errors()}
    assert said == {
        ("statuses",): "must be an array, not an object",
        ("attempts",): "must be an integer, not null",
    }
