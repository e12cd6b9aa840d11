"""Every error that a client can receive. The base classes say whose fault it is, the subclasses what happened.

Messages give observed and allowed values, and never contain a prompt or a key. Exceptions of other libraries are
translated once, where they are caught.
"""


class ProxyError(Exception):
    """What went wrong, with the HTTP status and the error code that the client receives."""

    status = 500
    code = "internal_error"
    retry_after_s: int | None = None
    retried = False  # the request was sent more than once already: clients must not retry it again

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    @property
    def kind(self) -> str:
        """The code for metrics and spans."""
        return self.code

    def drop_traceback(self) -> None:
        """Drop the traceback, and with it the local variables where the error was raised, once it has been reported.

        An object that keeps the error (an exchange, a task) is usually among these variables. That would be a reference
        cycle, which keeps the body of a request in memory.
        """
        error: BaseException | None = self
        while error is not None:
            error.__traceback__ = None
            error = error.__cause__ or error.__context__


class RequestError(ProxyError):
    """The client's request is at fault."""

    status = 400
    code = "bad_request"


class BadRequest(RequestError):
    """Something in the request is malformed."""


class NumberBeyond(BadRequest):
    """The number of an event that the request begins after is beyond those there are."""


class UnknownMode(RequestError):
    """The request names a mode that does not exist."""

    code = "unknown_mode"


class Unauthorised(RequestError):
    """The request has no API key, or an unknown one."""

    status = 401
    code = "invalid_api_key"


class InvalidCapability(RequestError):
    """The token was not signed by this proxy."""

    status = 401
    code = "invalid_capability"


class ExpiredCapability(RequestError):
    """The token was signed by this proxy and has expired."""

    status = 401
    code = "capability_expired"


class AdminTokenNeeded(RequestError):
    """The request to the admin port has neither the admin token nor the cookie of a sign-in."""

    status = 401
    code = "admin_token_needed"


class AdminClosed(RequestError):
    """The admin port can be reached from other machines and has no token, so it serves probes and metrics alone."""

    status = 403
    code = "admin_token_not_set"


class MissingRight(RequestError):
    """The token is valid but does not grant the right that the request needs."""

    status = 403
    code = "missing_right"


class OriginNotAllowed(RequestError):
    """Pages of this origin may not send requests to this proxy."""

    status = 403
    code = "origin_not_allowed"


class PathNotAllowed(RequestError):
    """The path may not be requested with the proxy's own upstream key."""

    status = 403
    code = "path_not_allowed"


class NotAllowedForKey(RequestError):
    """The caller's key is not for this model, route or mode."""

    status = 403
    code = "not_allowed_for_key"


class FileNotAllowed(RequestError):
    """A file may not be referred to with the proxy's own upstream key, under which it may be anybody's."""

    status = 403
    code = "file_not_allowed"


class TaskNotAllowed(RequestError):
    """A task may not be named with the proxy's own upstream key, under which it may be anybody's."""

    status = 403
    code = "task_not_allowed"


class UnknownRoute(RequestError):
    """Nothing is served at this path."""

    status = 404
    code = "unknown_route"


class UnknownStream(RequestError):
    """No such stream: it never existed, has expired, or belongs to somebody else. The response does not say which."""

    status = 404
    code = "stream_not_found"


class UnknownModel(RequestError):
    """No model of this name is configured."""

    status = 404
    code = "model_not_found"


class UnknownResponse(RequestError):
    """No such response of this caller's: it never existed, has expired, or belongs to somebody else."""

    status = 404
    code = "response_not_found"


class MethodNotAllowed(RequestError):
    """No handler accepts this method."""

    status = 405
    code = "method_not_allowed"


class RequestTimeout(RequestError):
    """The request was not received completely in time."""

    status = 408
    code = "request_timeout"


class UnsupportedMediaType(RequestError):
    """A body is not of the type or coding that is taken here.

    A page of another origin may send JSON only: a browser asks us first whether it may (CORS). With a key of the proxy
    only what can be read goes upstream.
    """

    status = 415
    code = "unsupported_media_type"


class HostNotServed(RequestError):
    """The request names a host that this proxy does not serve (RFC 9110 section 7.4)."""

    status = 421
    code = "host_not_served"


class OtherEpoch(RequestError):
    """The cursor belongs to another stream."""

    status = 409
    code = "cursor_of_another_stream"


class KeyReused(RequestError):
    """The Idempotency-Key was used before, for a different request."""

    status = 409
    code = "idempotency_key_reused"


class Cancelled(RequestError):
    """The stream was cancelled by request before the upstream responded."""

    status = 409
    code = "cancelled"


class OffsetGone(RequestError):
    """The cursor points before the earliest event that the log still holds."""

    status = 410
    code = "offset_gone"

    def __init__(self, message: str, earliest: int) -> None:
        super().__init__(message)
        self.earliest = earliest


