"""Reads requests for generations, and rewrites them for the upstream.

Requests on configured routes with `record = true` are read here, too, and nothing in them is rewritten.
"""

import time
from collections.abc import Awaitable
from typing import Any, Final

from aiohttp import web
from multidict import CIMultiDict

from proxy.access.account import Account
from proxy.access.admission import Admission
from proxy.access.callers import Caller
from proxy.access.client_addresses import ClientAddresses
from proxy.access.response_ids import ContinuedResponses
from proxy.dialects.dialect import Objects
from proxy.dialects.route import Route
from proxy.downstream.known_heads import WholeBody
from proxy.downstream.request_body import LargeBody, read_body, read_body_or_beginning, take_arrived
from proxy.server.config import Config
from proxy.server.configuration.settings import GenerationsConfig, LimitsConfig
from proxy.server.document import JSON
from proxy.server.generations.options import GenerationOptions, read_options
from proxy.server.generations.request import GenerationRequest
from proxy.server.generations.retries import meaning_of
from proxy.server.generations.shared_calls import Identity, by_body, by_key
from proxy.server.headers import KEPT_OF_GENERATIONS, OPTIONS
from proxy.server.models import Models
from proxy.server.pass_through import Forward
from proxy.stream.modes.projection import EVENT_STREAM, View
from proxy.stream.modes.projections import MODES, check_view
from proxy.telemetry.request_log import request_id
from proxy.upstream.on_disconnect import OnDisconnect
from proxy.wire.errors import UnknownMode
from proxy.wire.http import EndToEnd, Headers

_CROSSING: Final = EndToEnd(KEPT_OF_GENERATIONS, OPTIONS)
_IDENTITY: Final = (b"Accept-Encoding", b"identity")
# Of requests on recorded routes, since the data of their events has no known format.
RECORDED_MODES: Final[tuple[str, ...]] = ("raw", "events")


class _Head:
    """What is made of the head of a request, the same for every request with this head."""

    __slots__ = ("detached", "follows", "headers", "idempotent", "named", "options", "request_id")

    def __init__(self, headers: Headers, options: GenerationOptions, ident: str) -> None:
        """`headers`: those to send upstream. `ident`: what the client calls its request."""
        self.headers = headers
        self.options = options
        self.request_id = ident
        self.idempotent = options.idempotency_key is not None
        self.named = options.key is not None
        self.follows = not options.respond_async
        self.detached = options.detached


