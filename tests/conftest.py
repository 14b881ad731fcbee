from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("tests", deadline=None)  # what else the machine has to do is no fault of an example
settings.load_profile("tests")

# A shell starts what it puts into the background with SIGINT ignored, and children inherit that; tests send it to them.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # As training.data.datasets.data_dir says, which cannot be imported where only the runtime is tested.
    folder = Path(os.environ.get("EYESTATE_DATA") or Path(__file__).parents[2] / "shared" / "data")
    missing = [name for name in ("eyes-dataset.zip", "mrl-eyes.zip") if not (folder / name).exists()]
    if missing:
        skip = pytest.mark.skip(reason=f"no {' and '.join(missing)} in {folder}; set EYESTATE_DATA")
        for item in items:
            if item.get_closest_marker("shared"):
                item.add_marker(skip)
    # Begun last, the longest would keep one process at work when all others have nothing left to do.
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)
