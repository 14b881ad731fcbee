"""The path of a GPU, as far as a CPU can go it: the same graphs, buffers, threads and sizes."""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from eyestate import engine, execution, gpu, gpu_errors
from eyestate.arrays import Pixels
from eyestate.bundle import Bundle, load_bundle
from eyestate.engine import Engine
from eyestate.errors import DeviceError
from eyestate.gpu import FixedSession, Resizer, Turns, page_locked
from eyestate.scorer import Network
from tests.bundles import SIDE, write_bundle
from tests.eyestate.test_gpu_errors import DURING_A_RUN, cuda

OUT_OF_MEMORY = RuntimeError(f"{DURING_A_RUN}{cuda(2, 'out of memory')}")
LOST = RuntimeError(f"{DURING_A_RUN}{cuda(719, 'unspecified launch failure')}")


class Sessions:
    """Stands in for ``FixedSession``, with buffers in the CPU's memory, and fails where it is told to."""

    def __init__(self) -> None:
        self.opened: list[int] = []
        self.given: list[tuple[int, ...]] = []
        self.threads: set[int] = set()
        self.fails: Callable[[int], Exception | None] = lambda _: None

    def __call__(self, session: Any, manifest: Any, size: int, resizer: Resizer | None) -> Callable[[Pixels], Any]:
        self.opened.append(size)
        run = FixedSession(session, manifest, size, resizer, "cpu")

        def infer(crops: Pixels) -> Any:
            assert len(crops) <= size
            self.given.append((size, *crops.shape[1:]))
            self.threads.add(threading.get_ident())
            if error := self.fails(size):
                raise error
            return run(crops)

        return infer


@contextmanager
def fake_gpu() -> Iterator[Sessions]:
    """What the engine takes for the sessions of a GPU; ONNX Runtime's CPU kernels compute."""
    made = Sessions()
    make_session = execution._session
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(execution._PROVIDERS, "cuda", "CPUExecutionProvider")
        patch.setattr(gpu_errors, "no_driver", lambda: None)
        patch.setattr(engine, "FixedSession", made)
        patch.setattr(engine, "Resizer", partial(Resizer, place="cpu"))
        patch.setattr(execution, "_session", lambda network, options, _: make_session(network, options, {"cpu": {}}))
        yield made


