from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from facenet_pytorch import InceptionResnetV1

import eyestate
from eyestate.arrays import Pixels
from eyestate.bundle import Bundle, Feature, Manifest
from eyestate.drift import LEAST, Drift
from eyestate.errors import BundleError
from eyestate.images import decode
from eyestate.quality import measure, shrink
from tests.training.conftest import SHARES, far_crops
from tests.training.tiny import MEMBER_SIDE, TinyNetwork
from training.data.datasets import Crop, DataError, LabelledCrop, data_dir, load_crops, sources
from training.data.folds import FOLDS, deal
from training.data.split import Split
from training.evaluation.judging import EASY, HELD_OUT, STRANGERS, STRANGERS_FAR, HeldOut
from training.export.bundle import (
    MAX_BYTES,
    MAX_PARITY,
    export_run,
    onnx_scores,
    parity,
    to_onnx,
    write_bundle,
)
from training.models.committee import Committee, load_committee
from training.models.distillation_set import write_distillation_set
from training.models.learner import predict
from training.models.member import Member, MemberSettings
from training.models.strangers import FILE, Strangers
from training.models.student import SIDE, StudentSettings, distil


@pytest.fixture(scope="module", autouse=True)
def _tiny_members() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.models.member.InceptionResnetV1", TinyNetwork)
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def held_out() -> list[LabelledCrop]:
    return [Crop(f"held out {n}.jpg", data).labelled(label) for n, (data, label) in enumerate(far_crops(12, seed=2000))]


@pytest.fixture(scope="module")
def bundle(
    *,
    committee: Path,
    everybody: list[LabelledCrop],
    pool: list[Crop],
    held_out: list[LabelledCrop],
    models: Path,
    results: Path,
) -> Bundle:
    return export_run(
        committee,
        everybody,
        models,
        name="miniature",
        version="0.0.1",
        results=results,
        output=results / "strangers.npz",
        held_out=HeldOut(held_out, held_out[:6]),
        reference_crops=pool,
    )


def manifest_of(bundle: Bundle) -> Manifest:
    assert isinstance(bundle.manifest, Manifest)
    return bundle.manifest


def test_bundle_scores_like_the_committee_at_its_temperature(
    bundle: Bundle, committee: Path, held_out: list[LabelledCrop]
) -> None:
    network = load_committee(committee)
    calibration = manifest_of(bundle).calibration
    assert calibration is not None
    network.apply_temperature(calibration.temperature)
    scores = eyestate.load(bundle.path).score([crop.data for crop in held_out])
    np.testing.assert_allclose(scores, predict(network, held_out), atol=MAX_PARITY)


def test_any_batch_size(bundle: Bundle, held_out: list[LabelledCrop]) -> None:
    model = bundle.onnx.read_bytes()
    all_at_once = onnx_scores(model, held_out, MEMBER_SIDE)
    one_by_one = [onnx_scores(model, [crop], MEMBER_SIDE)[0] for crop in held_out]
    np.testing.assert_allclose(all_at_once, one_by_one, atol=1e-5)


def test_weights_are_halves_and_the_file_is_small(bundle: Bundle) -> None:
    graph = onnx.load(bundle.onnx).graph
    floats = sum(np.prod(w.dims) for w in graph.initializer if w.data_type == onnx.TensorProto.FLOAT)
    halves = sum(np.prod(w.dims) for w in graph.initializer if w.data_type == onnx.TensorProto.FLOAT16)
    assert halves > 1000 * floats
    assert bundle.onnx.stat().st_size <= MAX_BYTES


def test_no_path_of_the_exporting_machine_ships(bundle: Bundle) -> None:
    model = bundle.onnx.read_bytes()
    assert b".py" not in model
    assert str(Path(__file__).parents[3]).encode() not in model


def test_manifest_says_how_it_was_made(
    bundle: Bundle,
    everybody: list[LabelledCrop],
    pool: list[Crop],
    held_out: list[LabelledCrop],
    member_settings: MemberSettings,
) -> None:
    manifest = manifest_of(bundle)
    assert manifest.input.side == MEMBER_SIDE
    assert f"mean log-odds of {FOLDS} networks" in manifest.training.architecture
    assert manifest.training.backbone == Path(member_settings.backbone).name
    assert str(Path(member_settings.backbone).parent) not in manifest.model_dump_json()
    assert manifest.training.settings["epochs"] == member_settings.epochs
    assert [(part.name, part.crops, part.people) for part in manifest.training.data] == [
        (source.name, source.crops, source.people) for source in sources(everybody)
    ]
    found = {metric.name: metric for metric in manifest.metrics}
    assert found[f"EER, {HELD_OUT}"].n == len(held_out)
    assert found[f"EER, {EASY}"].n == 6
    assert {f"EER, {kind}" for kind in (STRANGERS, STRANGERS_FAR, "colour, people never seen")} < set(found)
    assert manifest.parity <= MAX_PARITY
    assert all(metric.low <= metric.value <= metric.high for metric in manifest.metrics)


def test_strangers_are_judged_as_it_ships(
    bundle: Bundle, committee: Path, results: Path, everybody: list[LabelledCrop]
) -> None:
    said, shipped = (Strangers.read(path, everybody) for path in (committee / FILE, results / "strangers.npz"))
    calibration = manifest_of(bundle).calibration
    assert calibration is not None
    for before, after in ((said.scores, shipped.scores), (said.far, shipped.far)):
        log_odds = np.log(before / (1 - before)) / calibration.temperature
        np.testing.assert_allclose(after, 1 / (1 + np.exp(-log_odds)), atol=1e-5)


