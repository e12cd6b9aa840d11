"""The requests of the console's form: each is served as if it had come to the data port, with the key typed in there.

They are not sent there by HTTP: this port may not know by which address the data port is reached.
"""

from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from proxy.access.callers import Caller
from proxy.access.certificates import SUBJECT
from proxy.access.operators import OperatorAccess, bearer
from proxy.server.callers.identification import Serve
from proxy.wire.errors import BadRequest

PREFIX = "/admin/try"
_OF_BROWSERS = ("cookie", "origin", "referer")  # they tell of the console, and are nothing for an upstream


class FormRequests:
    """The handler of the paths below `/admin/try/`, which are those of the data port."""

    def __init__(self, serve: Serve, access: OperatorAccess) -> None:
        """`serve` responds to a request as the data port does."""
        self._serve = serve
        self._access = access

    async def send(self, request: web.BaseRequest, caller: Caller) -> web.StreamResponse:
        """POST /admin/try/v1/..."""
        headers = headers_of_form(request, self._access)
        target = URL(request.raw_path.removeprefix(PREFIX), encoded=True)
        try:
            cloned = request.clone(rel_url=target, headers=headers)
        except UnicodeEncodeError:
            raise BadRequest("a header, such as the key, has characters that are not UTF-8") from None
        cloned[SUBJECT] = ""  # an operator's certificate is for this port
        return await self._serve(cloned)


def headers_of_form(request: web.BaseRequest, access: OperatorAccess) -> CIMultiDict[str]:
    """Return the headers of a request that go on to the data port: without what tells of the operator."""
    hides_token = access.is_token(bearer(request))
    return CIMultiDict(
        (name, value)
        for name, value in request.headers.items()
        if not _is_of_browsers(name) and not (hides_token and name.lower() == "authorization")
    )


def _is_of_browsers(name: str) -> bool:
    return name.lower() in _OF_BROWSERS or name.lower().startswith("sec-")
