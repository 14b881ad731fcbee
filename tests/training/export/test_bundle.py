from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest

import eyestate
from eyestate.arrays import Pixels
from eyestate.bundle import Bundle, Feature
from eyestate.drift import LEAST, Drift
from eyestate.errors import BundleError
from eyestate.images import decode
from eyestate.quality import measure, shrink
from training.data.datasets import Crop, DataError, data_dir, load_crops
from training.data.split import Split
from training.export.bundle import MAX_BYTES, MAX_PARITY, export_run, onnx_scores, parity, to_onnx, write_bundle
from training.models.classifier import load_classifier
from training.models.learner import predict
from training.runs import outcome


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="session")
def bundle(run: Path, split: Split, models: Path, results: Path) -> Bundle:
    held_out = [dataclasses.replace(crop, subject=None) for crop in split.test]
    reference_crops = [Crop(crop.name, crop.data) for crop in split.train]
    return export_run(
        run,
        split,
        models,
        name="miniature",
        version="0.0.1",
        results=results,
        held_out=held_out,
        reference_crops=reference_crops,
    )


def test_bundle_scores_like_the_checkpoint(bundle: Bundle, run: Path, split: Split) -> None:
    scores = eyestate.load(bundle.path).score([crop.data for crop in split.test])
    expected = predict(load_classifier(outcome(run)), split.test)
    np.testing.assert_allclose(scores, expected, atol=MAX_PARITY)


def test_any_batch_size(bundle: Bundle, split: Split) -> None:
    model = bundle.onnx.read_bytes()
    all_at_once = onnx_scores(model, split.test, bundle.manifest.input.side)
    one_by_one = [onnx_scores(model, [crop], bundle.manifest.input.side)[0] for crop in split.test]
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


def test_manifest_says_how_it_was_made(bundle: Bundle, split: Split, backbone: Path) -> None:
    manifest = bundle.manifest
    assert manifest.input.side == 75
    assert manifest.training.backbone == backbone.name
    assert manifest.training.data[0].crops == len(split.train)
    assert set(manifest.training.data[0].subjects) == {crop.subject for crop in split.train}
    (held_out,) = [metric for metric in manifest.metrics if "held-out" in metric.name]
    assert held_out.n == len(split.test)
    assert manifest.parity <= MAX_PARITY
    assert all(metric.low <= metric.value <= metric.high for metric in manifest.metrics)
    assert str(backbone.parent) not in manifest.model_dump_json()


def test_reference_is_what_the_service_will_see(bundle: Bundle, split: Split) -> None:
    """The very crops of the reference show no drift; darker ones do, in brightness but not in sharpness."""
    reference = bundle.manifest.reference
    assert reference is not None
    assert reference.crops == len(split.train)
    scorer = eyestate.load(bundle.path, device="cpu")
    crops = [decode(crop.data) for crop in split.train]

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


def test_writes_the_slices_of_the_test_subjects(bundle: Bundle, results: Path, split: Split) -> None:
    found = json.loads((results / "evaluation.json").read_text())
    assert found["sha256"] == bundle.manifest.sha256
    by_subject = [item for item in found["slices"] if item["attribute"] == "subject"]
    assert {item["value"] for item in by_subject} == {crop.subject for crop in split.test}
    assert sum(item["crops"] for item in by_subject) == len(split.test)


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


def test_judged_by_what_it_learnt_from(run: Path, split: Split, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="to be judged by"):
        export_run(run, Split(split.train, split.val, split.train), tmp_path, name="x", version="1", results=tmp_path)


def test_parity_is_held(run: Path, split: Split) -> None:
    classifier = load_classifier(outcome(run))
    model = to_onnx(classifier).SerializeToString()
    assert 0 <= parity(model, classifier, split.test) <= MAX_PARITY
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.export.bundle.MAX_PARITY", -1.0)
        with pytest.raises(BundleError, match="differ by"):
            parity(model, classifier, split.test)


@pytest.mark.shared
def test_parity_on_real_crops(run: Path) -> None:
    """The unlabelled crops are real and were never trained on; one in sixteen keeps the test short."""
    crops = load_crops(data_dir() / "eyes-dataset.zip").crops[::16]
    classifier = load_classifier(outcome(run))
    assert parity(to_onnx(classifier).SerializeToString(), classifier, crops) <= MAX_PARITY