class OffsetBeyond(RequestError):
    """The cursor points beyond the last event of the log."""

    status = 416
    code = "offset_beyond"


class OtherStream(RequestError):
    """The stream is not the one that the request's precondition names (RFC 9110 section 13.1.1)."""

    status = 412
    code = "precondition_failed"


class TooLarge(RequestError):
    """A body or a frame exceeds its limit."""

    status = 413
    code = "too_large"


class TargetTooLong(RequestError):
    """The request target exceeds its limit."""

    status = 414
    code = "target_too_long"


class HeadersTooLarge(RequestError):
    """The headers exceed their limits."""

    status = 431
    code = "headers_too_large"


class UpgradeRequired(RequestError):
    """The requested protocol, or its version, is not supported."""

    status = 426
    code = "upgrade_required"


class RateLimited(RequestError):
    """More requests came than are allowed within a period; later requests may be accepted."""

    status = 429
    code = "rate_limited"
    ending = "rate_limited"
    retry_after_s = 1

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class LimitReached(RateLimited):
    """A limit of the caller is reached; in its next window, or when a stream of it has ended, it may go on."""

    code = "rate_limit_exceeded"


class UpstreamError(ProxyError):
    """The upstream, or the connection to it, is at fault."""

    status = 502
    code = "upstream_error"
    ending = "upstream_error"  # the row of stream/endings.py for a stream that ends with this error
    sent = True  # a part of the request may have reached the upstream
    blames_upstream = True  # False where the client or the proxy ended the exchange


class Reported(ProxyError):
    """The upstream reported an error within its stream, and the client requested a single document instead."""

    status = 502
    code = "upstream_error"

    def __init__(self, message: str, code: str | None = None, status: int = 502) -> None:
        super().__init__(message)
        self.code = code or type(self).code
        self.status = status

    @property
    def kind(self) -> str:
        """The code of the class: an upstream's own code may be any word, also of a prompt."""
        return type(self).code


class Unreachable(UpstreamError):
    """No connection could be made, or it closed before the response began."""

    code = "upstream_unreachable"
    ending = "upstream_unreachable"

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class Truncated(UpstreamError):
    """The connection closed before the response was complete."""

    code = "upstream_reset"
    ending = "upstream_reset"


class Garbled(UpstreamError):
    """The response is not HTTP, or its framing is invalid."""

    code = "upstream_garbled"
    ending = "garbled"


class UpstreamTimeout(UpstreamError):
    """The upstream took longer than allowed. Each time-out has its own class; all have the same error code."""

    status = 504
    code = "upstream_timeout"


class ConnectTimeout(UpstreamTimeout):
    """No connection was made in time, so nothing was sent."""

    ending = "timeout_connect"
    sent = False


class FirstByteTimeout(UpstreamTimeout):
    """The response did not begin in time."""

    ending = "timeout_first_byte"


class FirstTokenTimeout(UpstreamTimeout):
    """No generated text came in time."""

    ending = "timeout_first_token"


class IdleTimeout(UpstreamTimeout):
    """The upstream sent nothing for too long."""

    ending = "timeout_idle"


class TotalTimeout(UpstreamTimeout):
    """The response as a whole took too long."""

    ending = "timeout_total"


class InternalError(ProxyError):
    """The proxy itself failed: it raised an unexpected exception. Its type is logged; its message is never shown."""

    ending = "internal_error"

    def __init__(self, message: str = "this proxy failed; its log says where") -> None:
        super().__init__(message)


class ProducerLost(ProxyError):
    """The process that read the stream has died, or what it wrote for other processes is gone."""

    status = 502
    code = "producer_lost"


class StoreUnavailable(ProxyError):
    """The store that several processes share can't be reached. Clients should retry."""

    status = 503
    code = "store_unavailable"
    retry_after_s = 1


class CapabilitiesOff(ProxyError):
    """No secret is configured for signing tokens."""

    status = 501
    code = "capabilities_off"


class CodingNotSupported(ProxyError):
    """The request has a transfer coding that is not supported (RFC 9112 section 6.1)."""

    status = 501
    code = "transfer_coding_not_supported"


class VersionNotSupported(ProxyError):
    """The request's version of HTTP is not supported."""

    status = 505
    code = "http_version_not_supported"


class Overloaded(ProxyError):
    """A limit of this proxy is reached; later requests may be accepted."""

    status = 503
    code = "overloaded"
    ending = "overloaded"
    retry_after_s = 1

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class CallerUnknowable(Overloaded):
    """The service that is asked who a caller is can't be reached, or gives no valid answer."""

    code = "caller_unknowable"


class Drained(Overloaded):
    """This process is shutting down: it accepts no new streams, or ended a running one. Clients should retry."""

    code = "drained"
    ending = "drained"
