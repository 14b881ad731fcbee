"""MLServer with adaptive batching: a custom runtime behind the Open Inference Protocol, images as base64."""

from __future__ import annotations

import json

from mlserver import MLModel  # type: ignore[import-not-found]
from mlserver.codecs import StringCodec  # type: ignore[import-not-found]
from mlserver.types import InferenceRequest, InferenceResponse  # type: ignore[import-not-found]

from loadtests.peers.model import Model


class EyeState(MLModel):  # type: ignore[misc]  # not installed where types are checked
    """Scores images in batches formed by MLServer; each result is a JSON string."""

    async def load(self) -> bool:
        self.model = Model()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        (images,) = (self.decode(item) for item in payload.inputs)
        answers = self.model.predict(images)
        output = StringCodec.encode_output("verdict", [json.dumps(answer) for answer in answers])
        return InferenceResponse(model_name=self.name, outputs=[output])
