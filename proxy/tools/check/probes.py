"""What the checks with the upstream have in common: a request through the server to the upstream."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from proxy.tools.check.client import Heard, ask
from proxy.tools.check.own_upstream import CheckUpstream, Expected
from proxy.tools.endpoint import Endpoint

WITHIN_S = 15.0
"""How long one answer of the check's upstream may take to come through, beyond what it waits itself."""


class Probe(NamedTuple):
    """What is checked: an endpoint, the upstream behind it, and the model to name in requests."""

    endpoint: Endpoint
    upstream: CheckUpstream
    model: str

    @asynccontextmanager
    async def asked(self, fault: str = "") -> AsyncIterator[tuple[Heard, Expected]]:
        """Send a request that the upstream answers with a fault; yield what comes of it at both sides.

        Raises: UpstreamError, Overloaded, TimeoutError.
        """
        expected = self.upstream.expect(fault)
        async with asyncio.timeout(WITHIN_S):
            heard = await ask(self.endpoint, self.model, expected.mark)
        async with heard:
            yield heard, expected

    async def whole(self, fault: str = "", *, within_s: float = WITHIN_S) -> tuple[Heard, Expected]:
        """Send a request, and wait for the end of its response. Raises: UpstreamError, Overloaded, TimeoutError."""
        async with self.asked(fault) as (heard, expected), asyncio.timeout(within_s):
            await heard.whole()
            return heard, expected
