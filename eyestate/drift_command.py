"""The command ``eyestate drift-reference``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

import eyestate
from eyestate import drift_reference
from eyestate.atomic import write_atomically
from eyestate.files import LeftOut, image_files

if TYPE_CHECKING:
    from eyestate.drift_reference import DriftReference


@click.command(
    epilog="""\b
Examples:
  eyestate drift-reference http://127.0.0.1:3000 --output drift.json
  eyestate drift-reference http://prometheus:9090 --window 7d --select 'namespace="eyes"' --output drift.json
  eyestate drift-reference crops/ --output drift.json
  EYESTATE_DRIFT_REFERENCE=drift.json eyestate serve
"""
)
@click.argument("source")
@click.option(
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where the reference goes; name it in $EYESTATE_DRIFT_REFERENCE.",
)
@click.option(
    "--window", metavar="TIME", help="SOURCE is Prometheus: the time up to now of which to take crops, as 7d."
)
@click.option("--select", "selector", default="", metavar="LABELS", help="Labels of the service in Prometheus.")
@click.option("--model", metavar="NAME", help="Model that scores files.  [default: $EYESTATE_MODEL or the shipped one]")
def command(source: str, output: Path, window: str | None, selector: str, model: str | None) -> None:
    """Make a reference for drift from crops of your own.

    SOURCE is the URL of a running service, of which all crops since its start are taken, the URL of a Prometheus that
    watches services (with --window), or a folder of crops.

    The service then reports drift against what your crops and scores were, in place of those that the model was
    developed with.
    """
    made = _made(source, window, selector, model)
    try:
        write_atomically(output, made.model_dump_json(indent=1) + "\n")
    except OSError as error:
        raise click.ClickException(f"cannot write {output}: {error.strerror}") from None
    for name, reference in made.sources.items():
        click.echo(f"{output}: {reference.crops:,} {'crops of faces' if name == 'faces' else 'crops'}")


def _made(source: str, window: str | None, selector: str, model: str | None) -> DriftReference:
    if not source.startswith(("http://", "https://")):
        if not Path(source).exists():
            raise click.BadParameter(f"{source} is neither a URL nor a folder", param_hint="SOURCE")
        left_out = LeftOut()
        files = image_files([Path(source)], left_out)
        if left_out:
            click.echo(str(left_out), err=True)
        return drift_reference.from_files(
            files, eyestate.load(model), lambda file, error: click.echo(f"{file}: {error.message}", err=True)
        )
    if window:
        return drift_reference.from_prometheus(source, window, selector)
    return drift_reference.from_service(source)
