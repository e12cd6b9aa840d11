"""What is wrong with a value of a file, in the words of the file's format: TOML or JSON.

pydantic's own messages have the words of Python: tuple, dictionary, instance of a class. Values are never shown, only
what they are: one may be a secret that was put in the wrong place.
"""

from datetime import date, time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

TABLE = "a table"
"""What TOML calls a set of keys with their values."""
OBJECT = "an object"
"""What JSON calls it."""
_ARRAY = "an array"
_EXPECTED = {
    "string_type": "a string",
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": _ARRAY,
}
"""What a value must be, by the types of pydantic's errors. https://docs.pydantic.dev/latest/errors/validation_errors/"""
_SAID = {
    "missing": "required, but not given",
    "extra_forbidden": "there is no such key",
    "int_parsing_size": "must be a smaller integer",
    "string_unicode": "must be text in UTF-8",
}
"""What is said whatever the value is, by the types of errors."""
_OF_TABLES = ("model_type", "model_attributes_type", "dict_type")


def objection(error: "ErrorDetails", table: str = TABLE) -> str:
    """Return what is wrong with a value: what it must be, and what it is instead. `table`: TABLE or OBJECT."""
    kind = error["type"]
    if kind in _SAID:
        return _SAID[kind]
    if kind == "string_pattern_mismatch":
        return f"must match the regular expression {error['ctx']['pattern']}"
    expected = table if kind in _OF_TABLES else _EXPECTED.get(kind)
    if expected is None:
        return error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return f"must be {expected}, not {_kind(error['input'], table)}"


def _kind(value: Any, table: str) -> str:
    """Return what a value is, in one word of its format."""
    kinds: tuple[tuple[type | tuple[type, ...], str], ...] = (
        (bool, "a boolean"),  # before int, of which it is one in Python
        (int, "an integer"),
        (float, "a float"),
        (str, "a string"),
        ((list, tuple), _ARRAY),
        (dict, table),
        ((date, time), "a date or a time"),
    )
    return next((name for kind, name in kinds if isinstance(value, kind)), "null")
