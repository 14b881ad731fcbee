from __future__ import annotations

import pytest

from training.data import data_dir


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = [name for name in ("eyes-dataset.zip", "mrl-eyes.zip") if not (data_dir() / name).exists()]
    if missing:
        skip = pytest.mark.skip(reason=f"no {' and '.join(missing)} in {data_dir()}; set EYESTATE_DATA")
        for item in items:
            if item.get_closest_marker("shared"):
                item.add_marker(skip)
