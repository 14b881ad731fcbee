"""Tensors of the Open Inference Protocol: the body of a request to crops, scores to the body of an answer."""

from __future__ import annotations

import base64
import binascii
import math
import string
from typing import Any, Final, get_args

import numpy as np
from pydantic import ValidationError
from pydantic_core import from_json

from eyestate.arrays import Pixels, Scores
from eyestate.bundle import Card, State
from eyestate.errors import BodyTooLargeError, InferenceRequestError
from eyestate.images import check_size
from eyestate.server.openinference import numbers
from eyestate.server.openinference.schema import (
    BinaryPart,
    CropsInput,
    InferenceRequest,
    InferenceResponse,
    RequestedOutput,
    ScoreOutput,
    StateOutput,
)
from eyestate.server.packed import MAX_CROPS, Encoded

JSON_LENGTH: Final = "Inference-Header-Content-Length"  # the header with the bytes of the JSON before binary data
MAX_JSON_BYTES: Final = 4 * 2**20
MAX_JSON_VALUES: Final = 65_536  # and nothing else runs for at most 20 ms while they are parsed
_STRUCTURE: Final = (b"[", b"{", b",", b":")  # one of these before each value
_WHITE: Final = string.whitespace.encode()
_LENGTH_BYTES: Final = 4  # before each element of a binary BYTES tensor, little-endian
_AS_ELEMENT: Final = {state: len(state).to_bytes(_LENGTH_BYTES, "little") + state.encode() for state in get_args(State)}
ALL_OUTPUTS: Final = (RequestedOutput(name="score"), RequestedOutput(name="state"))


Content = Pixels | list[Encoded]  # of an input: crops, or encoded images


def read(body: bytes, json_length: str | None) -> tuple[InferenceRequest, list[Content]]:
    """What a body asks for.

    Args:
        body: decoded from its content coding.
        json_length: the header ``JSON_LENGTH``, if there was one.

    Returns:
        The request, and the crops of each of its inputs: uint8 (N, height, width) or (N, height, width, 3), a view of
        the body where that is possible, or N encoded images.

    Raises:
        RequestError: the body is not what the protocol prescribes, or over a limit.
        ImageError: the crops are smaller or larger than an image may be.
    """
    split = _json_end(json_length, body)
    document, arrays = numbers.cut(body[:split])
    asked = _parsed(document)
    parts = _binary_parts(asked, memoryview(body)[split:])
    return asked, [
        pixels(tensor.shape, _numbers(tensor.data or [], arrays) if part is None else part)
        if isinstance(tensor, CropsInput)
        else files(tensor.shape, _from_base64(tensor.data or []) if part is None else elements(part))
        for tensor, part in zip(asked.inputs, parts, strict=True)
    ]


def _json_end(json_length: str | None, body: bytes) -> int:
    """Where the JSON at the start of the body ends."""
    end = len(body)
    if json_length is not None:
        if not (json_length.isascii() and json_length.isdigit() and len(json_length) < 12 and int(json_length) <= end):
            raise InferenceRequestError(f"{JSON_LENGTH} is no number up to {end}, the bytes of the body")
        end = int(json_length)
    if end > MAX_JSON_BYTES:
        raise BodyTooLargeError(f"the JSON is over the limit of {MAX_JSON_BYTES:,} bytes; send tensors as binary data")
    return end


def _parsed(document: bytes) -> InferenceRequest:
    if sum(map(document.count, _STRUCTURE)) > MAX_JSON_VALUES:
        raise BodyTooLargeError(f"the JSON has more than {MAX_JSON_VALUES:,} values besides the numbers of tensors")
    try:
        members = from_json(document)
    except ValueError as error:
        raise InferenceRequestError(f"the {len(document)} bytes that should be JSON are not: {error}") from None
    return validated(members)


def validated(members: Any) -> InferenceRequest:
    """A request, of the members that its JSON has.

    Raises:
        RequestError: it is not what the protocol prescribes, or over a limit.
    """
    try:
        asked = InferenceRequest.model_validate(members)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, fault["loc"])) or "the request"
        raise InferenceRequestError(f"{where}: {fault['msg'][:200]}") from None
    for tensors in (asked.inputs, asked.outputs):
        if len({tensor.name for tensor in tensors}) < len(tensors):
            raise InferenceRequestError(f"'{tensors[0].name}' is there twice")
    counts = [tensor.shape[0] for tensor in asked.inputs]
    if 0 in counts:
        raise InferenceRequestError(f"the shape of '{asked.inputs[counts.index(0)].name}' leaves it no crops")
    if sum(counts) > MAX_CROPS:
        raise BodyTooLargeError(f"there are {sum(counts):,} crops; at most {MAX_CROPS:,} are accepted in a request")
    return asked


