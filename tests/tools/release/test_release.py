"""What a release refuses, what it takes from the changelog, and what can be checked of its files."""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from eyestate import __version__
from tools.container.engine import PROJECT
from tools.release import __main__ as release
from tools.release import artefacts, changelog, signing
from tools.release.changelog import ReleaseError

CHANGELOG = """# Changelog

## [Unreleased]

## [1.1.0] - 2026-05-01

### Added

- A thing.

## [1.0.0] - 2026-04-01

- The first.
"""


def test_notes_are_the_section_of_the_version() -> None:
    found = changelog.notes(CHANGELOG, "1.1.0")
    assert found == "# eyestate 1.1.0\n\nReleased on 2026-05-01.\n\n### Added\n\n- A thing.\n"


def test_the_changelog_has_notes_of_this_version() -> None:
    text = (PROJECT / "CHANGELOG.md").read_text()
    assert re.findall(r"^## \[(\d.*?)\]", text, re.MULTILINE)[0] == __version__


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CHANGELOG.replace("[Unreleased]\n", "[Unreleased]\n\n- More."), "move them to a version"),
        (CHANGELOG.replace("[1.1.0]", "[1.2.0]"), "the version is 1.1.0, the newest one in the changelog 1.2.0"),
        (CHANGELOG.replace(" - 2026-05-01", ""), "no date for 1.1.0"),
        ("# Changelog\n", "the newest one in the changelog none"),
    ],
)
def test_a_changelog_that_does_not_fit_is_refused(text: str, message: str) -> None:
    with pytest.raises(ReleaseError, match=re.escape(message)):
        changelog.notes(text, "1.1.0")


def test_a_tree_with_changes_is_refused(tmp_path: Path) -> None:
    git = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org"]
    for arguments in (["init", "--quiet"], ["commit", "--quiet", "--allow-empty", "--message", "First"]):
        subprocess.run([*git, *arguments], cwd=tmp_path, check=True)
    artefacts.check_clean(tmp_path)
    (tmp_path / "new.py").touch()
    (tmp_path / "other.py").touch()
    with pytest.raises(ReleaseError, match=r"not committed: new\.py and 1 more$"):
        artefacts.check_clean(tmp_path)


def test_nothing_is_made_where_the_release_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "DIST", tmp_path / "dist")
    monkeypatch.setattr(release, "__version__", "99.0.0")
    result = CliRunner().invoke(release.main, [])
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert not (tmp_path / "dist").exists()


def test_the_source_distribution_has_the_packages_and_no_models(tmp_path: Path) -> None:
    artefacts.packages(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"eyestate-{__version__}-py3-none-any.whl", f"eyestate-{__version__}.tar.gz"}
    with tarfile.open(tmp_path / f"eyestate-{__version__}.tar.gz") as archive:
        top = {name.split("/")[1] for name in archive.getnames()}
    wanted = {"eyestate", "training", "CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml"}
    assert wanted <= top <= wanted | {".gitignore"}


def test_checksums_are_signed_and_can_be_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "gnupg"
    home.mkdir(0o700)
    monkeypatch.setenv("GNUPGHOME", str(home))
    command = [
        "gpg",
        "--batch",
        "--quiet",
        "--passphrase",
        "",
        "--quick-generate-key",
        "releaser@example.org",
        "ed25519",
    ]
    if subprocess.run([*command, "sign"], capture_output=True, check=False).returncode:
        pytest.skip("no gpg that can make a key")
    folder = tmp_path / "dist"
    folder.mkdir()
    (folder / "a.whl").write_text("content")
    checksums = artefacts.checksums(folder)
    subprocess.run(["sha256sum", "--check", "--quiet", checksums.name], cwd=folder, check=True)
    (key,), (signer,) = zip(*signing.chosen({"GPG_KEY": "releaser@example.org"}).items(), strict=True)
    signature = signer.sign(checksums, key)
    subprocess.run(["gpg", "--verify", signature, checksums], check=True, capture_output=True)
    with pytest.raises(ReleaseError, match="gpg cannot sign with the key of GPG_KEY"):
        signer.sign(checksums, "nobody@example.org")


def test_other_signers_get_key_file_and_signature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cosign", "minisign"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/{name}.args\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for key, signer in signing.chosen({"COSIGN_KEY": "c.key", "MINISIGN_KEY": "m.key"}).items():
        signature = signer.sign(tmp_path / "SHA256SUMS", key)
        said = (tmp_path / f"{signer.name}.args").read_text().split()
        assert {key, str(signature), str(tmp_path / "SHA256SUMS")} < set(said)


def test_a_key_without_its_program_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert signing.chosen({}) == {}
    with pytest.raises(ReleaseError, match="COSIGN_KEY is set, but cosign is not installed"):
        signing.chosen({"COSIGN_KEY": "a.key"})


def test_an_image_without_an_engine_is_left_out_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no working docker, podman or buildah" in str(artefacts.image(tmp_path, "cpu"))
    assert not list(tmp_path.iterdir())


def test_every_page_and_manifest_names_this_version() -> None:
    pages = [*PROJECT.glob("*.md"), *(PROJECT / "docs").glob("*.md"), *(PROJECT / "k8s").rglob("*.yaml")]
    named = re.compile(r"(?:eyestate(?:-models|-service|-image)?[:-]|newTag: |/version: |tag -s v)(\d+\.\d+\.\d+)")
    found = {path: set(named.findall(path.read_text())) for path in pages if path.name != "CHANGELOG.md"}
    assert {path.name: versions for path, versions in found.items() if versions - {__version__}} == {}
    assert sum(map(bool, found.values())) > 5
