"""``python -m tools.figures``: fill in the figures of README and docs from the reports and models that they describe.

A block between ``<!-- figures: NAME -->`` and ``<!-- end -->`` is generated here. ``<!-- standing: WHAT -->`` is filled
with what the figures around it were measured on: WHAT is a report, or a model and its version where there is no report.
The sentence says so in bold if another version of the model ships now.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Final

import click

from eyestate.atomic import write_atomically
from eyestate.bundle import Bundle, CascadeBundle, load_model, models_dir
from eyestate.mtcnn import FaceDetector
from tools import speed_tables
from tools.benchmarks.cost import cost
from tools.harness.report import identity, table
from tools.harness.servers import PROJECT

REPORTS: Final = PROJECT / "reports"
PAGES: Final = (PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md")))
SHOWN: Final = ("cascade", "final_best", "final_best_lite")

# Reports of models that do not ship: they compare what was tried.
OF_OTHER_MODELS: Final = frozenset({"input_size.json", "pipeline/results.json"})
# Reports that are older than the models that ship now. What is measured anew leaves this list, or the tests fail.
KNOWN_STALE: Final = frozenset(
    {
        "container/cuda.json",
        "serving/bulk-small.json",
        "serving/chaos-soak.json",
        "serving/peers-small.json",
    }
)

_BLOCK: Final = re.compile(r"(<!-- (figures|standing): (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)
_HELD_OUT: Final = "all held-out crops"
_NOT_HELD_OUT: Final = "crops of the unlabelled set that are not held out"
_EASY: Final = "held-out crops on which people agree, the easy part"
_MRL: Final = "MRL, people never seen"
_MRL_24: Final = "MRL, people never seen, at 24 px"
_COLOUR: Final = "colour, people never seen"


@cache
def shipped() -> dict[str, dict[str, str]]:
    """Name, version and SHA-256 of every model that ships, by name."""
    bundles = [load_model(str(manifest.parent)) for manifest in sorted(models_dir().glob("*/manifest.json"))]
    return {each["name"]: each for each in map(identity, [*bundles, FaceDetector()])}


def reports() -> dict[str, dict[str, Any]]:
    """The reports on models that ship, by path within ``reports/``."""
    paths = {path.relative_to(REPORTS).as_posix(): path for path in sorted(REPORTS.glob("*/*.json"))}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if name not in OF_OTHER_MODELS}


def measured_models(report: dict[str, Any]) -> list[dict[str, str]]:
    """The models that a report names, by ``name`` and ``sha256``; none in reports of version 1.0."""
    if "sha256" in report:
        return [{"name": report["model"], "sha256": report["sha256"]}]
    found: list[dict[str, str]] = report.get("about", {}).get("models", [])
    return found


def is_current(report: dict[str, Any]) -> bool:
    """Whether a report names the models it measured, and those of them that ship do so unchanged."""
    named = measured_models(report)
    ours = [each for each in named if each["name"] in shipped()]
    return bool(named) and all(shipped()[each["name"]]["sha256"] == each["sha256"] for each in ours)


def filled(text: str) -> str:
    """A page with its blocks generated anew.

    Raises:
        KeyError: there is no such block.
        FileNotFoundError: there is no such report.
    """
    return _BLOCK.sub(lambda block: f"{block[1]}{_made(block[2], block[3])}{block[4]}", text)


def _made(kind: str, name: str) -> str:
    return f"\n{(BLOCKS[name]() if kind == 'figures' else standing(name)).strip()}\n\n"


def standing(what: str) -> str:
    """A sentence on what figures were measured on, in bold if it is not what ships."""
    if not what.endswith(".json"):
        name, version = what.split()
        now = shipped()[name]["version"]
        return f"Measured on `{name}` {version}." if now == version else _old(f"version {version} of `{name}`")
    report = json.loads((REPORTS / what).read_text())
    models = measured_models(report)
    found = " and ".join(f"`{each['name']}` (SHA-256 `{each['sha256'][:12]}`)" for each in models)
    about = report.get("about", {})
    date, processor = about.get("measured", "")[:10], about.get("cpu", "")
    on = f"{found or 'version 1.0 of the models'}{f', {date}' if date else ''}"
    on += f", on {processor}" if "(" in processor else ""  # older reports do not tell its instructions
    return f"Measured on {on}." if is_current(report) else _old(on)


def _old(what: str) -> str:
    return f"**Measured on {what}, not on what ships now.**"


def stale_reports() -> str:
    """The reports that are older than the models."""
    stale = [name for name, report in reports().items() if not is_current(report)]
    if not stale:
        return "None: every report is of the models that ship."
    return "\n".join(f"- [`reports/{name}`](../reports/{name})" for name in stale)


def errors() -> str:
    """The errors of the default model, as a point of README's list."""
    name = SHOWN[0]
    low, high = _metric(name, _MRL)[1:]
    worst = max(json.loads((REPORTS / name / "evaluation.json").read_text())["by_person"])
    people = "half-shut and disputed eyes included"
    text = (
        f"- **Errors depend on the eyes.** EER of the default model: {_value(name, _HELD_OUT)} on all "
        f"{_crops(name, _HELD_OUT)} held-out 24-px crops, {people}; {_value(name, _EASY)} on the easy "
        f"{_crops(name, _EASY)}, on which people agree; {_value(name, _MRL)} on infrared frames of people it had "
        f"never seen ({low:.3f} to {high:.3f}), and {_value(name, _COLOUR)} on colour photos, some of whose labels are "
        f"wrong. For the worst of MRL's people it is {worst:.3f}."
    )
    return textwrap.fill(text, 120, subsequent_indent="  ")


def summary() -> str:
    """README's table of the models."""
    held_out = f"all {_crops(SHOWN[0], _HELD_OUT)} held-out crops"
    sets = {held_out: _HELD_OUT, "MRL, people never seen": _MRL, "colour photos, people never seen": _COLOUR}
    rows = [[f"EER, {what}", *(_value(name, of) for name in SHOWN)] for what, of in sets.items()]
    return _models("models", [*rows, ["MFLOP a crop", *map(_megaflop, SHOWN)]])


def models() -> str:
    """The table of docs/models.md."""
    sets = {
        f"all {_crops(SHOWN[0], _HELD_OUT)} held-out crops of the unlabelled set": _HELD_OUT,
        f"the easy part of them, {_crops(SHOWN[0], _EASY)} on which people agree": _EASY,
        "MRL, 28 people, each scored by networks that never saw them": _MRL,
        "the same crops shrunk to 24 px": _MRL_24,
        "colour photos, people never seen": _COLOUR,
    }
    rows = [["MFLOP a crop; file", *(f"{_megaflop(name)}; {_megabytes(name)} MB" for name in SHOWN)]]
    for what, of in sets.items():
        found = [_metric(name, of) for name in SHOWN]
        rows.append([f"EER, {what}", *(f"{value:.3f} ({low:.3f} to {high:.3f})" for value, low, high in found)])
    kinds = ("Uncertain", "Wrong among the sure")
    sure = [" / ".join(f"{_metric(name, _HELD_OUT, kind)[0]:.1%}" for kind in kinds) for name in SHOWN]
    rows.append(["Uncertain / wrong among the sure, all held-out crops", *sure])
    return _models("../models", rows)


def image() -> str:
    """The table of docs/container.md."""
    found = {target: json.loads((REPORTS / "container" / f"{target}.json").read_text()) for target in ("cpu", "cuda")}
    return table(
        ["", "CPU", "CUDA"],
        [
            ["Size, unpacked", *(f"{each['bytes'] / 1e6:,.0f} MB" for each in found.values())],
            ["Compressed size", *(f"{each['compressed_bytes'] / 1e6:,.0f} MB" for each in found.values())],
            ["Components in the SBOM", *(str(each["sbom_components"]) for each in found.values())],
            ["Measured", *(each["about"]["measured"][:10] for each in found.values())],
        ],
    )


def drift() -> str:
    """The indices of drift in docs/metrics.md."""
    head = ["Crops", "`score`", "`width`", "`brightness`", "`sharpness`", "uncertain"]
    rows = []
    for row in _rows("drift-examples"):
        indices = [f"{row['indices'][feature.strip('`')]:.2f}" for feature in head[1:-1]]
        rows.append([row["crops"], *indices, f"{row['uncertain']:.1%}"])
    return table(head, rows)


def quality() -> str:
    """The errors by the quality of crops in docs/metrics.md."""
    rows = []
    for row in _rows("quality-limits"):
        bounds = ["" if bound is None else f"{bound:g}" for bound in (row["low"], row["high"])]
        eer = None if row["eer"] is None else f"{row['eer']:.3f}"
        rows.append([row["figure"], *bounds, f"{row['crops']:,}", eer, f"{row['uncertain']:.3f}"])
    return table(["Figure", "From", "To", "Crops", "EER", "Uncertain"], rows)


def _rows(report: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((REPORTS / SHOWN[0] / f"{report}.json").read_text())["rows"]
    return found


BLOCKS: Final[dict[str, Callable[[], str]]] = {
    "drift": drift,
    "errors": errors,
    "image": image,
    "models": models,
    "quality": quality,
    "stale reports": stale_reports,
    "summary": summary,
    **speed_tables.BLOCKS,
}


def _models(folder: str, rows: list[list[str]]) -> str:
    cards = [f"[`{name}`]({folder}/{name}/README.md)" for name in SHOWN]
    return table(["", f"{cards[0]} (default)", *cards[1:]], rows)


@cache
def _bundle(name: str) -> Bundle | CascadeBundle:
    return load_model(name)


def _metric(name: str, of: str, kind: str = "EER") -> tuple[float, float, float]:
    """Value and interval of a figure in a model's manifest; over people where they are known."""
    found = next(each for each in _bundle(name).manifest.metrics if each.name == f"{kind}, {of}")
    return found.value, found.low, found.high


def _value(name: str, of: str) -> str:
    return f"{_metric(name, of)[0]:.3f}"


def _crops(name: str, of: str) -> str:
    return f"{next(each.n for each in _bundle(name).manifest.metrics if each.name == f'EER, {of}'):,}"


def _networks(bundle: Bundle | CascadeBundle) -> Iterator[tuple[Bundle, float]]:
    """The networks of a bundle, and the share of the crops of the unlabelled set that each scores."""
    if isinstance(bundle, Bundle):
        yield bundle, 1.0
    else:
        yield bundle.small, 1.0
        yield bundle.large, _metric(bundle.manifest.name, _NOT_HELD_OUT, "Deferred")[0]


def _megaflop(name: str) -> str:
    found = sum(cost(network.onnx).flop * share for network, share in _networks(_bundle(name))) / 1e6
    return f"{found:.2g}" if found < 100 else f"{found:.0f}"


def _megabytes(name: str) -> str:
    return f"{sum(network.onnx.stat().st_size for network, _ in _networks(_bundle(name))) / 1e6:.2g}"


@click.command()
def main() -> None:
    """Fill in the figures of README.md and docs/ from the reports and the models."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            write_atomically(page, new)
            click.echo(f"wrote {page.relative_to(PROJECT)}")


if __name__ == "__main__":
    main(prog_name="python -m tools.figures")
