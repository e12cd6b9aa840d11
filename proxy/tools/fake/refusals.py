"""The errors with which the service refuses requests, as Alibaba's error code page lists them, for all APIs."""

from typing import NamedTuple


class Refusal(NamedTuple):
    """One error of the service: HTTP status, the code in each API, the compatible mode's type, and the message."""

    status: int
    code: str
    native_code: str
    type: str
    message: str
    gateway: bool = False
    """Whether the gateway refuses, not the engine: the keys have another order, there is no id (recorded for 401)."""

    def says(self, model: str) -> str:
        """Return the message to a request for a model."""
        return self.message.replace("{model}", model)


def invalid(message: str) -> Refusal:
    """Return the error of an invalid request."""
    return Refusal(400, "invalid_parameter_error", "InvalidParameter", "invalid_request_error", message)


# The first row of a status is its default.
REFUSALS = (
    invalid("<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 129024]"),
    Refusal(400, "data_inspection_failed", "DataInspectionFailed", "data_inspection_failed",
            "Input data may contain inappropriate content."),
    Refusal(400, "Arrearage", "Arrearage", "Arrearage",
            "Access denied, please make sure your account is in good standing."),
    Refusal(401, "invalid_api_key", "InvalidApiKey", "invalid_request_error",
            "Incorrect API key provided. ", gateway=True),
    Refusal(403, "access_denied", "AccessDenied", "access_denied", "Access denied.", gateway=True),
    Refusal(403, "Model.AccessDenied", "Model.AccessDenied", "access_denied", "Model access denied.", gateway=True),
    Refusal(403, "AccessDenied.Unpurchased", "AccessDenied.Unpurchased", "access_denied",
            "Access to model denied. Please make sure you are eligible for using the model.", gateway=True),
    Refusal(403, "AllocationQuota.FreeTierOnly", "AllocationQuota.FreeTierOnly", "access_denied",
            "The free tier of the model has been exhausted.", gateway=True),
    Refusal(404, "model_not_found", "ModelNotFound", "invalid_request_error",
            "The model `{model}` does not exist or you do not have access to it.", gateway=True),
    Refusal(404, "model_not_supported", "ModelNotSupported", "invalid_request_error",
            "Unsupported model {model} for OpenAI compatibility mode.", gateway=True),
    Refusal(408, "RequestTimeOut", "RequestTimeOut", "RequestTimeOut", "Response timeout!"),
    Refusal(413, "invalid_parameter_error", "InvalidParameter", "invalid_request_error",
            "Exceeded limit on max bytes per request: 16777216", gateway=True),
    Refusal(429, "limit_requests", "Throttling.RateQuota", "limit_requests",
            "Requests rate limit exceeded, please try again later."),
    Refusal(429, "throttling", "Throttling", "throttling", "Requests throttling triggered."),
    Refusal(429, "limit_burst_rate", "Throttling.BurstRate", "limit_burst_rate",
            "Request rate increased too quickly. To ensure system stability, please adjust your client logic "
            "to scale requests more smoothly over time."),
    Refusal(429, "insufficient_quota", "Throttling.AllocationQuota", "insufficient_quota",
            "You exceeded your current quota, please check your plan and billing details."),
    Refusal(429, "Throttling.Concurrency", "Throttling.Concurrency", "throttling",
            "Too many concurrent requests, please try again later."),
    Refusal(500, "internal_error", "InternalError", "internal_error",
            "An internal error has occured, please try again later or contact service support."),
    Refusal(500, "RequestTimeOut", "RequestTimeOut", "RequestTimeOut", "Request timed out, please try again later."),
    Refusal(500, "InternalError.Algo", "InternalError.Algo", "internal_error", "InternalError.Algo: inference failed."),
    Refusal(500, "ModelServingError", "ModelServingError", "ModelServingError",
            "Too many requests. Your requests are being throttled due to system capacity limits. "
            "Please try again later."),
    Refusal(503, "ModelUnavailable", "ModelUnavailable", "ModelUnavailable",
            "Model is unavailable, please try again later."),
    Refusal(503, "ModelServingError", "ModelServingError", "ModelServingError",
            "Too many requests. Your requests are being throttled due to system capacity limits. "
            "Please try again later."),
)  # fmt: skip

BAD_KEY = next(row for row in REFUSALS if row.status == 401)
OUTPUT_INSPECTION = Refusal(400, "data_inspection_failed", "DataInspectionFailed", "data_inspection_failed",
                            "Output data may contain inappropriate content.")  # fmt: skip


class Refused(Exception):
    """The service refuses the request; `refusal` is the error."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def find_refusal(status: int, code: str) -> Refusal | None:
    """Return the first row with that status, and that code in either API; 0 and "" stand for any."""
    for row in REFUSALS:
        if status in (0, row.status) and code in ("", row.code, row.native_code):
            return row
    return None
