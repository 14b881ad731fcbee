from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eyestate import engine, execution
from eyestate.arrays import Pixels
from eyestate.bundle import Bundle, load_bundle
from eyestate.engine import Engine, cut
from eyestate.execution import BatchSizes, batch_sizes, open_session
from eyestate.settings import Device
from tests.bundles import SIDE, write_bundle

OPENVINO = "OpenVINOExecutionProvider" in onnxruntime.get_available_providers()
DEVICES: list[Device] = ["cpu", "openvino"] if OPENVINO else ["cpu"]


class Watched:
    """A session that notes the batch sizes that it is given."""

    def __init__(self, session: onnxruntime.InferenceSession, given: list[int]) -> None:
        self._session = session
        self._given = given

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def io_binding(self) -> Any:
        self._binding = self._session.io_binding()
        return self

    def bind_cpu_input(self, name: str, batch: Pixels) -> None:
        self._given.append(len(batch))
        self._binding.bind_cpu_input(name, batch)

    def bind_output(self, name: str) -> None:
        self._binding.bind_output(name)

    def run_with_iobinding(self, _: object) -> None:
        self._session.run_with_iobinding(self._binding)

    def copy_outputs_to_cpu(self) -> Any:
        return self._binding.copy_outputs_to_cpu()


def crops(values: list[int]) -> Pixels:
    return np.broadcast_to(np.array(values, np.uint8)[:, None, None], (len(values), SIDE, SIDE))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Of a network that scores brightness."""
    return load_bundle(write_bundle(tmp_path_factory.mktemp("models")))


@pytest.fixture
def given_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batch sizes that all sessions are given."""
    sizes: list[int] = []

    def watched(*args: Any, **options: Any) -> tuple[Watched, str]:
        session, device = open_session(*args, **options)
        return Watched(session, sizes), device

    monkeypatch.setattr(engine, "open_session", watched)
    return sizes


class TestCut:
    @given(
        n=st.integers(0, 3_000),
        more=st.sets(st.integers(2, 300), max_size=5),
        overhead=st.floats(0, 300, allow_nan=False),
    )
    def test_every_crop_is_computed_and_only_the_last_part_has_room_left(
        self, n: int, more: set[int], overhead: float
    ) -> None:
        sizes = (1, *sorted(more))
        parts = cut(n, sizes, overhead)
        assert set(parts) <= set(sizes)
        assert list(parts) == sorted(parts, reverse=True)
        assert sum(parts[:-1]) < n <= sum(parts) if n else parts == ()

    @pytest.mark.parametrize(
        ("n", "parts"),
        [
            (3, (4,)),
            (5, (4, 1)),
            (7, (4, 4)),
            (13, (16,)),
            (16, (16,)),
            (26, (16, 4, 4, 1, 1)),
            (60, (64,)),
            (130, (64, 64, 1, 1)),
        ],
    )
    def test_with_openvino_little_is_padded(self, n: int, parts: tuple[int, ...]) -> None:
        assert cut(n, *batch_sizes("openvino-bf16")[:2]) == parts

    @pytest.mark.parametrize(
        ("n", "parts"),
        [(3, (4,)), (5, (4, 1)), (7, (8,)), (13, (8, 4, 1)), (26, (16, 8, 2)), (61, (64,)), (130, (64, 64, 2))],
    )
    def test_less_still_where_a_session_takes_any_size(self, n: int, parts: tuple[int, ...]) -> None:
        chosen = batch_sizes("cpu-fp32")
        assert cut(n, tuple(sorted(chosen.sizes + chosen.between)), chosen.overhead) == parts

    @pytest.mark.parametrize(("n", "parts"), [(5, (16,)), (17, (64,)), (300, (256, 64)), (900, (1024,))])
    def test_on_a_gpu_padding_is_cheaper_than_another_inference(self, n: int, parts: tuple[int, ...]) -> None:
        assert cut(n, *batch_sizes("cuda-tf32")[:2]) == parts


