"""The page ``/try`` in a real browser, Debian's Chromium, before the real service."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, Route, WebSocket, WebSocketRoute, expect

from tests.browser.conftest import ASTRONAUT, CHROMIUM, FOREIGN, PATIENCE, needs_chromium
from tests.bundles import write_bundle
from tests.images import encoded, orientation
from tests.npm import installed
from tests.photos import EYES, head, shut
from tests.service.conftest import PROJECT, started_service, wait_until_ready

pytestmark = needs_chromium
PHOTO = encoded(ASTRONAUT, "PNG")
OPEN = (PROJECT / "examples" / "open.jpg").read_bytes()
CLOSED = (PROJECT / "examples" / "closed.jpg").read_bytes()
NO_FACE = encoded(Image.linear_gradient("L").resize((200, 160)), "PNG")
KEY = "a-key-of-this-test"
MAX_SHIFT = 0.01  # of a mark on the page from where the service says, as a share of the picture

COUNT_FRAMES = """
  window.frames_sent = window.most_on_their_way = 0;
  let on_their_way = 0;
  const send = WebSocket.prototype.send;
  WebSocket.prototype.send = function (message) {
    if (message instanceof Blob) {
      frames_sent++;
      most_on_their_way = Math.max(most_on_their_way, ++on_their_way);
      this.addEventListener("message", () => on_their_way--, { once: true });
    }
    send.call(this, message);
  };
