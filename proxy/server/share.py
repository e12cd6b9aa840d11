"""POST /v1/streams/{id}/share: a stream's caller gives others a token for it."""

import time

import orjson
from aiohttp import web

from proxy.access.callers import Auth
from proxy.access.capabilities import INFO, READ, RIGHTS, Capability, url
from proxy.downstream.request_body import read_body
from proxy.server.config import Config
from proxy.server.json_responses import answer
from proxy.stream.hub import Hub
from proxy.wire.errors import BadRequest, CapabilitiesOff

_BODY_BYTES = 4096


class Share:
    """The handler of that request."""

    def __init__(self, config: Config, hub: Hub, auth: Auth) -> None:
        self._ttl_s = config.capabilities.ttl_s
        self._ttl_max_s = config.capabilities.ttl_max_s
        self._hub = hub
        self._auth = auth

    async def share(self, request: web.BaseRequest, ident: str) -> web.StreamResponse:
        """Answer with a token of the rights that were asked for; not to one who has no more than a token itself."""
        stream, _ = self._auth.granted(request, self._hub, ident, "share")
        if not self._auth.capabilities:
            raise CapabilitiesOff("streams can't be shared here: the configuration has no capabilities.secrets")
        rights, expires_in_s = self._terms(await read_body(request, _BODY_BYTES))
        capability = Capability(stream.id, rights, int(time.time()) + min(expires_in_s, self._ttl_max_s))
        token = self._auth.capabilities.sign(capability)
        body = {
            "url": url(capability, token),
            "token": token,
            "rights": rights,
            "expires_at": capability.expires_at,
        }
        return answer(body, headers={"Cache-Control": "no-store"})

    def _terms(self, body: bytes) -> tuple[tuple[str, ...], int]:
        """Read the rights, in their own order, and the seconds that are asked for. Raises: BadRequest."""
        try:
            asked = orjson.loads(body) if body.strip() else {}
        except orjson.JSONDecodeError as error:
            raise BadRequest(f"the body is not JSON: {error.msg}") from None
        if not isinstance(asked, dict) or not asked.keys() <= {"rights", "expires_in"}:
            raise BadRequest('the body is not a JSON object of "rights" and "expires_in" alone')
        rights, expires_in_s = asked.get("rights", [READ, INFO]), asked.get("expires_in", self._ttl_s)
        if not isinstance(rights, list) or not rights or any(right not in RIGHTS for right in rights):
            raise BadRequest(f"rights is not a list of one or more of: {', '.join(RIGHTS)}")
        if type(expires_in_s) is not int or expires_in_s < 1:  # True is an int, too
            raise BadRequest("expires_in is not a whole number of seconds, 1 or more")
        return tuple(right for right in RIGHTS if right in rights), expires_in_s
