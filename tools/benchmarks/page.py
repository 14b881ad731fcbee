"""The benchmark in words and tables: ``docs/benchmarks.md``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tools.benchmarks.contestants import CASCADE, FINAL_BEST
from tools.benchmarks.report import Report, Row, targets
from tools.benchmarks.speed import Speed
from tools.harness.report import described, table
from training.evaluation.eer import Interval

_ROOF_BATCH: Final = 64
_HELD: Final = {True: "held", False: "**not held**", None: "not measured"}


def page(report: Report, gpu: Report | None, picture: str | None) -> str:
    """The page as Markdown.

    Args:
        report: the run on the CPU.
        gpu: the run on a GPU, None where there was none.
        picture: where the plot lies, relative to the page; None where there is none.
    """
    return "\n".join(_blocks(report, gpu, picture))


def _blocks(report: Report, gpu: Report | None, picture: str | None) -> Iterator[str]:
    yield "# Benchmarks\n"
    yield (
        "The models of this project beside the public eye-state models: how often each of them errs, and what it "
        "costs. `make benchmark` measures all of it and writes this page; nothing here is written by hand.\n"
    )
    yield described(report.about) + "\n"
    if picture:
        yield f"![EER against crops per second]({picture})\n"
    yield "## What was wanted\n"
    yield table(["Wanted", "Found", ""], [(t.wanted, t.found, _HELD[t.held]) for t in targets(report)])
    yield from _accuracy(report)
    yield from _costs(report)
    yield from _speeds(report)
    yield from _mix(report)
    yield from _roof(report)
    yield "## On a GPU\n"
    if gpu is None:
        yield (
            "Not measured: no GPU was at hand. `python -m tools.benchmarks --device cuda` measures the same there and "
            "adds it to this page.\n"
        )
    else:
        yield described(gpu.about) + "\n"
        yield from _speed_tables(gpu)
        yield from _roof(gpu)


def _accuracy(report: Report) -> Iterator[str]:
    yield "## Accuracy\n"
    if not report.tests:
        yield "Not measured: the data sets are not here (`$EYESTATE_DATA`).\n"
    tests = [test for test in report.tests if any(test.name in row.eer for row in report.rows)]
    for test in tests:
        subjects = f" of {test.subjects} subjects" if test.subjects else ""
        yield f"- {test.what}: {test.crops:,} crops{subjects}, {test.open / test.crops:.0%} of them open"
    yield (
        "\nEER with its 95 % interval by bootstrap, over subjects where they are known, else over crops. No network of "
        "this project has learnt from any of these crops. Of the held-out crops, 24 px a side, those judge on which at "
        "least two people agree.\n"
    )
    yield table(
        ["Model", *(f"EER, {test.what}" for test in tests), "Licence"],
        [
            *((row.name, *(_interval(row.eer.get(test.name)) for test in tests), row.licence) for row in report.rows),
            *((name, *(None for _ in tests), f"not here: {why}") for name, why in report.absent.items()),
        ],
    )
    yield from (f"{row.name}: {row.note}\n" for row in report.rows if row.note)
    choices = [row for row in report.rows if len(row.boxes) > 1]
    if tests and choices:
        yield (
            "The peers look at a part of the crop. On MRL it is the part with the lowest EER on its validation "
            "subjects; on the held-out crops, framed otherwise, the part that the peer's authors name, which is the "
            "first of its rows here. In bold what the table above took:\n"
        )
        yield table(
            ["Model", "Shown", *(test.what for test in report.tests)],
            [
                (row.name, box, *(_choice(row, box, test.name) for test in report.tests))
                for row in choices
                for box in row.boxes
            ],
        )


def _costs(report: Report) -> Iterator[str]:
    yield "## Cost\n"
    yield (
        "MFLOP count a multiply-add as two, in convolutions and matrix products. Memory is the peak of a process that "
        f"loads the network and scores 64 crops at once; Python and ONNX Runtime alone take {report.bare_memory:,.0f} "
        "MiB of it.\n"
    )
    yield table(
        ["Model", "File, KiB", "Parameters", "MFLOP a crop", "Memory, MiB"],
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
    if cascade and cascade.escalated:
        what = {test.name: test.what for test in report.tests}
        shares = "; ".join(f"{share:.1%} of {what[name]}" for name, share in cascade.escalated.items())
        yield f"The cascade asks {FINAL_BEST} about {shares}. Its MFLOP are those of the mix below.\n"


def _speeds(report: Report) -> Iterator[str]:
    yield "## Speed of the networks\n"
    yield (
        "Crops per second by batch size, inputs at hand: the median of the rounds and, in brackets, their range. All "
        "contestants take turns in one run, each point is measured in every round, after a warm-up. All computed in "
        "float32, but for the parts of the int8 network that are quantised. The peers get floats: scaling to them is "
        "part of this project's networks and not of theirs.\n"
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
        yield "Not measured: the data sets are not here.\n"
        return
    escalated = (
        "" if report.mix_escalated is None else f" The cascade asked {FINAL_BEST} about {report.mix_escalated:.1%}."
    )
    yield (
        f"What a cascade costs depends on the crops. {report.mix_crops:,} real ones: held-out crops of the unlabelled "
        "set, also those that people disagree on, and as many frames of MRL's test subjects, in runs as a video "
        f"brings them. Scored from grey pixels, resizing included, {report.mix[0].engine}.{escalated}\n"
    )
    batches = sorted({speed.batch for speed in report.mix})
    names = list(dict.fromkeys(speed.name for speed in report.mix))
    engine = report.mix[0].engine
    rows = [
        (name, *(_speed(report.by_batch(name, engine, mix=True).get(batch)) for batch in batches)) for name in names
    ]
    yield table(["Model", *(f"batch {batch:,}" for batch in batches)], rows)


def _roof(report: Report) -> Iterator[str]:
    yield (
        f"This machine multiplies large matrices at {report.roof.flops / 1e9:,.0f} GFLOP/s and copies "
        f"{report.roof.bandwidth / 1e9:,.1f} GB/s (read and written), in float32. A network whose layers keep nothing "
        "in a cache between them can't be faster than the slower of the two allows; one that does can beat that of "
        "memory, and int8 that of arithmetic. "
        f"Crops/s at batch {_ROOF_BATCH} as a share of either bound:\n"
    )
    rows = []
    for engine in report.engines:
        for row in report.rows:
            speed = report.by_batch(row.name, engine).get(_ROOF_BATCH)
            if speed:
                arithmetic = speed.median * row.cost.flop / report.roof.flops
                memory = speed.median * row.cost.bytes_per_crop(_ROOF_BATCH) / report.roof.bandwidth
                rows.append((row.name, engine, f"{arithmetic:.0%}", f"{memory:.0%}"))
    yield table(["Model", "Engine", "of its arithmetic", "of its memory"], rows)


def _choice(row: Row, box: str, test: str) -> str | None:
    if test not in row.boxes[box]:
        return None
    return f"**{row.boxes[box][test]:.4f}**" if row.shown[test] == box else f"{row.boxes[box][test]:.4f}"


def _interval(eer: Interval | None) -> str | None:
    return None if eer is None else f"{eer.value:.4f} ({eer.low:.4f} to {eer.high:.4f})"


def _speed(speed: Speed | None) -> str | None:
    return None if speed is None else f"{speed.median:,.0f} ({speed.low:,.0f} to {speed.high:,.0f})"
