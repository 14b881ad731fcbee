"""The pages ``/`` and ``/try`` as files; tests/browser tries what they do."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from html import unescape
from pathlib import Path

import httpx
import pytest

from eyestate.server.pages import PATHS
from eyestate.server.pages.api import html
from tests.service.conftest import PROJECT
from tests.service.test_service import sample, samples


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/try", "text/html; charset=utf-8"),
        ("/pages/base.css", "text/css; charset=utf-8"),
        ("/pages/try.js", "text/javascript; charset=utf-8"),
        ("/pages/icon.svg", "image/svg+xml"),
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


def test_every_file_is_used_and_none_is_from_elsewhere(client: httpx.Client) -> None:
    used = {"/", "/try"}
    for page in ("/", "/try"):
        named = set(re.findall(r'(?:src|href)="([^"#]+)"', client.get(page).text))
        for name in named:
            assert client.get(f"/{name}").status_code == 200
        used |= {f"/{name}" for name in named if name.startswith("pages/")}
    assert used == set(PATHS)
    everything = "".join(client.get(path).text for path in PATHS)
    hosts = set(re.findall(r"https?://([^/\s\"')]+)", everything))
    assert hosts == {"www.w3.org", "127.0.0.1:3000"}  # a namespace, and the service in examples


@pytest.mark.parametrize("path", ["/try/", "/pages/", "/pages/try.html", "/pages/__init__.py", "/pages/../api.py"])
def test_nothing_else_is_there(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.parametrize("path", ["/docs.json", "/schema.json", "/static_content/index.css", "/assets", "/readyz/"])
def test_bentoml_shows_nothing_of_its_own(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


class TestApi:
    """``GET /``."""

    def test_every_route_of_the_document_is_described(self, client: httpx.Client) -> None:
        text = unescape(re.sub("<[^>]+>", "", client.get("/").text))
        for path, methods in client.get("/openapi.json").json()["paths"].items():
            for method, operation in methods.items():
                assert f"{method.upper()} {path}{operation['summary']}" in text
                for parameter in operation.get("parameters", ()):
                    assert parameter["name"] in text
                for media_type in operation.get("requestBody", {}).get("content", ()):
                    assert media_type in text

    def test_its_examples_work(self, client: httpx.Client, service: str, tmp_path: Path) -> None:
        for name, source in (("picture", "open.jpg"), ("one", "open.jpg"), ("two", "closed.jpg")):
            shutil.copy(PROJECT / "examples" / source, tmp_path / f"{name}.jpg")
        shutil.copy(PROJECT / "examples" / "infer.json", tmp_path / "request.json")
        model = client.get("/readyz").json()["model"]
        commands = re.findall(r'<pre class="command">(.+?)</pre>', client.get("/").text)
        paths = client.get("/openapi.json").json()["paths"]
        assert len(commands) == sum(map(len, paths.values())) - 1  # all but the stream
        for command in commands:
            if "/repository/" in command:
                continue  # off by default
            words = shlex.split(unescape(command).replace("NAME", model["name"]).replace("VERSION", model["version"]))
            url = words.pop().replace("http://127.0.0.1:3000", service)
            run = subprocess.run(
                [*words, "--silent", "--fail", url], cwd=tmp_path, capture_output=True, text=True, check=False
            )
            assert run.returncode == 0, command

    def test_what_is_described_cannot_become_markup(self) -> None:
        parameter = {"name": "<ppp>", "in": "query", "schema": {"type": "string", "default": "<ddd>"}}
        body = {"application/json": {"schema": {"properties": {"<fff>": {"enum": ["<eee>"]}}}}}
        operation = {
            "tags": ["<ttt>"],
            "summary": "<sss>",
            "parameters": [parameter],
            "responses": {"200": {"description": "<rrr>", "content": body}},
        }
        document = {
            "openapi": "<333>",
            "info": {"version": "<111>", "description": "<b>`a<b`", "license": {"name": "<222>"}},
            "paths": {"/<xxx>": {"get": operation}},
            "components": {"schemas": {}},
        }
        text = html(document)
        for mark in "123xtspdrfe":
            assert f"<{3 * mark}>" not in text
            assert f"&lt;{3 * mark}&gt;" in text
        assert "&lt;b&gt;<code>a&lt;b</code>" in text


def test_it_takes_no_post_and_is_counted_by_route(client: httpx.Client) -> None:
    served = sample("eyestate_requests_total", route="/try", status="200")
    before = samples(client).get(served, 0)
    assert client.post("/try").status_code == 405
    client.get("/try?anything")
    assert samples(client)[served] == before + 1
