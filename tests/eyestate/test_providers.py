from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyestate import providers
from eyestate.providers import SIZES, memory_share


@given(limit=st.integers(1_024, 200_000))
def test_the_sessions_of_all_batch_sizes_stay_within_the_memory_limit(limit: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EYESTATE_GPU_MEMORY", str(limit))
        resizing = int(providers.resizing()["gpu_mem_limit"])
    shares = [memory_share(limit * 2**20, batch) for batch in SIZES]
    assert limit * 2**20 - len(SIZES) < sum(shares) + resizing <= limit * 2**20
    assert shares == sorted(shares)
    assert shares[0] >= 64 * 2**20


class TestCuda:
    def test_convolutions_are_nhwc_on_tensor_cores_with_the_bias_fused_where_that_was_quicker(self) -> None:
        for batch in SIZES:
            options = providers.cuda(batch)
            assert (options["prefer_nhwc"], options["use_tf32"]) == ("1", "1")
            assert options["fuse_conv_bias"] == ("1" if batch == 1_024 else "0")

    def test_memory_is_limited_by_the_setting_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert "gpu_mem_limit" not in providers.cuda(64)
        assert "gpu_mem_limit" not in providers.resizing()
        monkeypatch.setenv("EYESTATE_GPU_MEMORY", "4096")
        assert providers.cuda(64)["gpu_mem_limit"] == str(memory_share(4_096 * 2**20, 64))


class TestTensorrt:
    def test_engines_are_kept_apart_by_network_and_batch_size(self, tmp_path: Path) -> None:
        prefixes = {
            providers.tensorrt(tmp_path / "model.onnx", sha256, batch)["trt_engine_cache_prefix"]
            for sha256 in ("a" * 64, "b" * 64)
            for batch in SIZES
        }
        assert len(prefixes) == 2 * len(SIZES)

    def test_they_are_kept_where_the_setting_says(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("EYESTATE_ENGINES", str(tmp_path))
        options = providers.tensorrt(Path("/models/final_best/model.onnx"), "a" * 64, 16)
        assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "1"
        assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == str(tmp_path)

    @pytest.mark.parametrize(("folder", "kept"), [("", "1"), ("missing", "0")])
    def test_else_beside_the_network_if_that_can_be_written(self, tmp_path: Path, folder: str, kept: str) -> None:
        options = providers.tensorrt(tmp_path / folder / "model.onnx", "a" * 64, 16)
        assert options["trt_engine_cache_enable"] == kept
        assert options["trt_engine_cache_path"] == str(tmp_path / folder / ".tensorrt")
