"""JSON as upstreams write it: also numbers that JSON lacks, and escapes that are no Unicode on their own."""

import json
from typing import Any

import orjson


def json_value(data: bytes) -> Any:
    """Return the JSON value that bytes are; None for whatever else they are."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def json_object(data: bytes) -> dict[str, Any]:
    """Return the JSON object that bytes are; {} for whatever else they are."""
    value = json_value(data)
    return value if isinstance(value, dict) else {}