"""

Box = tuple[float, float, float, float]


def group_photo(width: int = 1_200, height: int = 800) -> Image.Image:
    """Three faces of different sizes, one of them at the edge."""
    picture = Image.new("RGB", (width, height), "grey")
    for side, at in ((0.6, (0.0, 0.1)), (0.4, (0.45, 0.5)), (0.3, (0.75, 0.0))):
        pasted = ASTRONAUT.resize((round(side * height),) * 2, Image.Resampling.LANCZOS)
        picture.paste(pasted, (round(at[0] * width), round(at[1] * height)))
    return picture


GROUP = encoded(group_photo(), "JPEG", quality=95)


@pytest.fixture
def page(context: BrowserContext, service: str) -> Page:
    return opened(context, service)


def opened(context: BrowserContext, url: str) -> Page:
    page = context.new_page()
    page.goto(f"{url}/try")
    return page


def choose(page: Page, content: bytes, name: str = "picture.png") -> None:
    """Choose a file; the browser tells its type by the name, as it does of files on a disk."""
    mime = {"png": "image/png", "jpg": "image/jpeg", "gif": "image/gif"}[name.rpartition(".")[2]]
    page.set_input_files("#file", {"name": name, "mimeType": mime, "buffer": content})


def asked(service: str, path: str, content: bytes) -> dict[str, Any]:
    """What the service answers to the picture when no page is between."""
    answer = httpx.post(service + path, content=content, headers={"content-type": "image/png"}, timeout=60)
    result: dict[str, Any] = answer.raise_for_status().json()
    return result


def share(box: dict[str, float], image: dict[str, int]) -> Box:
    """Left, top, width and height as shares of the picture."""
    return (
        box["left"] / image["width"],
        box["top"] / image["height"],
        box["width"] / image["width"],
        box["height"] / image["height"],
    )


def marks(page: Page, selector: str) -> list[Box]:
    """Where marks are on the picture, in the form of ``share``."""
    return [
        (x, y, width, height)
        for x, y, width, height in page.evaluate(
            """(selector) => {
                const stage = document.getElementById("stage").getBoundingClientRect();
                return [...document.querySelectorAll(selector)].map((mark) => {
                    const box = mark.getBoundingClientRect();
                    return [(box.x - stage.x) / stage.width, (box.y - stage.y) / stage.height,
                            box.width / stage.width, box.height / stage.height];
                });
            }""",
            selector,
        )
    ]


def assert_shows(page: Page, answer: dict[str, Any]) -> None:
    """The page shows the faces of an answer of ``/v1/faces``: boxes on the picture, labels, and a table."""
    faces, image = answer["faces"], answer["image"]
    expect(page.locator(".face")).to_have_count(len(faces))
    eyes = [face["eyes"][side] for face in faces for side in ("right", "left")]
    expected = [share(box["box"], image) for box in (*faces, *eyes)]
    shown = marks(page, ".face") + marks(page, ".eye")
    for one, other in zip(shown, expected, strict=True):
        assert one == pytest.approx(other, abs=MAX_SHIFT)
    states = [eye["state"] for eye in eyes]
    assert page.locator(".label .word").all_text_contents() == states
    assert page.locator(".label").evaluate_all("(labels) => labels.map((label) => label.dataset.state)") == states
    rows = page.locator("#eyes tr[data-state]")
    assert rows.locator("th").all_text_contents() == ["Right", "Left"] * len(faces)
    assert rows.locator("td:nth-of-type(1)").all_text_contents() == states
    assert rows.locator("td:nth-of-type(2)").all_text_contents() == [f"{eye['score']:.3f}" for eye in eyes]
    expect(page.locator("#facts")).to_have_text(
        re.compile(f"^Model {answer['model']['name']} {answer['model']['version']} · answered in [0-9,]+ ms · ")
    )


def test_a_photo(page: Page, service: str) -> None:
    answer = asked(service, "/v1/faces", PHOTO)
    assert len(answer["faces"]) == 1
    choose(page, PHOTO)
    expect(page.locator("#said")).to_have_text("1 face: 2 eyes open.")
    assert_shows(page, answer)
    expect(page.locator("#facts")).to_contain_text("512 × 512 pixels")
    right, left = marks(page, ".eye")
    assert right[0] < left[0]  # the person's right eye is on the left of the photo


def test_several_faces(page: Page, service: str) -> None:
    answer = asked(service, "/v1/faces", GROUP)
    assert len(answer["faces"]) == 3
    choose(page, GROUP, "group.jpg")
    expect(page.locator("#said")).to_contain_text("3 faces: ")
    assert_shows(page, answer)
    assert page.locator(".number").all_text_contents() == ["1", "2", "3"]
    expect(page.locator("#eyes tbody th[scope=rowgroup]")).to_have_text([re.compile(f"^Face {n}, ") for n in (1, 2, 3)])


def test_an_eye_beyond_the_edge(page: Page, service: str) -> None:
    half = encoded(ASTRONAUT.crop((205, 0, 512, 512)), "PNG")
    (face,) = asked(service, "/v1/faces", half)["faces"]
    assert face["eyes"]["right"] is None
    choose(page, half)
    expect(page.locator("#said")).to_have_text(f"1 face: 1 eye {face['eyes']['left']['state']}.")
    expect(page.locator("#eyes tbody tr").nth(1)).to_have_text("Rightnot in the picture")
    expect(page.locator(".eye")).to_have_count(1)


@pytest.mark.parametrize(("crop", "state"), [(OPEN, "open"), (CLOSED, "closed")], ids=["open", "closed"])
def test_a_small_picture_is_taken_for_one_eye(page: Page, service: str, crop: bytes, state: str) -> None:
    answer = asked(service, "/v1/score", crop)
    with page.expect_request("**/v1/score"):
        choose(page, crop, "eye.jpg")
    expect(page.locator("#said")).to_have_text(f"The eye is {state}.")
    assert page.locator("#eyes tr[data-state] td").all_text_contents() == [state, f"{answer['score']:.3f}"]
    assert marks(page, ".eye") == [pytest.approx((0, 0, 1, 1), abs=MAX_SHIFT)]
    expect(page.locator(".label")).to_have_text(f"{state}{answer['score']:.2f}")


def test_a_picture_without_a_face_is_scored_only_when_that_is_chosen(page: Page) -> None:
    asked_for: list[str] = []
    page.on("request", lambda request: asked_for.append(request.url))
    choose(page, NO_FACE)
    expect(page.locator("#said")).to_have_text("No face found.")
    expect(page.locator("#eyes")).to_be_hidden()
    assert [url.rpartition("/")[2] for url in asked_for if "/v1/" in url] == ["faces"]
    page.get_by_role("button", name="Score it as one eye").click()
    expect(page.locator("#said")).to_have_text(re.compile("^The eye is [a-z]+.$"))
    expect(page.get_by_label("One eye")).to_be_checked()
    expect(page.locator("#as-eye")).to_be_hidden()
    page.get_by_label("Photo", exact=True).check()
    expect(page.locator("#said")).to_have_text("No face found.")
    expect(page.locator("#as-eye")).to_be_visible()


def test_the_sample(page: Page) -> None:
    page.get_by_text("Take a sample").click()
    expect(page.locator("#said")).to_have_text("1 face: 2 eyes open.")


def test_by_keyboard_alone(page: Page) -> None:
    def focused() -> str:
        return str(page.evaluate("document.activeElement.id || document.activeElement.value"))

    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        assert focused() == "file"
        expect(page.locator(".drop")).to_have_css("outline-style", "solid")
        page.keyboard.press("Enter")
    chooser.value.set_files({"name": "eye.png", "mimeType": "image/png", "buffer": NO_FACE})
    expect(page.locator("#said")).to_have_text("No face found.")
    page.keyboard.press("Tab")
    assert focused() == "camera"
    expect(page.locator("#camera")).to_have_css("outline-style", "solid")
    page.keyboard.press("Tab")
    assert focused() == "sample"
    page.keyboard.press("Tab")
    assert focused() == "auto"
    page.keyboard.press("ArrowRight")
    expect(page.locator("#said")).to_have_text("No face found.")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert focused() == "key"


def test_pasted(context: BrowserContext, page: Page) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate(
        """async (text) => {
            const blob = new Blob([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], { type: "image/png" });
            await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
        }""",
        base64.b64encode(PHOTO).decode(),
    )
    page.keyboard.press("Control+V")
    expect(page.locator("#said")).to_have_text("1 face: 2 eyes open.")
    page.evaluate("navigator.clipboard.writeText('no picture')")
    page.keyboard.press("Control+V")
    expect(page.locator("#trouble")).to_have_text("There was no picture in it.")


def test_dropped(page: Page) -> None:
    dropped = page.evaluate_handle(
        """(text) => {
            const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], "photo.png", { type: "image/png" }));
            return transfer;
        }""",
        base64.b64encode(PHOTO).decode(),
    )
    page.dispatch_event("footer", "dragover", {"dataTransfer": dropped})
    expect(page.locator(".drop")).to_have_css("border-style", "solid")
    page.dispatch_event("footer", "drop", {"dataTransfer": dropped})
    expect(page.locator(".drop")).to_have_css("border-style", "dashed")
    expect(page.locator("#said")).to_have_text("1 face: 2 eyes open.")


def test_a_large_photo_is_shrunk_and_its_boxes_fit(page: Page, service: str) -> None:
    large = group_photo(3_600, 2_400)
    with page.expect_response("**/v1/faces") as response:
        choose(page, encoded(large, "JPEG", quality=90), "large.jpg")
    sent = response.value.json()
    assert sent["image"] == {"width": 1_600, "height": 1_067}
    expect(page.locator("#facts")).to_contain_text("3600 × 2400 pixels, sent as 1600 × 1067")
    assert_shows(page, sent)
    answer = asked(service, "/v1/faces", encoded(large.resize((1_600, 1_067)), "PNG"))
    for one, other in zip(marks(page, ".face"), answer["faces"], strict=True):
        assert one == pytest.approx(share(other["box"], answer["image"]), abs=3 * MAX_SHIFT)


def test_a_photo_that_lies_on_its_side(page: Page, service: str) -> None:
    stored = encoded(ASTRONAUT.rotate(90), "JPEG", quality=95, exif=orientation(6))
    choose(page, stored, "turned.jpg")
    expect(page.locator("#said")).to_have_text("1 face: 2 eyes open.")
    assert_shows(page, asked(service, "/v1/faces", stored))


def test_a_format_that_only_the_browser_reads(page: Page) -> None:
    choose(page, encoded(ASTRONAUT.quantize(256), "GIF"), "photo.gif")
    expect(page.locator("#said")).to_have_text("1 face: 2 eyes open.")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "The file is empty."),
        (b"not a picture", "This is not a picture that the service can read. It takes JPEG, PNG, WebP and BMP."),
        (PHOTO[:5_000], "The picture can’t be used: the image is damaged: "),
        (
            encoded(ASTRONAUT.resize((4, 4)), "PNG"),
            "The picture can’t be used: the image is 4×4 pixels; each side must have at least 8.",
        ),
    ],
    ids=["empty", "text", "damaged", "too small"],
)
def test_what_cannot_be_judged(page: Page, content: bytes, sentence: str) -> None:
    choose(page, content)
    expect(page.locator("#trouble")).to_contain_text(sentence)
    expect(page.locator("#again")).to_be_hidden()
    expect(page.locator("#summary")).to_be_empty()
    choose(page, OPEN, "eye.jpg")
    expect(page.locator("#said")).to_have_text("The eye is open.")
    expect(page.locator("#trouble")).to_be_empty()


def test_a_large_file_that_is_no_picture_is_not_sent(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "film.png"
    with file.open("wb") as empty:
        empty.truncate(20 * 2**20 + 1)
    asked_for: list[str] = []
    page.on("request", lambda request: asked_for.append(request.url))
    page.set_input_files("#file", file)
    expect(page.locator("#trouble")).to_contain_text("This is not a picture that the service can read.")
    assert not [url for url in asked_for if "/v1/" in url]


@pytest.mark.parametrize(
    ("status", "headers", "body", "sentence"),
    [
        (413, {}, "<html>", "The picture is too large for the service."),
        (429, {"Retry-After": "7"}, "{}", "The service is busy. Try again in 7 seconds."),
        (503, {"Retry-After": "1"}, "{}", "The service is not ready. Try again in 1 second."),
        (502, {}, "<html>", "The service is not ready. Try again in a moment."),
        (504, {}, "{}", "The service did not answer in time."),
        (500, {}, "{}", "The service failed on this picture."),
        (200, {}, "<html>", "The answer can’t be read: it is not the service’s."),
    ],
)
def test_what_else_may_come_back(page: Page, status: int, headers: dict[str, str], body: str, sentence: str) -> None:
    page.route("**/v1/score", lambda route: route.fulfill(status=status, headers=headers, body=body))
    choose(page, OPEN, "eye.jpg")
    expect(page.locator("#trouble")).to_have_text(sentence)
    page.unroute("**/v1/score")
    if status == 413:
        expect(page.locator("#again")).to_be_hidden()
    else:
        page.get_by_role("button", name="Try again").click()
        expect(page.locator("#said")).to_have_text("The eye is open.")
        expect(page.locator("#again")).to_be_hidden()


def test_offline(context: BrowserContext, page: Page) -> None:
    context.set_offline(True)
    choose(page, OPEN, "eye.jpg")
    expect(page.locator("#trouble")).to_have_text("The service can’t be reached. Check the connection.")
    context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#said")).to_have_text("The eye is open.")


def test_only_the_last_picture_counts(page: Page) -> None:
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/v1/score", hold, times=1)
    with page.expect_request("**/v1/score"):
        choose(page, OPEN, "open.jpg")
    choose(page, CLOSED, "closed.jpg")
    expect(page.locator("#said")).to_have_text("The eye is closed.")
    assert [route.request.failure for route in held] == ["net::ERR_ABORTED"]


def test_an_api_key(context: BrowserContext, tmp_path: Path) -> None:
    keys, log = tmp_path / "keys", tmp_path / "log"
    keys.write_text(KEY)
    settings = {
        "EYESTATE_MODEL": str(write_bundle(tmp_path)),
        "EYESTATE_API_KEYS_FILE": str(keys),
        "EYESTATE_DRAIN": "0",
    }
    with started_service(tmp_path, log, **settings) as (process, url):
        wait_until_ready(process, url, log)
        page = opened(context, url)
        choose(page, OPEN, "eye.jpg")
        expect(page.locator("#trouble")).to_have_text("The service asks for an API key.")
        expect(page.locator("#key")).to_be_focused()
        for typed, sentence in (("wrong", "The service does not know this API key."), ("schlüssel", "An API key has")):
            page.locator("#key").fill(typed)
            page.keyboard.press("Enter")
            expect(page.locator("#trouble")).to_contain_text(sentence)
        page.locator("#key").fill(KEY)
        page.keyboard.press("Enter")
        expect(page.locator("#said")).to_contain_text("The eye is ")
        expect(page.locator("#trouble")).to_be_empty()
        kept = "[localStorage.length, sessionStorage.length, document.cookie, location.search]"
        assert page.evaluate(kept) == [0, 0, "", ""]
        page.reload()
        choose(page, OPEN, "eye.jpg")
        expect(page.locator("#trouble")).to_have_text("The service asks for an API key.")


class TestWebcam:
    def test_frames_one_at_a_time_until_it_is_stopped(self, context: BrowserContext, page: Page, service: str) -> None:
        context.grant_permissions(["camera"])
        page.add_init_script(COUNT_FRAMES)
        page.reload()
        page.get_by_role("button", name="Start the webcam").click()
        expect(page.locator("#said")).to_have_text("1 face: 2 eyes open.")
        expect(page.locator("#video")).to_be_visible()
        while page.evaluate("frames_sent") < 4:
            page.wait_for_timeout(100)
        expect(page.locator("#now")).to_have_text("open")
        expect(page.locator("#blinks")).to_have_text("0")
        drawn = (
            "() => new Set(document.getElementById('curve').getContext('2d').getImageData(0, 0, 999, 999).data).size"
        )
        assert page.evaluate(drawn) > 2
        (shown,) = marks(page, ".face")
        answer = asked(service, "/v1/faces", PHOTO)
        left_edge, top, width, height = share(answer["faces"][0]["box"], answer["image"])
        # As in a mirror; the box depends a little on the part of the frame that is searched.
        assert shown == pytest.approx((1 - left_edge - width, top, width, height), abs=4 * MAX_SHIFT)
        right_eye, left_eye = marks(page, ".eye")
        assert right_eye[0] > left_eye[0]
        page.get_by_role("button", name="Stop the webcam").click()
        assert page.evaluate("document.getElementById('video').srcObject") is None
        expect(page.locator("#video")).to_be_hidden()
        expect(page.locator("#picture-shown")).to_be_visible()
        assert page.evaluate("most_on_their_way") == 1
        frames = page.evaluate("frames_sent")
        choose(page, PHOTO)
        expect(page.locator("#facts")).to_contain_text("512 × 512 pixels")
        assert_shows(page, answer)
        expect(page.locator("#live")).to_be_hidden()
        assert page.evaluate("frames_sent") == frames

    def test_blinks_and_perclos(self, browser: Browser, service: str, tmp_path: Path) -> None:
        """Eyes that are shut half of the time, in the window of a phone."""
        film = tmp_path / "closures.mjpeg"
        awake, asleep = (encoded(each.resize((480, 480)), "JPEG", quality=92) for each in (head(), shut(head(), *EYES)))
        film.write_bytes((awake * 60 + asleep * 60) * 3)
        flags = ["--no-sandbox", "--use-fake-device-for-media-stream", f"--use-file-for-fake-video-capture={film}"]
        other = browser.browser_type.launch(executable_path=CHROMIUM, args=flags)
        with other.new_context(permissions=["camera"], viewport={"width": 360, "height": 740}) as context:
            context.set_default_timeout(PATIENCE)
            page = opened(context, service)
            page.get_by_role("button", name="Start the webcam").click()
            expect(page.locator("#now")).to_have_text("closed")
            expect(page.locator("#now")).to_have_text("open")
            expect(page.locator("#perclos")).to_have_text(re.compile(r"[1-9].* %"))
            assert page.evaluate("document.documentElement.scrollWidth") == 360
        other.close()

    def test_one_eye_and_a_key(self, context: BrowserContext, page: Page) -> None:
        """The stream is another one when something else is wanted; the key goes first."""
        context.grant_permissions(["camera"])
        page.locator("#key-box summary").click()
        page.locator("#key").fill(KEY)
        page.locator("#key-form button").click()
        first: list[str | bytes] = []

        def watched(socket: WebSocket) -> None:
            socket.once("framesent", told)

        def told(message: str | bytes) -> None:
            first.append(message)

        page.on("websocket", watched)
        page.get_by_role("button", name="Start the webcam").click()
        expect(page.locator("#said")).to_contain_text("1 face")
        page.get_by_label("One eye").check()
        expect(page.locator("#summary")).to_contain_text("The eye is")
        page.get_by_role("button", name="Stop the webcam").click()
        assert [json.loads(message) for message in first] == [{"key": KEY}] * 2

    def test_a_photo_ends_it(self, context: BrowserContext, page: Page) -> None:
        context.grant_permissions(["camera"])
        page.get_by_role("button", name="Start the webcam").click()
        expect(page.locator("#said")).to_contain_text("1 face")
        choose(page, OPEN, "eye.jpg")
        expect(page.locator("#said")).to_have_text("The eye is open.")
        expect(page.get_by_role("button", name="Start the webcam")).to_be_visible()
        assert page.evaluate("document.getElementById('video').srcObject") is None

    def test_it_waits_when_the_service_is_busy_and_goes_on(self, context: BrowserContext, page: Page) -> None:
        context.grant_permissions(["camera"])
        busy = iter([True, False])

        def serve(route: WebSocketRoute) -> None:
            if next(busy):
                route.close(code=1013)
            else:
                route.connect_to_server()

        page.route_web_socket("**/v1/stream*", serve)
        page.get_by_role("button", name="Start the webcam").click()
        expect(page.locator("#trouble")).to_have_text("The service is busy. Try again in a moment.")
        expect(page.locator("#said")).to_have_text("1 face: 2 eyes open.")
        expect(page.locator("#trouble")).to_be_empty()

    def test_refused(self, context: BrowserContext, page: Page) -> None:
        context.grant_permissions([])
        page.get_by_role("button", name="Start the webcam").click()
        expect(page.locator("#trouble")).to_contain_text("The webcam is not allowed.")
        expect(page.get_by_role("button", name="Start the webcam")).to_be_enabled()

    def test_not_there(self, browser: Browser, service: str) -> None:
        other = browser.browser_type.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        with other.new_context(permissions=["camera"]) as context:
            page = opened(context, service)
            page.get_by_role("button", name="Start the webcam").click()
            expect(page.locator("#trouble")).to_have_text("There is no webcam.")
        other.close()

    def test_not_over_an_open_line(self, context: BrowserContext, service: str) -> None:
        page = opened(context, service.replace("127.0.0.1", FOREIGN))
        page.get_by_role("button", name="Start the webcam").click()
        expect(page.locator("#trouble")).to_contain_text("only to pages that come over HTTPS")


@pytest.mark.parametrize("width", [320, 360])
def test_a_narrow_window(browser: Browser, service: str, width: int) -> None:
    with browser.new_context(viewport={"width": width, "height": 640}, has_touch=True) as context:
        context.set_default_timeout(PATIENCE)
        page = opened(context, service)
        for picture, said in ((GROUP, "3 faces"), (NO_FACE, "No face found")):
            choose(page, picture)
            expect(page.locator("#said")).to_contain_text(said)
            assert page.evaluate("document.documentElement.scrollWidth") == width
            expect(page.locator("#summary")).to_be_in_viewport()
            for target in page.locator("button:visible, .button, .drop, fieldset label, summary").all():
                box = target.bounding_box()
                assert box is not None
                assert box["height"] >= 44
            for left, top, wide, high in marks(page, ".label"):
                assert min(left, top) >= -MAX_SHIFT
                assert max(left + wide, top + high) <= 1 + MAX_SHIFT


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_that_axe_knows_keeps_anybody_out(browser: Browser, service: str, scheme: str) -> None:
    source = (installed("axe", "axe-core@4.11.0") / "node_modules" / "axe-core" / "axe.min.js").read_text()
    scheme_of: Any = scheme
    with browser.new_context(color_scheme=scheme_of, reduced_motion="reduce", bypass_csp=True) as context:
        context.set_default_timeout(PATIENCE)
        page = opened(context, service)
        page.add_script_tag(content=source)
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", ground))) > 384) == (scheme == "light")
        for picture, said in ((GROUP, "3 faces"), (b"not a picture", "not a picture")):
            choose(page, picture)
            expect(page.locator("main")).to_contain_text(said)
            found = page.evaluate("axe.run().then((result) => result.violations)")
            assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []
