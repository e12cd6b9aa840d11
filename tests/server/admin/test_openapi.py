"""The OpenAPI document: valid, and held to what is served."""

import re
from pathlib import Path
from typing import Any

from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate

from proxy.server.admin.openapi import document
from proxy.server.app import Proxy
from proxy.server.config import Config
from proxy.server.routes import ANY
from tests.proxy_under_test import Tee


def operations(described: dict[str, Any]) -> set[tuple[str, str]]:
    """Return the methods and paths of a document."""
    return {(method.upper(), path) for path, methods in described["paths"].items() for method in methods}


def test_document_is_valid_openapi() -> None:
    """As the reference validator of the specification has it."""
    validate(document())


async def test_each_path_that_is_served_is_described_and_no_other(tmp_path: Path) -> None:
    """What passes through has no description: the provider describes it. HEAD of the admin port is as GET."""
    keys = tmp_path / "keys.json"
    keys.write_text("{}")
    tables = {"upstream": {"key": "sk-ours"}, "auth": {"mode": "keys", "keys_file": str(keys)}}
    proxy = Proxy(Config(**tables))
    data = proxy.route_table.routes()
    admin = [
        (method, path) for method, path in proxy._admin_routes(data, proxy.metrics).routes.paths if method != "HEAD"
    ]
    served = {*data.paths, *admin}
    passing = {path for _, path in served if path.endswith("/")}
    described = operations(document())
    meant = {(method, path) for method, path in served if method != ANY and path not in passing}
    assert described == meant


def test_each_name_that_is_referred_to_is_defined() -> None:
    """And each that is defined is used."""
    described = document()
    text = str(described)
    for kind, names in described["components"].items():
        if kind != "securitySchemes":
            assert set(re.findall(rf"#/components/{kind}/(\w+)", text)) == set(names)


async def test_what_is_sent_has_the_form_that_is_described(tee: Tee) -> None:
    """A stream's description, and the list of streams, by the document as it comes by HTTP."""
    answer = await tee.chat()
    await answer.read()
    described = await tee.info(answer.stream_id)
    listed = await (await tee.ask("GET", "/v1/streams")).json()
    schemas = (await (await tee.admin("/openapi.json")).json())["components"]["schemas"]
    for name, value in (("Stream", described), ("StreamList", listed)):
        OAS31Validator({"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}}).validate(value)
    assert set(described) == set(schemas["Stream"]["properties"])
