"""``python -m loadtests.devices``: the networks of a model on every device and in every precision of this machine."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

import click
import numpy as np
import onnxruntime

from eyestate.arrays import Pixels, Scores
from eyestate.bundle import Bundle, Thresholds
from eyestate.execution import cores, open_session
from eyestate.settings import Device
from tools.harness import crops
from tools.harness.int8 import CALIBRATION_CROPS, calibration_crops, model_inputs, write_int8
from tools.harness.report import REPORTS, conditions, describe_conditions, table, write_report
from tools.harness.servers import SCRATCH
from tools.harness.sessions import openvino_session
from training.data.datasets import LabelledCrop, data_dir, load_crops, load_mrl
from training.data.labels import read_held_out
from training.data.split import hold_out
from training.evaluation.intervals import Interval, bootstrap_eer

BATCHES: Final = (1, 4, 16, 64, 256)
REFERENCE: Final = "ONNX Runtime CPU, fp32"
GPU_PROVIDERS: Final[dict[Device, str]] = {
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_SCORING_BATCH: Final = 64


@dataclass(frozen=True, slots=True)
class Execution:
    """A session and its name."""

    name: str
    session: onnxruntime.InferenceSession


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """Labelled crops as model inputs, uint8 (N, side, side)."""

    name: str
    inputs: Pixels
    labels: Sequence[int]


@dataclass(frozen=True, slots=True)
class Row:
    """One execution: crops per second by batch size, and the difference of its scores from float32's."""

    name: str
    crops_per_second: dict[int, float]
    speedup: float
    largest_difference: float | None
    mean_difference: float | None
    states_changed: float | None
    eer: dict[str, Interval]


class Plan(NamedTuple):
    """Batch sizes, seconds at each point, rounds, and threads of a session."""

    batches: Sequence[int]
    seconds: float
    rounds: int
    threads: int


@dataclass(frozen=True, slots=True)
class Measured:
    """A network: its executions, and the number of crops in each labelled set that they scored."""

    network: str
    sha256: str
    rows: list[Row]
    sets: dict[str, int]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@crops.model_option()
@click.option("--batch", "batches", type=click.IntRange(1), multiple=True, default=BATCHES, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.1), default=2.0, show_default=True, help="At each point.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Each in a different order.")
@click.option("--threads", type=click.IntRange(1), default=cores, show_default="the cores")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), default=REPORTS, show_default=True)
def main(*, model: str, batches: tuple[int, ...], seconds: float, rounds: int, threads: int, output: Path) -> None:
    """Measure crops/s by batch size, score differences and EER of every execution, and write devices.json and .md.

    A cascade is measured network by network. Without the data sets ($EYESTATE_DATA), int8 and scores are skipped and
    only speed is measured.
    """
    bundle = crops.bundle(model)
    about = conditions(bundle, model=bundle.manifest.name, threads=threads, seconds=seconds, rounds=rounds)
    thresholds = bundle.manifest.thresholds
    plan = Plan(batches, seconds, rounds, threads)
    parts = [measure(network, thresholds, plan) for network in crops.networks(bundle)]
    title = f"# Devices and precisions, `{bundle.manifest.name}`\n"
    text = "\n".join([title, f"{describe_conditions(about)}\n", *map(page, parts)])
    write_report(output, "devices", {"about": about, "networks": [dataclasses.asdict(part) for part in parts]}, text)
    click.echo("\n" + text)


def measure(network: Bundle, thresholds: Thresholds, plan: Plan) -> Measured:
    """Measure every execution of a network; verdicts are those by the thresholds of the model that it is a part of."""
    side = network.manifest.input.side
    int8, sets = None, []
    if data_dir().is_dir():
        mrl = load_mrl(data_dir() / "mrl-eyes.zip").crops
        unlabelled = data_dir() / "eyes-dataset.zip"
        SCRATCH.mkdir(parents=True, exist_ok=True)
        int8 = SCRATCH / f"{network.manifest.name}-int8.onnx"
        pool, _ = hold_out(load_crops(unlabelled).crops)
        write_int8(network.onnx, calibration_crops(mrl, pool, side), int8)
        held_out = read_held_out(unlabelled, data_dir() / "held-out-labels.csv")
        sets = [labelled_set("held-out crops", held_out, side)]
    found = list(executions(network, int8, plan.threads))
    speeds = measure_speeds(found, side, plan.batches, plan.seconds, plan.rounds)
    rows = compare(found, speeds, sets, thresholds)
    sizes = {item.name: len(item.labels) for item in sets}
    return Measured(network.manifest.name, network.manifest.sha256, rows, sizes)


def executions(bundle: Bundle, int8: Path | None, threads: int) -> Iterator[Execution]:
    """The executions available on this machine; the first is the reference.

    Args:
        bundle: the network in float32 (its weights stored in float16).
        int8: the quantised network, None to skip it.
        threads: per CPU session.
    """
    available = onnxruntime.get_available_providers()
    yield Execution(REFERENCE, open_session(bundle.onnx, "cpu", threads)[0])
    if int8 is not None:
        yield Execution("ONNX Runtime CPU, int8", open_session(int8, "cpu", threads)[0])
    if "OpenVINOExecutionProvider" in available:
        yield Execution("OpenVINO, fp32", openvino_session(bundle.onnx, "f32", threads))
        yield Execution("OpenVINO, bf16", openvino_session(bundle.onnx, "bf16", threads))
        if int8 is not None:
            yield Execution("OpenVINO, int8, the rest fp32", openvino_session(int8, "f32", threads))
            yield Execution("OpenVINO, int8, the rest bf16", openvino_session(int8, "bf16", threads))
    for device, provider in GPU_PROVIDERS.items():
        if provider in available:
            session, name = open_session(bundle.onnx, device, threads)
            if provider in session.get_providers():
                yield Execution(name, session)


