"""One run: every contestant judged, counted and timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from eyestate.bundle import CascadeBundle, load_model
from eyestate.errors import BundleError
from eyestate.execution import cores
from eyestate.images import Pixels, decode
from eyestate.scorer import Scorer, open_scorer
from eyestate.settings import Device
from tools.benchmarks.accuracy import (
    CHOICE,
    MRL_TEST,
    Judged,
    Test,
    eer,
    judge_network,
    judge_scorer,
    paired_difference,
    read_tests,
)
from tools.benchmarks.contestants import (
    CASCADE,
    FINAL_BEST,
    LITE,
    OWN_LICENCE,
    PEERS,
    Network,
    Own,
    line_up,
    parts,
    quantised,
)
from tools.benchmarks.cost import Cost, cost, peak_memory
from tools.benchmarks.report import Report, Row, TestSet
from tools.benchmarks.speed import mix_runner, network_runners, race, roof
from tools.harness.int8 import calibration_crops
from tools.harness.report import circumstances
from training.data.datasets import data_dir, hold_out, load_crops, load_mrl, split_by_subject

MEMORY_BATCH: Final = 64
MIXED: Final = 512  # crops of either kind
FOOTAGE: Final = 32  # consecutive frames of MRL in the mix


def measure(
    device: Device, peers: Path, *, every: int, batches: Sequence[int], seconds: float, rounds: int, scratch: Path
) -> Report:
    """Measure all that is here.

    Args:
        device: what is timed; accuracy is always that of ONNX Runtime on the CPU.
        peers: the folder of the public models.
        every: one crop in so many judges.
        batches: crops at a time.
        seconds: of each measurement of speed.
        rounds: measurements of each point.
        scratch: where scores are kept and rewritten networks lie.
    """
    tests = read_tests(every)
    found = line_up(peers, scratch / "networks")
    networks = found.networks
    lite = found.get(LITE)
    if isinstance(lite, Own) and tests:
        networks.insert(networks.index(lite) + 1, int8(lite, scratch / "networks"))
    judged = {network.name: judge_network(network, tests, scratch / "scores") for network in networks}
    rows = [
        row(
            network,
            judged[network.name],
            judged.get(FINAL_BEST),
            tests=tests,
            costs=cost(network.onnx),
            memory=peak_memory([network.onnx], MEMORY_BATCH),
        )
        for network in networks
    ]
    crops = mix(tests)
    scorers = {name: open_scorer(load_model(name), device) for name in (FINAL_BEST, LITE) if found.get(name)}
    escalated = None
    try:
        cascade = load_model(CASCADE)
    except BundleError as error:
        found.absent[CASCADE] = error.message
    else:
        assert isinstance(cascade, CascadeBundle)
        scorers[CASCADE] = open_scorer(cascade, device)
        escalated = share_escalated(scorers[CASCADE], crops)
        judged[CASCADE] = judge_scorer(scorers[CASCADE], tests, scratch / "scores")
        rows.append(cascade_row(cascade, judged, tests, escalated))
    return Report(
        about=circumstances(device=device, seconds=seconds, rounds=rounds, threads=cores(), one_crop_in=every),
        device=device,
        tests=[told(test) for test in tests.values()],
        rows=rows,
        absent=found.absent,
        bare_memory=peak_memory([], MEMORY_BATCH),
        speeds=race(list(network_runners(networks, device)), batches, seconds=seconds, rounds=rounds),
        mix=race(
            [mix_runner(name, scorer.score_parts, crops) for name, scorer in scorers.items()] if crops else [],
            batches,
            seconds=seconds,
            rounds=rounds,
        ),
        mix_crops=len(crops),
        mix_escalated=escalated,
        roof=roof(device),
    )


def int8(lite: Own, folder: Path) -> Own:
    """The small network in int8, calibrated on crops that judge nothing."""
    split = split_by_subject(load_mrl(data_dir() / "mrl-eyes.zip").crops)
    pool, _ = hold_out(load_crops(data_dir() / "eyes-dataset.zip").crops)
    return quantised(lite, calibration_crops(split.train, pool, lite.side), folder)


def row(
    network: Network, judged: Judged, reference: Judged | None, *, tests: Mapping[str, Test], costs: Cost, memory: float
) -> Row:
    """A contestant's row, without figures on the test by which parts of crops were chosen."""
    reported = [test for test in tests.values() if test.name != CHOICE]
    differences = {}
    if reference and network.name not in (FINAL_BEST, *PEERS):
        differences = {
            test.name: paired_difference(test, judged.scores[test.name], reference.scores[test.name])
            for test in reported
        }
    return Row(
        name=network.name,
        licence=network.licence,
        note=network.note,
        shown=judged.shown,
        boxes=judged.boxes,
        cost=costs,
        memory=memory,
        eer={test.name: eer(test, judged.scores[test.name]) for test in reported},
        difference=differences,
        escalated={},
    )


def cascade_row(
    cascade: CascadeBundle, judged: Mapping[str, Judged], tests: Mapping[str, Test], escalated: float | None
) -> Row:
    """The row of a cascade. Its arithmetic is that on the mix, of which it escalates a share; without one, all."""
    quick, thorough = cost(cascade.quick.onnx), cost(cascade.thorough.onnx)
    share = 1 if escalated is None else escalated
    both = Cost(
        quick.file + thorough.file,
        quick.parameters + thorough.parameters,
        round(quick.flop + share * thorough.flop),
        round(quick.traffic + share * thorough.traffic),
        quick.weights + thorough.weights,
    )
    found = row(
        Network(CASCADE, cascade.path, OWN_LICENCE),
        judged[CASCADE],
        judged.get(FINAL_BEST),
        tests=tests,
        costs=both,
        memory=peak_memory([cascade.quick.onnx, cascade.thorough.onnx], MEMORY_BATCH),
    )
    unsure, scores = cascade.manifest.unsure, judged[cascade.quick.manifest.name].scores
    shares = {name: float(((scores[name] >= unsure.low) & (scores[name] <= unsure.high)).mean()) for name in found.eer}
    return found.model_copy(update={"escalated": shares})


def mix(tests: Mapping[str, Test]) -> list[Pixels]:
    """What a service may meet: held-out crops, also those that people disagree on, then runs of frames from all over
    MRL's test videos, in their order. None where either is missing.
    """
    unlabelled = data_dir() / "eyes-dataset.zip"
    if MRL_TEST not in tests or not unlabelled.exists():
        return []
    held_out = [decode(crop.data) for crop in hold_out(load_crops(unlabelled).crops)[1][:MIXED]]
    frames = tests[MRL_TEST].pixels
    starts = np.linspace(0, len(frames) - FOOTAGE, MIXED // FOOTAGE).astype(int).clip(0)
    return [*held_out, *(frame for start in starts for frame in frames[start : start + FOOTAGE])]


def share_escalated(cascade: Scorer, crops: Sequence[Pixels]) -> float | None:
    """Share of the crops for which a cascade asks its thorough network; None without crops."""
    if not crops:
        return None
    before = cascade.escalated
    for start in range(0, len(crops), MEMORY_BATCH):
        cascade.score_parts(parts(crops[start : start + MEMORY_BATCH]))
    return (cascade.escalated - before) / len(crops)


def told(test: Test) -> TestSet:
    """A test in figures."""
    subjects = len(set(test.subjects)) if test.subjects else None
    return TestSet(
        name=test.name, what=test.what, crops=len(test.labels), open=int(test.labels.sum()), subjects=subjects
    )
