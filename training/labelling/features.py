"""Features of the unlabelled crops: the embeddings of three face networks, kept on disk."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import dlib
import numpy as np
import numpy.typing as npt
import torch
from facenet_pytorch import InceptionResnetV1
from tqdm import tqdm

from eyestate.arrays import Pixels
from eyestate.images import decode, to_input
from training.data.datasets import Crop, DataError, fingerprint
from training.files import read_arrays, read_json, write_arrays, write_json
from training.models.classifier import load_backbone

Values = npt.NDArray[np.float32]
Embed = Callable[[Pixels], Values]  # grey crops uint8 (B, side, side) to features float32 (B, D)

MEASURED: Final = "measured"
NOT_MEASURED: Final = "weights not available, not measured"
BATCH: Final = 32
CHUNK: Final = 4 * BATCH  # crops between two files; what a killed run loses
VGGFACE_FILE: Final = "vgg_face_weights.pth"  # deepface's name for its PyTorch weights


@dataclass(frozen=True, slots=True)
class Extractor:
    """A network and the input it takes.

    ``weights`` is a file, or the name under which facenet-pytorch publishes some. ``load`` raises DataError where it
    cannot be had.
    """

    name: str
    network: str
    side: int  # pixels
    dimensions: int
    weights: str
    load: Callable[[], Embed]


@dataclass(frozen=True, slots=True)
class Features:
    """Features of crops: float32 (N, D), a row for each name in ``files``; ``recipe`` is equal where they are."""

    files: list[str]
    values: Values
    recipe: str


def extractors(vggface_weights: Path, backbone: str) -> list[Extractor]:
    """Every feature set, in the order of the tables.

    Args:
        vggface_weights: the folder that holds ``VGGFACE_FILE``.
        backbone: FaceNet's weights as ``load_backbone`` takes them.
    """
    vggface = vggface_weights / VGGFACE_FILE
    dlib_net = _dlib_weights()
    return [
        Extractor("dlib", "dlib's face ResNet", 150, 128, str(dlib_net), lambda: load_dlib(dlib_net)),
        Extractor("vggface", "VGG-Face of deepface", 224, 4096, str(vggface), lambda: load_vggface(vggface)),
        Extractor("facenet", "FaceNet of facenet-pytorch", 160, 512, backbone, lambda: load_facenet(backbone)),
    ]


def load_dlib(weights: Path) -> Embed:
    """dlib's face recognition ResNet (King 2017), 128-d, meant to be compared by Euclidean distance.

    Raises:
        DataError: the weights, a file of the package ``face_recognition_models``, are missing.
    """
    if not weights.is_file():
        raise DataError(f"no {weights.name}; the package face-recognition-models carries it")
    network = dlib.face_recognition_model_v1(str(weights))

    def embed(crops: Pixels) -> Values:
        chips = [np.repeat(crop[:, :, None], 3, axis=2) for crop in crops]
        return np.array(network.compute_face_descriptor(chips), dtype=np.float32)

    return embed


def load_vggface(weights: Path) -> Embed:
    """VGG-Face (Parkhi, Vedaldi, Zisserman 2015) as deepface builds it in PyTorch, 4,096-d of length 1.

    deepface's own client looks into ``$DEEPFACE_HOME`` and fetches 580 MB where the file is missing; here the file is
    looked for first, and nothing is ever fetched. Input and output are those of its client: grey in [0, 1] on all
    three channels, the activations of fc7 divided by their length.

    Raises:
        DataError: the file is missing, or holds no such weights.
    """
    from deepface.models.facial_recognition.pytorch import VGGFace  # noqa: PLC0415  # seconds, and only needed here
    from deepface.models.facial_recognition.pytorch.TorchFacialRecognition import load_model_weights  # noqa: PLC0415

    if not weights.is_file():
        raise DataError(
            f"{weights.name} (580 MB) is not in {_portable(weights.parent)}; fetch {VGGFace.WEIGHTS_URL[0]} and put it "
            "there, or name its folder as --weights"
        )
    try:
        network = VGGFace.VggFaceDescriptor(load_model_weights(VGGFace.base_model(), str(weights))).eval()
    except (ValueError, RuntimeError, AttributeError, TypeError):  # what deepface and torch make of another file
        raise DataError(f"{_portable(weights)} holds no VGG-Face weights of deepface") from None
    return _torch_embedding(network, lambda crops: crops / 255, normalise=True)


def load_facenet(backbone: str) -> Embed:
    """FaceNet's InceptionResnetV1 (Schroff 2015, Szegedy 2016) before the logits, 512-d of length 1.

    Raises:
        DataError: as ``load_backbone``.
    """
    network = InceptionResnetV1(classify=True, num_classes=2)
    load_backbone(network, backbone)
    network.classify = False
    network.eval().to(memory_format=torch.channels_last)
    return _torch_embedding(network, lambda crops: (crops - 127.5) / 128, normalise=False)


def extract(extractor: Extractor, crops: Sequence[Crop], folder: Path) -> dict[str, Any]:
    """Write ``folder/<name>.npz``: ``files`` (N,) str and ``features`` (N, D) float32, in the order of the crops.

    Where the file already holds the features of these crops by these weights, nothing is computed. Finished chunks of
    a run that was killed are used again.

    Returns:
        The extractor's entry in ``features.json``. ``seconds`` is the time spent in the network, over all runs.

    Raises:
        DataError: there are no crops.
    """
    if not crops:
        raise DataError("no crops to extract features of")
    entry = {"name": extractor.name, "network": extractor.network, "dimensions": extractor.dimensions}
    path = folder / f"{extractor.name}.npz"
    try:
        recipe = _recipe(extractor, crops)
        if not path.exists() or str(read_arrays(path, "features")["recipe"]) != recipe:
            _compute(extractor, crops, path, recipe)
    except DataError as error:
        path.unlink(missing_ok=True)  # what lies there is of other crops or weights
        return entry | {"status": NOT_MEASURED, "reason": error.message}
    arrays = read_arrays(path, "features")
    return entry | {
        "status": MEASURED,
        "weights": Path(extractor.weights).name,
        "crops": len(arrays["files"]),
        "seconds": round(float(arrays["seconds"]), 1),
    }


def extract_all(extractors: Sequence[Extractor], crops: Sequence[Crop], folder: Path) -> list[dict[str, Any]]:
    """Extract every feature set that can be had, and write ``folder/features.json``, an entry for each.

    Raises:
        DataError: there are no crops, or none of the networks can be had.
    """
    entries = [extract(extractor, crops, folder) for extractor in extractors]
    write_json(folder / "features.json", entries)
    if all(entry["status"] != MEASURED for entry in entries):
        raise DataError("no features: " + "; ".join(entry["reason"] for entry in entries))
    return entries


def load_features(folder: Path) -> tuple[dict[str, Features], list[dict[str, Any]]]:
    """Read the feature sets that were measured, by name, and the entries of all.

    Raises:
        DataError: something is missing or damaged, or the feature sets are of different crops.
    """
    entries: list[dict[str, Any]] = read_json(folder / "features.json", "features")
    found = {}
    for entry in entries:
        if entry["status"] == MEASURED:
            arrays = read_arrays(folder / f"{entry['name']}.npz", "features")
            found[entry["name"]] = Features(arrays["files"].tolist(), arrays["features"], str(arrays["recipe"]))
    if len({tuple(features.files) for features in found.values()}) != 1:
        raise DataError(f"the features in {folder} are not of the same crops; give `python -m training features` again")
    return found, entries


def _compute(extractor: Extractor, crops: Sequence[Crop], path: Path, recipe: str) -> None:
    """Fill ``path`` chunk by chunk; the chunks lie beside it until the last is done."""
    parts = path.with_name(f"{extractor.name}-{recipe[:12]}.parts")
    chunks = [crops[start : start + CHUNK] for start in range(0, len(crops), CHUNK)]
    files = [parts / f"{number:05d}.npz" for number in range(len(chunks))]
    embed = extractor.load() if not all(file.exists() for file in files) else None
    with tqdm(total=len(crops), desc=f"{extractor.name} features", unit="crop") as bar:
        for chunk, file in zip(chunks, files, strict=True):
            if embed is not None and not file.exists():
                start = time.perf_counter()
                batches = [_pixels(chunk[at : at + BATCH], extractor.side) for at in range(0, len(chunk), BATCH)]
                values = np.concatenate([embed(batch) for batch in batches])
                write_arrays(file, features=values, seconds=time.perf_counter() - start)
            bar.update(len(chunk))
    done = [read_arrays(file, "features") for file in files]
    write_arrays(
        path,
        files=np.array([crop.name for crop in crops]),
        features=np.concatenate([part["features"] for part in done]),
        seconds=sum(float(part["seconds"]) for part in done),
        recipe=recipe,
    )
    shutil.rmtree(parts)


def _pixels(crops: Sequence[Crop], side: int) -> Pixels:
    return np.stack([to_input(decode(crop.data), side) for crop in crops])


def _recipe(extractor: Extractor, crops: Sequence[Crop]) -> str:
    """SHA-256 over the crops, the network and its weights, in hexadecimal."""
    digest = hashlib.sha256(f"{extractor.name}\0{extractor.side}\0{fingerprint(crops)}\0".encode())
    weights = Path(extractor.weights)
    if weights.is_file():
        with weights.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    else:
        digest.update(extractor.weights.encode())
    return digest.hexdigest()


def _torch_embedding(
    network: torch.nn.Module, scale: Callable[[torch.Tensor], torch.Tensor], *, normalise: bool
) -> Embed:
    @torch.inference_mode()
    def embed(crops: Pixels) -> Values:
        rgb = scale(torch.from_numpy(crops)[:, None].float()).expand(-1, 3, -1, -1)
        values: torch.Tensor = network(rgb)
        return (torch.nn.functional.normalize(values) if normalise else values).numpy()

    return embed


def _dlib_weights() -> Path:
    """Where the package keeps dlib's weights. It is not imported: that needs setuptools' retired ``pkg_resources``."""
    package = importlib.util.find_spec("face_recognition_models")
    folder = Path(package.origin).parent if package and package.origin else Path()
    return folder / "models" / "dlib_face_recognition_resnet_model_v1.dat"


def _portable(path: Path) -> str:
    """The path, with the user's home as ``~``: the message is kept in files that may be shared."""
    return f"~/{path.relative_to(Path.home())}" if path.is_relative_to(Path.home()) else str(path)