def labelled_set(name: str, labelled: Sequence[LabelledCrop], side: int) -> LabelledSet:
    """Decode labelled crops."""
    return LabelledSet(name, model_inputs(labelled, side), [crop.label for crop in labelled])


def measure_speeds(
    found: Sequence[Execution], side: int, batches: Sequence[int], seconds: float, rounds: int
) -> dict[str, dict[int, float]]:
    """Crops per second by execution and batch size: the median over rounds that take all in turn."""
    speeds: dict[str, dict[int, list[float]]] = {item.name: {batch: [] for batch in batches} for item in found}
    random = np.random.default_rng(0)
    for turn in range(rounds):
        shift = turn % len(found)
        for batch in batches:
            pixels = random.integers(0, 256, (batch, side, side)).astype(np.uint8)
            for item in [*found[shift:], *found[:shift]]:
                speed = crops_per_second(item.session, pixels, seconds)
                speeds[item.name][batch].append(speed)
                click.echo(f"round {turn + 1}, batch {batch:>3}, {item.name:<30} {speed:>10,.1f} crops/s")
    return {name: {batch: median(values) for batch, values in by_batch.items()} for name, by_batch in speeds.items()}


def crops_per_second(session: onnxruntime.InferenceSession, pixels: Pixels, seconds: float) -> float:
    """Throughput with batches of ``pixels``, uint8 (N, side, side), after two warm-up runs."""
    feed = {session.get_inputs()[0].name: pixels}
    for _ in range(2):
        session.run(None, feed)
    count, started = 0, time.perf_counter()
    while count == 0 or time.perf_counter() < started + seconds:
        session.run(None, feed)
        count += 1
    return count * len(pixels) / (time.perf_counter() - started)


def scores(session: onnxruntime.InferenceSession, pixels: Pixels) -> Scores:
    """P(open) of model inputs, uint8 (N, side, side): float32 (N,)."""
    name = session.get_inputs()[0].name
    starts = range(0, len(pixels), _SCORING_BATCH)
    return np.concatenate([session.run(None, {name: pixels[i : i + _SCORING_BATCH]})[0] for i in starts])


def compare(
    found: Sequence[Execution],
    speeds: dict[str, dict[int, float]],
    sets: Sequence[LabelledSet],
    thresholds: Thresholds,
) -> list[Row]:
    """A row per execution; differences are from the first one's scores."""
    rows: list[Row] = []
    reference: Scores | None = None
    for item in found:
        parts = {labelled.name: scores(item.session, labelled.inputs) for labelled in sets}
        joined = np.concatenate(list(parts.values())) if parts else None
        reference = joined if reference is None else reference
        differences = None if joined is None or reference is None else np.abs(joined - reference)
        by_batch = speeds[item.name]
        row = Row(
            item.name,
            {batch: round(speed, 1) for batch, speed in by_batch.items()},
            round(max(by_batch.values()) / max(speeds[found[0].name].values()), 2),
            None if differences is None else round(float(differences.max()), 4),
            None if differences is None else round(float(differences.mean()), 5),
            None if joined is None or reference is None else states_changed(joined, reference, thresholds),
            {j.name: bootstrap_eer(parts[j.name], j.labels) for j in sets},
        )
        rows.append(row)
    return rows


def states_changed(found: Scores, reference: Scores, thresholds: Thresholds) -> float:
    """Share of the crops whose state (open, closed or uncertain) differs."""
    verdicts = [(s >= thresholds.open).astype(int) - (s <= thresholds.closed).astype(int) for s in (found, reference)]
    return round(float((verdicts[0] != verdicts[1]).mean()), 5)


def page(measured: Measured) -> str:
    """The measurement of a network as Markdown."""
    rows = measured.rows
    batches = list(rows[0].crops_per_second)
    labelled = " and ".join(f"{number:,} {name}" for name, number in measured.sets.items())
    parts = [
        f"## `{measured.network}`\n",
        "Crops per second by batch size, medians over rounds that take all executions in turn; the ratio compares "
        "best batch sizes.\n",
        table(
            ["Execution", *(f"{batch}" for batch in batches), "÷ fp32"],
            [
                (row.name, *(f"{row.crops_per_second[batch]:,.0f}" for batch in batches), f"{row.speedup:.2f}")
                for row in rows
            ],
        ),
    ]
    if measured.sets:
        parts += [
            f"Scores of {labelled}, which no network was trained on, compared with those of {REFERENCE}; int8 was "
            f"calibrated on {CALIBRATION_CROPS} other crops. EERs have 95 % bootstrap intervals over crops.\n",
            table(
                [
                    *("Execution", "Largest difference", "Mean difference", "States changed"),
                    *(f"EER, {name}" for name in measured.sets),
                ],
                [
                    (
                        row.name,
                        f"{row.largest_difference:.4f}",
                        f"{row.mean_difference:.5f}",
                        f"{row.states_changed:.2%}",
                        *(eer_cell(row.eer[name]) for name in measured.sets),
                    )
                    for row in rows
                ],
            ),
        ]
    return "\n".join(parts)


def eer_cell(eer: Interval) -> str:
    """An EER and its interval for a table."""
    return f"{eer.value:.4f} ({eer.low:.4f} to {eer.high:.4f})"


if __name__ == "__main__":
    main()
