"""Models of the configuration: the upstreams that serve them, their other names, and the list of those there are."""

from collections.abc import Iterable
from typing import NamedTuple

import orjson
from aiohttp import web

from proxy.access.callers import Caller
from proxy.dialects import table
from proxy.server.json_responses import answer
from proxy.settings import ByModel
from proxy.upstream.settings import ModelConfig
from proxy.wire.errors import BadRequest, UnknownModel
from proxy.wire.json_members import members


class Choice(NamedTuple):
    """The name of the upstream for a request, "" for the usual one, and the body that it is sent."""

    upstream: str
    body: bytes


class Models:
    """Chooses the upstream for a request by the model that its body names, as configured in [[models]]."""

    def __init__(self, models: Iterable[ModelConfig]) -> None:
        self._rows = ByModel({one.name: one for one in models})

    def __bool__(self) -> bool:
        """Return whether any are configured: without them, no body needs to be read."""
        return bool(self._rows)

    def choose(self, body: bytes) -> Choice:
        """Return the upstream for a body, and the body with its model's name there; of the rest no byte is changed.

        Raises: BadRequest, if the place of the name can't be found.
        """
        found = members(body)
        name = None if found is None else found.get("model")
        chosen = self.find(name) if isinstance(name, str) else None
        if found is None or chosen is None:
            return Choice("", body)
        if chosen.alias_of:
            renamed = found.put({"model": orjson.dumps(chosen.alias_of)})
            if renamed is None:
                raise BadRequest("the JSON of the request is nested too deeply to replace the name of its model")
            body = renamed
        return Choice(chosen.upstream, body)

    def find(self, name: str) -> ModelConfig | None:
        """Return the row for a model: that with its whole name, or else with its longest beginning."""
        return self._rows.find(name)


class ModelList:
    """The handlers of the list of models, where it is answered from the configuration (`upstream.models`)."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(names)

    async def listed(self, request: web.BaseRequest, caller: Caller) -> web.StreamResponse:
        """Respond with the list of all models."""
        return answer(table.model_list(self._names))

    async def described(self, request: web.BaseRequest, caller: Caller, **named: str) -> web.StreamResponse:
        """Respond with one model. Raises: UnknownModel."""
        name = named["model"]
        if name not in self._names:
            raise UnknownModel(f"the model {name[:100]!r} is not configured; there are {', '.join(self._names)}")
        return answer(table.model(name))
