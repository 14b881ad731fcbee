"""What the Open Inference Protocol says of the model, over whatever transport."""

from __future__ import annotations

from typing import Final

from eyestate.bundle import Card
from eyestate.errors import NotFoundError
from eyestate.server.openinference.schema import TensorMetadata

PLATFORM: Final = "onnxruntime_onnx"
INPUTS: Final = (
    TensorMetadata(name="crops", datatype="UINT8", shape=[-1, -1, -1]),
    TensorMetadata(name="images", datatype="BYTES", shape=[-1]),
)
OUTPUTS: Final = (
    TensorMetadata(name="score", datatype="FP32", shape=[-1]),
    TensorMetadata(name="state", datatype="BYTES", shape=[-1]),
)


def check_model(manifest: Card, name: str, version: str) -> None:
    """Whether a name and a version are those of the model served.

    Raises:
        NotFoundError: they are not.
    """
    if (name, version) != (manifest.name, manifest.version):
        raise NotFoundError(
            f"there is no model {name!r} in version {version!r}; "
            f"the model served is {manifest.name!r} in version {manifest.version!r}"
        )
