"""Keys, tokens and configurations that the tests of this folder share."""

from hashlib import sha256
from typing import Any

from proxy.access.capabilities import RIGHTS, Capabilities, Capability
from tests.http_client import Answer
from tests.proxy_under_test import Tee

OURS, THEIRS, UPSTREAMS = "key-of-one", "key-of-two", "sk-upstream"
BASIC = "Basic dXNlcjpwdw=="
BASIC_HEADER = f"Authorization: {BASIC}"
SECRET = "a secret of thirty-two characters"
NOBODY = "Authorization:"
SIGNER = Capabilities([SECRET])


def digest(key: str) -> str:
    return sha256(key.encode()).hexdigest()


def in_mode_keys(*keys: str) -> dict[str, Any]:
    return {"auth": {"mode": "keys", "keys": [digest(key) for key in keys]}, "upstream": {"key": UPSTREAMS}}


def token(ident: str, *rights: str, expires_at: int = 10**11, signer: Capabilities = SIGNER) -> str:
    return signer.sign(Capability(ident, rights or RIGHTS, expires_at))


async def code(answer: Answer) -> tuple[int, str]:
    """Return what a refusal says."""
    return answer.status, (await answer.json())["error"]["code"]


async def act(tee: Tee, right: str, ident: str, query: str, *headers: str) -> Answer:
    """Make the request that a right is for."""
    method, path = {
        "read": ("GET", ""),
        "state": ("HEAD", ""),
        "info": ("GET", "/info"),
        "cancel": ("POST", "/cancel"),
        "delete": ("DELETE", ""),
        "share": ("POST", "/share"),
    }[right]
    return await tee.ask(method, f"/v1/streams/{ident}{path}?{query}", *headers)
