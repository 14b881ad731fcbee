"""``python -m tools.container``: build the container image, try it, list what is in it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tools.container import base, sbom
from tools.container.build import TARGETS, Target, build, tag
from tools.container.check import Trial, trial
from tools.container.engine import PROJECT, Engine, builder, described, runner
from tools.harness.report import circumstances, table, write
from tools.harness.report import described as machine

REPORTS: Final = Path("reports") / "container"
_MB: Final = 1e6

target_argument = click.argument("target", type=click.Choice(TARGETS), default="cpu")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Build the container image, try it, list what is in it.

    TARGET is `cpu` (the default) or `cuda`. docs/container.md tells more.
    """


@main.command("build")
@target_argument
@click.option("--debian", is_flag=True, help="Stand on a Debian made here instead of the pinned base; takes root.")
def build_command(target: Target, debian: bool) -> None:
    """Build the image with docker or podman, or with buildah where neither works."""
    engine = builder()
    click.echo(f"{engine.name} builds {tag(target)}")
    build(engine, target, base.debian(engine) if debian else None)


@main.command("test")
@target_argument
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), default=REPORTS, show_default=True)
def test_command(target: Target, output: Path) -> None:
    """Build the image, run it unprivileged and read-only, score with it, and stop it under load.

    Exits with 1 unless it is as it has to be. Where the registry of the base cannot be reached, it stands on a Debian
    that debootstrap makes. Docker or podman has to work here.
    """
    engine = runner()
    found = base.attainable(engine)
    image = build(engine, target, found)
    result = trial(engine, image, target)
    bill = _write_sbom(engine, image)
    figures = {
        "image": image,
        "engine": engine.name,
        "base": found.name,
        "bytes": engine.config(image).bytes,
        "compressed_bytes": engine.compressed_bytes(image),
        "sbom_components": bill,
        **result.figures,
    }
    held = all(claim.held for claim in result.claims)
    about = circumstances(target=target)
    everything = {"held": held, "claims": [claim._asdict() for claim in result.claims], **figures}
    configuration = described(engine.config(image))
    write(output, target, everything | {"config": configuration, "about": about}, page(figures, result, about))
    show(figures, result)
    if not held:
        raise SystemExit(1)


@main.command("sbom")
@target_argument
def sbom_command(target: Target) -> None:
    """Write what is in the image to dist/ as CycloneDX 1.6, checked against its schema."""
    engine = runner()
    _write_sbom(engine, tag(target))


def show(figures: dict[str, Any], result: Trial) -> None:
    """Print figures and verdicts."""
    console = Console()
    for rows in (summary(figures), [(claim.what, _verdict(claim.held, claim.found)) for claim in result.claims]):
        shown = Table(show_header=False)
        for row in rows:
            shown.add_row(*map(escape, row))
        console.print(shown)


def page(figures: dict[str, Any], result: Trial, about: dict[str, Any]) -> str:
    """The report for people, in Markdown."""
    claims = table(["Claim", "Found"], [(claim.what, _verdict(claim.held, claim.found)) for claim in result.claims])
    return (
        f"# {figures['image']}\n\n{machine(about)} Made by `make image-test TARGET={about['settings']['target']}`.\n\n"
        f"{table(['Figure', 'Value'], summary(figures))}\n{claims}"
    )


def summary(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """The figures that decide, with their units."""
    starts = ", ".join(map(str, figures["seconds_to_ready"]))
    return [
        ("Built and run by", f"{figures['engine']}, on {figures['base']}"),
        ("Size, unpacked", f"{figures['bytes'] / _MB:,.0f} MB"),
        ("Size, layers compressed with gzip", f"{figures['compressed_bytes'] / _MB:,.0f} MB"),
        ("Python packages", str(figures["python_packages"])),
        ("Components in the SBOM", str(figures["sbom_components"])),
        ("From start to ready", f"{figures['median_seconds_to_ready']} s (median of {starts})"),
        ("Memory after a first request", f"{figures['memory_bytes'] / _MB:,.0f} MB"),
        ("From SIGTERM under load to the end", f"{figures['drain']['gone_after_seconds']} s"),
    ]


def _write_sbom(engine: Engine, image: str) -> int:
    """Write the SBOM of an image and return how many components it lists."""
    path = PROJECT / "dist" / f"{image.replace(':', '-')}.cdx.json"
    with tempfile.TemporaryDirectory() as folder:
        engine.extract(image, Path(folder), sbom.wanted)
        bom = sbom.bill(Path(folder), image, engine.config(image))
    sbom.written(bom, path)
    click.echo(f"{path.relative_to(PROJECT)}: {len(bom.components)} components, fits the schema of CycloneDX 1.6")
    return len(bom.components)


def _verdict(held: bool, found: str) -> str:
    return found if held else f"NOT HELD: {found}"


if __name__ == "__main__":
    main()
