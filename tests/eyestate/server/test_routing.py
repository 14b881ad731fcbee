from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from eyestate.errors import NotFoundError
from eyestate.server import app, openapi
from eyestate.server.responses import error_response
from eyestate.server.routing import UNKNOWN, Api, Route, RoutingTable, Target


async def name_of(request: Request) -> Response:
    return PlainTextResponse(request.path_params["name"])


async def fixed(request: Request) -> Response:
    return PlainTextResponse("fixed")


INNER = Api(
    prefix="/inner",
    routes=(Route("/inner/{name}", name_of, operational=True), Route("/inner/fixed", fixed)),
    error_form=lambda error: PlainTextResponse(error.message, error.status),
    hint="look inside",
)
OUTER = Api(prefix="", routes=(Route("/send", fixed, "POST"),), error_form=error_response, hint="look around")
TABLE = RoutingTable(INNER, OUTER)


def find(path: str, method: str = "GET") -> tuple[Target, Response]:
    scope: dict[str, Any] = {"type": "http", "method": method, "path": path, "headers": [], "query_string": b""}
    target = TABLE.find(scope)
    assert target is not None
    return target, asyncio.run(target.endpoint(Request(scope)))  # type: ignore[arg-type]


def test_a_fixed_path_goes_before_a_pattern() -> None:
    assert find("/inner/fixed")[1].body == b"fixed"
    target, response = find("/inner/other")
    assert (target.route, response.body, target.operational) == ("/inner/{name}", b"other", True)


@pytest.mark.parametrize("path", ["/inner/fixed", "/inner/x"])
def test_head_is_answered_where_get_is(path: str) -> None:
    assert find(path, "HEAD")[1].status_code == 200


@pytest.mark.parametrize(
    ("path", "method", "allowed"),
    [("/send", "GET", "POST"), ("/send", "HEAD", "POST"), ("/inner/x", "PUT", "GET, HEAD")],
)
def test_the_wrong_method_is_405_in_the_form_of_the_api(path: str, method: str, allowed: str) -> None:
    target, response = find(path, method)
    assert (response.status_code, response.headers["allow"]) == (405, allowed)
    assert target.route in ("/send", "/inner/{name}")
    message = f"{path} takes {allowed.partition(',')[0]}, not {method}"
    body = bytes(response.body).decode()
    assert message == (body if path.startswith("/inner") else json.loads(body)["error"]["message"])


@pytest.mark.parametrize(
    ("path", "api"), [("/inner/a/b", INNER), ("/inner", INNER), ("/sent", OUTER), ("/send/", OUTER), ("/", OUTER)]
)
def test_an_unknown_path_belongs_to_the_api_of_its_prefix(path: str, api: Api) -> None:
    with pytest.raises(NotFoundError, match=f"there is no {path}; {api.hint}"):
        find(path)
    target = TABLE.find({"type": "http", "method": "GET", "path": path})
    assert target is not None
    assert (target.route, target.error_form, target.operational) == (UNKNOWN, api.error_form, False)


@pytest.mark.parametrize(
    "path", ["/inner/x\n", "/inner/\n", "/inner/a\x00b", "/inner/\x7f", "/inner/\x85", "/inner\u2028x"]
)
def test_a_path_with_control_characters_is_unknown(path: str) -> None:
    target = TABLE.find({"type": "http", "method": "GET", "path": path})
    assert target is not None
    assert (target.route, target.error_form) == (UNKNOWN, INNER.error_form)


def test_a_path_outside_all_prefixes_is_nobodys() -> None:
    assert RoutingTable(INNER).find({"type": "http", "method": "GET", "path": "/send"}) is None


def test_openapi_describes_every_route_that_scores_and_none_that_is_not_served() -> None:
    paths = json.loads(openapi.document())["paths"]
    described = {(path, method.upper()) for path, item in paths.items() for method in item if path.startswith("/v1")}
    assert described == {(route.path, route.method) for route in app._API.routes if not route.operational}
