"""The console's pages and scripts, which are files of the package but for one, and its sign-in.

They are the same for everybody and hold no data, so they need no token: it is the scripts that ask for the streams. The
policy in their headers lets them load and connect to this port alone, and forbids inline scripts and styles.
"""

from importlib.resources import files
from typing import NamedTuple

import orjson
from aiohttp import web

from proxy.access.callers import Caller
from proxy.access.operators import OperatorAccess, set_cookie
from proxy.dialects import table
from proxy.dialects.question import Question
from proxy.dialects.route import key_header
from proxy.downstream.request_body import read_body
from proxy.wire.errors import BadRequest, UnknownRoute

_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cache-Control": "no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
_PAGE = "index.html"
_APIS = "apis.js"
_SIGN_IN_BYTES = 4096


class _File(NamedTuple):
    body: bytes
    content_type: str


class ConsoleFiles:
    """The handlers of `/console` and of the sign-in."""

    def __init__(self, access: OperatorAccess) -> None:
        self._access = access
        self._files = {**dict(_read()), _APIS: _File(_apis(), _TYPES["js"])}

    async def page(self, request: web.BaseRequest, caller: Caller) -> web.Response:
        """GET /console"""
        return self._file(_PAGE)

    async def file(self, request: web.BaseRequest, caller: Caller, name: str) -> web.Response:
        """GET /console/{name}"""
        return self._file(name)

    async def sign_in(self, request: web.BaseRequest, caller: Caller) -> web.Response:
        """POST /admin/sign-in, {"token": TOKEN}: set the cookie that stands for it."""
        try:
            token = orjson.loads(await read_body(request, _SIGN_IN_BYTES))["token"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            token = None
        if not isinstance(token, str):
            raise BadRequest('the body is not a JSON object with the "token" as a string')
        return web.Response(status=204, headers={"Set-Cookie": self._access.sign_in(request, token)})

    async def sign_out(self, request: web.BaseRequest, caller: Caller) -> web.Response:
        """POST /admin/sign-out: have this browser drop the cookie."""
        return web.Response(status=204, headers={"Set-Cookie": set_cookie(request, "", 0)})

    def _file(self, name: str) -> web.Response:
        found = self._files.get(name)
        if found is None:
            raise UnknownRoute(f"the console has no file {name[:100]!r}")
        return web.Response(body=found.body, headers={"Content-Type": found.content_type, **_HEADERS})


def _read() -> list[tuple[str, _File]]:
    """Return the files that a browser may load, by name."""
    found = []
    for path in (files("proxy") / "console").iterdir():
        content_type = _TYPES.get(path.name.rpartition(".")[2])
        if content_type is not None:
            found.append((path.name, _File(path.read_bytes(), content_type)))
    return found


def _apis() -> bytes:
    """Return the script that says how each API is asked, as the table has it; what is in braces is to be filled in."""
    question = Question("{model}", "{prompt}")
    apis = {}
    for row in table.ROWS:
        if row.asking is not None:
            name, value = key_header(row.key_header, "{key}")
            apis[row.name] = {
                "title": row.asking.title,
                "path": row.prefixes[0] + row.generations[0],
                "headers": {name.decode(): value.decode() for name, value in row.asking.headers},
                "key": {name.decode(): value.decode()},
                "body": row.asking.body(question),
            }
    return b"export const APIS = %b;\n" % orjson.dumps(apis)
