"""Requests and responses of the Open Inference Protocol, as pydantic models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from eyestate.bundle import State


class _Part(BaseModel):
    """Strict about known members; unknown ones are ignored, and one that is null counts as absent."""

    model_config = ConfigDict(frozen=True, strict=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, members: Any) -> Any:
        if isinstance(members, dict):
            return {name: value for name, value in members.items() if value is not None}
        return members


Size = Annotated[int, Field(ge=0, le=2**63 - 1)]


class InputParameters(_Part):
    """Parameters of an input tensor."""

    binary_data_size: Annotated[Size | None, Field(description="bytes of this tensor behind the JSON")] = None


class CropsInput(_Part):
    """Crops as pixels: (N, height, width) grey or (N, height, width, 3) RGB."""

    name: Literal["crops"]
    datatype: Literal["UINT8"]
    shape: Annotated[list[Size], Field(min_length=3, max_length=4)]
    parameters: InputParameters = InputParameters()
    data: Annotated[list[Any] | None, Field(description="0 to 255, row-major, flat or nested")] = None


class ImagesInput(_Part):
    """Crops as encoded image files."""

    name: Literal["images"]
    datatype: Literal["BYTES"]
    shape: Annotated[list[Size], Field(min_length=1, max_length=1)]
    parameters: InputParameters = InputParameters()
    data: Annotated[list[str] | None, Field(fail_fast=True, description="each file as base64")] = None


class OutputParameters(_Part):
    """Parameters of a requested output."""

    binary_data: Annotated[bool | None, Field(description="whether to answer with bytes behind the JSON")] = None


class RequestedOutput(_Part):
    """An output tensor to answer with."""

    name: Literal["score", "state"]
    parameters: OutputParameters = OutputParameters()


class RequestParameters(_Part):
    """Parameters of a request."""

    binary_data_output: Annotated[bool, Field(description="`binary_data` of the outputs that do not say")] = False


class InferenceRequest(_Part):
    """Body of a request, or the JSON at its start."""

    id: str | None = None
    parameters: RequestParameters = RequestParameters()
    inputs: Annotated[
        list[Annotated[CropsInput | ImagesInput, Field(discriminator="name")]], Field(min_length=1, max_length=2)
    ]
    outputs: Annotated[list[RequestedOutput], Field(max_length=2, description="all, where none is named")] = []


class BinaryPart(_Part):
    """Parameters of an output tensor that is answered with bytes behind the JSON."""

    binary_data_size: int


class ScoreOutput(_Part):
    """P(open) of each crop; in `data` or behind the JSON."""

    name: Literal["score"] = "score"
    datatype: Literal["FP32"] = "FP32"
    shape: list[int]
    parameters: BinaryPart | None = None
    data: list[float] | None = None


class StateOutput(_Part):
    """The state of each crop; in `data` or behind the JSON."""

    name: Literal["state"] = "state"
    datatype: Literal["BYTES"] = "BYTES"
    shape: list[int]
    parameters: BinaryPart | None = None
    data: list[State] | None = None


class InferenceResponse(_Part):
    """Body of an answer, or the JSON at its start."""

    id: Annotated[str | None, Field(description="the request's, if it had one")] = None
    model_name: str
    model_version: str
    outputs: list[Annotated[ScoreOutput | StateOutput, Field(discriminator="name")]]


class TensorMetadata(_Part):
    """A tensor that the model takes or gives; -1 is any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(_Part):
    """What the model is, takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelReady(_Part):
    """Whether the model takes requests."""

    name: str
    ready: bool


class ServerMetadata(_Part):
    """What the server is, and the protocol's extensions that it knows."""

    name: str
    version: str
    extensions: list[str]


class ServerLive(_Part):
    """Whether the server runs."""

    live: bool


class ServerReady(_Part):
    """Whether the server takes requests."""

    ready: bool


class ProtocolError(_Part):
    """Answer of every request that could not be served."""

    error: str


class IndexRequest(_Part):
    """Which models of the repository to list."""

    ready: Annotated[bool, Field(description="only those that are served")] = False


class RepositoryModel(_Part):
    """A model in the repository."""

    name: Annotated[str, Field(description="of its folder")]
    version: Annotated[str, Field(description="of its manifest, empty where that cannot be read")]
    state: Literal["READY", "UNAVAILABLE"]
    reason: Annotated[str, Field(description="why it is not served")]
