"""The documentation builds, and every link in it and in the pages beside it leads somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


class Loaded(HTMLParser):
    """Collects what a browser fetches for a page."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag in ("script", "img", "iframe") and (url := attributes.get("src")):
            self.urls.append(url)
        if (
            tag == "link"
            and attributes.get("rel") in ("stylesheet", "icon", "preconnect")
            and (url := attributes["href"])
        ):
            self.urls.append(url)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.parametrize(
    "page",
    [
        "index.html",
        "http-api/index.html",
        "decisions/index.html",
        "repository/index.html",
        "repository/CONTRIBUTING/index.html",
    ],
)
def test_pages_are_there(site: Path, page: str) -> None:
    assert (site / page).stat().st_size > 5_000


def test_the_http_reference_has_every_operation(site: Path) -> None:
    page = (site / "reference" / "http" / "index.html").read_text(encoding="utf-8")
    for operation in ("POST /v1/score", "POST /v1/score/batch", "POST /v1/faces", "GET /readyz"):
        assert f"<code>{operation}</code>" in page
    assert re.search(r'<h3 id="scoreresponse">', page)


def test_the_python_reference_has_the_public_classes(site: Path) -> None:
    page = (site / "reference" / "python" / "index.html").read_text(encoding="utf-8")
    for name in (
        "eyestate.scorer.load",
        "eyestate.scorer.Scorer",
        "eyestate.client.Client",
        "eyestate.errors.ImageError",
    ):
        assert f'id="{name}"' in page


def test_nothing_is_loaded_from_other_hosts(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = Loaded()
        loaded.feed(page.read_text(encoding="utf-8"))
        assert loaded.urls
        assert [url for url in loaded.urls if "//" in url] == []
