"""Turn a checkpoint into a bundle: ONNX with fp16 weights, and a manifest."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from eyestate.bundle import (
    Bundle,
    Calibration,
    Card,
    DataSource,
    InputContract,
    Manifest,
    OutputContract,
    Reference,
    Thresholds,
    Training,
    load_bundle,
)
from eyestate.drift import reference
from eyestate.errors import BundleError
from eyestate.images import decode
from eyestate.quality import measure, shrink
from eyestate.scorer import Network
from training.data.datasets import FAR_SIDE, Crop, LabelledCrop
from training.evaluation.calibration import apply_temperature, choose_temperature
from training.evaluation.eer import Scores
from training.evaluation.judging import (
    EASY,
    HELD_OUT,
    STRANGERS,
    HeldOut,
    all_slices,
    by_person,
    metrics,
    stranger_sets,
    threshold_crops,
)
from training.evaluation.results import ScoredCrops, uncertain_band
from training.export.card import write_evaluation
from training.models.committee import load_committee
from training.models.learner import Learner, evaluation_loader, predict
from training.models.strangers import FILE as STRANGERS_FILE
from training.models.strangers import Strangers
from training.models.student import load_student
from training.runs import outcome, read_recipe

INPUT: Final = "crops"
OUTPUT: Final = "p_open"
MAX_BYTES: Final = 50_000_000
MAX_PARITY: Final = 0.01
PARITY_CROPS: Final = 512
MAX_WRONG: Final = 0.01  # share of wrong verdicts outside the uncertain band
NOTHING: Final = HeldOut((), ())


class _Scoring(torch.nn.Module):
    """What is exported: uint8 crops (N, side, side) to P(open) (N,)."""

    def __init__(self, classifier: Learner) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        return self.classifier.p_open(crops)


def to_onnx(classifier: Learner) -> onnx.ModelProto:
    """The classifier as an ONNX graph with a dynamic batch; weights stored as fp16 and computed with as fp32.

    The input ``crops`` is uint8 (batch, side, side) grey, the output ``p_open`` float32 (batch,). Batch norms are
    folded into the convolutions. ONNX Runtime widens the weights once, when it loads the model.
    """
    side = classifier.side
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
    ClearMetadataAndDocStringPass()(program.model)  # stack traces, with the paths of the machine that exported
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


def onnx_scores(model: bytes, crops: Sequence[Crop], side: int) -> Scores:
    """P(open) of each crop (N,), float64, by ONNX Runtime: the scores that the bundle will give."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    batches = evaluation_loader(crops, side)
    return np.concatenate([session.run([OUTPUT], {INPUT: batch.numpy()})[0] for batch, _ in batches]).astype(float)


def parity(model: bytes, classifier: Learner, crops: Sequence[Crop]) -> float:
    """The largest difference between the scores of ONNX Runtime with fp16 weights and of PyTorch in fp32.

    Raises:
        BundleError: it is more than ``MAX_PARITY``.
    """
    difference = np.abs(onnx_scores(model, crops, classifier.side) - predict(classifier, crops)).max()
    if difference > MAX_PARITY:
        raise BundleError(f"ONNX Runtime and PyTorch differ by {difference:.4f}; at most {MAX_PARITY} is allowed")
    return float(difference)


def reference_of(crops: Sequence[Crop], scores: Scores, thresholds: Thresholds) -> Reference:
    """How crops of the kind that the model is for look, and how their scores (N,) are distributed."""
    pixels = [decode(crop.data) for crop in crops]
    measures = measure([shrink(crop) for crop in pixels])
    return reference(
        "crops of the unlabelled set that are not held out",
        {
            "score": scores,
            "width": np.array([crop.shape[1] for crop in pixels], float),
            "brightness": measures.brightness.astype(float),
            "sharpness": measures.sharpness.astype(float),
        },
        thresholds,
    )


def write_bundle(models: Path, manifest: Manifest, model: bytes) -> Bundle:
    """Write ``models/<name>/``, replacing a bundle of that name once the new one is complete and verified.

    Raises:
        BundleError: the model is over ``MAX_BYTES`` or does not fit its manifest.
    """
    if len(model) > MAX_BYTES:
        raise BundleError(f"the model has {len(model):,} bytes; at most {MAX_BYTES:,} ship")
    files = {"model.onnx": model, "manifest.json": to_json(manifest)}
    return load_bundle(place(models, manifest.name, files, check=lambda draft: Network(load_bundle(draft))))


def place(models: Path, name: str, files: Mapping[str, bytes], check: Callable[[Path], object]) -> Path:
    """Write the files of ``models/<name>/``, in place of a bundle of that name once ``check`` has not refused them.

    Args:
        models: the folder of the bundles.
        name: of the bundle.
        files: their content, by name.
        check: raises where the draft it is given is no good.

    Returns:
        The folder of the bundle.
    """
    models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=models, prefix=f".{name}-") as scratch:
        draft = Path(scratch) / name
        draft.mkdir()
        for file, content in files.items():
            (draft / file).write_bytes(content)
        check(draft)
        path = models / name
        if path.exists():
            path.rename(Path(scratch) / "previous")
        draft.rename(path)
    return path


