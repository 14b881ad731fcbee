"""The page ``/`` in a real browser, before the real service; ``context`` lets no page ask another host for anything."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser.conftest import PATIENCE, needs_chromium
from tests.npm import installed

pytestmark = needs_chromium


@pytest.fixture
def page(context: BrowserContext, service: str) -> Page:
    page = context.new_page()
    page.goto(service)
    return page


def test_it_describes_the_service_as_it_was_reached(page: Page, service: str) -> None:
    score = page.locator(".route", has=page.get_by_text("Score one eye crop"))
    expect(score.locator(".command")).to_have_text(f"curl -F image=@picture.jpg {service}/v1/score")
    expect(score.get_by_text('state: "open" | "closed" | "uncertain"')).to_be_visible()
    infer = page.locator(".route", has=page.get_by_text("/v2/models/{name}/infer", exact=True))
    expect(infer.locator(".command")).to_be_hidden()
    infer.locator("summary").first.click()
    expect(infer.locator(".command")).to_contain_text(f"{service}/v2/models/NAME/infer")


def test_every_page_that_it_leads_to_stays_with_the_service(page: Page, service: str) -> None:
    links = page.locator("a").evaluate_all("(links) => links.map((link) => link.href)")
    assert links == [f"{service}/try", f"{service}/openapi.json"]
    for link in links:
        answer = page.goto(link)
        assert answer is not None
        assert answer.ok


def test_it_can_be_read_without_a_script(browser: Browser, service: str) -> None:
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(service)
        expect(page.get_by_text("Find the faces in a photo and score their eyes")).to_be_visible()


@pytest.mark.parametrize("width", [320, 390])
def test_a_narrow_window(browser: Browser, service: str, width: int) -> None:
    with browser.new_context(viewport={"width": width, "height": 640}, has_touch=True) as context:
        page = context.new_page()
        page.goto(service)
        page.locator("details").evaluate_all("(all) => all.forEach((details) => (details.open = true))")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        heights = page.locator("summary, .button").evaluate_all("(all) => all.map((each) => each.offsetHeight)")
        assert min(heights) >= 44


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_that_axe_knows_keeps_anybody_out(browser: Browser, service: str, scheme: str) -> None:
    source = (installed("axe", "axe-core@4.11.0") / "node_modules" / "axe-core" / "axe.min.js").read_text()
    scheme_of: Any = scheme
    with browser.new_context(color_scheme=scheme_of, bypass_csp=True) as context:
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.goto(service)
        page.locator("details").evaluate_all("(all) => all.forEach((details) => (details.open = true))")
        page.add_script_tag(content=source)
        found = page.evaluate("axe.run().then((result) => result.violations)")
        assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []
