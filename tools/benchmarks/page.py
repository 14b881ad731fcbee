"""The benchmark as Markdown: ``docs/benchmarks.md``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tools.benchmarks.candidates import CASCADE, FINAL_BEST, WHOLE
from tools.benchmarks.report import Report, Row, targets
from tools.benchmarks.speed import Speed
from tools.harness.report import describe_conditions, table

_ROOFLINE_BATCH: Final = 64
_HELD: Final = {True: "held", False: "**not held**", None: "not measured"}


def page(report: Report, gpu: Report | None, picture: str | None) -> str:
    """The page as Markdown.

    Args:
        report: the run on the CPU.
        gpu: the run on a GPU, None if there was none.
        picture: path of the plot relative to the page, None if there is none.
    """
    return "\n".join(_blocks(report, gpu, picture))


def _blocks(report: Report, gpu: Report | None, picture: str | None) -> Iterator[str]:
    yield "# Benchmarks\n"
    yield (
        "This project's models and public eye-state models side by side: accuracy and cost. `make benchmark` measures "
        "everything and generates this page.\n"
    )
    yield f"<!-- standing: benchmarks/{report.device}.json -->\n<!-- end -->\n"
    yield describe_conditions(report.about) + "\n"
    if picture:
        yield f"![EER against crops per second]({picture})\n"
    yield "## Targets\n"
    yield table(["Target", "Found", ""], [(t.wanted, t.found, _HELD[t.held]) for t in targets(report)])
    yield from _accuracy(report)
    yield from _costs(report)
    yield from _speeds(report)
    yield from _mix(report)
    yield from _roofline(report)
    yield "## On a GPU\n"
    if gpu is None:
        yield (
            "Not measured: no GPU was available. `python -m tools.benchmarks --device cuda` runs the same measurement "
            "on one and adds it to this page.\n"
        )
    else:
        yield describe_conditions(gpu.about) + "\n"
        yield from _speed_tables(gpu)
        yield from _roofline(gpu)


def _accuracy(report: Report) -> Iterator[str]:
    yield "## Accuracy\n"
    if not report.evaluation_sets:
        yield "Not measured: the data sets are not available (`$EYESTATE_DATA`).\n"
    tests = [test for test in report.evaluation_sets if any(test.name in row.eer for row in report.rows)]
    for test in tests:
        subjects = f" of {test.subjects} subjects" if test.subjects else ""
        yield f"- {test.what}: {test.crops:,} crops{subjects}, {test.open / test.crops:.0%} of them open"
    yield (
        "\nEER with its 95 % bootstrap interval, over subjects if they are known, otherwise over crops.\n\n"
        "The held-out crops have a side of 24 px, and the labels of their collection; no network of this project "
        "learnt from them. The easy part are those on which at least two annotators agree, with their label.\n\n"
        "The networks that ship have learnt from the people of the other sets. Figures marked * are therefore by "
        "networks that never saw the person: by cross-validation within the same training, from the manifests. The "
        "int8 network, which is converted from the one that ships, has none. Public models are scored as they are.\n"
    )
    yield table(
        ["Model", *(f"EER, {test.what}" for test in tests), "Licence"],
        [
            *((row.name, *(_eer(row, test.name) for test in tests), row.licence) for row in report.rows),
            *((name, *(None for _ in tests), f"not available: {why}") for name, why in report.missing.items()),
        ],
    )
    yield from (f"{row.name}: {row.note}\n" for row in report.rows if row.note)
    choices = [row for row in report.rows if len(row.region_eers) > 1]
    compared = [test for test in report.evaluation_sets if any(test.name in row.region_eers[WHOLE] for row in choices)]
    if compared:
        yield (
            "Public models are given a region of the crop. On MRL, near and far, it is the one with the lowest EER on "
            "the validation subjects. They are among those that it is then judged on, which can only flatter these "
            "models. Other crops are framed differently, so there it is the region that the authors specify, listed "
            "first. EER by region, that of the chosen one in bold:\n"
        )
        yield table(
            ["Model", "Region", *(test.what for test in compared)],
            [
                (row.name, region, *(_choice(row, region, test.name) for test in compared))
                for row in choices
                for region in row.region_eers
            ],
        )


def _costs(report: Report) -> Iterator[str]:
    yield "## Cost\n"
    yield (
        "MFLOP count a multiply-add as two, in convolutions and matrix products. Memory is the peak of a process that "
        "loads the network and scores 64 crops at once; Python and ONNX Runtime alone account for "
        f"{report.baseline_memory:,.0f} MiB.\n"
    )
    yield table(
        ["Model", "File, KiB", "Parameters", "MFLOP per crop", "Memory, MiB"],
        [
            (
                row.name,
                f"{row.cost.file / 1024:,.0f}",
                f"{row.cost.parameters:,}",
                f"{row.cost.flop / 1e6:,.2f}",
                f"{row.memory:,.0f}",
            )
            for row in report.rows
        ],
    )
    cascade = report.row(CASCADE)
    if cascade and cascade.deferred:
        what = {test.name: test.what for test in report.evaluation_sets}
        shares = "; ".join(f"{share:.1%} of {what[name]}" for name, share in cascade.deferred.items())
        yield (
            f"The cascade defers to {FINAL_BEST} on {shares}; of people, as far as networks defer that never saw them. "
            "Its MFLOP are those on the mix below.\n"
        )


def _speeds(report: Report) -> Iterator[str]:
    yield "## Speed of the networks\n"
    yield (
        "Crops per second by batch size with inputs in memory: median over the rounds, range in brackets. All models "
        "take turns within one run; every point is measured in every round, after a warm-up. Computed in float32, "
        "except for the quantised parts of the int8 network. Public models are given floats: scaling pixels is part of "
        "this project's networks but not of theirs.\n"
    )
    yield from _speed_tables(report)


def _speed_tables(report: Report) -> Iterator[str]:
    batches = sorted({speed.batch for speed in report.speeds})
    for engine in report.engines:
        speeds = {row.name: report.by_batch(row.name, engine) for row in report.rows}
        yield table(
            [engine, *(f"batch {batch:,}" for batch in batches)],
            [(name, *(_speed(found.get(batch)) for batch in batches)) for name, found in speeds.items() if found],
        )


def _mix(report: Report) -> Iterator[str]:
    yield "## Speed on a realistic mix\n"
    if not report.mix:
        yield "Not measured: the data sets are not available.\n"
        return
    deferred = (
        "" if report.mix_deferred is None else f" The cascade deferred {report.mix_deferred:.1%} to {FINAL_BEST}."
    )
    yield (
        f"The cost of a cascade depends on the crops. This mix has {report.mix_crops:,} real ones, half of them "
        "held-out crops, half of them MRL's frames in sequences, as in a video. The networks have learnt from MRL's "
        "people, so that the cascade may defer fewer of these frames than of strangers'; [cost](#cost) has the share "
        "of those. "
        f"Scored from greyscale pixels including resizing, {report.mix[0].engine}.{deferred}\n"
    )
    batches = sorted({speed.batch for speed in report.mix})
    names = list(dict.fromkeys(speed.name for speed in report.mix))
    engine = report.mix[0].engine
    rows = [
        (name, *(_speed(report.by_batch(name, engine, mix=True).get(batch)) for batch in batches)) for name in names
    ]
    yield table(["Model", *(f"batch {batch:,}" for batch in batches)], rows)


def _roofline(report: Report) -> Iterator[str]:
    yield (
        f"This machine multiplies large matrices at {report.roofline.flops / 1e9:,.0f} GFLOP/s and copies "
        f"{report.roofline.bandwidth / 1e9:,.1f} GB/s (read and written), in float32. A network whose layers keep "
        "nothing in a cache between them cannot exceed the lower of these two bounds; with caching it can exceed the "
        "memory bound, and with int8 the arithmetic bound. "
        f"Crops/s at batch {_ROOFLINE_BATCH} as a share of each bound:\n"
    )
    rows = []
    for engine in report.engines:
        for row in report.rows:
            speed = report.by_batch(row.name, engine).get(_ROOFLINE_BATCH)
            if speed:
                arithmetic = speed.median * row.cost.flop / report.roofline.flops
                memory = speed.median * row.cost.bytes_per_crop(_ROOFLINE_BATCH) / report.roofline.bandwidth
                rows.append((row.name, engine, f"{arithmetic:.0%}", f"{memory:.0%}"))
    yield table(["Model", "Engine", "of the arithmetic bound", "of the memory bound"], rows)


def _choice(row: Row, region: str, test: str) -> str | None:
    if test not in row.region_eers[region]:
        return None
    return (
        f"**{row.region_eers[region][test]:.4f}**"
        if row.chosen_region[test] == region
        else f"{row.region_eers[region][test]:.4f}"
    )


def _eer(row: Row, test: str) -> str | None:
    if test not in row.eer:
        return None
    found = row.eer[test]
    mark = " *" if test in row.from_manifest else ""
    return f"{found.value:.4f} ({found.low:.4f} to {found.high:.4f}){mark}"


def _speed(speed: Speed | None) -> str | None:
    return None if speed is None else f"{speed.median:,.0f} ({speed.low:,.0f} to {speed.high:,.0f})"
