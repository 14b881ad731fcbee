"""The least there can be: a Starlette route that decodes and scores one crop inline, under uvicorn.

No batching, limits, metrics or error handling: what the framework and the model cost by themselves.
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from loadtests.peers.model import Model

model = Model()


async def score(request: Request) -> JSONResponse:
    """One image in the body, its verdict as JSON."""
    return JSONResponse(model.answers([model.preprocess(await request.body())])[0])


async def ready(_: Request) -> PlainTextResponse:
    """Answers once the model is loaded, for it is loaded on import."""
    return PlainTextResponse("ready")


app = Starlette(routes=[Route("/v1/score", score, methods=["POST"]), Route("/readyz", ready)])
