"""What the application sets up beside its routes."""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from eyestate.bundle import load_bundle
from eyestate.server import app, processes
from eyestate.settings import Settings
from tests.bundles import write_bundle


def test_a_model_that_is_loaded_later_is_opened_by_no_thread_that_has_stepped_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The threads in which it computes would inherit the priority."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    stepped_back: list[int] = []
    monkeypatch.setattr(processes, "step_back", lambda: stepped_back.append(threading.get_ident()))
    model = load_bundle(write_bundle(tmp_path / "models"))
    served: list[Any] = []

    async def load() -> None:
        asyncio.get_running_loop().set_default_executor(app._body_threads(Settings()))

        def opened(_: object) -> Any:
            return threading.get_ident()

        control = app._model_control(Settings(), model, opened, served.append)
        following = asyncio.create_task(control.follow())
        await control.load(model.onnx.parent)
        following.cancel()

    asyncio.run(load())
    assert stepped_back
    assert served
    assert not {*served} & {*stepped_back}


def test_work_in_the_background_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise OSError("the disk is full")

    async def work() -> None:
        running = app._in_background(asyncio.sleep(60))
        await asyncio.wait([app._in_background(fail())])
        await app._cancel([running])

    with caplog.at_level(logging.ERROR):
        asyncio.run(work())
    (record,) = caplog.records
    assert record.message == "work in the background has failed"
    assert record.exc_info is not None
