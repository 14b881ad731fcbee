"""How much of a GPU is in use, from ``nvidia-smi``."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import mean
from typing import Final

_PERIOD: Final = 0.25  # seconds
_QUERY: Final = "--query-gpu=memory.used,utilization.gpu"


@dataclass
class Use:
    """What was seen: MiB in use at most, and the mean share of the time in which a kernel ran, in percent."""

    memory: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)

    @property
    def most_memory(self) -> float | None:
        return max(self.memory, default=None)

    @property
    def mean_busy(self) -> float | None:
        return mean(self.busy) if self.busy else None


@contextmanager
def watched() -> Iterator[Use]:
    """Watch the first GPU during the block; without ``nvidia-smi`` nothing is seen."""
    use = Use()
    over = threading.Event()
    smi = shutil.which("nvidia-smi")

    def watch() -> None:
        while smi and not over.wait(_PERIOD):
            command = [smi, "--id=0", _QUERY, "--format=csv,noheader,nounits"]
            said = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
            memory, _, busy = said.stdout.partition(",")
            if said.returncode == 0 and busy.strip().isdigit():
                use.memory.append(float(memory))
                use.busy.append(float(busy))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield use
    finally:
        over.set()
        thread.join()