def _binary_parts(asked: InferenceRequest, binary: memoryview) -> list[memoryview | None]:
    """The bytes of each input behind the JSON, None for an input whose data is in the JSON."""
    parts: list[memoryview | None] = []
    start = 0
    for tensor in asked.inputs:
        size = tensor.parameters.binary_data_size
        if (size is None) == (tensor.data is None):
            raise InferenceRequestError(f"the input '{tensor.name}' must have either data or binary_data_size")
        parts.append(None if size is None else binary[start : start + size])
        start += size or 0
    if start != len(binary):
        raise InferenceRequestError(
            f"the inputs have {start} bytes of binary data by their binary_data_size, but {len(binary)} follow the "
            f"JSON, whose length is to be in {JSON_LENGTH}"
        )
    return parts


def pixels(shape: list[int], content: bytes | memoryview) -> Pixels:
    """The tensor ``crops``: uint8 (N, height, width) or (N, height, width, 3), a view of its content.

    Raises:
        InferenceRequestError: the shape is another, or not that of the content.
        ImageError: the crops are smaller or larger than an image may be.
    """
    if shape[3:] not in ([], [3]):
        raise InferenceRequestError(f"the shape of 'crops' is {shape}; of four dimensions the last must be 3")
    check_size(width=shape[2], height=shape[1])
    crops = np.frombuffer(content, np.uint8)
    if crops.size != math.prod(shape):
        raise InferenceRequestError(f"the shape of 'crops' is {shape}, but it has {crops.size} elements")
    return crops.reshape(shape)


def files(shape: list[int], images: list[Encoded]) -> list[Encoded]:
    """The tensor ``images``: N encoded images.

    Raises:
        InferenceRequestError: the shape says another number.
    """
    if len(images) != shape[0]:
        raise InferenceRequestError(f"the shape of 'images' is {shape}, but it has {len(images)} elements")
    return images


def _numbers(data: list[Any], arrays: list[bytes]) -> bytes:
    """The elements of a tensor in JSON, whose data stand for one of the arrays that were cut out."""
    try:
        (place,) = data
        return numbers.parse(arrays[place])
    except (TypeError, ValueError, IndexError):
        raise InferenceRequestError("the data of 'crops' must be whole numbers from 0 to 255, flat or nested") from None


def _from_base64(data: list[str]) -> list[Encoded]:
    files: list[Encoded] = []
    for index, text in enumerate(data):
        try:
            plain = text.encode("ascii").translate(None, _WHITE)  # MIME has line breaks
            files.append(base64.b64decode(plain, validate=True))
        except (binascii.Error, ValueError) as error:
            raise InferenceRequestError(f"element {index} of 'images' is not base64: {error}") from None
    return files


def elements(binary: memoryview) -> list[Encoded]:
    """The elements of a binary BYTES tensor: each has its length before it.

    Raises:
        InferenceRequestError: the last one is cut off.
    """
    found: list[Encoded] = []
    start = 0
    while start < len(binary):
        length = int.from_bytes(binary[start : start + _LENGTH_BYTES], "little")
        start += _LENGTH_BYTES
        if start + length > len(binary):
            raise InferenceRequestError(f"element {len(found)} of 'images' goes beyond the tensor's binary data")
        found.append(binary[start : start + length])
        start += length
    return found


def write(asked: InferenceRequest, manifest: Card, scores: Scores, states: list[State]) -> tuple[bytes, bytes]:
    """The answer: its JSON, and the binary data behind it.

    Args:
        asked: says which outputs, and which of them as binary data.
        manifest: of the model.
        scores: float32 (N,).
        states: what they stand for.
    """
    outputs: list[ScoreOutput | StateOutput] = []
    parts = []
    for wanted in asked.outputs or ALL_OUTPUTS:
        binary = wanted.parameters.binary_data
        if binary is None:
            binary = asked.parameters.binary_data_output
        output, part = _score(scores, binary) if wanted.name == "score" else _state(states, binary)
        outputs.append(output)
        parts.append(part)
    answer = InferenceResponse(id=asked.id, model_name=manifest.name, model_version=manifest.version, outputs=outputs)
    return answer.model_dump_json(exclude_none=True).encode(), b"".join(parts)


def _score(scores: Scores, binary: bool) -> tuple[ScoreOutput, bytes]:
    if not binary:
        return ScoreOutput(shape=[len(scores)], data=scores.tolist()), b""
    part = binary_scores(scores)
    return ScoreOutput(shape=[len(scores)], parameters=BinaryPart(binary_data_size=len(part))), part


def _state(states: list[State], binary: bool) -> tuple[StateOutput, bytes]:
    if not binary:
        return StateOutput(shape=[len(states)], data=states), b""
    part = binary_states(states)
    return StateOutput(shape=[len(states)], parameters=BinaryPart(binary_data_size=len(part))), part


def binary_scores(scores: Scores) -> bytes:
    """Scores, float32 (N,), as a binary FP32 tensor."""
    return scores.astype("<f4").tobytes()


def binary_states(states: list[State]) -> bytes:
    """States as a binary BYTES tensor."""
    return b"".join([_AS_ELEMENT[state] for state in states])
