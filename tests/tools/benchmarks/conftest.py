"""Miniature candidates: bundles that score mean brightness, and peers with float inputs like the public models."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from functools import cache
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from eyestate.arrays import Pixels
from eyestate.bundle import CascadeManifest, DeferralBand, Member, Metric, cascade_sha256, load_bundle
from eyestate.images import to_input
from eyestate.scorer import load
from tests.bundles import write_bundle
from tests.training.conftest import jpeg
from tools.benchmarks.accuracy import STRANGERS
from tools.benchmarks.candidates import CASCADE, FINAL_BEST, LITE
from tools.harness.small_bundle import write_small_bundle
from training.data.datasets import FAR_SIDE
from training.data.split import SPLIT_FOLDS
from training.data.synthetic import SIDE, labelled

FRAMES = 28  # per subject; with as many unlabelled crops enough to calibrate int8
UNLABELLED = 240
PEOPLE = 6  # in the colour photos


def peer_network(width: int, height: int, *, batch: int | str = "batch", classes: int = 0) -> onnx.ModelProto:
    """float32 (batch, 3, height, width) to the mean of each crop, (batch,), or 1 - mean and mean, (batch, 2, 1, 1)."""
    nodes = [helper.make_node("ReduceMean", ["images", "axes"], ["means"], keepdims=0)]
    constants = [helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3])]
    shape: list[int | str] = [batch]
    if classes:
        nodes += [
            helper.make_node("Sub", ["one", "means"], ["rest"]),
            helper.make_node("Unsqueeze", ["rest", "places"], ["closed"]),
            helper.make_node("Unsqueeze", ["means", "places"], ["open"]),
            helper.make_node("Concat", ["closed", "open"], ["scores"], axis=1),
        ]
        constants += [
            helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
            helper.make_tensor("places", TensorProto.INT64, [3], [1, 2, 3]),
        ]
        shape = [batch, classes, 1, 1]
    else:
        nodes.append(helper.make_node("Identity", ["means"], ["scores"]))
    graph = helper.make_graph(
        nodes,
        "mean",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, height, width])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, shape)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def convolution_network(channels: int, side: int) -> onnx.ModelProto:
    """float32 (batch, 3, side, side) to (batch,): a 3×3 convolution over groups of one channel, a product, a sum."""
    random = np.random.default_rng(0)
    weights = {
        "kernel": random.normal(size=(3 * channels, 1, 3, 3)),
        "matrix": random.normal(size=(5, 3 * channels)),
        "column": random.normal(size=(5, 1)),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["images", "kernel"], ["conv"], pads=[1, 1, 1, 1], strides=[2, 2], group=3),
            helper.make_node("GlobalAveragePool", ["conv"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["features"]),
            helper.make_node("Gemm", ["features", "matrix"], ["hidden"], transB=1),
            helper.make_node("MatMul", ["hidden", "column"], ["logits"]),
            helper.make_node("Squeeze", ["logits", "last"], ["scores"]),
        ],
        "convolution",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, side, side])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch"])],
        [
            *(numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()),
            helper.make_tensor("last", TensorProto.INT64, [1], [1]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


@cache
def drawn_eyes() -> list[tuple[Pixels, int]]:
    """A few rendered eyes with their labels: rendering is slow."""
    return list(labelled(16, seed=0))


def eyes(number: int, seed: int, side: int = SIDE) -> Iterator[tuple[Pixels, int]]:
    """Labelled eyes, all different: the rendered ones in turn, with so much noise that none are near-duplicates."""
    random = np.random.default_rng(seed)
    for pixels, label in islice(cycle(drawn_eyes()), number):
        noisy = to_input(pixels, side) + random.normal(0, 20, (side, side))
        yield np.clip(noisy, 0, 255).astype(np.uint8), label


def metrics() -> list[Metric]:
    """As a manifest has them: EERs on people never seen, once by subject and once by crop, and shares."""
    kinds = {"EER": ("95 % bootstrap over subjects", "95 % bootstrap over crops"), "Deferred": ("Wilson, 95 %",)}
    return [
        Metric(name=f"{kind}, {name}", value=0.05, low=0.04 + 0.005 * place, high=0.06, n=100, interval=interval)
        for kind, intervals in kinds.items()
        for name in STRANGERS.values()
        for place, interval in enumerate(intervals)
    ]


def judged(bundle: Path, **changes: str) -> Path:
    """The bundle, its manifest with ``metrics`` and other changes."""
    manifest = load_bundle(bundle).manifest.model_copy(update={"metrics": metrics(), **changes})
    (bundle / "manifest.json").write_text(manifest.model_dump_json())
    return bundle


@pytest.fixture(scope="session")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of peers as ``../shared/peers``; OCEC S is missing."""
    folder = tmp_path_factory.mktemp("peers")
    onnx.save(peer_network(32, 32, batch=1, classes=2), folder / "open-closed-eye.onnx")
    onnx.save(peer_network(40, 24), folder / "ocec_p.onnx")
    return folder


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of bundles: final_best scores brightness, final_best_lite is an untrained network, and their cascade."""
    folder = tmp_path_factory.mktemp("bundles")
    best = load_bundle(judged(write_bundle(folder, FINAL_BEST))).manifest
    lite = judged(write_small_bundle(folder).rename(folder / LITE), name=LITE)
    low, high = np.quantile(load(lite, "cpu").score([pixels for pixels, _ in labelled(16, seed=3)]), [0.3, 0.7])
    small, large = (Member(name=name, sha256=load_bundle(folder / name).manifest.sha256) for name in (LITE, FINAL_BEST))
    band = DeferralBand(low=low, high=high, rule="made for a test")
    cascade = CascadeManifest(
        name=CASCADE,
        sha256=cascade_sha256(small, large, band),
        small=small,
        large=large,
        deferral_band=band,
        **best.model_dump(include={"version", "created", "thresholds", "metrics"}),
    )
    (folder / CASCADE).mkdir()
    (folder / CASCADE / "manifest.json").write_text(cascade.model_dump_json())
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the data sets in their layout, of generated crops.

    They are MRL, colour photos, the unlabelled crops with their collection's labels, and people's answers on two thirds
    of those.
    """
    folder = tmp_path_factory.mktemp("data")
    with zipfile.ZipFile(folder / "mrl-eyes.zip", "w") as archive:
        for subject in range(1, SPLIT_FOLDS + 1):
            for number, (pixels, label) in enumerate(eyes(FRAMES, seed=subject)):
                name = f"mrlEyes_2018_01/s{subject:04d}/s{subject:04d}_{number:05d}_0_0_{label}_0_1_01.jpg"
                archive.writestr(name, jpeg(pixels))
    with zipfile.ZipFile(folder / "colour-eyes.zip", "w") as archive:
        for number, (pixels, label) in enumerate(eyes(8 * PEOPLE, seed=SPLIT_FOLDS + 1)):
            name = f"{('closed', 'open')[label]}/{number % PEOPLE:04d}_{number:05d}.jpg"
            archive.writestr(f"colour/{name}", jpeg(np.stack([pixels] * 3, axis=2)))
    labels, answers = ["file,label"], ["file,label,annotators,votes_open"]
    with zipfile.ZipFile(folder / "eyes-dataset.zip", "w") as archive:
        for number, (pixels, label) in enumerate(eyes(UNLABELLED, SPLIT_FOLDS + 2, FAR_SIDE)):
            archive.writestr(f"EyesDataset/{number:06d}.jpg", jpeg(pixels))
            labels.append(f"{number:06d}.jpg,{('closed', 'open')[label]}")
            if number % 3:
                answers.append(f"{labels[-1]},2,{2 * label}")
    (folder / "held-out-labels.csv").write_text("\n".join(labels) + "\n")
    (folder / "human-labels.csv").write_text("\n".join(answers) + "\n")
    return folder
