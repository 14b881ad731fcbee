from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.bundles import write_bundle
from tests.faulty_service import FaultyService, faulty_service


@pytest.fixture(scope="session")
def one_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyService]:
    folder = tmp_path_factory.mktemp("faulty")
    with faulty_service(write_bundle(folder), folder / "service.log") as service:
        yield service


@pytest.fixture
def service(one_service: FaultyService) -> FaultyService:
    """A service whose scores are mean brightness, with no faults on order."""
    one_service.order()
    return one_service
