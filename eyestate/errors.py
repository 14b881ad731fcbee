"""Every error a user can meet, one class each.

How an error travels: the code that detects it raises one of these classes; nothing in between catches it. At the edge
the service responds with ``status`` and ``{"error": {"code", "message"}}``, the command prints the message on
stderr, and a Python caller catches :class:`EyestateError`.
"""

from __future__ import annotations

from typing import Final


class EyestateError(Exception):
    """Base of all errors below. ``code`` is stable and meant for programs, the message for people."""

    status: int = 500
    code: str = "internal"

    @property
    def message(self) -> str:
        return str(self)


class ImageError(EyestateError):
    """An input that cannot be scored; the other inputs of the same request are not affected.

    ``pixels`` is the number of its pixels if they had to be decoded to detect the error.
    """

    def __init__(self, message: str, pixels: int = 0) -> None:
        super().__init__(message)
        self.pixels = pixels


class EmptyImageError(ImageError):
    """An image of zero bytes."""

    status = 400
    code = "empty_image"


class ImageTooLargeError(ImageError):
    """More bytes or more pixels than accepted."""

    status = 413
    code = "image_too_large"


class UnsupportedImageError(ImageError):
    """Bytes that are no JPEG, PNG, WebP or BMP image."""

    status = 415
    code = "unsupported_image"


class CorruptImageError(ImageError):
    """An image of a known format whose pixels cannot be decoded."""

    status = 422
    code = "corrupt_image"


class ImageTooSmallError(ImageError):
    """Fewer pixels a side than are needed to classify an eye."""

    status = 422
    code = "image_too_small"


class UnreadableFileError(ImageError):
    """A path that is no readable file."""

    code = "unreadable_file"


class UnavailableFileError(ImageError):
    """A file that is there but cannot be read now."""

    code = "unavailable_file"


# Errors of an image itself, which it will have whenever it is scored. All others have their reason elsewhere.
FINAL: Final = frozenset(
    error.code
    for error in (
        EmptyImageError,
        ImageTooLargeError,
        UnsupportedImageError,
        CorruptImageError,
        ImageTooSmallError,
        UnreadableFileError,
    )
)


class RequestError(EyestateError):
    """A malformed request, whatever its images contain."""

    status = 422
    code = "invalid_request"


class EmptyBodyError(RequestError):
    """A request without a body."""

    status = 400
    code = "empty_body"


class MalformedRequestError(RequestError):
    """Bytes that are not an HTTP/1.1 request, or a body that is not in its content coding."""

    status = 400
    code = "malformed_request"


class HeadTooLargeError(RequestError):
    """A request whose path and headers exceed the byte limit."""

    status = 431
    code = "head_too_large"


class HostNotAllowedError(RequestError):
    """A request for a host that this service is not."""

    status = 421
    code = "host_not_allowed"


class OriginNotAllowedError(RequestError):
    """A stream that a page of another site opens."""

    status = 403
    code = "origin_not_allowed"


class UpgradeRequiredError(RequestError):
    """A request for a stream that is no valid handshake of a WebSocket."""

    status = 426
    code = "upgrade_required"


class BodyTooLargeError(RequestError):
    """A body over the byte limit, or more images or parts than one request may have."""

    status = 413
    code = "body_too_large"


class UnsupportedMediaTypeError(RequestError):
    """A content type that the route does not accept."""

    status = 415
    code = "unsupported_media_type"


class UnsupportedCodingError(RequestError):
    """A content coding other than gzip, deflate and identity."""

    status = 415
    code = "unsupported_content_coding"


class InferenceRequestError(RequestError):
    """A request that violates the Open Inference Protocol."""

    status = 400
    code = "invalid_inference_request"


class NotFoundError(RequestError):
    """An unknown path, or a model or version that is not served."""

    status = 404
    code = "not_found"


class MethodNotAllowedError(RequestError):
    """A method that the route does not support."""

    status = 405
    code = "method_not_allowed"


class OverloadedError(RequestError):
    """The service is overloaded; ``retry_after`` is the number of seconds until there should be room."""

    status = 429
    code = "overloaded"

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QuotaExceededError(OverloadedError):
    """More crops than the API key may have scored; ``retry_after`` is when it may again."""

    code = "quota_exceeded"


class DrainingError(RequestError):
    """The service is shutting down; another instance, or this one after its restart, will accept the request."""

    status = 503
    code = "draining"


class RequestTimeoutError(RequestError):
    """A request that did not arrive within the timeout."""

    status = 408
    code = "request_timeout"


class DeadlineExceededError(RequestError):
    """A request that was not answered within the timeout."""

    status = 504
    code = "deadline_exceeded"


class UnauthorizedError(RequestError):
    """A request without a valid API key to a service that requires one."""

    status = 401
    code = "unauthorized"


class ForbiddenError(RequestError):
    """A request that nobody may make here, or not with its API key."""

    status = 403
    code = "forbidden"


class ModelControlError(RequestError):
    """A model that is not loaded or unloaded: the one that is served answers on."""

    status = 409
    code = "model_not_loaded"


class SettingError(EyestateError):
    """An environment variable with an invalid value."""

    code = "bad_setting"


class BundleError(EyestateError):
    """A model bundle that is missing, damaged or incompatible with this version."""

    status = 503
    code = "bad_bundle"


class DeviceError(EyestateError):
    """A GPU that has failed; this process cannot use it again."""

    status = 503
    code = "device_failed"


class DetectorError(EyestateError):
    """A face detector that is missing or damaged: crops are scored, but no faces are found."""

    status = 501
    code = "no_detector"


class MissingExtraError(EyestateError, ImportError):
    """An optional dependency that is not installed; the message names the extra that provides it."""

    code = "missing_extra"


class ServiceError(EyestateError):
    """An error response of a service; ``request_id`` is the id under which it logged the request."""

    def __init__(self, message: str, *, status: int, code: str, request_id: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.request_id = request_id


class UnreachableError(ServiceError):
    """A service that does not respond."""

    def __init__(self, message: str) -> None:
        super().__init__(message, status=503, code="unreachable")


class NoAnswerError(UnreachableError):
    """A service that was reached and does not answer a request, or not in time."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = "no_answer"


class VideoError(EyestateError):
    """A video that cannot be opened, or has no frame that can be decoded."""

    code = "bad_video"


class JobError(EyestateError):
    """A batch job that cannot start or continue; the parts it has written are kept."""

    code = "job"


class InputError(JobError):
    """An input that contains nothing to score, or whose kind is not recognised."""

    code = "bad_input"


class InputChangedError(JobError):
    """An input that has changed since the job was started."""

    code = "input_changed"


class ModelChangedError(JobError):
    """A service whose model has changed since the job was started."""

    code = "model_changed"


class OutputError(JobError):
    """An output folder that another run or another job is using."""

    code = "bad_output"
