from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest

from eyestate.bundle import DEFAULT_MODEL, load_model
from tests.bundles import write_bundle
from tools.container import sbom
from tools.container.engine import PROJECT, Config

STATUS = """\
Package: libssl3
Status: install ok installed
Maintainer: Somebody <somebody@example.org>
Architecture: amd64
Source: openssl (3.0.1)
Version: 3.0.1-1+deb12u1
Description: Secure Sockets Layer toolkit
 Of several lines.

Package: gone
Status: deinstall ok config-files
Maintainer: Somebody <somebody@example.org>
Architecture: all
Version: 1
Description: removed, its settings kept
"""
PACKAGE = "Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n{more}\n"


def put(root: Path, path: str, content: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(content)


def package(root: Path, name: str, version: str, *more: str) -> None:
    metadata = PACKAGE.format(name=name, version=version, more="\n".join(more))
    put(root, f"opt/eyestate/lib/python3.11/site-packages/{name}-{version}.dist-info/METADATA", metadata)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    package(tmp_path, "Web_Server", "2.0", "License-Expression: MIT", "Requires-Dist: parser>=1")
    package(tmp_path, "parser", "1.5", "Classifier: License :: OSI Approved :: BSD License")
    put(tmp_path, "var/lib/dpkg/status", STATUS)
    put(tmp_path, "usr/lib/os-release", 'ID=debian\nVERSION_ID="12"\n')
    write_bundle(tmp_path / "models")
    shutil.copytree(PROJECT / "models" / "mtcnn", tmp_path / "models" / "mtcnn")
    return tmp_path


@pytest.fixture
def config() -> Config:
    return Config(
        user="65532:65532",
        environment={"PYTHON_VERSION": "3.11.16"},
        entrypoint=["eyestate", "serve"],
        health_check=["CMD", "true"],
        labels={"org.opencontainers.image.licenses": "Apache-2.0", "org.opencontainers.image.version": "1.0"},
        ports=["3000/tcp"],
        bytes=1,
    )


def test_python_debian_and_models_are_listed(root: Path, config: Config, tmp_path: Path) -> None:
    path = tmp_path / "dist" / "bill.cdx.json"
    sbom.write_bom(sbom.image_bom(root, "eyestate:1.0-cpu", config), path)
    bill = json.loads(path.read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert (bill["metadata"]["component"]["type"], bill["metadata"]["component"]["version"]) == ("container", "1.0-cpu")

    components = {component["name"]: component for component in bill["components"]}
    detector = {"mtcnn-pnet", "mtcnn-rnet", "mtcnn-onet"}
    assert set(components) == {"Web_Server", "parser", "libssl3", "python", "brightness"} | detector
    assert components["mtcnn-pnet"]["licenses"][0]["license"]["id"] == "MIT"
    assert components["Web_Server"]["purl"] == "pkg:pypi/web-server@2.0"
    assert components["Web_Server"]["licenses"][0]["license"]["id"] == "MIT"
    assert components["parser"]["licenses"][0]["license"]["name"].endswith("BSD License")
    assert components["libssl3"]["purl"].startswith("pkg:deb/debian/libssl3@3.0.1-1%2Bdeb12u1?")
    assert "upstream=openssl" in components["libssl3"]["purl"]
    model = components["brightness"]
    digest = hashlib.sha256((root / "models" / "brightness" / "model.onnx").read_bytes()).hexdigest()
    assert (model["type"], model["version"]) == ("machine-learning-model", "1.2.3")
    assert model["hashes"] == [{"alg": "SHA-256", "content": digest}]

    needs = {entry["ref"]: entry.get("dependsOn", []) for entry in bill["dependencies"]}
    assert needs["Web_Server==2.0"] == ["parser==1.5"]
    assert len(needs["image"]) == len(components)


def test_models_that_ship_are_listed(root: Path, config: Config) -> None:
    shutil.copytree(PROJECT / "models", root / "models", dirs_exist_ok=True)
    models = {
        component.name: component.hashes[0].content
        for component in sbom.image_bom(root, "eyestate:1.0-cpu", config).components
        if component.bom_ref.value and component.bom_ref.value.startswith("model:")
    }
    shipped = [load_model(path.parent).manifest for path in (PROJECT / "models").glob("*/manifest.json")]
    assert DEFAULT_MODEL in models
    for manifest in shipped:
        assert models[manifest.name] == manifest.sha256


def test_pinned_packages_and_models_of_a_release_are_listed(tmp_path: Path) -> None:
    requirements = PROJECT / "requirements" / "serve.txt"
    sbom.write_bom(sbom.release_bom(requirements, PROJECT / "models"), tmp_path / "bill.cdx.json")
    bill = json.loads((tmp_path / "bill.cdx.json").read_text())
    names = [component["name"] for component in bill["components"]]
    pinned = re.findall(r"^([\w.-]+)==", requirements.read_text(), re.MULTILINE)
    assert set(pinned) < set(names)
    assert {DEFAULT_MODEL, "mtcnn-pnet"} < set(names)
    subject, *_ = (entry for entry in bill["dependencies"] if entry["ref"] == "release")
    assert len(subject["dependsOn"]) == len(names)


def test_only_relevant_files_are_extracted() -> None:
    assert sbom.is_relevant("models/final_best/model.onnx")
    assert sbom.is_relevant("opt/eyestate/lib/python3.11/site-packages/numpy-2.0.dist-info/METADATA")
    assert sbom.is_relevant("var/lib/dpkg/status")
    assert not sbom.is_relevant("opt/eyestate/lib/python3.11/site-packages/numpy/__init__.py")
    assert not sbom.is_relevant("etc/passwd")
