"""Mosec with dynamic batching: a Rust server hands batches of bodies to Python processes.

python -m loadtests.peers.mosec_app --address 127.0.0.1 --port PORT
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mosec

from eyestate.arrays import Pixels
from eyestate.images import decode
from loadtests.peers.model import MAX_BATCH, MAX_WAIT_MS, WORKERS, Model


class EyeState(mosec.Worker):  # type: ignore[misc]  # not installed where types are checked
    """Scores images in batches formed by Mosec."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()

    def deserialize(self, data: bytes) -> Pixels:
        return decode(data)

    def forward(self, data: Sequence[Pixels]) -> list[dict[str, Any]]:
        return self.model.score(data)


if __name__ == "__main__":
    server = mosec.Server()
    server.append_worker(EyeState, num=WORKERS, max_batch_size=MAX_BATCH, max_wait_time=MAX_WAIT_MS)
    server.run()
