"""Who takes part: the bundles that ship and the public eye-state models, each with the crop it was made for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from PIL import Image

from eyestate.bundle import Bundle, load_bundle
from eyestate.errors import BundleError
from eyestate.execution import open_session
from eyestate.images import Pixels, to_input
from eyestate.scorer import Scores
from tools.harness.int8 import write_int8

Inputs = npt.NDArray[Any]

FINAL_BEST: Final = "final_best"
LITE: Final = "final_best_lite"
CASCADE: Final = "cascade"
INT8: Final = f"{LITE}, int8"
OWN_LICENCE: Final = "Apache-2.0"

WHOLE: Final = "whole crop"
TIGHT: Final = "centre 80 % × 50 %"
# What a peer may be shown: shares of the crop's width and height, about its middle.
BOXES: Final[dict[str, tuple[float, float]]] = {
    WHOLE: (1, 1),
    "centre 80 % × 80 %": (0.8, 0.8),
    TIGHT: (0.8, 0.5),
    "centre 90 % × 54 %": (0.9, 0.54),
    "centre 60 % × 36 %": (0.6, 0.36),
}


@dataclass(frozen=True, slots=True)
class Network:
    """A network that takes part.

    Args:
        name: as the tables have it.
        onnx: one file with a dynamic batch.
        licence: of the network.
        note: what a reader of its figures must know.
    """

    name: str
    onnx: Path
    licence: str
    note: str = ""

    @property
    def boxes(self) -> Sequence[str]:
        """The parts of a crop it may be shown, the one it was made for first."""
        return (WHOLE,)

    def inputs(self, crops: Sequence[Pixels], box: str) -> Inputs:
        """Grey crops, uint8 (height, width) each, to one batch of inputs."""
        raise NotImplementedError

    def example(self, batch: int) -> Inputs:
        """A batch of noise."""
        noise = np.random.default_rng(0).integers(0, 256, (batch, 32, 32)).astype(np.uint8)
        return self.inputs([*noise], WHOLE)


@dataclass(frozen=True, slots=True)
class Own(Network):
    """A network with a bundle's interface: uint8 (N, side, side) to P(open) (N,)."""

    side: int = 0

    def inputs(self, crops: Sequence[Pixels], box: str) -> Inputs:
        """See ``Network.inputs``: uint8 (N, side, side)."""
        assert box == WHOLE
        return np.stack([to_input(crop, self.side) for crop in crops])


@dataclass(frozen=True, slots=True)
class Peer(Network):
    """A network that takes float32 RGB or BGR (N, 3, height, width), (x - offset) / 255, here of three equal channels.

    The last of its outputs for a crop is P(open).
    """

    width: int = 0
    height: int = 0
    offset: float = 0
    made_for: str = WHOLE

    @property
    def boxes(self) -> Sequence[str]:
        """See ``Network.boxes``."""
        return (self.made_for, *(box for box in BOXES if box != self.made_for))

    def inputs(self, crops: Sequence[Pixels], box: str) -> Inputs:
        """See ``Network.inputs``: float32 (N, 3, height, width)."""
        shown = np.stack([self._shown(crop, BOXES[box]) for crop in crops])
        scaled = (shown.astype(np.float32) - np.float32(self.offset)) / np.float32(255)
        return np.repeat(scaled[:, None], 3, axis=1)

    def _shown(self, crop: Pixels, shares: tuple[float, float]) -> Pixels:
        height, width = crop.shape
        margins = width * (1 - shares[0]) / 2, height * (1 - shares[1]) / 2
        part = (margins[0], margins[1], width - margins[0], height - margins[1])
        image = Image.fromarray(crop)
        return np.asarray(image.resize((self.width, self.height), Image.Resampling.BILINEAR, box=part))


@dataclass(frozen=True, slots=True)
class LineUp:
    """The networks that are here, and why the others are not, by name."""

    networks: list[Network] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)

    def get(self, name: str) -> Network | None:
        """The network of that name, None where it is not here."""
        return next((network for network in self.networks if network.name == name), None)


OPENVINO: Final = "OpenVINO open-closed-eye-0001"
OCEC_P: Final = "OCEC P"
OCEC_S: Final = "OCEC S"
PEERS: Final = {OPENVINO: "open-closed-eye.onnx", OCEC_P: "ocec_p.onnx", OCEC_S: "ocec_s.onnx"}


def line_up(peers: Path, scratch: Path) -> LineUp:
    """Find all networks.

    Args:
        peers: the folder of the public models, as ``../shared/peers`` has them.
        scratch: where the networks go that have to be rewritten.
    """
    found = LineUp()
    for name in (FINAL_BEST, LITE):
        try:
            found.networks.append(own(load_bundle(name)))
        except BundleError as error:
            found.absent[name] = error.message
    for name, file in PEERS.items():
        if (peers / file).exists():
            found.networks.append(peer(name, peers / file, scratch))
        else:
            found.absent[name] = f"no {file} in the folder of the peers"
    return found


def peer(name: str, path: Path, scratch: Path) -> Peer:
    """A public model, as its authors say how to use it."""
    if name == OPENVINO:
        note = "it was trained on nine of ten frames of MRL, of all subjects; its figures on MRL are of what it learnt."
        dynamic = dynamic_batch(path, scratch / path.name)
        return Peer(name, dynamic, "Apache-2.0", note, width=32, height=32, offset=127)
    return Peer(name, path, "MIT", width=40, height=24, made_for=TIGHT)


def own(bundle: Bundle) -> Own:
    """The network of a bundle."""
    return Own(bundle.manifest.name, bundle.onnx, OWN_LICENCE, side=bundle.manifest.input.side)


def quantised(network: Own, calibration: Pixels, scratch: Path) -> Own:
    """The network in int8, made ready on crops, uint8 (N, side, side), that judge nothing."""
    path = scratch / f"{network.name}-int8.onnx"
    write_int8(network.onnx, calibration, path)
    return Own(f"{network.name}, int8", path, network.licence, side=network.side)


def dynamic_batch(network: Path, target: Path) -> Path:
    """Rewrite a network whose batch is fixed to 1 so that it takes any, and return ``target``.

    Raises:
        ValueError: the rewritten network does not score every crop of a batch as the original scores it alone.
    """
    model = onnx.load(network)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]
    target.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, target)
    before, _ = open_session(network, "cpu", 1)
    after, _ = open_session(target, "cpu", 1)
    (given,) = before.get_inputs()
    crops = np.random.default_rng(0).uniform(-0.5, 0.5, (16, *given.shape[1:])).astype(np.float32)
    alone = np.concatenate([before.run(None, {given.name: crop[None]})[0] for crop in crops])
    together = after.run(None, {given.name: crops})[0]
    if together.shape != alone.shape or np.abs(together - alone).max() > 1e-6:
        raise ValueError(f"{network.name} computes something else in batches")
    return target


def read_scores(output: npt.NDArray[np.float32]) -> Scores:
    """P(open) of each crop, float32 (N,), from what a network answers: (N,) or (N, classes, …), open last."""
    return output.reshape(len(output), -1)[:, -1]


def parts(crops: Sequence[Pixels]) -> list[Pixels]:
    """Crops (height, width) as the service hands them on: neighbours of one size together, (n, height, width)."""
    found: list[list[Pixels]] = []
    for crop in crops:
        if found and found[-1][0].shape == crop.shape:
            found[-1].append(crop)
        else:
            found.append([crop])
    return [np.stack(some) for some in found]
