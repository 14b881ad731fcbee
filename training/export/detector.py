"""Export the MTCNN that facenet-pytorch ships to ``models/mtcnn``: three ONNX files, ``detector.json``, a card."""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import facenet_pytorch
import numpy as np
import onnxruntime
import torch
from facenet_pytorch.models.mtcnn import ONet, PNet, RNet
from torch import nn

from eyestate.arrays import Pixels
from eyestate.errors import DetectorError
from eyestate.mtcnn import DESCRIPTION, FOLDER, Description, FaceDetector, Network

VERSION: Final = "1.0.0"
MAX_PARITY: Final = 1e-4
_ARCHITECTURES: Final[dict[Network, type[nn.Module]]] = {"pnet": PNet, "rnet": RNet, "onet": ONet}
_SIDES: Final[dict[Network, int]] = {"pnet": 61, "rnet": 24, "onet": 48}  # of an example; P-Net takes any
_OUTPUTS: Final[dict[Network, list[str]]] = {
    "pnet": ["confidence", "offsets"],
    "rnet": ["confidence", "offsets"],
    "onet": ["confidence", "offsets", "landmarks"],
}
_OPSET: Final = 17

_CARD: Final = """\
# mtcnn {version}

Finds faces and their eyes in a photo, for `POST /v1/faces` and `eyestate faces`.

| | |
|---|---|
| Networks | MTCNN's P-Net, R-Net and O-Net: `pnet.onnx`, `rnet.onnx`, `onet.onnx`, fp32 |
| Weights | {source} |
| Licence | {licence} |
| Input | uint8 RGB, NHWC, normalised within the graphs; P-Net takes any size from 12 px, R-Net 24×24, O-Net 48×48 |
| Output | confidence of a face, offsets of the box's edges as shares of its size, O-Net's five landmarks |
| ONNX Runtime against PyTorch | largest difference of any output {parity:.1e}, on noise |
| Made | {created:%Y-%m-%d} by `python -m training export-detector` |

`detector.json` has the SHA-256 of each file and of the weights it was made from. `eyestate/mtcnn.py` runs the three
networks; [docs/faces.md](../../docs/faces.md) has the measurements.

## Intended use

Finding the eyes of people who look roughly towards the camera. It does not identify anyone. Faces that are turned away,
upside down, covered, or smaller than 32 px or 1/48 of the photo's longest side are not found, and occasionally
something else is taken for a face.

## Training data

MTCNN's authors trained on WIDER FACE and CelebA, photographs collected for research; facenet-pytorch says no more about
the origin of its weights. None of the images is part of this folder.

## Licence of the weights

{text}"""


class _Detecting(nn.Module):
    """The exported graph: uint8 patches (N, height, width, 3) to the confidence, the offsets and the landmarks."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, patches: torch.Tensor) -> tuple[torch.Tensor, ...]:
        scaled = (patches.permute(0, 3, 1, 2).float() - 127.5) / 128
        *others, classes = self.network(scaled)
        return classes[:, 1], *others


def to_onnx(network: Network) -> bytes:
    """One of the three networks as an ONNX graph with a dynamic batch; P-Net's height and width are dynamic too."""
    side = _SIDES[network]
    sizes = {0: "batch", 1: "height", 2: "width"} if network == "pnet" else {0: "batch"}
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, but the newer exporter fixes the parity of P-Net's sides
        torch.onnx.export(
            _Detecting(_ARCHITECTURES[network]()).eval(),
            (torch.zeros((2, side, side, 3), dtype=torch.uint8),),
            file.name,
            input_names=["patches"],
            output_names=_OUTPUTS[network],
            dynamic_axes=dict.fromkeys(("patches", *_OUTPUTS[network]), sizes),
            opset_version=_OPSET,
            dynamo=False,
        )
        return file.read()


def parity(network: Network, model: bytes) -> float:
    """The largest difference of any output between ONNX Runtime and PyTorch, on noise of even and odd sizes.

    Raises:
        DetectorError: it is more than ``MAX_PARITY``.
    """
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    reference = _Detecting(_ARCHITECTURES[network]()).eval()
    worst = 0.0
    for patches in _examples(network):
        with torch.inference_mode():
            expected = reference(torch.from_numpy(patches))
        for ours, theirs in zip(session.run(None, {"patches": patches}), expected, strict=True):
            worst = max(worst, float(np.abs(ours - theirs.numpy()).max()))
    if worst > MAX_PARITY:
        raise DetectorError(f"ONNX Runtime and PyTorch differ by {worst:.1e} in {network}; {MAX_PARITY} is allowed")
    return worst


def export_detector(models: Path) -> FaceDetector:
    """Write ``models/mtcnn/``, replacing it once the new one is complete and verified.

    Raises:
        DetectorError: ONNX Runtime and PyTorch differ by more than ``MAX_PARITY``.
    """
    networks = {network: to_onnx(network) for network in _ARCHITECTURES}
    package = Path(facenet_pytorch.__file__).parent
    description = Description(
        name=FOLDER,
        version=VERSION,
        created=datetime.now(UTC).replace(microsecond=0),
        source=f"facenet-pytorch {version('facenet-pytorch')}, which ships them in its wheel",
        licence="MIT",
        networks={network: hashlib.sha256(model).hexdigest() for network, model in networks.items()},
        weights={name: hashlib.sha256((package / "data" / f"{name}.pt").read_bytes()).hexdigest() for name in networks},
        parity=max(parity(network, model) for network, model in networks.items()),
    )
    return _written(models, description, networks)


def _written(models: Path, description: Description, networks: Mapping[Network, bytes]) -> FaceDetector:
    models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=models, prefix=f".{FOLDER}-") as scratch:
        draft = Path(scratch) / FOLDER
        draft.mkdir()
        for network, model in networks.items():
            (draft / f"{network}.onnx").write_bytes(model)
        (draft / DESCRIPTION).write_text(description.model_dump_json(indent=2) + "\n")
        (draft / "README.md").write_text(detector_card(description), encoding="utf-8")
        detector = FaceDetector(draft)
        path = models / FOLDER
        if path.exists():
            path.rename(Path(scratch) / "previous")
        draft.rename(path)
    return detector


def detector_card(description: Description) -> str:
    """The card as Markdown, with the text of the weights' licence from facenet-pytorch's wheel."""
    return _CARD.format(text=_licence(), **description.model_dump())


def _licence() -> str:
    folder = Path(facenet_pytorch.__file__).parents[1]
    (path,) = folder.glob("facenet_pytorch-*.dist-info/LICENSE*")
    return path.read_text()


def _examples(network: Network) -> list[Pixels]:
    noise = np.random.default_rng(0)
    side = _SIDES[network]
    sizes = [(side, side), (12, 13), (46, 59), (64, 48)] if network == "pnet" else [(side, side)]
    return [noise.integers(0, 256, (3, *size, 3), np.uint8) for size in sizes]
