"""A real browser, Debian's Chromium, that must never ask another host for anything."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import httpx
import pytest
import skimage.data
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright

from tests.images import encoded
from tests.service.conftest import service, service_log

__all__ = ["service", "service_log"]

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
PATIENCE = 60_000  # milliseconds that a busy machine may take to react
FOREIGN = "eyes"  # this machine; no browser takes it for secure, and the service lets in names without a dot
ASTRONAUT = Image.fromarray(skimage.data.astronaut())  # type: ignore[no-untyped-call]

expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Its webcam shows the astronaut."""
    film = tmp_path_factory.mktemp("webcam") / "astronaut.mjpeg"
    film.write_bytes(encoded(ASTRONAUT, "JPEG", quality=95) * 2)
    flags = [
        "--no-sandbox",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={film}",
        f"--host-resolver-rules=MAP {FOREIGN} 127.0.0.1",
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A browser profile of its own. No script may fail in it, and nothing may be asked for that the policy forbids."""
    with browser.new_context() as context:
        context.set_default_timeout(PATIENCE)
        failures: list[str] = []
        context.on("weberror", lambda error: failures.append(str(error.error)))
        context.on("console", lambda said: failures.append(said.text) if "Policy" in said.text else None)
        hosts: set[str] = set()
        context.on("request", lambda request: hosts.add(httpx.URL(request.url).host))
        yield context
        assert failures == []
        assert hosts <= {"127.0.0.1", FOREIGN}