def test_reference_is_what_the_service_will_see(bundle: Bundle, pool: list[Crop]) -> None:
    """The very crops of the reference show no drift; darker ones do, in brightness but not in sharpness."""
    reference = bundle.manifest.reference
    assert reference is not None
    assert reference.crops == len(pool)
    scorer = eyestate.load(bundle.path, device="cpu")
    crops = [decode(crop.data) for crop in pool]

    def indices(crops: list[Pixels]) -> dict[Feature, float]:
        drift = Drift(reference, bundle.manifest.thresholds)
        measures = measure([shrink(crop) for crop in crops])
        for _ in range(math.ceil(LEAST / len(crops))):
            drift.add("score", scorer.score(crops).astype(float))
            drift.add("width", np.array([crop.shape[1] for crop in crops], float))
            drift.add("brightness", measures.brightness.astype(float))
            drift.add("sharpness", measures.sharpness.astype(float))
        return drift.indices()

    same = indices(crops)
    assert set(same) == set(reference.features)
    assert max(same.values()) < 0.02  # a score may fall to the other side of an edge
    darker = indices([crop // 2 for crop in crops])
    assert darker["brightness"] > 0.2 > darker["sharpness"]


def test_writes_the_slices_of_strangers(bundle: Bundle, results: Path, split: Split) -> None:
    found = json.loads((results / "evaluation.json").read_text())
    assert found["sha256"] == bundle.manifest.sha256
    people = {crop.subject for part in split.parts().values() for crop in part}
    by_subject = [item for item in found["slices"] if item["attribute"] == "subject"]
    assert {item["value"] for item in by_subject} == people
    assert {item["of"] for item in by_subject} == {STRANGERS}
    assert len(found["by_person"]) == len(people)


def test_exporting_again_replaces_the_bundle(bundle: Bundle, models: Path) -> None:
    newer = bundle.manifest.model_copy(update={"version": "0.0.2"})
    write_bundle(models, newer, bundle.onnx.read_bytes())
    assert eyestate.load(models / "miniature").manifest.version == "0.0.2"
    assert [path.name for path in models.iterdir()] == ["miniature"]


def test_a_network_that_does_not_fit_leaves_the_old_bundle(bundle: Bundle, models: Path) -> None:
    before = (models / "miniature" / "manifest.json").read_text()
    with pytest.raises(BundleError, match="damaged"):
        write_bundle(models, bundle.manifest, b"another network")
    with pytest.raises(BundleError, match="at most"):
        write_bundle(models, bundle.manifest, bytes(MAX_BYTES + 1))
    assert (models / "miniature" / "manifest.json").read_text() == before
    assert [path.name for path in models.iterdir()] == ["miniature"]


def test_a_run_of_other_crops(committee: Path, everybody: list[LabelledCrop], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not these"):
        export_run(
            committee, everybody[1:], tmp_path, name="x", version="1", results=tmp_path, output=tmp_path / "x.npz"
        )


def test_nothing_but_strangers_to_judge_by(
    bundle: Bundle, everybody: list[LabelledCrop], pool: list[Crop], tmp_path: Path
) -> None:
    """Of a student, that is another kind of run."""
    views, run = tmp_path / "views", tmp_path / "student"
    folds = np.concatenate([deal(everybody), deal(pool)])
    write_distillation_set([*everybody, *pool], folds, bundle, views, side=SIDE, views_drawn=64, shares=SHARES, seed=0)
    settings = StudentSettings(width=4, epochs=1, fold_epochs=1, batch_size=16, average_decay=0.5)
    distil(views, everybody, sources([*everybody, *pool]), settings, run)
    models, results = tmp_path / "models", tmp_path / "results"
    output = results / "strangers.npz"
    manifest = manifest_of(
        export_run(run, everybody, models, name="student", version="1", results=results, output=output)
    )
    assert manifest.input.side == SIDE
    assert manifest.reference is None
    teacher = manifest.training.teacher
    assert teacher is not None
    assert (teacher.name, teacher.sha256) == ("miniature", bundle.manifest.sha256)
    assert {part.name for part in manifest.training.data} == set(SHARES)
    assert not [metric for metric in manifest.metrics if "held-out" in metric.name]


def test_parity_is_held(committee: Path, held_out: list[LabelledCrop], monkeypatch: pytest.MonkeyPatch) -> None:
    network = load_committee(committee)
    model = to_onnx(network).SerializeToString()
    assert 0 <= parity(model, network, held_out) <= MAX_PARITY
    monkeypatch.setattr("training.export.bundle.MAX_PARITY", -1.0)
    with pytest.raises(BundleError, match="differ by"):
        parity(model, network, held_out)


@pytest.mark.shared
def test_parity_on_real_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of FaceNet's own layers, whose last one alone is random; one crop in sixteen keeps the test short."""
    monkeypatch.setattr("training.models.member.InceptionResnetV1", InceptionResnetV1)
    (weights,) = (data_dir().parent / "weights").glob("*casia-webface*.pt")
    settings = dataclasses.asdict(MemberSettings(backbone=str(weights)))
    torch.manual_seed(0)
    network = Committee([Member(settings, pretrained=True) for _ in range(2)]).eval()
    crops = load_crops(data_dir() / "eyes-dataset.zip").crops[::16]
    assert parity(to_onnx(network).SerializeToString(), network, crops) <= MAX_PARITY
