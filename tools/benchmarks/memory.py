"""``python -m tools.benchmarks.memory BATCH NETWORK…``: print the peak memory, in bytes, of scoring one batch.

It runs as a separate process because a process's peak cannot be reset.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np

from eyestate.execution import open_session

_TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}


def peak() -> int:
    """Peak resident memory of this process in bytes; ``getrusage`` would include its parent's from before exec."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def main() -> None:
    batch, *networks = sys.argv[1:]
    for network in networks:
        session, _ = open_session(Path(network), "cpu")
        (given,) = session.get_inputs()
        session.run(None, {given.name: np.zeros((int(batch), *given.shape[1:]), _TYPES[given.type])})
    print(peak())


if __name__ == "__main__":
    main()
