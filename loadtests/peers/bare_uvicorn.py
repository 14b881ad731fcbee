"""The minimum: a Starlette route under uvicorn that decodes and scores one crop inline.

No batching, limits, metrics or error handling: the cost of framework and model alone.
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from loadtests.peers.model import Model

model = Model()


async def score(request: Request) -> JSONResponse:
    """One image in the body, its score and state as JSON."""
    return JSONResponse(model.predict([await request.body()])[0])


async def ready(_: Request) -> PlainTextResponse:
    """Responds once the model is loaded, which happens on import."""
    return PlainTextResponse("ready")


app = Starlette(routes=[Route("/v1/score", score, methods=["POST"]), Route("/readyz", ready)])
