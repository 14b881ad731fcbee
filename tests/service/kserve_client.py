"""Score crops with KServe's own client: ``python kserve_client.py URL MODEL IMAGE…``; prints one JSON object.

A script of its own, for an environment with ``kserve``, which can't be installed beside the project's requirements.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from kserve import (  # type: ignore[import-not-found]
    InferenceRESTClient,
    InferInput,
    InferRequest,
    InferResponse,
    RESTConfig,
)


def crops_input(crops: np.ndarray[Any, Any], binary: bool) -> InferInput:
    tensor = InferInput("crops", list(crops.shape), "UINT8")
    tensor.set_data_from_numpy(crops, binary)
    return tensor


def images_input(files: list[bytes], binary: bool) -> InferInput:
    elements = files if binary else [base64.b64encode(file) for file in files]
    tensor = InferInput("images", [len(files)], "BYTES")
    tensor.set_data_from_numpy(np.array(elements, np.object_), binary)
    return tensor


def told(response: InferResponse) -> dict[str, Any]:
    outputs = {output.name: output.as_numpy().tolist() for output in response.outputs}
    return {"id": response.id, "model": response.model_name, **outputs}


async def main(url: str, model: str, *images: str) -> None:
    files = [Path(image).read_bytes() for image in images]
    grey = np.random.default_rng(0).integers(0, 256, (5, 24, 24), np.uint8)
    inputs = {"crops": partial(crops_input, grey), "images": partial(images_input, files)}
    answers: dict[str, Any] = {}
    async with InferenceRESTClient(RESTConfig(protocol="v2", retries=0)) as client:
        answers["live"] = await client.is_server_live(url)
        answers["ready"] = await client.is_server_ready(url)
        answers["model ready"] = await client.is_model_ready(url, model)
        answers["other model ready"] = await client.is_model_ready(url, "other")
        for name, tensor in inputs.items():
            for binary_in in (False, True):
                for binary_out in (False, True):
                    request = InferRequest(
                        model,
                        [tensor(binary_in)],
                        request_id=name,
                        parameters={"binary_data_output": binary_out},
                    )
                    response = await client.infer(url, request, model_name=model)
                    answers[f"{name} {binary_in} {binary_out}"] = told(response)
        try:
            await client.infer(url, InferRequest(model, [images_input([b"nonsense"], True)]), model_name=model)
        except httpx.HTTPStatusError as error:
            answers["error"] = str(error)
    print(json.dumps(answers))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
