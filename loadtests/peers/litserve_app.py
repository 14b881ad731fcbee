"""LitServe with batching; images travel as base64 in JSON, as in its image examples.

python -m loadtests.peers.litserve_app PORT
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Sequence
from typing import Any

import litserve

from eyestate.arrays import Pixels
from eyestate.images import decode
from loadtests.peers.model import MAX_BATCH, MAX_WAIT_MS, WORKERS, Model


class EyeState(litserve.LitAPI):  # type: ignore[misc]  # LitServe comes without types
    """Scores images in batches formed by LitServe."""

    def setup(self, device: str) -> None:  # noqa: ARG002
        self.model = Model()

    def decode_request(self, request: dict[str, str]) -> Pixels:
        return decode(base64.b64decode(request["image"]))

    def batch(self, inputs: Sequence[Pixels]) -> Sequence[Pixels]:
        return inputs

    def predict(self, batch: Sequence[Pixels]) -> list[dict[str, Any]]:
        return self.model.score(batch)

    def unbatch(self, answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return answers

    def encode_response(self, answer: dict[str, Any]) -> dict[str, Any]:
        return answer


if __name__ == "__main__":
    api = EyeState(max_batch_size=MAX_BATCH, batch_timeout=MAX_WAIT_MS / 1000)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=WORKERS)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=WORKERS,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )
