"""References made of what Prometheus shows, and of files."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from eyestate import drift_reference
from eyestate.bundle import load_bundle
from eyestate.cli import main
from eyestate.drift import EDGES, LEAST
from eyestate.drift_reference import METRICS, DriftReferenceError
from eyestate.errors import SettingError
from tests.bundles import write_bundle

MODEL = {"name": "brightness", "version": "1.2.3", "sha256": "a" * 64}


class Prometheus(BaseHTTPRequestHandler):
    """Answers the queries of a reference for crops whose values all lie in the first bin, or says what is wrong."""

    queries: list[str]
    crops = LEAST
    models = (MODEL,)

    def do_GET(self) -> None:
        (query,) = parse_qs(urlsplit(self.path).query)["query"]
        self.queries.append(query)
        series: list[tuple[dict[str, str], float]] = []
        if "model_info" in query:
            series = [(model, 2) for model in self.models]
        elif "uncertain" in query:
            series = [({"crops": "recent", "source": "crops"}, 0.125)]
        for feature, metric in METRICS.items():
            if metric in query:
                edges = [*map(str, map(float, EDGES[feature])), "+Inf"]
                series = [({"source": "crops", "le": edge}, self.crops) for edge in edges]
        result = [{"metric": labels, "value": [0, str(value)]} for labels, value in series]
        body = {"status": "success", "data": {"resultType": "vector", "result": result}}
        if "[nonsense]" in query:
            body = {"status": "error", "error": "parse error"}
        content = json.dumps(body).encode()
        self.send_response(200 if body["status"] == "success" else 400)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def prometheus(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Prometheus, "queries", [], raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Prometheus) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_of_prometheus(prometheus: str, tmp_path: Path) -> None:
    file = tmp_path / "drift.json"
    command = ["drift-reference", prometheus, "--window", "7d", "--select", 'job="eyes"', "--output", str(file)]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert "500 crops" in result.output
    made = drift_reference.load(file)
    assert made.model.model_dump() == MODEL
    crops = made.sources["crops"]
    assert (crops.crops, crops.uncertain) == (LEAST, 0.125)
    for feature, edges in EDGES.items():
        assert tuple(crops.features[feature].edges) == edges
        assert crops.features[feature].shares == [1, *[0] * len(edges)]
    assert all('job="eyes"' in query and "[7d]" in query for query in Prometheus.queries)


@pytest.mark.parametrize(
    ("wrong", "window", "message"),
    [
        ({"crops": LEAST - 1}, "7d", "499 crops were scored; a reference needs at least 500"),
        ({"models": ()}, "7d", "no metrics of eyestate"),
        ({"models": (MODEL, MODEL | {"version": "2"})}, "7d", "brightness 1.2.3, brightness 2"),
        ({}, "nonsense", "Prometheus refuses .*parse error"),
    ],
    ids=["too few", "no model", "two models", "no time"],
)
def test_of_too_little(
    prometheus: str, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, object], window: str, message: str
) -> None:
    for name, value in wrong.items():
        monkeypatch.setattr(Prometheus, name, value)
    with pytest.raises(DriftReferenceError, match=message):
        drift_reference.from_prometheus(prometheus, window)


def test_of_files_and_for_another_model(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path)
    crops = tmp_path / "crops"
    crops.mkdir()
    for number, grey in enumerate(np.linspace(20, 235, LEAST).astype(np.uint8)):
        Image.new("L", (40, 40), int(grey)).save(crops / f"{number}.png")
    (crops / "broken.png").write_bytes(b"no image")
    file = tmp_path / "drift.json"
    result = CliRunner().invoke(main, ["drift-reference", str(crops), "--model", str(bundle), "--output", str(file)])
    assert result.exit_code == 0, result.output
    assert "broken.png" in result.output
    made = drift_reference.load(file)
    manifest = load_bundle(bundle).manifest
    own = made.of_source("crops", manifest)
    assert own is not None
    assert own.features["width"].shares[EDGES["width"].index(48)] == 1
    assert own.uncertain == pytest.approx(0.6, abs=0.05)
    other = made.of_source("crops", manifest.model_copy(update={"sha256": "b" * 64}))
    assert other is not None
    assert set(other.features) == {"width", "brightness", "sharpness"}
    assert made.of_source("faces", manifest) is None


@pytest.mark.parametrize("content", ["", "{}", '{"sources": {}}'])
def test_what_is_no_reference_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "drift.json"
    file.write_text(content)
    with pytest.raises(SettingError, match=r"EYESTATE_DRIFT_REFERENCE: .*drift\.json is no reference"):
        drift_reference.load(file)


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["drift-reference", "nowhere", "--output", str(tmp_path / "drift.json")])
    assert result.exit_code == 2
    assert "neither a URL nor a folder" in result.output
