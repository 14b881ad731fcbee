"""This project's bundles and public eye-state models, each with the crop it was designed for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from PIL import Image

from eyestate.arrays import Pixels, Scores
from eyestate.bundle import Bundle, Metric, load_bundle
from eyestate.errors import BundleError
from eyestate.execution import open_session
from eyestate.images import to_input
from tools.harness.int8 import write_int8

Inputs = npt.NDArray[Any]

FINAL_BEST: Final = "final_best"
LITE: Final = "final_best_lite"
CASCADE: Final = "cascade"
INT8: Final = f"{LITE}, int8"
OWN_LICENCE: Final = "Apache-2.0"

WHOLE: Final = "whole crop"
TIGHT: Final = "centre 80 % × 50 %"
# Regions that a peer may be given: shares of the crop's width and height, centred.
REGIONS: Final[dict[str, tuple[float, float]]] = {
    WHOLE: (1, 1),
    "centre 80 % × 80 %": (0.8, 0.8),
    TIGHT: (0.8, 0.5),
    "centre 90 % × 54 %": (0.9, 0.54),
    "centre 60 % × 36 %": (0.6, 0.36),
}


@dataclass(frozen=True, slots=True)
class Network:
    """A network under test.

    Attributes:
        name: as in the tables.
        onnx: ONNX file with a dynamic batch dimension.
        licence: of the network.
        note: caveat about its figures.
        metrics: of its manifest, none for other networks.
    """

    name: str
    onnx: Path
    licence: str
    note: str = ""
    metrics: Sequence[Metric] = ()

    @property
    def regions(self) -> Sequence[str]:
        """The regions of a crop it may be given, the one it was designed for first."""
        return (WHOLE,)

    def inputs(self, crops: Sequence[Pixels], region: str) -> Inputs:
        """Greyscale crops, uint8 (height, width) each, as one batch of network inputs."""
        raise NotImplementedError

    def example(self, batch: int) -> Inputs:
        """A batch of noise."""
        noise = np.random.default_rng(0).integers(0, 256, (batch, 32, 32)).astype(np.uint8)
        return self.inputs([*noise], WHOLE)


@dataclass(frozen=True, slots=True)
class OwnNetwork(Network):
    """A network with a bundle's interface: uint8 (N, side, side) to P(open) (N,)."""

    side: int = 0

    def inputs(self, crops: Sequence[Pixels], region: str) -> Inputs:
        """See ``Network.inputs``: uint8 (N, side, side)."""
        assert region == WHOLE
        return np.stack([to_input(crop, self.side) for crop in crops])


@dataclass(frozen=True, slots=True)
class PeerNetwork(Network):
    """A public network with float32 inputs (N, 3, height, width): (x - offset) / 255, the same in all three channels.

    The last output per crop is P(open).
    """

    width: int = 0
    height: int = 0
    offset: float = 0
    native_region: str = WHOLE

    @property
    def regions(self) -> Sequence[str]:
        """See ``Network.regions``."""
        return (self.native_region, *(region for region in REGIONS if region != self.native_region))

    def inputs(self, crops: Sequence[Pixels], region: str) -> Inputs:
        """See ``Network.inputs``: float32 (N, 3, height, width)."""
        shown = np.stack([self._resize_region(crop, REGIONS[region]) for crop in crops])
        scaled = (shown.astype(np.float32) - np.float32(self.offset)) / np.float32(255)
        return np.repeat(scaled[:, None], 3, axis=1)

    def _resize_region(self, crop: Pixels, shares: tuple[float, float]) -> Pixels:
        height, width = crop.shape
        margins = width * (1 - shares[0]) / 2, height * (1 - shares[1]) / 2
        part = (margins[0], margins[1], width - margins[0], height - margins[1])
        image = Image.fromarray(crop)
        return np.asarray(image.resize((self.width, self.height), Image.Resampling.BILINEAR, box=part))


@dataclass(frozen=True, slots=True)
class Candidates:
    """The available networks, and by name the reason why others are missing."""

    networks: list[Network] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def get(self, name: str) -> Network | None:
        """The network of that name, None if it is missing."""
        return next((network for network in self.networks if network.name == name), None)


OPENVINO: Final = "OpenVINO open-closed-eye-0001"
OCEC_P: Final = "OCEC P"
OCEC_S: Final = "OCEC S"
PEERS: Final = {OPENVINO: "open-closed-eye.onnx", OCEC_P: "ocec_p.onnx", OCEC_S: "ocec_s.onnx"}


def find_candidates(peers: Path, scratch: Path) -> Candidates:
    """Find all networks.

    Args:
        peers: folder of the public models, laid out like ``../shared/peers``.
        scratch: folder for rewritten networks.
    """
    found = Candidates()
    for name in (FINAL_BEST, LITE):
        try:
            found.networks.append(own_network(load_bundle(name)))
        except BundleError as error:
            found.missing[name] = error.message
    for name, file in PEERS.items():
        if (peers / file).exists():
            found.networks.append(peer_network(name, peers / file, scratch))
        else:
            found.missing[name] = f"no {file} in the folder of public models"
    return found


def peer_network(name: str, path: Path, scratch: Path) -> PeerNetwork:
    """A public model, used as its authors specify."""
    if name == OPENVINO:
        note = "trained on nine tenths of the MRL frames, of all subjects, so its MRL figures are on training data."
        dynamic = dynamic_batch(path, scratch / path.name)
        return PeerNetwork(name, dynamic, "Apache-2.0", note, width=32, height=32, offset=127)
    return PeerNetwork(name, path, "MIT", width=40, height=24, native_region=TIGHT)


def own_network(bundle: Bundle) -> OwnNetwork:
    """The network of a bundle."""
    manifest = bundle.manifest
    return OwnNetwork(
        manifest.name, bundle.onnx, OWN_LICENCE, metrics=tuple(manifest.metrics), side=manifest.input.side
    )


def quantise(network: OwnNetwork, calibration: Pixels, scratch: Path) -> OwnNetwork:
    """The network in int8, calibrated on crops, uint8 (N, side, side), that are disjoint from the evaluation sets."""
    path = scratch / f"{network.name}-int8.onnx"
    write_int8(network.onnx, calibration, path)
    return OwnNetwork(f"{network.name}, int8", path, network.licence, side=network.side)


def dynamic_batch(network: Path, target: Path) -> Path:
    """Rewrite a network with a fixed batch of 1 to accept any batch size, and return ``target``.

    Raises:
        ValueError: the rewritten network does not score a batch as the original scores its crops one by one.
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
        raise ValueError(f"{network.name} scores crops differently in batches")
    return target


def read_scores(output: npt.NDArray[np.float32]) -> Scores:
    """P(open) of each crop, float32 (N,), from an output of shape (N,) or (N, classes, …) with the open class last."""
    return output.reshape(len(output), -1)[:, -1]


def group_by_size(crops: Sequence[Pixels]) -> list[Pixels]:
    """Crops (height, width) as the service passes them on: consecutive ones of one size stacked, (n, height, width)."""
    found: list[list[Pixels]] = []
    for crop in crops:
        if found and found[-1][0].shape == crop.shape:
            found[-1].append(crop)
        else:
            found.append([crop])
    return [np.stack(some) for some in found]
