"""Qwen's error codes: what each means, in both dialects' spelling."""

import pytest

from proxy.dialects.error_codes import Fault, trouble
from proxy.tools.fake.refusals import REFUSALS, Refusal


@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: f"{row.status}-{row.code}")
def test_both_spellings_mean_the_same(row: Refusal) -> None:
    """A dialect is no other service."""
    assert trouble(row.status, row.code) == trouble(row.status, row.native_code)


@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: f"{row.status}-{row.code}")
def test_only_throttling_and_failures_are_transient(row: Refusal) -> None:
    """What the caller or the account has to mend stays wrong."""
    assert trouble(row.status, row.code).transient == (row.status in (408, 429, 500, 503))


@pytest.mark.parametrize("code", ["insufficient_quota", "Throttling.AllocationQuota"])
def test_quota_is_a_throttle_and_no_bill(code: str) -> None:
    """In spite of its wording; it recovers within a minute, slower than a rate of requests."""
    found = trouble(429, code)
    assert found.transient
    assert found.fault is Fault.ACCOUNT
    assert (found.wait_s or 0) > (trouble(429, "limit_requests").wait_s or 0)


def test_overdue_account_is_final_and_no_fault_of_the_request() -> None:
    """Though it comes as a 400."""
    found = trouble(400, "Arrearage")
    assert not found.transient
    assert found.fault is Fault.ACCOUNT


def test_time_out_of_the_model_is_transient_but_not_retried() -> None:
    """It generated for minutes, which are billed."""
    found = trouble(500, "RequestTimeOut")
    assert found.transient
    assert found.wait_s is None


@pytest.mark.parametrize(
    ("status", "code", "as_status", "as_code"),
    [
        (429, "Throttling.SomethingNew", 429, "Throttling"),
        (400, "InvalidParameter.Foo.Bar", 400, "InvalidParameter"),
        (500, "InternalError.Algo", 500, "InternalError"),
        (200, "Throttling.RateQuota", 429, "Throttling.RateQuota"),
    ],
)
def test_unknown_code_means_what_its_beginning_does(status: int, code: str, as_status: int, as_code: str) -> None:
    """The families are told apart by dots."""
    assert trouble(status, code) == trouble(as_status, as_code)


def test_parameter_error_of_the_engine_is_the_callers() -> None:
    """Though its family is the internal errors'."""
    assert trouble(400, "InternalError.Algo.InvalidParameter").fault is Fault.CALLER


@pytest.mark.parametrize(
    ("status", "fault", "transient"),
    [
        (400, Fault.CALLER, False),
        (404, Fault.CALLER, False),
        (413, Fault.CALLER, False),
        (401, Fault.ACCOUNT, False),
        (403, Fault.ACCOUNT, False),
        (429, Fault.ACCOUNT, True),
        (500, Fault.UPSTREAM, True),
        (502, Fault.UPSTREAM, True),
        (503, Fault.UPSTREAM, True),
        (504, Fault.UPSTREAM, True),
        (200, Fault.UPSTREAM, True),
    ],
)
@pytest.mark.parametrize("code", [None, "", "never_heard_of"])
def test_without_a_known_code_the_status_tells(status: int, fault: Fault, transient: bool, code: str | None) -> None:
    """As for any server."""
    found = trouble(status, code)
    assert (found.fault, found.transient) == (fault, transient)