def to_json(manifest: Card) -> bytes:
    """A manifest as ``manifest.json`` has it."""
    return f"{manifest.model_dump_json(indent=2)}\n".encode()


def thresholds_of(scored: ScoredCrops, max_wrong: float) -> Thresholds:
    """The thresholds of a model by its scores on people never seen (``threshold_crops``).

    ``max_wrong`` is the share of the verdicts outside the uncertain band that may be wrong.
    """
    band = uncertain_band(scored, max_wrong)
    return Thresholds(
        closed=math.floor(band.closed * 1000) / 1000,
        open=math.ceil(band.open * 1000) / 1000,
        rule=f"on MRL's people, each scored by a network that never saw them, near and at {FAR_SIDE} px, at most "
        f"{max_wrong:.1%} of the crops called open, and of those called closed, are not; both states counted as "
        "equally frequent",
    )


def strangers_file(runs: Path, name: str) -> Path:
    """What a model that ships would say of people whom it had never seen (``Strangers``), in a folder of runs."""
    return runs / "strangers" / f"{name}.npz"


def export_run(
    run: Path,
    labelled: Sequence[LabelledCrop],
    models: Path,
    *,
    name: str,
    version: str,
    results: Path,
    output: Path,
    max_wrong: float = MAX_WRONG,
    held_out: HeldOut = NOTHING,
    reference_crops: Sequence[Crop] = (),
) -> Bundle:
    """Export a committee or a student: choose its thresholds, judge it, write its bundle.

    Thresholds, and the error rates on people, come from the networks of the same run that never saw those people; held-
    out crops are scored by the network that ships.

    Args:
        run: the output folder of ``train_committee`` or ``distil``.
        labelled: the crops of people that it was given.
        models: the folder of the bundles.
        name, version: of the bundle.
        results: the folder for ``evaluation.json``, the results that the model card needs beyond the manifest.
        output: the file for what the model would say of people it had never seen.
        max_wrong: share of the verdicts outside the uncertain band that may be wrong where thresholds are chosen.
        held_out: crops of the unlabelled set that no stage learnt from.
        reference_crops: the other crops of that set, the kind the model is for; the service measures drift from them.

    Returns:
        The bundle ``models/<name>/``.

    Raises:
        DataError: the run is not finished, or was given other crops.
        BundleError: the network cannot be exported within the limits.
    """
    said = Strangers.read(run / STRANGERS_FILE, labelled)
    recipe = read_recipe(run)
    classifier, how = _trained(run, recipe)
    side = classifier.side
    chosen_by = threshold_crops(labelled, said)
    temperature = choose_temperature(chosen_by.scores, chosen_by.labels, chosen_by.subjects)
    classifier.apply_temperature(temperature)
    said = Strangers(apply_temperature(said.scores, temperature), apply_temperature(said.far, temperature), said.folds)
    model = to_onnx(classifier).SerializeToString()

    thresholds = thresholds_of(threshold_crops(labelled, said), max_wrong)
    sets = {
        **{
            kind: ScoredCrops(crops, onnx_scores(model, crops, side))
            for kind, crops in ((HELD_OUT, held_out.everything), (EASY, held_out.easy))
            if crops
        },
        **stranger_sets(labelled, said),
    }
    manifest = Manifest(
        name=name,
        version=version,
        created=datetime.now(UTC).replace(microsecond=0),
        sha256=hashlib.sha256(model).hexdigest(),
        input=InputContract(name=INPUT, shape=("batch", side, side)),
        output=OutputContract(name=OUTPUT),
        thresholds=thresholds,
        training=Training(
            **how, data=[DataSource(**source) for source in recipe["sources"]], git_revision=recipe["git_revision"]
        ),
        calibration=Calibration(
            temperature=temperature,
            rule="the temperature with the lowest log-loss on MRL's people, each scored by a network that never saw "
            "them, or 1 where that does not help on people left out of the fit",
        ),
        metrics=metrics(sets, thresholds),
        reference=reference_of(reference_crops, onnx_scores(model, reference_crops, side), thresholds)
        if reference_crops
        else None,
        parity=parity(model, classifier, labelled[:: max(1, len(labelled) // PARITY_CROPS)]),
    )
    bundle = write_bundle(models, manifest, model)
    write_evaluation(results / "evaluation.json", manifest, all_slices(sets), by_person(sets[STRANGERS]))
    said.write(output)
    return bundle


def _trained(run: Path, recipe: Mapping[str, Any]) -> tuple[Learner, dict[str, Any]]:
    """The network of a run, and what its manifest says of how it was made."""
    if "distillation_set" in recipe:
        student = load_student(outcome(run))
        weights = sum(parameter.numel() for parameter in student.network.parameters())
        return student, {
            "architecture": f"convolutions 5×5 and 3×3 after RepVGG, {weights:,} weights, sigmoid",
            "backbone": "none",
            "teacher": recipe["teacher"],
            "settings": dataclasses.asdict(student.settings),
        }
    committee = load_committee(run)
    settings = recipe["settings"]
    return committee, {
        "architecture": f"the mean log-odds of {len(committee.members)} networks, each the first layers of "
        "InceptionResnetV1, up to the fifth residual block; sigmoid",
        "backbone": Path(settings["backbone"]).name,
        "settings": {k: v for k, v in settings.items() if k != "backbone"},
    }
