from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from eyestate.execution import open_session
from eyestate.images import to_input
from tests.tools.benchmarks.conftest import peer_network
from tools.benchmarks.candidates import (
    FINAL_BEST,
    LITE,
    OCEC_P,
    OCEC_S,
    OPENVINO,
    REGIONS,
    TIGHT,
    WHOLE,
    OwnNetwork,
    PeerNetwork,
    dynamic_batch,
    find_candidates,
    group_by_size,
    read_scores,
)

CROP = np.random.default_rng(0).integers(0, 256, (48, 64)).astype(np.uint8)


def peer(offset: float = 0, native_region: str = WHOLE) -> PeerNetwork:
    return PeerNetwork(
        "peer", Path("peer.onnx"), "MIT", width=40, height=24, offset=offset, native_region=native_region
    )


class TestPeer:
    def test_inputs_are_scaled_floats_with_three_equal_channels(self) -> None:
        inputs = peer(offset=127).inputs([CROP, CROP[::-1]], WHOLE)
        assert inputs.shape == (2, 3, 24, 40)
        assert inputs.dtype == np.float32
        assert (inputs[:, 0] == inputs[:, 1]).all()
        assert (inputs[:, 0] == inputs[:, 2]).all()
        (white,) = peer(offset=127).inputs([np.full((32, 32), 255, np.uint8)], WHOLE)
        assert white.min() == white.max() == np.float32(128 / 255)

    @pytest.mark.parametrize("region", REGIONS)
    def test_region_is_centred(self, region: str) -> None:
        """A white rectangle of the region's size on black fills the region, except for the interpolated edge."""
        crop = np.zeros((100, 100), np.uint8)
        width, height = (round(100 * share / 2) for share in REGIONS[region])
        crop[50 - height : 50 + height, 50 - width : 50 + width] = 255
        (shown,) = peer().inputs([crop], region)
        assert shown[0].mean() > 0.98

    def test_native_region_comes_first(self) -> None:
        regions = peer(native_region=TIGHT).regions
        assert regions[0] == TIGHT
        assert sorted(regions) == sorted(REGIONS)


def test_own_network_gets_the_services_inputs() -> None:
    network = OwnNetwork("own", Path("own.onnx"), "Apache-2.0", side=32)
    assert (network.inputs([CROP], WHOLE)[0] == to_input(CROP, 32)).all()
    assert network.example(5).shape == (5, 32, 32)


class TestDynamicBatch:
    def test_scores_are_unchanged(self, peers: Path, tmp_path: Path) -> None:
        network = dynamic_batch(peers / "open-closed-eye.onnx", tmp_path / "new" / "dynamic.onnx")
        session, _ = open_session(network, "cpu")
        crops = np.random.default_rng(0).random((3, 3, 32, 32)).astype(np.float32)
        found = read_scores(session.run(None, {"images": crops})[0])
        assert found == pytest.approx(crops.mean(axis=(1, 2, 3)), abs=1e-6)

    def test_network_that_mixes_crops_is_rejected(self, tmp_path: Path) -> None:
        model = peer_network(32, 32, batch=1)
        model.graph.node.insert(0, helper.make_node("Sub", ["images", "mean_of_all"], ["centred"]))
        model.graph.node.insert(0, helper.make_node("ReduceMean", ["images", "first"], ["mean_of_all"], keepdims=1))
        model.graph.node[2].input[0] = "centred"
        model.graph.initializer.append(helper.make_tensor("first", TensorProto.INT64, [1], [0]))
        onnx.save(model, tmp_path / "mixing.onnx")
        with pytest.raises(ValueError, match=r"mixing\.onnx scores crops differently"):
            dynamic_batch(tmp_path / "mixing.onnx", tmp_path / "dynamic.onnx")


class TestFindCandidates:
    def test_available_networks(
        self, peers: Path, bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("EYESTATE_MODELS", str(bundles))
        found = find_candidates(peers, tmp_path)
        assert [network.name for network in found.networks] == [FINAL_BEST, LITE, OPENVINO, OCEC_P]
        assert found.missing == {OCEC_S: "no ocec_s.onnx in the folder of public models"}
        assert found.get(OCEC_S) is None

    def test_no_networks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EYESTATE_MODELS", str(tmp_path))
        found = find_candidates(tmp_path, tmp_path)
        assert found.networks == []
        assert list(found.missing) == [FINAL_BEST, LITE, OPENVINO, OCEC_P, OCEC_S]


@given(st.lists(st.sampled_from([(8, 8), (8, 9), (16, 8)]), max_size=12))
def test_groups_keep_the_order(sizes: list[tuple[int, int]]) -> None:
    crops = [np.full(size, number, np.uint8) for number, size in enumerate(sizes)]
    found = group_by_size(crops)
    assert [int(crop[0, 0]) for part in found for crop in part] == list(range(len(crops)))
    assert all(before.shape[1:] != after.shape[1:] for before, after in pairwise(found))
