"""A page of another origin has a picture scored, in a real browser before the real service."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext

from tests.browser.conftest import needs_chromium
from tests.bundles import write_bundle
from tests.service.conftest import PROJECT, started_service, wait_until_ready

pytestmark = needs_chromium
PICTURE = base64.b64encode((PROJECT / "examples" / "open.jpg").read_bytes()).decode()
KEY = "a-key-for-the-test"
SCORE = """async ([url, key, picture]) => {
    const form = new FormData();
    form.append("image", new Blob([Uint8Array.from(atob(picture), (c) => c.charCodeAt(0))]));
    try {
        const answer = await fetch(url, { method: "POST", body: form, headers: { "X-API-Key": key } });
        return [answer.status, Object.keys(await answer.json())[0], answer.headers.has("X-Request-ID")];
    } catch (error) {
        return error.name;
    }
}"""


@pytest.fixture
def origin() -> Iterator[str]:
    """Of an empty page."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Empty) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class Empty(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("allowed", [True, False], ids=["allowed", "not allowed"])
def test_another_page(context: BrowserContext, origin: str, tmp_path: Path, allowed: bool) -> None:
    keys, log = tmp_path / "keys", tmp_path / "log"
    keys.write_text(KEY)
    settings = {
        "EYESTATE_MODEL": str(write_bundle(tmp_path)),
        "EYESTATE_API_KEYS_FILE": str(keys),
        "EYESTATE_ALLOWED_ORIGINS": origin if allowed else "https://other.example",
        "EYESTATE_DRAIN": "0",
    }
    with started_service(tmp_path, log, **settings) as (process, url):
        wait_until_ready(process, url, log)
        page = context.new_page()
        page.goto(origin)
        seen = [page.evaluate(SCORE, [f"{url}/v1/score", key, PICTURE]) for key in (KEY, "wrong")]
    assert seen == ([[200, "score", True], [401, "error", True]] if allowed else ["TypeError", "TypeError"])