@pytest.fixture
def sessions() -> Iterator[Sessions]:
    with fake_gpu() as made:
        yield made


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Of a network that scores brightness."""
    return load_bundle(write_bundle(tmp_path_factory.mktemp("models")))


@pytest.fixture(scope="module")
def lite() -> Bundle:
    return load_bundle("final_best_lite")


@pytest.fixture(scope="module")
def cpu(lite: Bundle) -> Network:
    return Network(lite, "cpu", 1)


def crops(n: int, height: int = SIDE, width: int = SIDE, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (n, height, width), np.uint8)


def test_every_size_has_a_session_compiled_at_once_and_all_run_in_one_thread(
    bundle: Bundle, sessions: Sessions
) -> None:
    opened = Engine(bundle, "cuda", 1)
    assert opened.device == "cuda-fp16"
    assert tuple(sessions.opened) == opened.sizes == (1, 4, 16, 64, 256, 1024)
    for n in (1, 3, 17, 300, 2_000):
        opened.run(crops(n))
    assert {shape[0] for shape in sessions.given} == set(opened.sizes)
    assert len(sessions.threads) == 1
    assert threading.get_ident() not in sessions.threads


@pytest.fixture(scope="module")
def opened(lite: Bundle) -> tuple[Network, Sessions]:
    with fake_gpu() as made:
        return Network(lite, "cuda", 1), made


class TestScores:
    @pytest.fixture
    def gpu(self, opened: tuple[Network, Sessions]) -> Network:
        return opened[0]

    @pytest.mark.parametrize("n", [1, 5, 16, 70, 300])
    @pytest.mark.parametrize(("height", "width"), [(24, 24), (20, 31), (31, 20), (32, 32)])
    def test_are_those_of_the_cpu_for_crops_of_any_size(
        self, gpu: Network, cpu: Network, n: int, height: int, width: int
    ) -> None:
        batch = crops(n, height, width)
        np.testing.assert_allclose(gpu.score_parts([batch]), cpu.score_parts([batch]), atol=1e-5)

    def test_also_of_different_sizes_together(self, gpu: Network, cpu: Network) -> None:
        parts = [crops(3, 24, 24), crops(20, 10, 12), crops(1, 32, 32)]
        np.testing.assert_allclose(gpu.score_parts(parts), cpu.score_parts(parts), atol=1e-5)

    def test_small_crops_travel_as_they_are(self, opened: tuple[Network, Sessions]) -> None:
        gpu, sessions = opened
        sessions.given.clear()
        gpu.score_parts([crops(60, 24, 24), crops(4, 24, 24)])
        assert sessions.given == [(64, 24, 24)]


@pytest.mark.parametrize(
    ("broken", "device"),
    [
        pytest.param(1, "cuda-fp16", id="the CUDA graph"),
        pytest.param(2, "cuda-tf32", id="float16 too"),
        pytest.param(3, "cpu-fp32", id="all of it"),
    ],
)
@pytest.mark.usefixtures("sessions")
def test_what_does_not_work_is_left_out_with_a_warning(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, broken: int, device: str
) -> None:
    open_it = Engine._open

    def _open(self: Engine, of: Bundle, where: Any, threads: Any, form: execution.Form) -> None:
        if where == "cuda" and form in execution.FORMS[:broken]:
            raise RuntimeError("This session cannot use the graph capture feature as requested by the user")
        open_it(self, of, where, threads, form)

    monkeypatch.setattr(Engine, "_open", _open)
    with caplog.at_level(logging.WARNING):
        opened = Engine(bundle, "cuda", 1)
    assert opened.device == device
    assert len(caplog.records) == broken
    assert "CUDA graph True: This session cannot use the graph capture feature" in caplog.text
    assert len(opened.run(crops(3))) == 3


def test_all_is_prepared_when_a_network_is_opened_also_the_resizing(lite: Bundle, sessions: Sessions) -> None:
    """What runs for the first time is slow on a GPU: kernels are loaded, memory is taken, graphs are captured."""
    resized: list[tuple[int, ...]] = []
    resize = Resizer.resize

    def noted(self: Resizer, crops: Pixels, onto: Any) -> None:
        resized.append(crops.shape)
        resize(self, crops, onto)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Resizer, "resize", noted)
        opened = Engine(lite, "cuda", 1)
    assert resized == [(size, 24, 24) for size in opened.sizes if size >= gpu.LEAST_RESIZED]


def test_crops_go_through_memory_that_is_used_again_and_none_is_mistaken_for_what_was_there_before(
    lite: Bundle, cpu: Network
) -> None:
    session, _ = execution.open_session(lite.onnx, "cpu", 1)
    run = FixedSession(session, lite.manifest, 16, Resizer(execution.resizing_session(), "cpu"), "cpu")
    memory = run._host
    for n, side in ((16, 32), (3, 24), (16, 24), (1, 32), (5, 16)):
        batch = crops(n, side, side, seed=n)
        np.testing.assert_allclose(run(batch), cpu.score_parts([batch]), atol=1e-5)
    assert run._host is memory


class TestPageLocked:
    @pytest.fixture
    def calls(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
        """What a CUDA that locks all memory is asked for."""
        made: list[tuple[str, int, int]] = []

        def lock(address: Any, size: Any, _: Any) -> int:
            made.append(("lock", address.value, size.value))
            return 0

        def unlock(address: Any) -> int:
            made.append(("unlock", address.value, 0))
            return 0

        library = SimpleNamespace(cudaHostRegister=lock, cudaHostUnregister=unlock)
        monkeypatch.setattr(onnxruntime, "cuda_version", "13.0")
        monkeypatch.setattr(ctypes, "CDLL", lambda name: {"libcudart.so.13": library}[name])
        return made

    def test_memory_is_pages_of_its_own_locked_once_and_unlocked_when_it_is_gone(
        self, calls: list[tuple[str, int, int]]
    ) -> None:
        memory = page_locked(10_000)
        address = memory.ctypes.data
        assert (memory.dtype.name, memory.shape, address % 4_096) == ("uint8", (10_000,), 0)
        view = memory[:100].reshape(10, 10)
        del memory
        assert calls == [("lock", address, 10_000)]
        del view
        assert calls[1:] == [("unlock", address, 0)]

    @pytest.mark.parametrize("broken", ["no library", "an error"])
    def test_where_it_cannot_be_locked_it_works_all_the_same(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, broken: str
    ) -> None:
        def library(name: str) -> Any:
            if broken == "no library":
                raise OSError(f"{name}: cannot open shared object file")
            return SimpleNamespace(cudaHostRegister=lambda *_: 801)

        monkeypatch.setattr(ctypes, "CDLL", library)
        with caplog.at_level(logging.INFO):
            memory = page_locked(100)
        memory[:] = 7
        assert "memory cannot be locked" in caplog.text


class TestTurns:
    def test_inferences_run_beside_each_other_and_a_capture_alone(self) -> None:
        turns = Turns()
        both = threading.Barrier(3, timeout=10)
        go_on, end_capture = threading.Event(), threading.Event()
        order: list[str] = []

        def infer() -> None:
            with turns.inference():
                both.wait()
                assert go_on.wait(10)
                order.append("inference")

        def capture() -> None:
            with turns.capture():
                order.append("capture begins")
                assert end_capture.wait(10)
                order.append("capture ends")

        def infer_later() -> None:
            with turns.inference():
                order.append("later inference")

        with ThreadPoolExecutor(4) as threads:
            running = [threads.submit(infer), threads.submit(infer)]
            both.wait()
            running.append(threads.submit(capture))
            time.sleep(0.05)
            assert order == []
            running.append(threads.submit(infer_later))
            go_on.set()
            time.sleep(0.05)
            end_capture.set()
            for each in running:
                each.result(10)
        assert order.index("capture ends") == order.index("capture begins") + 1
        assert [what for what in order[: order.index("capture begins")] if what == "inference"] == ["inference"] * 2

    def test_an_error_ends_a_turn(self) -> None:
        turns = Turns()
        for turn in (turns.inference, turns.capture):
            with pytest.raises(ValueError, match="failed"), turn():
                raise ValueError("failed")
        with turns.capture():
            pass
        with turns.inference():
            pass


def test_a_size_that_only_the_cpu_could_compute_is_left_out(
    bundle: Bundle, sessions: Sessions, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a session of that size cannot be made for lack of memory, ONNX Runtime's CPU kernels are what is found."""
    make_session = execution._session

    def session(network: Any, options: Any, told: dict[str, Any]) -> Any:
        if "cuda" in told and len(sessions.opened) == 3:
            raise OUT_OF_MEMORY
        return make_session(network, options, told)

    monkeypatch.setattr(execution, "_session", session)
    with caplog.at_level(logging.WARNING):
        opened = Engine(bundle, "cuda", 1)
    assert (opened.device, opened.sizes) == ("cuda-fp16", (1, 4, 16))
    assert "batches are of 16 crops at most" in caplog.text


