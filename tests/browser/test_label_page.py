"""The labelling page in a real browser: Debian's Chromium."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser.conftest import PATIENCE, needs_chromium
from tests.training.label.desks import commanded, drawn, made_task, served, write_task
from tools.harness.servers import free_port
from training.data.datasets import CLOSED, OPEN
from training.data.labels import Answer, read_answers
from training.label.app import Task
from training.label.store import Vote

pytestmark = needs_chromium
CROPS = drawn(5)
NAMES = [crop.name for crop in CROPS]


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return made_task(tmp_path, CROPS)


@pytest.fixture
def url(task: Task) -> Iterator[str]:
    with served(task) as url:
        yield url


def opened(context: BrowserContext, url: str, annotator: str = "anna") -> Page:
    page = context.new_page()
    page.goto(f"{url}/?annotator={annotator}")
    return page


def crop_shown(page: Page) -> None:
    """The crop is on the screen; until then the page takes no answer."""
    page.wait_for_selector("#crop:not(.waiting)")


def press(page: Page, *keys: str) -> None:
    """Press each key once the crop it answers is on the screen."""
    for key in keys:
        crop_shown(page)
        page.keyboard.press(key)


def sent(page: Page) -> None:
    """The server has taken every answer."""
    page.wait_for_function("() => Object.keys(localStorage).every((key) => !key.includes('outbox'))")


def said(task: Task) -> dict[str, int | None]:
    return {vote.file: vote.label for vote in task.store.votes()}


def saved(task: Task, expected: dict[str, int | None]) -> None:
    """The store comes to hold this."""
    deadline = time.monotonic() + PATIENCE / 1_000
    while said(task) != expected:
        assert time.monotonic() < deadline, said(task)
        time.sleep(0.02)


def test_from_a_name_to_all_done_by_keyboard(context: BrowserContext, url: str, task: Task) -> None:
    page = context.new_page()
    page.goto(url)
    expect(page.locator("#name")).to_be_focused()
    page.keyboard.type("anna")
    page.keyboard.press("Enter")
    expect(page.locator("#file")).to_have_text(NAMES[0])
    press(page, "o", "ArrowLeft", "Space", "ArrowRight")
    expect(page.locator("#said")).to_have_text(f"Open: {NAMES[3]}")
    expect(page.locator("#counts")).to_have_text("4 of 5 done · 1 left")
    press(page, "c")
    expect(page.locator("#done")).to_be_visible()
    expect(page.locator("#done-counts")).to_contain_text("all 5 crops: 2 open, 2 closed, 1 can’t tell")
    expect(page.locator("#done-command")).to_contain_text("python -m training fine-tune")
    saved(task, dict(zip(NAMES, (OPEN, CLOSED, None, OPEN, CLOSED), strict=True)))
    assert read_answers(task.answers)[NAMES[2]] == Answer(NAMES[2], None, 0, 0)


def test_by_mouse_and_then_by_key(context: BrowserContext, url: str, task: Task) -> None:
    page = opened(context, url)
    crop_shown(page)
    page.get_by_role("button", name="Open", exact=False).first.click()
    expect(page.locator("#file")).to_have_text(NAMES[1])
    crop_shown(page)
    page.locator("[data-answer=closed]").click()
    expect(page.locator("#file")).to_have_text(NAMES[2])
    press(page, "Space")  # answers the crop; it does not press "Closed" once more
    saved(task, {NAMES[0]: OPEN, NAMES[1]: CLOSED, NAMES[2]: None})
    page.locator("#undo").click()
    saved(task, {NAMES[0]: OPEN, NAMES[1]: CLOSED})


def test_a_focused_button_is_pressed_by_space(context: BrowserContext, url: str, task: Task) -> None:
    page = opened(context, url)
    crop_shown(page)
    page.locator("[data-answer=closed]").focus()
    page.keyboard.press("Space")
    saved(task, {NAMES[0]: CLOSED})


def test_a_key_held_down_answers_once(context: BrowserContext, url: str, task: Task) -> None:
    page = opened(context, url)
    crop_shown(page)
    for _ in range(5):
        page.keyboard.down("o")
        page.wait_for_timeout(50)
    page.keyboard.up("o")
    saved(task, {NAMES[0]: OPEN})


@pytest.mark.parametrize("key", ["z", "Backspace", "Control+z"])
def test_undo(context: BrowserContext, url: str, task: Task, key: str) -> None:
    page = opened(context, url)
    press(page, "o", "c")
    expect(page.locator("#counts")).to_contain_text("2 of 5")
    page.reload()  # undo reaches back over it
    expect(page.locator("#file")).to_have_text(NAMES[2])
    page.keyboard.press(key)
    expect(page.locator("#file")).to_have_text(NAMES[1])
    expect(page.locator("#said")).to_contain_text("Undid “Closed”")
    saved(task, {NAMES[0]: OPEN})
    page.keyboard.press(key)
    saved(task, {})
    page.keyboard.press(key)
    expect(page.locator("#said")).to_have_text("There is nothing to undo.")


def test_the_model_does_not_bias(context: BrowserContext, url: str) -> None:
    page = opened(context, url)
    expect(page.locator("#file")).to_have_text(NAMES[0])
    expect(page.locator("#belief")).to_be_empty()
    press(page, "m")
    expect(page.locator("#belief")).to_have_text("Model: P(open) 0.50")
    press(page, "o")
    expect(page.locator("#belief")).to_be_empty()


def test_pixels(context: BrowserContext, url: str) -> None:
    page = opened(context, url)
    crop = page.locator("#crop")
    expect(crop).to_have_attribute("src", re.compile("large.png"))
    press(page, "p")
    expect(crop).to_have_attribute("src", re.compile("exact.png"))
    expect(crop).to_have_css("image-rendering", "pixelated")
    page.reload()
    expect(crop).to_have_attribute("src", re.compile("exact.png"))


def test_a_second_tab_follows(context: BrowserContext, url: str, task: Task) -> None:
    one, two = opened(context, url), opened(context, url)
    press(one, "o", "o")
    expect(two.locator("#counts")).to_contain_text("2 of 5")
    press(two, "c")  # it still shows the first crop: this changes the answer
    saved(task, {NAMES[0]: CLOSED, NAMES[1]: OPEN})
    expect(one.locator("#counts")).to_contain_text("2 of 5")
    press(two, "o")
    saved(task, {NAMES[0]: CLOSED, NAMES[1]: OPEN, NAMES[2]: OPEN})


def test_a_killed_server_loses_nothing(context: BrowserContext, tmp_path: Path) -> None:
    write_task(tmp_path, CROPS)
    port = free_port()
    with commanded(tmp_path, port) as process:
        page = opened(context, f"http://127.0.0.1:{port}")
        press(page, "o", "c")
        expect(page.locator("#counts")).to_contain_text("2 of 5")
        sent(page)
        process.kill()
        process.join()
        press(page, "o", "c")  # the next crops were fetched ahead
        expect(page.locator("#offline")).to_contain_text("2 answers are kept in this browser and not saved yet")
        assert len(read_answers(tmp_path / "label" / "answers.csv")) == 2
        page.close(run_before_unload=False)
    with commanded(tmp_path, port):
        page = opened(context, f"http://127.0.0.1:{port}")
        expect(page.locator("#counts")).to_contain_text("4 of 5")
        expect(page.locator("#offline")).to_be_hidden()
        sent(page)
        answers = read_answers(tmp_path / "label" / "answers.csv")
        assert [answers[name].label for name in NAMES[:4]] == [OPEN, CLOSED, OPEN, CLOSED]


def test_a_page_that_stays_open_sends_when_the_server_is_back(context: BrowserContext, url: str, task: Task) -> None:
    page = opened(context, url)
    press(page, "o")
    saved(task, {NAMES[0]: OPEN})
    context.set_offline(True)
    press(page, "c", "z", "u")
    expect(page.locator("#offline")).to_be_visible()
    assert said(task) == {NAMES[0]: OPEN}
    context.set_offline(False)
    expect(page.locator("#offline")).to_be_hidden()
    saved(task, {NAMES[0]: OPEN, NAMES[1]: None})


def test_disagreement_of_two_annotators(context: BrowserContext, url: str, task: Task) -> None:
    press(opened(context, url, "anna"), "o", "o", "u")
    page = opened(context, url, "ben")
    press(page, "c", "o", "c")
    expect(page.locator("#counts")).to_contain_text("3 of 5")
    page.keyboard.press("g")
    page.locator("[data-filter=disagreement]").click()
    tiles = page.locator(".tile:visible")
    expect(tiles).to_have_count(1)  # "can't tell" contradicts nobody
    expect(tiles).to_have_accessible_name(f"{NAMES[0]}, anna: Open, ben: Closed")
    tiles.click()
    press(page, "o")
    expect(page.locator("#nothing")).to_be_visible()  # back in the overview, and they agree
    expect(page.locator("#team")).to_have_text("anna 3 · ben 3")
    sent(page)
    assert read_answers(task.answers)[NAMES[0]] == Answer(NAMES[0], OPEN, 2, 2)


def test_an_overview_of_2000_crops(context: BrowserContext, tmp_path: Path) -> None:
    crops = drawn(2_000)
    task = made_task(tmp_path, crops)
    now = datetime.now(UTC)
    task.store.take_in(Vote(crop.name, "anna", number % 2, now) for number, crop in enumerate(crops[:1_990]))
    with served(task) as url:
        page = opened(context, url)
        fetched: list[str] = []
        page.on("request", lambda request: fetched.append(request.url))
        expect(page.locator("#counts")).to_contain_text("1990 of 2000")
        page.keyboard.press("g")
        expect(page.locator("[data-filter=unanswered] b")).to_have_text("10")
        page.locator("[data-filter=all]").click()
        expect(page.locator(".tile").first).to_be_attached()
        page.locator("[data-filter=unanswered]").click()
        expect(page.locator(".tile:visible")).to_have_count(10)
        assert len(fetched) < 600, "thumbnails out of sight are not fetched"
        page.keyboard.press("Tab")
        page.locator("[data-filter=closed]").click()
        page.locator(".tile:visible").first.focus()
        page.keyboard.press("ArrowRight")
        expect(page.locator(":focus .name")).to_have_text("0002.png")
        page.keyboard.press("Enter")
        expect(page.locator("#file")).to_have_text("0002.png")
        press(page, "o")
        expect(page.locator("[data-filter=closed] b")).to_have_text("994")
        page.keyboard.press("z")
        expect(page.locator("#file")).to_have_text("0002.png")
        expect(page.locator("#crop")).to_be_visible()
        page.keyboard.press("g")
        page.locator("[data-filter=unanswered]").click()
        page.locator(".tile:visible").first.click()
        press(page, *"ococococoo")
        expect(page.locator("#done-saved")).to_contain_text("Every answer is saved in")
        answered = {vote.file: vote.label for vote in task.store.votes()}
        assert (len(answered), answered["0002.png"]) == (2_000, CLOSED)


def test_import(context: BrowserContext, url: str, task: Task) -> None:
    page = opened(context, url)
    page.locator("#to-files").click()
    choose = page.locator("#import")
    bad = f"file,label\n{NAMES[0]},open\nnowhere.png,open\n"
    choose.set_input_files({"name": "bad.csv", "mimeType": "text/csv", "buffer": bad.encode()})
    expect(page.locator("#import-error")).to_contain_text("bad.csv was not imported; nothing has changed: nowhere.png")
    assert said(task) == {}
    good = f"file,annotator,label,answered_at\n{NAMES[0]},anna,closed,2030-01-01T00:00Z\n"
    choose.set_input_files({"name": "good.csv", "mimeType": "text/csv", "buffer": good.encode()})
    expect(page.locator("#import-result")).to_contain_text("1 answers imported")
    expect(page.locator("#import-error")).to_be_empty()
    with page.expect_download() as download:
        page.get_by_role("link", name="votes.csv").click()
    assert "anna,closed" in download.value.path().read_text()
    page.keyboard.press("Escape")
    expect(page.locator("#counts")).to_contain_text("1 of 5")


@pytest.mark.parametrize("width", [320, 390])
def test_a_narrow_window(browser: Browser, tmp_path: Path, width: int) -> None:
    task = made_task(tmp_path, drawn(120))
    with (
        served(task) as url,
        browser.new_context(viewport={"width": width, "height": 640}, has_touch=True) as context,
    ):
        page = opened(context, url)
        crop_shown(page)
        for label in ("closed", "unsure", "open"):
            box = page.locator(f"[data-answer={label}]").bounding_box()
            assert box is not None
            assert min(box["width"], box["height"]) >= 44
            assert box["y"] + box["height"] <= 640
        for view in ("#to-overview", "#to-label"):
            page.locator(view).tap()
            assert page.evaluate("document.documentElement.scrollWidth") == width
            shown = "[...document.querySelectorAll('header :is(p, button)')]"
            assert page.evaluate(f"{shown}.filter((e) => e.scrollWidth > e.clientWidth + 1).map((e) => e.id)") == []
            counts = page.locator("#counts").bounding_box()
            assert counts is not None
            assert counts["x"] + counts["width"] <= width
        crop_shown(page)
        page.locator("[data-answer=unsure]").tap()
        saved(task, {NAMES[0]: None})


def test_a_name_that_the_server_refuses(context: BrowserContext, url: str) -> None:
    page = context.new_page()
    page.goto(url)
    page.locator("#name").fill("=cmd")
    page.keyboard.press("Enter")
    expect(page.locator("#name-error")).to_contain_text("cannot start with =")
    page.locator("#name").fill("anna")
    page.keyboard.press("Enter")
    expect(page.locator("#crop")).to_be_visible()


def test_another_store_on_the_same_port_gets_no_foreign_answers(context: BrowserContext, url: str, task: Task) -> None:
    page = opened(context, url)
    crop_shown(page)
    message = {"kind": "answer", "id": uuid.uuid4().hex, "file": NAMES[0], "label": "open", "annotator": "anna"}
    page.evaluate("(m) => localStorage.setItem('eyestate/outbox/another/0', JSON.stringify(m))", message)
    page.reload()
    press(page, "c")
    saved(task, {NAMES[0]: CLOSED})
    assert page.evaluate("localStorage.getItem('eyestate/outbox/another/0')")
