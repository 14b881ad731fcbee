"""The files of the page ``/try``; tests/browser tries what it does."""

from __future__ import annotations

import re

import httpx
import pytest

from eyestate.server.try_page import PATHS
from tests.service.test_service import sample, samples


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/try", "text/html; charset=utf-8"),
        ("/try/page.css", "text/css; charset=utf-8"),
        ("/try/page.js", "text/javascript; charset=utf-8"),
        ("/try/page.svg", "image/svg+xml"),
    ],
)
def test_a_file_is_served_strictly_and_sent_once(client: httpx.Client, path: str, media_type: str) -> None:
    answer = client.get(path).raise_for_status()
    assert answer.headers["content-type"] == media_type
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    etag = answer.headers["etag"]
    for known in (etag, f"W/{etag}", f'"other", {etag}'):
        again = client.get(path, headers={"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert client.get(path, headers={"if-none-match": '"other"'}).content == answer.content
    head = client.head(path)
    assert (head.status_code, head.content) == (200, b"")


def test_every_file_is_checked_and_none_is_from_elsewhere(client: httpx.Client) -> None:
    page = client.get("/try").text
    named = set(re.findall(r'(?:src|href)="(try/[^"]+)"', page))
    assert {"/try", *(f"/{name}" for name in named)} == set(PATHS)
    everything = "".join(client.get(path).text for path in PATHS)
    assert set(re.findall(r"https?://[^\s\"')]+", everything)) == {"http://www.w3.org/2000/svg"}  # a namespace


@pytest.mark.parametrize("path", ["/try/", "/try/page.html", "/try/__init__.py", "/try/../routes.py", "/try/%2e%2e"])
def test_nothing_else_is_there(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 404


def test_it_takes_no_post_and_is_counted_by_route(client: httpx.Client) -> None:
    served = sample("eyestate_requests_total", route="/try", status="200")
    before = samples(client).get(served, 0)
    assert client.post("/try").status_code == 405
    client.get("/try?anything")
    assert samples(client)[served] == before + 1