class TestOutOfMemory:
    def test_at_the_start_larger_batches_are_left_out(
        self, bundle: Bundle, sessions: Sessions, caplog: pytest.LogCaptureFixture
    ) -> None:
        sessions.fails = lambda size: OUT_OF_MEMORY if size > 64 else None
        with caplog.at_level(logging.WARNING):
            assert Engine(bundle, "cuda", 1).sizes == (1, 4, 16, 64)
        assert "batches are of 64 crops at most: the GPU has no memory left" in caplog.text
        assert "EYESTATE_GPU_MEMORY" in caplog.text

    def test_at_the_start_the_cpu_computes_if_there_is_none_at_all(
        self, bundle: Bundle, sessions: Sessions, caplog: pytest.LogCaptureFixture
    ) -> None:
        sessions.fails = lambda _: OUT_OF_MEMORY
        with caplog.at_level(logging.WARNING):
            assert Engine(bundle, "cuda", 1).device == "cpu-fp32"
        assert len(caplog.records) == 1, "other forms need as much"

    def test_at_a_batch_smaller_ones_are_used_from_then_on_and_no_crop_is_lost(
        self, bundle: Bundle, sessions: Sessions, caplog: pytest.LogCaptureFixture
    ) -> None:
        opened = Engine(bundle, "cuda", 1)
        sessions.fails = lambda size: OUT_OF_MEMORY if size > 16 else None
        batch = crops(1_500)
        with caplog.at_level(logging.WARNING):
            np.testing.assert_allclose(opened.run(batch), batch.mean((1, 2)) / 255, atol=1e-5)
        assert opened.sizes == (1, 4, 16)
        assert "batches are of 16 crops at most from now on" in caplog.text

    def test_at_one_crop_it_ends_with_a_line_that_says_what_to_do(self, bundle: Bundle, sessions: Sessions) -> None:
        opened = Engine(bundle, "cuda", 1)
        sessions.fails = lambda _: OUT_OF_MEMORY
        with pytest.raises(DeviceError, match="no memory left; end what else uses it"):
            opened.run(crops(70))


def test_a_gpu_that_fails_ends_with_a_line_that_says_what_to_do(bundle: Bundle, sessions: Sessions) -> None:
    opened = Engine(bundle, "cuda", 1)
    sessions.fails = lambda _: LOST
    with pytest.raises(DeviceError, match=r"the GPU has failed \(unspecified launch failure\); `nvidia-smi`"):
        opened.run(crops(70))


def test_an_error_that_is_not_the_gpus_is_passed_on(bundle: Bundle, sessions: Sessions) -> None:
    opened = Engine(bundle, "cuda", 1)
    sessions.fails = lambda _: ValueError("something else")
    with pytest.raises(ValueError, match="something else"):
        opened.run(crops(1))
