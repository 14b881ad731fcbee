from __future__ import annotations

import subprocess
from pathlib import Path

import onnx
import pytest

from tests.tools.benchmarks.conftest import convolution_network
from tools.benchmarks.cost import cost, peak_memory
from tools.harness.small_bundle import SIDE, mflop, small_network


def test_counts_match_a_hand_calculation(tmp_path: Path) -> None:
    """3 channels of 8×8 to 6 of 4×4, each by 3×3 weights of one channel; 6 to 5 to 1."""
    onnx.save(convolution_network(2, 8), tmp_path / "network.onnx")
    found = cost(tmp_path / "network.onnx")
    assert found.flop == 2 * (6 * 4 * 4 * 9 + 6 * 5 + 5 * 1)
    assert found.parameters == 6 * 9 + 6 * 5 + 5
    assert found.traffic == 4 * (3 * 64 + 6 * 16 + 6 + 5 + 5 + 1)
    assert found.weights == 4 * found.parameters
    assert found.bytes_per_crop(10) == found.traffic + found.weights / 10
    assert found.file == (tmp_path / "network.onnx").stat().st_size


def test_counts_match_the_small_network(tmp_path: Path) -> None:
    onnx.save(small_network(), tmp_path / "small.onnx")
    found = cost(tmp_path / "small.onnx")
    assert found.flop == pytest.approx(mflop() * 1e6 + 2 * 64)
    assert found.traffic > SIDE**2


def test_peak_memory_grows_with_network_and_batch(bundles: Path) -> None:
    """Python alone needs less, and a batch of 500 needs more."""
    network = bundles / "final_best_lite" / "model.onnx"
    bare, few, many = peak_memory([], 1), peak_memory([network], 1), peak_memory([network], 500)
    assert 10 < bare < few < many < 2000


def test_broken_network_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"broken")
    with pytest.raises(subprocess.CalledProcessError):
        peak_memory([tmp_path / "broken.onnx"], 1)
