"""The errors: whose fault, which status and code, and what goes with them."""

from itertools import groupby

import pytest

from proxy.wire import errors
from proxy.wire.errors import (
    AdminClosed,
    AdminTokenNeeded,
    BadRequest,
    CallerUnknowable,
    Cancelled,
    CapabilitiesOff,
    CodingNotSupported,
    ConnectTimeout,
    Drained,
    ExpiredCapability,
    FileNotAllowed,
    FirstByteTimeout,
    FirstTokenTimeout,
    Garbled,
    HeadersTooLarge,
    HostNotServed,
    IdleTimeout,
    InternalError,
    InvalidCapability,
    KeyReused,
    LimitReached,
    MethodNotAllowed,
    MissingRight,
    NotAllowedForKey,
    NumberBeyond,
    OffsetBeyond,
    OffsetGone,
    OriginNotAllowed,
    OtherEpoch,
    OtherStream,
    Overloaded,
    PathNotAllowed,
    ProducerLost,
    ProxyError,
    RateLimited,
    Reported,
    RequestError,
    RequestTimeout,
    StoreUnavailable,
    TargetTooLong,
    TaskNotAllowed,
    TooLarge,
    TotalTimeout,
    Truncated,
    Unauthorised,
    UnknownMode,
    UnknownModel,
    UnknownResponse,
    UnknownRoute,
    UnknownStream,
    Unreachable,
    UnsupportedMediaType,
    UpgradeRequired,
    UpstreamError,
    UpstreamTimeout,
    VersionNotSupported,
)

MADE: list[tuple[ProxyError, int, type[ProxyError]]] = [
    (InternalError("m"), 500, ProxyError),
    (BadRequest("m"), 400, RequestError),
    (UnknownMode("m"), 400, RequestError),
    (Unauthorised("m"), 401, RequestError),
    (InvalidCapability("m"), 401, RequestError),
    (ExpiredCapability("m"), 401, RequestError),
    (AdminTokenNeeded("m"), 401, RequestError),
    (AdminClosed("m"), 403, RequestError),
    (MissingRight("m"), 403, RequestError),
    (PathNotAllowed("m"), 403, RequestError),
    (FileNotAllowed("m"), 403, RequestError),
    (NotAllowedForKey("m"), 403, RequestError),
    (TaskNotAllowed("m"), 403, RequestError),
    (OriginNotAllowed("m"), 403, RequestError),
    (UnknownRoute("m"), 404, RequestError),
    (UnknownModel("m"), 404, RequestError),
    (UnknownStream("m"), 404, RequestError),
    (UnknownResponse("m"), 404, RequestError),
    (MethodNotAllowed("m"), 405, RequestError),
    (RequestTimeout("m"), 408, RequestError),
    (OtherEpoch("m"), 409, RequestError),
    (Cancelled("m"), 409, RequestError),
    (KeyReused("m"), 409, RequestError),
    (OffsetGone("m", earliest=3), 410, RequestError),
    (OtherStream("m"), 412, RequestError),
    (TooLarge("m"), 413, RequestError),
    (UnsupportedMediaType("m"), 415, RequestError),
    (OffsetBeyond("m"), 416, RequestError),
    (HostNotServed("m"), 421, RequestError),
    (TargetTooLong("m"), 414, RequestError),
    (UpgradeRequired("m"), 426, RequestError),
    (HeadersTooLarge("m"), 431, RequestError),
    (RateLimited("m", 7), 429, RequestError),
    (LimitReached("m", 9), 429, RateLimited),
    (Reported("m"), 502, ProxyError),
    (Unreachable("m"), 502, UpstreamError),
    (Truncated("m"), 502, UpstreamError),
    (Garbled("m"), 502, UpstreamError),
    (ConnectTimeout("m"), 504, UpstreamTimeout),
    (FirstByteTimeout("m"), 504, UpstreamTimeout),
    (FirstTokenTimeout("m"), 504, UpstreamTimeout),
    (IdleTimeout("m"), 504, UpstreamTimeout),
    (TotalTimeout("m"), 504, UpstreamTimeout),
    (CapabilitiesOff("m"), 501, ProxyError),
    (CodingNotSupported("m"), 501, ProxyError),
    (Overloaded("m"), 503, ProxyError),
    (Drained("m"), 503, Overloaded),
    (StoreUnavailable("m"), 503, ProxyError),
    (ProducerLost("m"), 502, ProxyError),
    (CallerUnknowable("m"), 503, Overloaded),
    (VersionNotSupported("m"), 505, ProxyError),
]


@pytest.mark.parametrize(("error", "status", "base"), MADE, ids=lambda made: type(made).__name__)
def test_leaf_has_its_status_and_the_base_of_whose_fault_it_is(
    error: ProxyError, status: int, base: type[ProxyError]
) -> None:
    """Bases say whose fault it is, leaves state the fact."""
    assert error.status == status
    assert type(error).__mro__[1] is base
    assert error.message == str(error) == "m"


def test_every_leaf_is_in_this_table() -> None:
    """A new error gets a row here."""
    known = {made for made in vars(errors).values() if isinstance(made, type) and issubclass(made, ProxyError)}
    bases = {ProxyError, RequestError, UpstreamError, UpstreamTimeout}
    missing = known - bases - {NumberBeyond} - {type(error) for error, _, _ in MADE}  # it is a BadRequest to clients
    assert not missing, f"MADE has no row of {missing}"


def test_codes_tell_the_leaves_apart() -> None:
    """A client can branch on the code alone; all time-outs are one to it."""
    codes = sorted(error.code for error, _, base in MADE if base is not UpstreamTimeout)
    assert [code for code, same in groupby(codes) if len(list(same)) > 1] == []


def test_upstream_errors_carry_the_word_the_stream_ends_with() -> None:
    """It is the label of the metric; of the time-outs each has its own."""
    endings = {type(error): error.ending for error, _, _ in MADE if isinstance(error, UpstreamError)}
    assert endings == {
        Unreachable: "upstream_unreachable",
        Truncated: "upstream_reset",
        Garbled: "garbled",
        ConnectTimeout: "timeout_connect",
        FirstByteTimeout: "timeout_first_byte",
        FirstTokenTimeout: "timeout_first_token",
        IdleTimeout: "timeout_idle",
        TotalTimeout: "timeout_total",
    }


def test_only_full_or_fast_asks_to_come_back() -> None:
    """Retry-After stands where a later attempt may succeed."""
    asks = {type(error): error.retry_after_s for error, _, _ in MADE if error.retry_after_s is not None}
    later = {Overloaded: 1, Drained: 1, StoreUnavailable: 1, CallerUnknowable: 1, RateLimited: 7, LimitReached: 9}
    assert asks == later


def test_offset_gone_tells_the_earliest() -> None:
    """A client that comes too late learns where it can begin."""
    assert OffsetGone("m", earliest=3).earliest == 3


@pytest.mark.parametrize(
    ("error", "sent"),
    [
        (Unreachable("m", sent=False), False),
        (ConnectTimeout("m"), False),
        (FirstByteTimeout("m"), True),
        (Unreachable("m"), True),
        (Truncated("m"), True),
    ],
)
def test_error_tells_whether_the_request_may_have_left(error: UpstreamError, sent: bool) -> None:
    """In doubt it has: then it may be billed."""
    assert error.sent == sent
