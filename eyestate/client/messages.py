"""The requests that the clients send, and what they make of the answers."""

from __future__ import annotations

import io
import uuid
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from eyestate.errors import ServiceError
from eyestate.extras import extra
from eyestate.media_types import ARROW, JSON, NPY, OCTET_STREAM
from eyestate.schema import BestResponse, ErrorDetail, FacesResponse, LoadedModel, Readiness, ScoreResponse, Verdict

with extra("client"):
    import httpx
    import pyarrow as pa

Images = Sequence[bytes] | npt.NDArray[np.uint8]
Http = httpx.Client | httpx.AsyncClient

ANSWER: Final = pa.schema(
    [("score", pa.float32()), ("state", pa.string()), ("error", pa.string()), ("message", pa.string())]
)


def served_model(table: pa.Table) -> LoadedModel:
    """The model that gave the scores of a table.

    Raises:
        ServiceError: the table does not name it.
    """
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    try:
        return LoadedModel(**{field: metadata[f"model_{field}"] for field in LoadedModel.model_fields})
    except KeyError as error:
        raise _bad_response(f"its Arrow answer lacks the metadata {error}") from None


def request(http: Http, method: str, path: str, **options: Any) -> httpx.Request:
    """A request with an id, the same for all attempts at it."""
    built = http.build_request(method, path, **options)
    built.headers["X-Request-ID"] = uuid.uuid4().hex
    return built


def score_request(http: Http, image: bytes) -> httpx.Request:
    """To score one encoded image."""
    return _image_request(http, "v1/score", image)


def faces_request(http: Http, photo: bytes, *, verdict: bool) -> httpx.Request:
    """To find the faces in one encoded photo."""
    return _image_request(http, "v1/faces?verdict=true" if verdict else "v1/faces", photo)


def best_request(http: Http, photos: Sequence[bytes]) -> httpx.Request:
    """To choose the best of several encoded photos."""
    files = [("images", (f"{place}", photo, OCTET_STREAM)) for place, photo in enumerate(photos)]
    return request(http, "POST", "v1/faces/best", files=files, headers={"Accept": JSON})


def _image_request(http: Http, path: str, image: bytes) -> httpx.Request:
    headers = {"Content-Type": OCTET_STREAM, "Accept": JSON}
    return request(http, "POST", path, content=image, headers=headers)


def batch_request(http: Http, images: Images) -> httpx.Request:
    """To score many images: encoded, as an Arrow stream, or an array of crops, as a ``.npy`` file.

    Raises:
        TypeError: the array is not uint8.
    """
    body, content_type = _npy(images) if isinstance(images, np.ndarray) else _arrow(images)
    headers = {"Content-Type": content_type, "Accept": ARROW}
    return request(http, "POST", "v1/score/batch", content=body, headers=headers)


def _npy(crops: npt.NDArray[np.uint8]) -> tuple[bytes, str]:
    if crops.dtype != np.uint8:
        raise TypeError(f"crops are a uint8 array, not {crops.dtype}")
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(crops), allow_pickle=False)
    return file.getvalue(), NPY


def _arrow(images: Sequence[bytes]) -> tuple[bytes, str]:
    batch = pa.record_batch({"image": pa.array(images, pa.binary())})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes(), ARROW


def score_response(response: httpx.Response) -> ScoreResponse:
    """The answer to ``score_request``; raises ServiceError if it is something else, as all below."""
    try:
        return ScoreResponse.model_validate_json(response.content)
    except ValidationError:
        raise _bad_response("its answer is no score") from None


def faces_response(response: httpx.Response) -> FacesResponse:
    """The answer to ``faces_request``."""
    try:
        return FacesResponse.model_validate_json(response.content)
    except ValidationError:
        raise _bad_response("its answer tells no faces") from None


def best_response(response: httpx.Response) -> BestResponse:
    """The answer to ``best_request``."""
    try:
        return BestResponse.model_validate_json(response.content)
    except ValidationError:
        raise _bad_response("its answer ranks no photos") from None


def ready_model(response: httpx.Response) -> LoadedModel:
    """The model that ``GET /readyz`` tells."""
    try:
        return Readiness.model_validate_json(response.content).model
    except ValidationError:
        raise _bad_response("its /readyz does not tell the model") from None


def table_of(response: httpx.Response, count: int) -> pa.Table:
    """The answer to ``batch_request`` with ``count`` images: a table of ``ANSWER`` whose metadata tell the model."""
    try:
        table = pa.ipc.open_stream(response.content).read_all()
        table = table.select(ANSWER.names).cast(ANSWER.with_metadata(table.schema.metadata))
    except (pa.ArrowException, KeyError, ValueError):
        raise _bad_response("its answer is no Arrow table of scores") from None
    if table.num_rows != count:
        raise _bad_response(f"it answered {table.num_rows} scores for {count} images")
    return table


def verdicts(table: pa.Table) -> list[Verdict | ErrorDetail]:
    """The rows of a table of ``ANSWER``."""
    return [
        Verdict(score=row["score"], state=row["state"])
        if row["error"] is None
        else ErrorDetail(code=row["error"], message=row["message"])
        for row in table.to_pylist()
    ]


def _bad_response(what: str) -> ServiceError:
    return ServiceError(f"the endpoint does not speak eyestate's protocol: {what}", status=502, code="bad_answer")
