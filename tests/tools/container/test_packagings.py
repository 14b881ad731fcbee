"""Wheel, bento, image and manifests are one service: the same files, packages and command, stated once or alike.

The wheel has the whole folder `eyestate`, as test_wheel.py sees, and the bento that was built the same files, as
test_bento.py sees. The image installs the wheel, and the manifests run the image.
"""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

import pytest
import yaml

from eyestate import __version__
from tools.container.engine import PROJECT

RECIPE = (PROJECT / "Dockerfile").read_text().replace("\\\n", " ")
BENTO: dict[str, Any] = yaml.safe_load((PROJECT / "bentofile.yaml").read_text())
FOR_THE_BUILD = {"pyproject.toml", "README.md", "LICENSE", "requirements/bootstrap.txt", "tools/container/slim.py"}
SERVERS = ("base/deployment.yaml", "kserve/inference-service.yaml")


def stages() -> dict[str, str]:
    """The instructions of each stage of the Dockerfile."""
    found = re.split(r"^FROM (\S+) AS (\S+)$", RECIPE, flags=re.MULTILINE)
    return dict(zip(found[2::3], found[3::3], strict=True))


def copied() -> set[str]:
    """What the stages copy from the repository."""
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", RECIPE, re.MULTILINE)
    return {source for line in lines for source in line.split()}


def packaged() -> set[str]:
    """What the bento includes of the repository."""
    return {path.removeprefix("/").removesuffix("/**") for path in BENTO["include"]}


def test_the_image_copies_what_the_bento_includes() -> None:
    assert copied() - FOR_THE_BUILD - {"requirements/serve-gpu.txt"} == packaged()


def test_the_build_is_sent_what_the_image_copies() -> None:
    allowed = re.findall(r"^!(.+)$", (PROJECT / ".dockerignore").read_text(), re.MULTILINE)
    assert set(allowed) == copied()


def test_image_and_bento_install_the_same_packages() -> None:
    pins = BENTO["python"]["requirements_txt"]
    assert pins in packaged()
    assert f"COPY {pins} " in stages()["installed-cpu"]
    assert stages()["installed-cuda"].replace("serve-gpu.txt", "serve.txt") == stages()["installed-cpu"]


def test_bento_and_command_serve_the_same_object() -> None:
    assert BENTO["service"] == "service"
    assert "from eyestate.server.service import EyeState\n" in (PROJECT / "service.py").read_text()


def test_image_and_make_run_the_command_of_the_wheel() -> None:
    scripts = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["scripts"]
    (entrypoint,) = re.findall(r"^ENTRYPOINT (.+)$", RECIPE, re.MULTILINE)
    assert json.loads(entrypoint) == ["eyestate", "serve"]
    assert json.loads(entrypoint)[0] in scripts
    assert "$(BIN)/eyestate serve " in (PROJECT / "Makefile").read_text()


@pytest.mark.parametrize("manifest", SERVERS)
def test_manifests_run_the_image_as_it_is(manifest: str) -> None:
    spec = yaml.safe_load((PROJECT / "k8s" / manifest).read_text())["spec"]
    pod = spec["predictor"] if "predictor" in spec else spec["template"]["spec"]
    container = pod["containers"][0]
    named = yaml.safe_load((PROJECT / "k8s" / "components" / "image" / "kustomization.yaml").read_text())["images"]
    (tag,) = (image["newTag"] for image in named if image["name"] == container["image"])
    assert tag == f"{__version__}-cpu"
    assert not {"command", "args"} & container.keys()
    exposed = set(map(int, re.findall(r"^EXPOSE (.+)$", RECIPE, re.MULTILINE)[0].split()))
    assert container["ports"][0]["containerPort"] in exposed
    given = {variable["name"] for variable in container.get("env", ())}
    in_the_image = set(re.findall(r"(\w+)=", " ".join(re.findall(r"^ENV (.+)$", stages()["runtime"], re.MULTILINE))))
    assert "PYTHONPATH" in in_the_image
    assert not given & in_the_image, "the image says it already"
