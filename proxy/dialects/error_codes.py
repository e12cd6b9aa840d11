"""What Qwen's error codes mean: whose fault an error is, whether it is transient, and whether and when to retry.

Knows no clock: a wait is the upper limit for the first retry, from which the caller draws the actual one. The table
covers both APIs; what is `limit_requests` in the compatible mode is `Throttling.RateQuota` in the native API.
Source: Alibaba Cloud Model Studio, "Error codes". Qwen sends no Retry-After, so the waits are chosen here: quotas are
counted per minute and per second, and recover within one minute.
"""

from enum import Enum
from typing import Final, NamedTuple


class Fault(Enum):
    """Whose fault an error response is."""

    CALLER = "caller"  # the request is wrong wherever it is sent
    ACCOUNT = "account"  # the key is wrong, or its quota is used up: another key may work
    UPSTREAM = "upstream"


class Trouble(NamedTuple):
    """What an error response means."""

    fault: Fault
    transient: bool  # the same request may succeed later
    wait_s: float | None = None  # before the first retry; None: do not retry


WRONG: Final = Trouble(Fault.CALLER, transient=False)
NOT_ALLOWED: Final = Trouble(Fault.ACCOUNT, transient=False)
TOO_FAST: Final = Trouble(Fault.ACCOUNT, transient=True, wait_s=1.0)  # requests, counted per second too
TOO_MUCH: Final = Trouble(Fault.ACCOUNT, transient=True, wait_s=4.0)  # tokens, counted per minute
BUSY: Final = Trouble(Fault.UPSTREAM, transient=True, wait_s=1.0)
TOOK_TOO_LONG: Final = Trouble(Fault.UPSTREAM, transient=True)  # it generated for minutes, and has been paid for

# Both APIs' spellings in one row, in lower case.
_ROWS: Final[tuple[tuple[tuple[str, ...], Trouble], ...]] = (
    (("invalidparameter", "invalid_parameter_error", "internalerror.algo.invalidparameter"), WRONG),
    (("datainspectionfailed", "data_inspection_failed", "data_inspection"), WRONG),
    (("modelnotfound", "model_not_found", "modelnotsupported", "model_not_supported"), WRONG),
    (("arrearage",), NOT_ALLOWED),  # HTTP 400, but it is the account that is overdue
    (("invalidapikey", "invalid_api_key"), NOT_ALLOWED),
    (("accessdenied", "access_denied", "model.accessdenied"), NOT_ALLOWED),
    (("allocationquota.freetieronly",), NOT_ALLOWED),
    (("throttling", "throttling.ratequota", "limitrequests", "limit_requests", "throttling.concurrency"), TOO_FAST),
    (("throttling.burstrate", "limit_burst_rate"), TOO_FAST),
    # "You exceeded your current quota, please check your plan and billing details": despite its wording, a rate limit.
    (("throttling.allocationquota", "insufficient_quota"), TOO_MUCH),
    (("internalerror", "internal_error"), BUSY),
    (("modelservingerror", "modelunavailable"), BUSY),
    (("requesttimeout",), TOOK_TOO_LONG),
)
_BY_CODE: Final = {code: trouble for codes, trouble in _ROWS for code in codes}
_BY_STATUS: Final = {
    401: NOT_ALLOWED,
    402: NOT_ALLOWED,
    403: NOT_ALLOWED,
    408: TOOK_TOO_LONG,
    429: TOO_FAST,
    504: TOOK_TOO_LONG,
}


def trouble(status: int, code: str | None) -> Trouble:
    """Return what an error means: by its code, or the code's longest known prefix, or otherwise by its status.

    `Throttling.Anything` counts as `Throttling`. A status below 400 is that of a stream with an error event in it.
    """
    known = (code or "").lower()
    while known:
        if known in _BY_CODE:
            return _BY_CODE[known]
        known = known.rpartition(".")[0]
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    return WRONG if 400 <= status < 500 else BUSY
