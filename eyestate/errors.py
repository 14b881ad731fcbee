"""Every error a user can meet, one class each.

How an error travels: the code that finds the fault raises one of these classes; nothing in between catches it. At the
edge the service answers with ``status`` and ``{"error": {"code", "message"}}``, the command prints the message on
stderr, and a Python caller catches :class:`EyestateError`.
"""

from __future__ import annotations


class EyestateError(Exception):
    """Base of all errors below. ``code`` is stable and meant for programs, the message for people."""

    status: int = 500
    code: str = "internal"

    @property
    def message(self) -> str:
        return str(self)


class ImageError(EyestateError):
    """An input that cannot be scored; the other inputs of the same request are not affected.

    ``pixels`` is how many it has, where it took decoding them to find the fault.
    """

    def __init__(self, message: str, pixels: int = 0) -> None:
        super().__init__(message)
        self.pixels = pixels


class EmptyImageError(ImageError):
    """No bytes at all."""

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
    """Fewer pixels on a side than an eye needs to be told open or closed."""

    status = 422
    code = "image_too_small"


class UnreadableFileError(ImageError):
    """A path that leads to no readable file."""

    code = "unreadable_file"


class RequestError(EyestateError):
    """A request whose form is wrong, whatever its images hold."""

    status = 422
    code = "invalid_request"


class EmptyBodyError(RequestError):
    """A request without a body."""

    status = 400
    code = "empty_body"


class MalformedRequestError(RequestError):
    """Bytes that are no HTTP/1.1 request."""

    status = 400
    code = "malformed_request"


class HeadTooLargeError(RequestError):
    """A request whose path and headers are over the byte limit."""

    status = 431
    code = "head_too_large"


class BodyTooLargeError(RequestError):
    """A body over the byte limit, or more images or parts than one request may carry."""

    status = 413
    code = "body_too_large"


class UnsupportedMediaTypeError(RequestError):
    """A content type the route does not read."""

    status = 415
    code = "unsupported_media_type"


class InferenceRequestError(RequestError):
    """A request that is not what the Open Inference Protocol prescribes."""

    status = 400
    code = "invalid_inference_request"


class NotFoundError(RequestError):
    """A path that leads nowhere, or a model or a version of it that is not served."""

    status = 404
    code = "not_found"


class MethodNotAllowedError(RequestError):
    """A method that the route does not take."""

    status = 405
    code = "method_not_allowed"


class OverloadedError(RequestError):
    """More crops are waiting than the service will hold; ``retry_after`` is when there should be room, in seconds."""

    status = 429
    code = "overloaded"

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DrainingError(RequestError):
    """The service is about to stop; another instance, or this one once it is back, takes the request."""

    status = 503
    code = "draining"


class RequestTimeoutError(RequestError):
    """A request that did not arrive in time."""

    status = 408
    code = "request_timeout"


class DeadlineExceededError(RequestError):
    """A request that could not be answered in time."""

    status = 504
    code = "deadline_exceeded"


class UnauthorizedError(RequestError):
    """A request without a valid API key, where the service asks for one."""

    status = 401
    code = "unauthorized"


class SettingError(EyestateError):
    """An environment variable with a value that it cannot have."""

    code = "bad_setting"


class BundleError(EyestateError):
    """A model bundle that is missing, damaged or does not fit this runtime."""

    status = 503
    code = "bad_bundle"


class DetectorError(EyestateError):
    """A face detector that is missing or damaged: this service or command finds no faces, but scores crops."""

    status = 501
    code = "no_detector"


class MissingExtraError(EyestateError, ImportError):
    """An optional dependency that is not installed; the message names the extra that brings it."""

    code = "missing_extra"


class ServiceError(EyestateError):
    """What a service answered instead of scores; ``request_id`` is the id under which it logged the request."""

    def __init__(self, message: str, *, status: int, code: str, request_id: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.request_id = request_id


class UnreachableError(ServiceError):
    """A service that a client got no answer from."""

    def __init__(self, message: str) -> None:
        super().__init__(message, status=503, code="unreachable")


class JobError(EyestateError):
    """A batch job that cannot start or go on; the parts it has written stay."""

    code = "job"


class InputError(JobError):
    """An input that holds nothing to score or cannot be told apart."""

    code = "bad_input"


class InputChangedError(JobError):
    """An input that is no longer the one the job began with."""

    code = "input_changed"


class ModelChangedError(JobError):
    """A service whose model is no longer the one the job began with."""

    code = "model_changed"


class OutputError(JobError):
    """An output folder that another run or another job uses."""

    code = "bad_output"
