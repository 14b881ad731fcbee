from __future__ import annotations

import os
import resource
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("tests", deadline=None)  # what else the machine has to do is no fault of an example
# Of `make fuzz`: each time other examples, for minutes rather than seconds, and those that fail printed to be replayed.
settings.register_profile(
    "fuzz",
    deadline=None,
    max_examples=10_000,
    derandomize=False,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
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


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's
def pytest_testnodedown(node: Any, error: object) -> None:
    """Say how a test process died: one that the kernel kills for lack of memory leaves no trace of its own."""
    if not error:
        return
    try:
        status = node.gateway._io.popen.wait(5)
    except subprocess.TimeoutExpired:
        how = "closed its pipes and lives on"
    else:
        how = f"died of {signal.Signals(-status).name}" if status < 0 else f"exited with {status}"
    available = psutil.virtual_memory().available / 2**30
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    node.config.get_terminal_writer().line(
        f"\n{node.gateway.id} {how}; {available:.1f} GiB are available, the largest process had {largest:.1f} GiB",
        red=True,
    )
