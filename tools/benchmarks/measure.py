"""One benchmark run: evaluate, analyse and time every candidate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from eyestate.arrays import Pixels
from eyestate.bundle import CascadeBundle, load_model
from eyestate.errors import BundleError
from eyestate.execution import cores
from eyestate.images import decode
from eyestate.scorer import Scorer, open_scorer
from eyestate.settings import Device
from tools.benchmarks.accuracy import (
    HELD_OUT,
    MRL,
    SELECTION,
    UNSEEN,
    Evaluation,
    EvaluationSet,
    eer,
    evaluate_network,
    evaluate_scorer,
    load_evaluation_sets,
    paired_difference,
    stranger_metrics,
)
from tools.benchmarks.candidates import (
    CASCADE,
    FINAL_BEST,
    LITE,
    OWN_LICENCE,
    PEERS,
    Network,
    OwnNetwork,
    find_candidates,
    group_by_size,
    quantise,
)
from tools.benchmarks.cost import Cost, cost, peak_memory
from tools.benchmarks.report import Report, Row, SetSummary
from tools.benchmarks.speed import measure_roofline, measure_speeds, mix_runner, network_runners
from tools.harness.int8 import calibration_crops
from tools.harness.report import conditions
from training.data.datasets import data_dir, load_crops, load_mrl
from training.data.split import hold_out
from training.evaluation.intervals import Interval

MEMORY_BATCH: Final = 64
MIXED: Final = 512  # crops of each kind
FOOTAGE: Final = 32  # consecutive MRL frames in the mix


def measure(
    device: Device, peers: Path, *, every: int, batches: Sequence[int], seconds: float, rounds: int, scratch: Path
) -> Report:
    """Measure everything that is available.

    Args:
        device: where speed is measured; accuracy is always that of ONNX Runtime on the CPU.
        peers: folder of the public models.
        every: evaluate on every N-th crop.
        batches: batch sizes.
        seconds: duration of each speed measurement.
        rounds: measurements per point.
        scratch: folder for cached scores and rewritten networks.
    """
    sets = load_evaluation_sets(every)
    found = find_candidates(peers, scratch / "networks")
    networks = found.networks
    lite = found.get(LITE)
    if isinstance(lite, OwnNetwork) and {HELD_OUT, MRL} <= sets.keys():
        networks.insert(networks.index(lite) + 1, int8(lite, scratch / "networks"))
    unseen = {name: test for name, test in sets.items() if name in UNSEEN}
    evaluated = {
        network.name: evaluate_network(network, sets if network.name in PEERS else unseen, scratch / "scores")
        for network in networks
    }
    rows = [
        row(
            network,
            evaluated[network.name],
            evaluated.get(FINAL_BEST),
            sets=sets,
            costs=cost(network.onnx),
            memory=peak_memory([network.onnx], MEMORY_BATCH),
        )
        for network in networks
    ]
    crops = mix(sets)
    scorers = {name: open_scorer(load_model(name), device) for name in (FINAL_BEST, LITE) if found.get(name)}
    deferred = None
    try:
        cascade = load_model(CASCADE)
    except BundleError as error:
        found.missing[CASCADE] = error.message
    else:
        assert isinstance(cascade, CascadeBundle)
        scorers[CASCADE] = open_scorer(cascade, device)
        deferred = deferred_share(scorers[CASCADE], crops)
        evaluated[CASCADE] = evaluate_scorer(scorers[CASCADE], unseen, scratch / "scores")
        rows.append(cascade_row(cascade, evaluated, sets, deferred))
    return Report(
        about=conditions(
            *map(load_model, scorers), device=device, seconds=seconds, rounds=rounds, threads=cores(), one_crop_in=every
        ),
        device=device,
        evaluation_sets=[summarise(test) for test in sets.values()],
        rows=rows,
        missing=found.missing,
        baseline_memory=peak_memory([], MEMORY_BATCH),
        speeds=measure_speeds(list(network_runners(networks, device)), batches, seconds=seconds, rounds=rounds),
        mix=measure_speeds(
            [mix_runner(name, scorer.score_parts, crops) for name, scorer in scorers.items()] if crops else [],
            batches,
            seconds=seconds,
            rounds=rounds,
        ),
        mix_crops=len(crops),
        mix_deferred=deferred,
        roofline=measure_roofline(device),
    )


def int8(lite: OwnNetwork, folder: Path) -> OwnNetwork:
    """The small network in int8, calibrated on crops of the kinds that it was trained on."""
    mrl = load_mrl(data_dir() / "mrl-eyes.zip").crops
    pool, _ = hold_out(load_crops(data_dir() / "eyes-dataset.zip").crops)
    return quantise(lite, calibration_crops(mrl, pool, lite.side), folder)


def row(
    network: Network,
    evaluated: Evaluation,
    reference: Evaluation | None,
    *,
    sets: Mapping[str, EvaluationSet],
    costs: Cost,
    memory: float,
) -> Row:
    """The row of a candidate, without figures on the set that selects regions.

    Sets that it was not scored on get the figures of its manifest, where that has them.
    """
    reported = [sets[name] for name in evaluated.scores if name != SELECTION]
    strangers = stranger_metrics("EER", network.metrics, sets.keys() - evaluated.scores.keys())
    differences = {}
    if reference and network.name not in (FINAL_BEST, *PEERS):
        differences = {
            test.name: paired_difference(test, evaluated.scores[test.name], reference.scores[test.name])
            for test in reported
        }
    return Row(
        name=network.name,
        licence=network.licence,
        note=network.note,
        chosen_region=evaluated.chosen_region,
        region_eers=evaluated.region_eers,
        cost=costs,
        memory=memory,
        eer={test.name: eer(test, evaluated.scores[test.name]) for test in reported}
        | {name: Interval(metric.value, metric.low, metric.high) for name, metric in strangers.items()},
        from_manifest=sorted(strangers),
        difference=differences,
        deferred={},
    )


def cascade_row(
    cascade: CascadeBundle,
    evaluated: Mapping[str, Evaluation],
    sets: Mapping[str, EvaluationSet],
    deferred: float | None,
) -> Row:
    """The row of a cascade.

    Its arithmetic includes the large network at the deferral rate of the mix, or in full if there is no mix.
    """
    small, large = cost(cascade.small.onnx), cost(cascade.large.onnx)
    share = 1 if deferred is None else deferred
    both = Cost(
        small.file + large.file,
        small.parameters + large.parameters,
        round(small.flop + share * large.flop),
        round(small.traffic + share * large.traffic),
        small.weights + large.weights,
    )
    found = row(
        Network(CASCADE, cascade.path, OWN_LICENCE, metrics=cascade.manifest.metrics),
        evaluated[CASCADE],
        evaluated.get(FINAL_BEST),
        sets=sets,
        costs=both,
        memory=peak_memory([cascade.small.onnx, cascade.large.onnx], MEMORY_BATCH),
    )
    band, scores = cascade.manifest.deferral_band, evaluated[cascade.small.manifest.name].scores
    shares = {name: float(((some >= band.low) & (some <= band.high)).mean()) for name, some in scores.items()}
    strangers = stranger_metrics("Deferred", cascade.manifest.metrics, sets)
    return found.model_copy(update={"deferred": shares | {name: m.value for name, m in strangers.items()}})


def mix(sets: Mapping[str, EvaluationSet]) -> list[Pixels]:
    """A realistic workload: held-out crops, and sequences of MRL's frames.

    Empty if either data set is missing.
    """
    unlabelled = data_dir() / "eyes-dataset.zip"
    if MRL not in sets or not unlabelled.exists():
        return []
    held_out = [decode(crop.data) for crop in hold_out(load_crops(unlabelled).crops)[1][:MIXED]]
    frames = sets[MRL].pixels
    starts = np.linspace(0, len(frames) - FOOTAGE, MIXED // FOOTAGE).astype(int).clip(0)
    return [*held_out, *(frame for start in starts for frame in frames[start : start + FOOTAGE])]


def deferred_share(cascade: Scorer, crops: Sequence[Pixels]) -> float | None:
    """Share of the crops that a cascade defers to its large network; None without crops."""
    if not crops:
        return None
    before = cascade.deferred
    for start in range(0, len(crops), MEMORY_BATCH):
        cascade.score_parts(group_by_size(crops[start : start + MEMORY_BATCH]))
    return (cascade.deferred - before) / len(crops)


def summarise(test: EvaluationSet) -> SetSummary:
    """An evaluation set for the report."""
    subjects = len(set(test.subjects)) if test.subjects else None
    return SetSummary(
        name=test.name, what=test.what, crops=len(test.labels), open=int(test.labels.sum()), subjects=subjects
    )
