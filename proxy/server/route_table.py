"""The routes of the data port: makes their handlers, and adds each to `Routes` with its method and path.

A new route is added here. The README's "HTTP surface" lists them all.
"""

import asyncio
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from proxy.access.admission import Admission, Needs
from proxy.access.grants import Grants
from proxy.access.pages import Pages
from proxy.access.response_ids import ContinuedResponses, GivenIds
from proxy.dialects import table
from proxy.dialects.allowed_paths import AllowedPaths
from proxy.dialects.route import Route
from proxy.server.admin.probes import healthy
from proxy.server.callers.usage import UsageOfCaller
from proxy.server.config import Config
from proxy.server.configuration.settings import LimitsConfig, RouteConfig
from proxy.server.directory import Directory
from proxy.server.following.control import Control
from proxy.server.following.follow import Follow
from proxy.server.following.follow_many import FollowMany
from proxy.server.following.objects import ObjectRequests
from proxy.server.following.shared_routes import EventRoute
from proxy.server.generations.call_finder import CallFinder
from proxy.server.generations.generate import Generations
from proxy.server.generations.pumps import Pumps
from proxy.server.generations.reader import GenerationReader
from proxy.server.generations.response import GenerationResponses
from proxy.server.generations.retries import LostCalls
from proxy.server.generations.shared_calls import Calls
from proxy.server.generations.unshared import UnsharedCalls
from proxy.server.models import ModelList, Models
from proxy.server.pass_through import Forward, PassThrough
from proxy.server.placement import Belongs, Placement
from proxy.server.routes import ANY, Handler, Routes
from proxy.server.sockets import Sockets
from proxy.server.upstreams import Upstreams
from proxy.stream.hub import Hub
from proxy.telemetry.metrics import Metrics
from proxy.upstream.group import OpenExchange
from proxy.upstream.settings import DEFAULT

if TYPE_CHECKING:
    from proxy.telemetry.tracing import Tracing

_STREAM, _KEY = "/v1/streams/{ident}", "/v1/keys/{key}/stream"  # where a stream is followed
_FOLLOW = "/v1/follow"  # where several are


