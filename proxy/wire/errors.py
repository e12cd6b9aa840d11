"""Every error a client can meet. Bases say whose fault it is, leaves state the fact.

Messages give observed and allowed numbers, and never a prompt or a key. Foreign exceptions are translated
once, at the edge that met them.
"""


class ProxyError(Exception):
    """What went wrong, with the status and the code a client is told."""

    status = 500
    code = "internal_error"
    retry_after_s: int | None = None
    retried = False  # the request has been sent more than once: whoever gets this shall not begin again

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def drop_traceback(self) -> None:
        """Forget where it was raised, and so the variables there, once it has been told.

        What keeps an error (an exchange, a task) is as a rule among them: a cycle, with a request's body in it.
        """
        error: BaseException | None = self
        while error is not None:
            error.__traceback__ = None
            error = error.__cause__ or error.__context__


class RequestError(ProxyError):
    """The fault is below: in the client's request."""

    status = 400
    code = "bad_request"


class BadRequest(RequestError):
    """Something in the request is malformed."""


class UnknownMode(RequestError):
    """No such mode."""

    code = "unknown_mode"


class Unauthorised(RequestError):
    """No key, or none that is known here."""

    status = 401
    code = "invalid_api_key"


class InvalidCapability(RequestError):
    """A token that was not signed here."""

    status = 401
    code = "invalid_capability"


class ExpiredCapability(RequestError):
    """A token that was signed here, and whose time is over."""

    status = 401
    code = "capability_expired"


class MissingRight(RequestError):
    """The token is good, but not for this."""

    status = 403
    code = "missing_right"


class OriginNotAllowed(RequestError):
    """A page of this origin may not ask here."""

    status = 403
    code = "origin_not_allowed"


class PathNotAllowed(RequestError):
    """Not with a key of ours."""

    status = 403
    code = "path_not_allowed"


class UnknownRoute(RequestError):
    """Nothing is served at this path."""

    status = 404
    code = "unknown_route"


class UnknownStream(RequestError):
    """No such stream: never was, expired, or not the caller's. Which of these is not told."""

    status = 404
    code = "stream_not_found"


class MethodNotAllowed(RequestError):
    """A method that nothing here answers."""

    status = 405
    code = "method_not_allowed"


class RequestTimeout(RequestError):
    """The request did not come whole in time."""

    status = 408
    code = "request_timeout"


class UnsupportedMediaType(RequestError):
    """A page of another origin may send JSON only: a browser asks us first whether it may (CORS)."""

    status = 415
    code = "unsupported_media_type"


class HostNotServed(RequestError):
    """The request is for a name that is not known here (RFC 9110 section 7.4)."""

    status = 421
    code = "host_not_served"


class OtherEpoch(RequestError):
    """The cursor belongs to another stream."""

    status = 409
    code = "cursor_of_another_stream"


class KeyReused(RequestError):
    """The Idempotency-Key stands for another request."""

    status = 409
    code = "idempotency_key_reused"


class Cancelled(RequestError):
    """The stream was ended on request, before its upstream answered."""

    status = 409
    code = "cancelled"


class OffsetGone(RequestError):
    """The cursor lies below what the log still holds."""

    status = 410
    code = "offset_gone"

    def __init__(self, message: str, earliest: int) -> None:
        super().__init__(message)
        self.earliest = earliest


class OffsetBeyond(RequestError):
    """The cursor lies above what the log holds."""

    status = 416
    code = "offset_beyond"


class OtherStream(RequestError):
    """The stream is not the one that the request is made for (RFC 9110 section 13.1.1)."""

    status = 412
    code = "precondition_failed"


class TooLarge(RequestError):
    """A body or a frame over its limit."""

    status = 413
    code = "too_large"


class TargetTooLong(RequestError):
    """A request target over its limit."""

    status = 414
    code = "target_too_long"


class HeadersTooLarge(RequestError):
    """Headers over their limits."""

    status = 431
    code = "headers_too_large"


class UpgradeRequired(RequestError):
    """The protocol, or the version of it, that is asked for is not spoken."""

    status = 426
    code = "upgrade_required"


class RateLimited(RequestError):
    """More requests than are allowed within a time; later there is room again."""

    status = 429
    code = "rate_limited"
    ending = "rate_limited"
    retry_after_s = 1

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UpstreamError(ProxyError):
    """The fault is above: the upstream, or the way to it."""

    status = 502
    code = "upstream_error"
    ending = "upstream_error"  # the row of stream/endings.py with which it ends a stream
    sent = True  # a part of the request may have reached the upstream
    blames_upstream = True  # False where its client, or the proxy, ended it


class Reported(ProxyError):
    """The upstream said within its answer that it failed: an answer to one who asks for a document."""

    status = 502
    code = "upstream_error"

    def __init__(self, message: str, code: str | None = None, status: int = 502) -> None:
        super().__init__(message)
        self.code = code or type(self).code
        self.status = status


class Unreachable(UpstreamError):
    """No connection, or it closed before the response began."""

    code = "upstream_unreachable"
    ending = "upstream_unreachable"

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class Truncated(UpstreamError):
    """The response broke off."""

    code = "upstream_reset"
    ending = "upstream_reset"


class Garbled(UpstreamError):
    """The response is not HTTP, or its framing is invalid."""

    code = "upstream_garbled"
    ending = "garbled"


class UpstreamTimeout(UpstreamError):
    """The upstream took longer than allowed. Each time-out is a class of its own; clients are told one code."""

    status = 504
    code = "upstream_timeout"


class ConnectTimeout(UpstreamTimeout):
    """No connection in time, so nothing was sent."""

    ending = "timeout_connect"
    sent = False


class FirstByteTimeout(UpstreamTimeout):
    """No response began in time."""

    ending = "timeout_first_byte"


class FirstTokenTimeout(UpstreamTimeout):
    """No generated text in time."""

    ending = "timeout_first_token"


class IdleTimeout(UpstreamTimeout):
    """Nothing came for too long."""

    ending = "timeout_idle"


class TotalTimeout(UpstreamTimeout):
    """The response took too long in all."""

    ending = "timeout_total"


class CapabilitiesOff(ProxyError):
    """No secret is configured that tokens could be signed with."""

    status = 501
    code = "capabilities_off"


class CodingNotSupported(ProxyError):
    """A transfer coding that is not spoken (RFC 9112 section 6.1)."""

    status = 501
    code = "transfer_coding_not_supported"


class VersionNotSupported(ProxyError):
    """A version of HTTP that is not spoken."""

    status = 505
    code = "http_version_not_supported"


class Overloaded(ProxyError):
    """A limit of this proxy is reached; later it may not be."""

    status = 503
    code = "overloaded"
    ending = "overloaded"
    retry_after_s = 1

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
