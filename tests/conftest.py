from __future__ import annotations

import pytest

from training.data import data_dir


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not data_dir().is_dir():
        skip = pytest.mark.skip(reason=f"no data sets in {data_dir()}; set EYESTATE_DATA")
        for item in items:
            if item.get_closest_marker("shared"):
                item.add_marker(skip)
