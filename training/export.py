"""Turn a checkpoint into a bundle: ONNX with fp16 weights, manifest and model card."""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper

from eyestate.bundle import (
    Bundle,
    InputContract,
    Manifest,
    Metric,
    OutputContract,
    Thresholds,
    Training,
    load_bundle,
)
from eyestate.errors import BundleError
from eyestate.scorer import Scorer
from training.classify import EyeClassifier, evaluation_loader, load_classifier, p_open, predict
from training.data import Crop

INPUT: Final = "crops"
OUTPUT: Final = "p_open"
MAX_BYTES: Final = 50_000_000
MAX_PARITY: Final = 0.01


class _Scoring(torch.nn.Module):
    """What is exported: uint8 crops (N, side, side) to P(open) (N,)."""

    def __init__(self, classifier: EyeClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        return p_open(self.classifier(crops))


def to_onnx(classifier: EyeClassifier) -> onnx.ModelProto:
    """The classifier as an ONNX graph with a dynamic batch; weights stored as fp16 and computed with as fp32.

    The input ``crops`` is uint8 (batch, side, side) grey, the output ``p_open`` float32 (batch,). Batch norms are
    folded into the convolutions. ONNX Runtime widens the weights once, when it loads the model.
    """
    side = classifier.settings.input_side
    example = torch.zeros((2, side, side), dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's notes on its own internals
        program = torch.onnx.export(
            _Scoring(classifier).eval(),
            (example,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={"crops": {0: torch.export.Dim("batch", min=1)}},
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.optimize()
    return _halve_weights(program.model_proto)


def _halve_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store every float32 weight of more than a few values as float16, followed by a Cast to float32."""
    graph = model.graph
    casts = []
    for weight in graph.initializer:
        if weight.data_type != onnx.TensorProto.FLOAT or np.prod(weight.dims) < 16:
            continue
        half = numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), f"{weight.name}.fp16")
        casts.append(onnx.helper.make_node("Cast", [half.name], [weight.name], to=onnx.TensorProto.FLOAT))
        weight.CopyFrom(half)
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    return model


def export(
    checkpoint: Path,
    models: Path,
    *,
    name: str,
    version: str,
    training: Training,
    thresholds: Thresholds,
    metrics: list[Metric],
    parity_crops: Sequence[Crop],
    card: Callable[[Manifest], str],
) -> Bundle:
    """Write the bundle ``models/<name>/``, replacing one of that name only when the new one is complete and verified.

    Args:
        checkpoint: of ``training.classify.train``.
        models: the folder of the bundles.
        name, version, training, thresholds, metrics: go into the manifest.
        parity_crops: real crops on which ONNX Runtime is held to PyTorch.
        card: makes the model card from the finished manifest.

    Raises:
        BundleError: the file would be over ``MAX_BYTES``, or ONNX Runtime and PyTorch differ by more than
            ``MAX_PARITY`` on a crop.
    """
    classifier = load_classifier(checkpoint)
    side = classifier.settings.input_side
    model = to_onnx(classifier).SerializeToString()
    if len(model) > MAX_BYTES:
        raise BundleError(f"the model would have {len(model):,} bytes; at most {MAX_BYTES:,} ship")

    models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=models, prefix=f".{name}-") as scratch:
        draft = Path(scratch) / name
        draft.mkdir()
        (draft / "model.onnx").write_bytes(model)
        manifest = Manifest(
            name=name,
            version=version,
            created=datetime.now(UTC).replace(microsecond=0),
            sha256=hashlib.sha256(model).hexdigest(),
            input=InputContract(name=INPUT, shape=("batch", side, side)),
            output=OutputContract(name=OUTPUT),
            thresholds=thresholds,
            training=training,
            metrics=metrics,
            parity=_parity(draft / "model.onnx", classifier, parity_crops),
        )
        if manifest.parity > MAX_PARITY:
            raise BundleError(
                f"ONNX Runtime and PyTorch differ by {manifest.parity:.4f}; at most {MAX_PARITY} is allowed"
            )
        (draft / "manifest.json").write_text(manifest.model_dump_json(indent=2) + "\n")
        (draft / "README.md").write_text(card(manifest))
        Scorer(load_bundle(draft))
        if (models / name).exists():
            (models / name).rename(Path(scratch) / "previous")
        draft.rename(models / name)
    return load_bundle(models / name)


def _parity(model: Path, classifier: EyeClassifier, crops: Sequence[Crop]) -> float:
    """The largest difference between the scores of ONNX Runtime and of PyTorch in fp32."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    inputs = evaluation_loader(crops, classifier.settings.input_side)
    onnx_scores = np.concatenate([session.run([OUTPUT], {INPUT: batch.numpy()})[0] for batch, _ in inputs])
    return float(np.abs(onnx_scores - predict(classifier, crops)).max())