class GenerationReader:
    """Reads requests for generations."""

    def __init__(
        self,
        config: Config,
        admission: Admission,
        forward: Forward,
        models: Models,
        continued: ContinuedResponses | None = None,
        *,
        recorded: bool = False,
    ) -> None:
        """`continued` finds the upstreams of earlier responses; None: any may be named, and there is one upstream.

        `recorded`: for a recorded route.
        """
        self._config = config
        self._admission = admission
        self._forward = forward
        self._models = models
        self._client_address = ClientAddresses(config.trusted_proxies).of
        self._continued = continued
        generations = config.generations
        self._recorded = recorded
        self._attaches = generations.attach_retries_s > 0 and not recorded
        self._rewrites = not recorded and (generations.upgrade != "never" or generations.include_usage or bool(models))
        self._early_s = config.streams.keepalive_before_head_s
        self._reads_body = self._rewrites or self._early_s > 0
        self.limit(config.limits)
        self._usual = read_options(CIMultiDict(), config)  # of a request without options, as most are

    def limit(self, limits: LimitsConfig) -> None:
        """Keep these limits from now on."""
        self._body_bytes = limits.body_bytes
        self._held_body_bytes = limits.held_body_bytes

    def account(self, generation: GenerationRequest) -> Account | None:
        """Return the account of the caller of a request, if it has limits."""
        accounts = self._admission.accounts
        return None if accounts is None else accounts.of(generation.caller)

    def _reads(self, account: Account | None) -> bool:
        """Return whether bodies of a caller are read whole, whatever else is asked for."""
        return self._reads_body or (account is not None and account.reads_bodies)

    def _check(self, view: View, route: Route) -> None:
        """Check that a view has a meaning for requests of a route. Raises: UnknownMode, BadRequest."""
        if self._recorded and view.mode not in RECORDED_MODES:
            modes = ", ".join(RECORDED_MODES)
            raise UnknownMode(f"Stream-Mode {view.mode!r} is not one of those that recorded routes have: {modes}")
        check_view(view, route.dialect)

    def _read_head(self, route: Route, request: web.BaseRequest) -> "_Head":
        """Read the head of a request. Raises: UnknownMode, BadRequest."""
        headers, has_options = self._forward.headers(request, _CROSSING)
        options = self._usual
        if has_options:
            options = read_options(request.headers, self._config)
            self._check(options.view, route)
        if options.respond_async:
            headers = [header for header in headers if header[0].lower() != b"prefer"]
        return _Head([*headers, _IDENTITY], options, request_id(request))

    def read(
        self, route: Route, request: web.BaseRequest, caller: Caller
    ) -> GenerationRequest | Awaitable[GenerationRequest]:
        """Read a request and its complete body, if the limits leave room for it: at once, if the body is here.

        If it is not, or something else has to be waited for, the request is what the result is awaited for.
        Both raise: a RequestError, if it is malformed or not allowed; Overloaded.
        """
        content: Any = request._payload  # a WholeBody, if the head is known, else a StreamReader
        memo: dict[object, Any] | None = content.head.memo if type(content) is WholeBody else None
        head: _Head | None = memo.get(self) if memo is not None else None
        if head is None:
            head = self._read_head(route, request)
            if memo is not None:
                memo[self] = head
        options = head.options
        account = self._admission.account(caller) if caller.name else None
        if account is not None:
            account.check_mode(options.view.mode)
        idempotent, follows = head.idempotent, head.follows
        is_here: bool = content.is_eof()
        at_once = is_here and not head.detached
        shared = self._admission.admit_generation(caller, idempotent, head.named, follows, at_once, not self._recorded)
        target = self._forward.target(route, request)
        attaches = self._attaches and not idempotent and follows and caller.owns_streams
        body_bytes = self._body_bytes if account is None else account.body_bytes(self._body_bytes)
        body: bytes | LargeBody | None = take_arrived(request, content, body_bytes) if is_here else None
        generation = GenerationRequest(
            route,
            caller.digest,
            options,
            target,
            [*head.headers],
            b"" if body is None else body,
            time.monotonic(),
            self._client_address(request),
        )
        generation.client_request_id = head.request_id
        if self._recorded:
            generation.method, generation.recorded = request.method.encode(), True
        rest: Awaitable[None] | None
        if body is None:
            # A body is held in memory if it is read here, or may be sent after its client has disconnected.
            held = shared or attaches or self._reads(account) or head.detached or route.dialect.requests.reads_body
            rest = self._read_body(request, generation, body_bytes, whole=held)
        else:
            rest = self._forward.check_body(request, body)
        if rest is not None or self._continued is not None:
            return self._read_rest(rest, request, generation, caller, account, attaches, shared, head.detached)
        self._prepare(request, generation, caller, account, attaches, shared, head.detached)
        return generation

    async def _read_body(
        self, request: web.BaseRequest, generation: GenerationRequest, allowed_bytes: int, *, whole: bool
    ) -> None:
        """Read the body of a request that is yet to come: all of it, or of a large one the beginning."""
        if whole:
            generation.body = await read_body(request, allowed_bytes)
        else:
            generation.body = await read_body_or_beginning(request, self._held_body_bytes, allowed_bytes)
        generation.started_at = time.monotonic()
        rest = self._forward.check_body(request, generation.body)
        if rest is not None:
            await rest

    async def _read_rest(
        self,
        rest: Awaitable[None] | None,
        request: web.BaseRequest,
        generation: GenerationRequest,
        caller: Caller,
        account: Account | None,
        attaches: bool,
        shared: bool,
        detached: bool,
    ) -> GenerationRequest:
        """Wait for the `rest` of a request, and for the upstream of the response that it continues."""
        if rest is not None:
            await rest
        if self._continued is not None and generation.route.dialect.objects is not None:
            body = generation.whole_body
            upstream = await self._continued.upstream(generation.route.dialect, caller.digest, body)
            if upstream:
                generation.upstream, generation.continues = upstream, True
        self._prepare(request, generation, caller, account, attaches, shared, detached)
        return generation

    def _prepare(
        self,
        request: web.BaseRequest,
        generation: GenerationRequest,
        caller: Caller,
        account: Account | None,
        attaches: bool,
        shared: bool,
        detached: bool,
    ) -> None:
        """Make of a request what is sent upstream, and note what it shares calls by.

        `attaches`: a retry finds its call. `shared`: it shares a call with requests like it. `detached`: it may have
        other followers, or go on after its client has left.
        """
        objects = generation.route.dialect.objects
        if objects is not None and self._keep_in_background(generation, objects, caller):
            attaches, detached = False, True  # its client may disconnect
        if account is not None and not self._recorded:
            _limit(generation, account)
        if self._rewrites:
            rewrite(generation, self._config.generations)
        if attaches:
            generation.meaning = _meaning(request, generation)
        if self._early_s and self._asks_events(request, generation):
            generation.keepalive_s = self._early_s
        if shared:
            generation.identity = _identify(request, generation)
        if self._models:
            self._direct(generation)
        generation.is_unshared = not (shared or attaches or detached or generation.keepalive_s)

    def _asks_events(self, request: web.BaseRequest, generation: GenerationRequest) -> bool:
        """Return whether a client asks for a stream and waits for it, in a mode of events."""
        options, requests = generation.options, generation.route.dialect.requests
        in_events = MODES[options.view.mode].content_type == EVENT_STREAM and not options.respond_async
        return in_events and requests.asks_events(request.raw_headers, generation.whole_body)

    def _direct(self, generation: GenerationRequest) -> None:
        """Choose the upstream of the model, and put the model's name there into the body."""
        upstream, body = self._models.choose(generation.whole_body)
        streamed = generation.streamed
        if streamed is not None:
            streamed = streamed[0], self._models.choose(streamed[1]).body
        if generation.continues:
            upstream = generation.upstream
        generation.upstream, generation.body, generation.streamed = upstream, body, streamed

    def _keep_in_background(self, generation: GenerationRequest, objects: Objects, caller: Caller) -> bool:
        """Have the stream of a response in the background outlive its client; return whether it is such a response.

        Raises: BadRequest, if the body can't be read; Unauthorised, if nobody could fetch it later.
        """
        asked = objects.background(generation.whole_body)
        if asked is None:
            return False
        caller.check_owns_streams()
        options = generation.options
        options = options._replace(
            retain_s=max(options.retain_s, self._config.generations.background_retain_s),
            on_disconnect=OnDisconnect(None),
            respond_async=options.respond_async or not asked.streams,
        )
        generation.body, generation.options, generation.background = asked.body, options, not asked.streams
        return True


