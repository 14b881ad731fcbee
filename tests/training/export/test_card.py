from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from eyestate.bundle import CascadeManifest, DataSource, Manifest, Member, Reference, load_model
from tests.bundles import write_bundle, write_cascade
from training.__main__ import main
from training.data.datasets import MRL, UNLABELLED, DataError
from training.evaluation.behaviour import Results
from training.evaluation.calibration import Fit
from training.evaluation.judging import STRANGERS
from training.evaluation.results import Slice
from training.export.card import card, write_evaluation
from training.files import write_json

SLICES = [
    Slice(STRANGERS, "glasses", "no", 6_942, 0.4412, 0.01894, 0.0213),
    Slice(STRANGERS, "subject", "s0001", 3_242, 1.0, None, 0.1),
]
BY_PERSON = [0.0, 0.01, 0.02, 0.03, 0.25]


def write_results(folder: Path, manifest: Manifest | CascadeManifest) -> Path:
    """Write what was measured of a model, and return the folder."""
    write_evaluation(folder / "evaluation.json", manifest, SLICES, BY_PERSON)
    calibration = {
        "model": manifest.name,
        "sha256": manifest.sha256,
        "left_out": [dataclasses.asdict(Fit("temperature", 0.0372, 0.0103))],
        "error": {"all held-out crops": {"temperature": 0.01021}},
    }
    write_json(folder / "calibration.json", calibration)
    behaviour = Results(
        model=manifest.name,
        version=manifest.version,
        sha256=manifest.sha256,
        undisturbed=[{"crops": "generated", "n": 100, "eer": 0.0, "ece": 0.0015}],
        invariances=[],
        directions=[],
    )
    write_json(folder / "behaviour.json", behaviour.model_dump())
    return folder


@pytest.fixture
def network(tmp_path: Path) -> Manifest:
    manifest = load_model(write_bundle(tmp_path)).manifest
    assert isinstance(manifest, Manifest)
    return manifest


def test_holds_the_manifest_and_all_results(network: Manifest, tmp_path: Path) -> None:
    text = card(network, write_results(tmp_path / "results", network))
    assert text.startswith("# brightness 1.2.3\n")
    assert network.sha256 in text
    titles = [line for line in text.splitlines() if line.startswith("## ")]
    assert titles == [
        "## Intended use",
        "## Training data",
        "## Results",
        "## Limits",
        "## Calibration",
        "## Behaviour",
    ]
    assert "| MRL, people never seen | glasses | no | 6,942 | 0.44 | 0.0189 | 2.1% |" in text
    assert "| MRL, people never seen | subject | s0001 | 3,242 | 1.00 | – | 10.0% |" in text
    assert "of the 5 of MRL with open and closed eyes it is at most 0.0100 for a quarter, 0.0200 for half" in text
    assert "| temperature | 0.0372 | 0.0103 | 0.0102 |" in text
    assert "| generated | 100 | 0.0000 | 0.0015 | yes |" in text
    assert "Reference for drift" not in text


def test_names_the_reference_of_drift(network: Manifest, tmp_path: Path) -> None:
    results = write_results(tmp_path / "results", network)
    reference = Reference(data="crops of a kind", crops=1_234, uncertain=0.251, features={})
    measured = network.model_copy(update={"reference": reference})
    assert "| Reference for drift | 1,234 crops of a kind, 25.1% of them uncertain" in card(measured, results)


def test_names_the_training_data_and_the_teacher(network: Manifest, tmp_path: Path) -> None:
    results = write_results(tmp_path / "results", network)
    data = [
        DataSource(name=MRL, crops=76_229, people=28, subjects=["s0001"], fingerprint="0123456789abcdef" * 4),
        DataSource(name=UNLABELLED, crops=2_979, subjects=[], fingerprint="f" * 64),
    ]
    training = network.training.model_copy(update={"data": data, "backbone": "weights.pt"})
    text = card(network.model_copy(update={"training": training}), results)
    assert "- MRL Eye Dataset: 76,229 crops of 28 people; fingerprint `0123456789abcdef`" in text
    assert "- eye crops without labels: 2,979 crops, trained towards what networks believe of them" in text
    assert "pretrained weights `weights.pt`" in text
    distilled = training.model_copy(update={"teacher": Member(name="final_best", sha256="ab" * 32)})
    text = card(network.model_copy(update={"training": distilled}), results)
    assert "distilled from `final_best`, SHA-256 `abababababababab…`" in text


def test_of_a_cascade_links_its_networks(tmp_path: Path) -> None:
    manifest = load_model(write_cascade(tmp_path, low=0.123, high=0.877)).manifest
    text = card(manifest, write_results(tmp_path / "results", manifest))
    assert "[`small`](../small/README.md)" in text
    assert "[`large`](../large/README.md)" in text
    assert "between 0.123 and 0.877" in text
    assert "| glasses | no | 6,942 | 0.44 | 0.0189 | 2.1% |" in text


def test_refuses_results_of_another_model(network: Manifest, tmp_path: Path) -> None:
    results = write_results(tmp_path / "results", network)
    other = json.loads((results / "behaviour.json").read_text()) | {"sha256": "0" * 64}
    write_json(results / "behaviour.json", other)
    with pytest.raises(DataError, match="python -m training behaviour --model brightness"):
        card(network, results)


def test_names_the_command_that_makes_what_is_missing(network: Manifest, tmp_path: Path) -> None:
    results = write_results(tmp_path / "results", network)
    (results / "evaluation.json").unlink()
    with pytest.raises(DataError, match="python -m training export --name brightness"):
        card(network, results)


def test_the_command_writes_the_card_beside_the_model(network: Manifest, tmp_path: Path) -> None:
    write_results(tmp_path / "reports" / "brightness", network)
    arguments = ["card", "--model", "brightness", "--models", str(tmp_path), "--reports", str(tmp_path / "reports")]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    expected = card(network, tmp_path / "reports" / "brightness")
    assert (tmp_path / "brightness" / "README.md").read_text(encoding="utf-8") == expected