class TestSizes:
    @pytest.mark.parametrize("device", ["cuda-tf32", "tensorrt-fp16", "openvino-bf16"])
    def test_where_another_size_costs_a_compilation_each_has_a_session_of_its_own(self, device: str) -> None:
        assert batch_sizes(device).fixed

    @pytest.mark.parametrize("device", DEVICES)
    def test_all_are_compiled_at_once_and_no_session_is_ever_given_another(
        self, bundle: Bundle, device: Device, given_sizes: list[int]
    ) -> None:
        opened = Engine(bundle, device, 1)
        assert opened.sizes == ((1, 2, 4, 8, 16, 32, 64) if opened.device == "cpu-fp32" else (1, 4, 16, 64))
        assert set(given_sizes) == set(opened.sizes)
        for n in (*range(1, 70), 300, 1_000):
            opened.run(np.zeros((n, SIDE, SIDE), np.uint8))
        assert set(given_sizes) == set(opened.sizes)

    @pytest.mark.parametrize(
        ("milliseconds", "largest"),
        [
            pytest.param({1: 1.5, 4: 4, 16: 13}, 16, id="quiet"),
            pytest.param({1: 5, 4: 9, 16: 40}, 16, id="twice to three times as slow"),
            pytest.param({1: 9, 4: 25}, 4, id="slow"),
            pytest.param({1: 50}, 1, id="very slow"),
            pytest.param({1: 0.1, 4: 0.3, 16: 1, 64: 4}, 64, id="quick"),
        ],
    )
    def test_the_largest_is_one_that_should_take_40_milliseconds_at_most(
        self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, milliseconds: dict[int, float], largest: int
    ) -> None:
        monkeypatch.setattr(Engine, "_seconds", lambda *args: milliseconds[args[-1]] / 1_000)
        opened = Engine(bundle, "cpu", 1)
        assert opened.sizes[-1] == largest
        assert opened.seconds_per_crop == milliseconds[largest] / 1_000 / largest
        assert opened.seconds_alone == milliseconds[1] / 1_000

    @pytest.mark.parametrize(
        ("milliseconds", "quickest"),
        [
            pytest.param([2, 90, 4, 3, 4], 2, id="slow trials do not count"),
            pytest.param([90, 70], 70, id="no third after a tenth of a second"),
        ],
    )
    def test_they_are_timed_by_the_quickest_of_several_trials(
        self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, milliseconds: list[float], quickest: float
    ) -> None:
        clock = iter([reading for trial in milliseconds for reading in (0, trial / 1_000)])
        monkeypatch.setattr(engine, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
        monkeypatch.setattr(engine, "batch_sizes", lambda _: BatchSizes((1,), 0))
        assert Engine(bundle, "cpu", 1).seconds_per_crop == quickest / 1_000


@pytest.mark.skipif(not OPENVINO, reason="no OpenVINO in this ONNX Runtime")
class TestFloat32BesideBfloat16:
    @pytest.fixture(autouse=True)
    def processor_with_bfloat16(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(execution, "has_bfloat16", lambda: True)

    @pytest.mark.parametrize(
        ("bfloat16", "float32", "chosen"),
        [
            pytest.param(
                {1: 2, 4: 3, 16: 4, 64: 5}, {1: 1, 4: 2, 16: 5, 64: 6}, (1, 4), id="quicker for small batches"
            ),
            pytest.param({1: 2, 4: 3, 16: 4, 64: 5}, {1: 1.9, 4: 2, 16: 3, 64: 4}, (), id="hardly quicker"),
            pytest.param({1: 2, 4: 3, 16: 4, 64: 5}, {1: 3, 4: 1, 16: 1, 64: 1}, (), id="slower for one crop"),
        ],
    )
    def test_float32_computes_the_batch_sizes_up_to_which_it_is_clearly_quicker(
        self,
        bundle: Bundle,
        monkeypatch: pytest.MonkeyPatch,
        bfloat16: dict[int, float],
        float32: dict[int, float],
        chosen: tuple[int, ...],
    ) -> None:
        def seconds(_: Engine, infer: Any, size: int) -> float:
            openvino = "OpenVINOExecutionProvider" in infer.args[0].get_providers()
            return (bfloat16 if openvino else float32)[size] / 1_000

        monkeypatch.setattr(Engine, "_seconds", seconds)
        opened = Engine(bundle, "auto", 1)
        assert (opened.device, opened.float32_sizes, opened.sizes) == ("openvino-bf16", chosen, (1, 4, 16, 64))
        assert opened.seconds_per_crop == 5 / 64 / 1_000
        exact = Engine(bundle, "cpu", 1)
        for n in (1, 3, 16, 70):
            batch = np.random.default_rng(n).integers(0, 256, (n, SIDE, SIDE), np.uint8)
            np.testing.assert_allclose(opened.run(batch), exact.run(batch), atol=2**-8)

    def test_a_single_quick_trial_does_not_decide(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        trials = iter([4, 1, 4, 3])  # of bfloat16, float32, float32, bfloat16 with one crop
        monkeypatch.setattr(engine, "batch_sizes", lambda _: BatchSizes((1,), 0))
        monkeypatch.setattr(Engine, "_seconds", lambda *_: next(trials) / 1_000)
        assert Engine(bundle, "auto", 1).float32_sizes == ()

    @pytest.mark.parametrize("device", ["cpu", "openvino"])
    def test_a_device_that_was_asked_for_computes_all(self, bundle: Bundle, device: Device) -> None:
        assert Engine(bundle, device, 1).float32_sizes == ()


@pytest.mark.parametrize("device", DEVICES)
def test_neither_padding_nor_cutting_changes_a_score(bundle: Bundle, device: Device) -> None:
    opened = Engine(bundle, device, 1)
    exact = [opened.run(crops([value])).item() for value in range(256)]

    @given(values=st.lists(st.integers(0, 255), max_size=300))
    def check(values: list[int]) -> None:
        assert opened.run(crops(values)).tolist() == [exact[value] for value in values]

    check()


@pytest.fixture(scope="module", params=DEVICES)
def shipped(request: pytest.FixtureRequest) -> Engine:
    return Engine(load_bundle("final_best_lite"), request.param, 1)


@given(n=st.integers(1, 100), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_nor_does_it_change_those_of_a_shipped_network(shipped: Engine, n: int, seed: int) -> None:
    """Beyond the precision: sums in another order are rounded differently."""
    batch = np.random.default_rng(seed).integers(0, 256, (n, 32, 32), np.uint8)
    alone = np.concatenate([shipped.run(batch[place : place + 1]) for place in range(n)])
    np.testing.assert_allclose(shipped.run(batch), alone, atol=0.02 if shipped.device.endswith("bf16") else 1e-5)


def test_memory_is_flat_over_all_batch_sizes(shipped: Engine) -> None:
    batch = np.zeros((256, 32, 32), np.uint8)
    shipped.run(batch)
    before = psutil.Process().memory_info().rss
    for n in range(1, 257, 5):
        shipped.run(batch[:n])
    assert psutil.Process().memory_info().rss - before < 2 * 2**20
