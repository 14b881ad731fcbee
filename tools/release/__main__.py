"""``python -m tools.release``: make what a version is published as."""

from __future__ import annotations

import shutil
from typing import Final

import click

from eyestate import __version__
from tools.container.build import TARGETS, Target
from tools.container.engine import PROJECT
from tools.release import artefacts, changelog, signing

DIST: Final = PROJECT / "dist"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("targets", type=click.Choice(TARGETS), nargs=-1)
def main(targets: tuple[Target, ...]) -> None:
    """Make wheel, source distribution, models, bento, images of TARGETS, SBOMs, notes and checksums in dist/.

    Refuses a tree with changes, and a version that is not the newest in the changelog. An image is left out where no
    docker, podman or buildah works. The checksums are signed by cosign, gpg and minisign, each where COSIGN_KEY,
    GPG_KEY or MINISIGN_KEY names a key.
    """
    notes = changelog.notes((PROJECT / "CHANGELOG.md").read_text(encoding="utf-8"), __version__)
    signers = signing.chosen()
    artefacts.check_clean()
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    (DIST / "RELEASE_NOTES.md").write_text(notes, encoding="utf-8")
    for make in (artefacts.packages, artefacts.models, artefacts.bento, artefacts.bill):
        make(DIST)
    left_out = {f"the {target} image": artefacts.image(DIST, target) for target in targets}
    checksums = artefacts.checksums(DIST)
    for key, signer in signers.items():
        signer.sign(checksums, key)
    for name, size in artefacts.sizes(DIST):
        click.echo(f"{size:>13,}  dist/{name}")
    for what, why in left_out.items():
        if why:
            click.echo(f"Left out: {what}: {why}")
    if not signers:
        click.echo("Unsigned: none of COSIGN_KEY, GPG_KEY and MINISIGN_KEY is set.")


if __name__ == "__main__":
    main()
