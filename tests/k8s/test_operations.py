"""What `docs/operations.md` has an operator write works as written."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.k8s.manifests import K8S, Manifest, only, render
from tests.k8s.schemas import fault
from tests.k8s.tools import PROJECT, kubectl

GUIDE = (PROJECT / "docs" / "operations.md").read_text()
OVERLAY_PARTS = {"images", "configMapGenerator", "patches"}


def blocks(language: str) -> list[str]:
    """The guide's blocks in a language, without the indentation of lists."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", GUIDE, flags=re.MULTILINE | re.DOTALL)
    return [re.sub(f"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


def parts() -> list[Manifest]:
    """What it has written into an overlay's kustomization."""
    return [part for part in map(yaml.safe_load, blocks("yaml")) if part.keys() <= OVERLAY_PARTS]


@pytest.mark.parametrize("part", parts(), ids="-".join)
def test_a_part_of_an_overlay_builds_and_is_valid(part: Manifest, tmp_path: Path) -> None:
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "eyestate",
        # The overlays have named their images already.
        "resources": [
            os.path.relpath(K8S / ("base" if "images" in part else "overlays/cpu"), tmp_path.resolve()),
        ],
        **part,
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    result = subprocess.run([kubectl(), "kustomize", tmp_path], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    objects = list(yaml.safe_load_all(result.stdout))
    assert not [complaint for each in objects if (complaint := fault(each))]
    for image in part.get("images", ()):
        (container,) = only(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
        assert container["image"].startswith(image["newName"])
    for generator in part.get("configMapGenerator", ()):
        settings = only(objects, "ConfigMap")["data"]
        assert settings.items() >= dict(literal.split("=", 1) for literal in generator["literals"]).items()


def test_the_parts_are_found() -> None:
    assert {name for part in parts() for name in part} == OVERLAY_PARTS


def test_the_folders_files_and_targets_that_it_names_are_there() -> None:
    commands = "\n".join(blocks("console"))
    for folder in re.findall(r"-k (k8s/\S+)", commands):
        assert (PROJECT / folder / "kustomization.yaml").exists(), folder
    for file in re.findall(r"\bk8s/[\w./-]+\.ya?ml|@(examples/[\w.]+)", GUIDE):
        assert (PROJECT / file).exists(), file
    makefile = (PROJECT / "Makefile").read_text()
    for target in re.findall(r"`?make ([a-z0-9-]+)", commands):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_sizes_and_times_in_the_guide_are_those_of_the_manifests() -> None:
    spec = only(render(("overlays/cpu",)), "Deployment")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["resources"] == {
        "requests": {"cpu": "2", "memory": "1536Mi"},
        "limits": {"cpu": "2", "memory": "2560Mi"},
    }
    seconds = {spec["terminationGracePeriodSeconds"], container["lifecycle"]["preStop"]["sleep"]["seconds"]}
    stated = set(re.findall(r"\b[\d.]+ (?:cores|GiB|s)\b", GUIDE))
    assert {"2 cores", "1.5 GiB", "2.5 GiB", *(f"{each} s" for each in seconds)} <= stated
