"""The list of models, and the description of one, in the format in which every API with such a list has it.

Source: the "list models" of OpenAI's API reference.
"""

from collections.abc import Iterable
from typing import Any


def model_list(names: Iterable[str]) -> dict[str, Any]:
    """Return the list of the models with these names."""
    return {"object": "list", "data": [model(name) for name in names]}


def model(name: str) -> dict[str, Any]:
    """Return the description of one model; when it was created is not known."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "system"}