class RouteTable:
    """Makes the handlers and routes of the data port; passes changed limits on to them, drains and closes them."""

    def __init__(
        self,
        config: Callable[[], Config],
        hub: Hub,
        upstreams: Upstreams,
        metrics: Metrics,
        admission: Admission,
        grants: Grants,
        pages: Pages,
        calls: Calls,
        lost_calls: LostCalls,
        given: GivenIds | None,
        tracing: "Tracing | None",
        placement: Placement | None = None,
        directory: Directory | None = None,
    ) -> None:
        """`config` returns the configuration as it is now: some of it can be changed while the proxy runs.

        `given`: the ids of responses that callers were given; None: of no use.
        `placement`: finds the worker that a request belongs to, if there are several.
        `directory` finds streams of other machines; None: there are no others.
        """
        self._config = config
        self._hub = hub
        self._upstreams = upstreams
        self._metrics = metrics
        self._admission = admission
        self._grants = grants
        self._pages = pages
        self._calls = calls
        self._lost_calls = lost_calls
        self._given = given
        self._continued = None if given is None else ContinuedResponses(given, placement, directory)
        self._tracing = tracing
        self._placement = placement
        self._directory = directory
        streams, settings = config().streams, config().upstream
        self._models = Models(config().models)
        self._forward_all = Forward(hides_tokens=bool(grants))
        allowed = AllowedPaths(settings.paths) if settings.key.get_secret_value() else None
        self._allowed = allowed
        self._forward_allowed = Forward(allowed, hides_tokens=bool(grants))
        self._limited: list[Callable[[LimitsConfig], None]] = []  # what keeps limits that can be changed
        self.generations = self._generations(self._upstreams.opener(), self._forward_allowed)
        self.follow = Follow(streams, hub, admission, metrics)
        self._follow_many = FollowMany(streams, hub, admission, self.follow, metrics)
        self._control = Control(hub, admission, grants, directory)
        self._event_routes: list[EventRoute] = []
        self._sockets: list[Sockets] = []

    @property
    def follow_many(self) -> Handler:
        """The handler of followers of several streams, all of them in this process."""
        return self._follow_many.serve

    def limit(self, limits: LimitsConfig) -> None:
        """Keep these limits from now on."""
        for limit in self._limited:
            limit(limits)

    def drain(self) -> None:
        """End the streams of shared routes, which have no end of their own."""
        for events in self._event_routes:
            events.drain()

    async def wait_closed(self) -> None:
        """Wait until all WebSockets have closed."""
        await asyncio.gather(self.follow.wait_closed(), *(sockets.wait_closed() for sockets in self._sockets))

    def routes(self) -> Routes:
        """Return all routes of the data port. Call it once."""
        limited = None if self._admission.accounts is None else self._admission.limited
        served = Routes(self._admission.admit, self._metrics, table.OWN, limited)
        self._add_streams(served)
        for method in ("GET", "HEAD"):
            served.add(method, "/healthz", healthy, "health", table.OWN, Needs.NOTHING)
        self._add_models(served)
        self._add_apis(served)
        self._add_configured(served)
        return served

    def _add_streams(self, served: Routes) -> None:
        """Add the routes of streams, by id and by key."""
        control = self._control
        by_id, by_key = self._traced(self.follow.by_id, _STREAM), self._traced(self.follow.by_key, _KEY)
        follow_many = self._traced(self._follow_many.serve, _FOLLOW)
        for method, path, handler, needs, belongs in (
            *self._usage_routes(),
            ("GET", "/v1/streams", control.listed, Needs.IDENTITY, Belongs.ALL),
            ("GET", _STREAM, by_id, Needs.CAPABILITY, Belongs.STREAM),
            ("GET", _FOLLOW, follow_many, Needs.CAPABILITY, Belongs.SEVERAL),
            ("HEAD", "/v1/streams/{ident}", control.head, Needs.CAPABILITY, Belongs.STREAM),
            ("DELETE", "/v1/streams/{ident}", control.delete, Needs.CAPABILITY, Belongs.STREAM),
            ("GET", "/v1/streams/{ident}/info", control.info, Needs.CAPABILITY, Belongs.STREAM),
            ("POST", "/v1/streams/{ident}/cancel", control.cancel, Needs.CAPABILITY, Belongs.STREAM),
            ("POST", "/v1/streams/{ident}/share", control.share, Needs.CAPABILITY, Belongs.STREAM),
            ("GET", "/v1/keys/{key}", control.info_by_key, Needs.IDENTITY, Belongs.KEY),
            ("HEAD", "/v1/keys/{key}", control.head_by_key, Needs.IDENTITY, Belongs.KEY),
            ("GET", _KEY, by_key, Needs.IDENTITY, Belongs.KEY),
            ("POST", "/v1/keys/{key}/cancel", control.cancel_by_key, Needs.IDENTITY, Belongs.KEY),
        ):
            if self._directory is not None:
                handler = self._directory.near(handler)
            if method in ("POST", "DELETE"):
                handler = self._pages.changing(handler)
            served.add(method, path, self._placed(handler, belongs), "streams", table.OWN, needs)

    def _usage_routes(self) -> tuple[tuple[str, str, Handler, Needs, Belongs], ...]:
        """Return the route at which callers with limits see what they have used; without any, the path is the API's."""
        accounts = self._admission.accounts
        return (
            ()
            if accounts is None
            else (("GET", "/v1/usage", UsageOfCaller(accounts).serve, Needs.IDENTITY, Belongs.ANYWHERE),)
        )

    def _add_models(self, served: Routes) -> None:
        """Add the lists of models, if models are configured; else an upstream's own list passes through."""
        models = self._config().upstream.models
        listing = ModelList(models)
        for path, row in table.model_lists() if models else ():
            served.add("GET", path, listing.listed, row.name, row.dialect)
            served.add("GET", path + "/{model}", listing.described, row.name, row.dialect)

    def _add_apis(self, served: Routes) -> None:
        """Add the routes of each API: its generations, its responses by their ids, and all other paths below it."""
        generations: Handler = self.generations.generate
        if self._tracing is not None:
            generations = self._tracing.traced(generations)
        opens = self._upstreams.opener()
        passing = PassThrough(
            self._forward_allowed,
            opens,
            self._new_sockets(opens, self._allowed),
            self._models,
            lambda: self._config().limits.body_bytes,
            self._admission.account,
            self._continued,
        )
        objects = ObjectRequests(
            self._hub, self.follow, self._passing(self._upstreams.opener()), self._given, self._directory
        )
        if self._placement is not None:
            self._placement.attach(self._hub, objects)
        for route, row in table.routes(self._config().upstream.prefixes):
            for path in row.generations:
                generate = self._placed(self._for_pages(functools.partial(generations, route)), Belongs.GENERATION)
                served.add("POST", route.prefix + path, generate, route.name, route.dialect)
            pass_through = self._for_pages(functools.partial(passing.serve, route))
            pass_through = self._placed(pass_through, Belongs.ANYWHERE)
            if route.dialect.objects is not None:
                for path in row.lent:  # else it would count as the id of a response
                    served.add("POST", route.prefix + path, pass_through, route.name, route.dialect)
                self._add_objects(served, route, objects)
            for prefix in dict.fromkeys((route.prefix, route.prefix.rstrip("/") + "/")):
                served.add(ANY, prefix, pass_through, route.name, route.dialect)

    def _add_objects(self, served: Routes, route: Route, objects: ObjectRequests) -> None:
        """Add the paths of responses that have ids; one that is deleted at one prefix is gone at all.

        What was given to a caller it may name, whichever key is used: so the paths that are allowed don't apply.
        """
        for method, path, handler in (
            ("GET", "", objects.fetch),
            ("POST", "/cancel", objects.cancel),
            ("DELETE", "", objects.delete),
            (ANY, "", objects.other),
            (ANY, "/{more}", objects.other),
        ):
            serve: Handler = functools.partial(handler, route)
            if self._directory is not None:
                serve = self._directory.near_response(serve)
            serve = self._placed(self._for_pages(serve), Belongs.RESPONSE)
            served.add(method, f"{route.prefix}/{{ident}}{path}", serve, route.name, route.dialect)

    def _add_configured(self, served: Routes) -> None:
        """Add the configured routes, more specific paths first."""
        for own in sorted(self._config().routes, key=lambda own: (own.path.endswith("/"), -len(own.path))):
            self._add_own(served, own)

    def _add_own(self, served: Routes, own: RouteConfig) -> None:
        """Add a configured route. GET and POST may be shared or recorded; all else passes through."""
        base = self._upstreams.base(own.upstream) if own.upstream else ""
        route = Route(own.path, own.path, base + own.path, table.UNKNOWN, key_header=own.key_header)
        upstream = own.upstream or DEFAULT
        opens = self._upstreams.opener(upstream)
        passing = self._passing(opens)
        handler: Handler | None = None
        if own.share == "url":
            events = EventRoute(
                self._config(), own, route, self._hub, self._admission, self._metrics, opens, self._calls,
                self._placement,
            )  # fmt: skip
            self._event_routes.append(events)
            self._limited.append(events.limit)
            handler = self._placed(self._for_pages(events.serve, upstream), Belongs.URL)
        elif own.record:
            recorded = self._generations(opens, self._forward_all, recorded=True)
            generate = self._for_pages(functools.partial(recorded.generate, route), upstream)
            handler = self._placed(generate, Belongs.GENERATION)
        if handler is not None:
            for method in ("GET", "POST"):
                served.add(method, own.path, handler, route.name, table.UNKNOWN)
        pass_through = self._for_pages(functools.partial(passing.serve, route), upstream)
        served.add(ANY, own.path, self._placed(pass_through, Belongs.ANYWHERE), route.name, table.UNKNOWN)

    def _generations(self, open_exchange: OpenExchange, forward: Forward, *, recorded: bool = False) -> Generations:
        """Return the handler of generation requests, or of all requests on a `recorded` route."""
        config, hub, admission, metrics = self._config(), self._hub, self._admission, self._metrics
        traced = open_exchange if recorded or self._tracing is None else self._tracing.calls(open_exchange)
        pumps = Pumps(
            hub,
            metrics,
            config.limits,
            cumulative=config.generations.cumulative or None,
            empty_events=config.streams.empty_events,
        )
        reader = GenerationReader(config, admission, forward, self._models, self._continued, recorded=recorded)
        responses = GenerationResponses(config, hub, admission, self._grants, metrics, self._directory)
        finder = CallFinder(
            hub, traced, self._calls, self._lost_calls, pumps, metrics, self._placement, self._directory
        )
        unshared = UnsharedCalls(hub, traced, reader, pumps, responses, metrics, self._given)
        self._limited += [reader.limit, pumps.limit]
        return Generations(hub, reader, finder, unshared, responses, self._lost_calls)

    def _passing(self, opens: OpenExchange) -> PassThrough:
        """Return a handler of requests that pass through, to whichever path."""
        return PassThrough(self._forward_all, opens, self._new_sockets(opens), account=self._admission.account)

    def _new_sockets(self, opens: OpenExchange, allowed: AllowedPaths | None = None) -> Sockets:
        """Return a handler of WebSockets; `allowed`: what messages may refer to; None: anything."""
        sockets = Sockets(
            self._config, self._hub, self._admission, self._grants, self._metrics, self._models, opens, allowed
        )
        self._sockets.append(sockets)
        return sockets

    def _traced(self, handler: Handler, path: str) -> Handler:
        """Return the handler of followers at a path, with spans if they are enabled."""
        return handler if self._tracing is None else self._tracing.follows(handler, path, self._hub.keys.find)

    def _placed(self, handler: Handler, belongs: Belongs) -> Handler:
        """Return a handler that is called in the worker that a request belongs to; itself, if there is only one."""
        return handler if self._placement is None else self._placement.placed(handler, belongs)

    def _for_pages(self, handler: Handler, upstream: str = DEFAULT) -> Handler:
        """Return a handler that refuses web pages which may not use the upstream's configured key, if it has one."""
        return self._pages.only(handler) if self._upstreams.has_key(upstream) else handler
