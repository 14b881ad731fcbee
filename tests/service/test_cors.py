"""What pages of other origins may do; tests/browser/test_cors.py asks a browser."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest

from tests.bundles import write_bundle
from tests.service.conftest import PROJECT, started_service, wait_until_ready

OPEN = (PROJECT / "examples" / "open.jpg").read_bytes()
KEY = "a-key-for-the-test"
ALLOWED = "https://app.example"
OTHER = "https://other.example"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service with an API key, for pages of two origins."""
    folder = tmp_path_factory.mktemp("cors")
    keys, log = folder / "keys", folder / "log"
    keys.write_text(KEY)
    settings = {
        "EYESTATE_MODEL": str(write_bundle(folder)),
        "EYESTATE_API_KEYS_FILE": str(keys),
        "EYESTATE_ALLOWED_ORIGINS": f"{ALLOWED},http://localhost:5173",
        "EYESTATE_DRAIN": "0",
    }
    with started_service(folder, log, **settings) as (process, url):
        wait_until_ready(process, url, log)
        with httpx.Client(base_url=url, timeout=60) as client:
            yield client


def preflight(client: httpx.Client, origin: str, path: str = "/v1/score", method: str = "POST") -> httpx.Response:
    asked = {"access-control-request-method": method, "access-control-request-headers": "content-type,x-api-key"}
    return client.options(path, headers={"origin": origin, **asked})


@pytest.mark.parametrize("origin", [ALLOWED, "http://localhost:5173"])
@pytest.mark.parametrize("path", ["/v1/score", "/v1/score/batch", "/v1/faces", "/v2/models/x/infer", "/nothing"])
def test_a_preflight_of_an_allowed_origin_needs_no_key(shared: httpx.Client, origin: str, path: str) -> None:
    answer = preflight(shared, origin, path)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == origin
    assert answer.headers["access-control-allow-headers"] == "content-type,x-api-key"
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "Origin" in answer.headers["vary"]


def test_preflights_have_ids_and_are_counted(shared: httpx.Client) -> None:
    def counted(status: int) -> float:
        series = f'eyestate_requests_total{{route="preflight",status="{status}"}}'
        lines = shared.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(series))

    before = counted(400)
    asked = {"origin": OTHER, "access-control-request-method": "POST", "x-request-id": "preflight-1"}
    assert shared.options("/v1/score", headers=asked).headers["x-request-id"] == "preflight-1"
    assert "x-request-id" in preflight(shared, ALLOWED).headers
    deadline = time.monotonic() + 10
    while counted(400) == before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert counted(400) == before + 1
    assert counted(200) > 0


def test_a_preflight_of_another_origin_or_for_another_method_is_refused(shared: httpx.Client) -> None:
    for answer in (
        preflight(shared, OTHER),
        preflight(shared, f"{ALLOWED}.other.example"),
        preflight(shared, ALLOWED.replace("https", "http")),
        preflight(shared, "null"),
    ):
        assert answer.status_code == 400
        assert "access-control-allow-origin" not in answer.headers
    assert preflight(shared, ALLOWED, method="DELETE").status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "key", "status"),
    [
        ("POST", "/v1/score", KEY, 200),
        ("POST", "/v1/score", "wrong", 401),
        ("GET", "/v1/score", KEY, 405),
        ("GET", "/v1/nothing", KEY, 404),
        ("GET", "/v2", KEY, 200),
        ("GET", "/livez", "", 200),
    ],
)
def test_an_allowed_origin_can_read_answers_and_errors(
    shared: httpx.Client, method: str, path: str, key: str, status: int
) -> None:
    answer = shared.request(method, path, content=OPEN, headers={"origin": ALLOWED, "x-api-key": key})
    assert answer.status_code == status
    assert answer.headers["access-control-allow-origin"] == ALLOWED
    assert answer.headers["vary"] == "Origin"
    assert {"X-Request-ID", "Retry-After"} <= set(answer.headers["access-control-expose-headers"].split(", "))
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("headers", [{}, {"origin": OTHER}])
def test_others_are_answered_but_may_not_read(shared: httpx.Client, headers: dict[str, str]) -> None:
    answer = shared.post("/v1/score", content=OPEN, headers={**headers, "x-api-key": KEY})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["vary"] == "Origin"  # or a cache could hand it to an allowed page


def test_without_the_setting_nobody_may(client: httpx.Client) -> None:
    refused = preflight(client, ALLOWED)
    assert refused.status_code == 405
    scored = client.post("/v1/score", content=OPEN, headers={"origin": ALLOWED})
    assert scored.status_code == 200
    for answer in (refused, scored):
        assert not [name for name in answer.headers if name == "vary" or name.startswith("access-control")]