def _limit(generation: GenerationRequest, account: Account) -> None:
    """Check the model of a request, and request the usage of its stream if tokens are limited.

    Raises: NotAllowedForKey.
    """
    if not account.reads_bodies:
        return
    account.check_body(generation.whole_body)
    counted = generation.route.dialect.requests.with_usage(generation.whole_body)
    if account.limits.counts_tokens and counted is not None:
        generation.body, generation.hides_usage = counted, True


def rewrite(generation: GenerationRequest, generations: GenerationsConfig) -> None:
    """Rewrite a request so that it asks for a stream, or for the usage of a stream, as configured."""
    dialect = generation.route.dialect
    if generations.upgrade != "never":
        streamed = dialect.requests.as_stream(generation.headers, generation.whole_body)
        if streamed is not None:
            # The client gets a document, even if it is made from a stream.
            generation.options = generation.options._replace(view=JSON)
            if generations.upgrade == "auto":
                generation.streamed = streamed
            else:
                generation.headers, generation.body = streamed
                generation.upgraded = True
            return
    if generations.include_usage:
        counted = dialect.requests.with_usage(generation.whole_body)
        if counted is not None:
            generation.body, generation.hides_usage = counted, True


def _meaning(request: web.BaseRequest, generation: GenerationRequest) -> bytes:
    route, steering = generation.route, generation.route.steered_by(request.raw_headers)
    return meaning_of(generation.caller, route.name, generation.target, generation.whole_body, steering)


def _identify(request: web.BaseRequest, generation: GenerationRequest) -> Identity:
    """Return the identity by which requests share a call: by the Idempotency-Key if there is one, else by content."""
    route, key = generation.route, generation.options.idempotency_key
    caller, target, body = generation.caller, generation.target, generation.whole_body
    if key is None:
        return by_body(caller, route.name, target, body, route.steered_by(request.raw_headers))
    if generation.recorded:  # of any method
        target = generation.method + b" " + target
    streamed = route.dialect.requests.asks_stream(request.raw_headers)
    return by_key(caller, route.name, key, target, body, streamed=streamed)
