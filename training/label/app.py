"""The labelling page as a Starlette application.

It trusts its user's browser and nothing else: other hosts' names, other pages' requests and other files than the
queue's crops are refused, and the page loads nothing from elsewhere.
"""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eyestate.errors import BodyTooLargeError, EyestateError, NotFoundError, RequestError, UnsupportedMediaTypeError
from eyestate.images import decode
from training.data.datasets import Crop, DataError
from training.data.labels import Label, write_answers
from training.label.exchange import LABELING_CONFIG, label_studio, parse, votes_csv
from training.label.store import VOTE_CODES, VOTE_WORDS, Store, annotator_name, majority

SIDES: Final = {"large": 480, "small": 96}  # pixels of the longer side; "exact" is the crop as it is
MAX_ANSWER_BYTES: Final = 16 * 2**10
# An import may be as large as the images of the queue in base64, which Label Studio hands back, and beside them:
IMPORT_BYTES: Final = 32 * 2**20
IMPORT_BYTES_PER_CROP: Final = 64 * 2**10  # for names and votes

_PAGE: Final = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js"}
_MEDIA_TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class ForeignPageError(RequestError):
    """A request that a page of another origin made the browser send."""

    status = 403
    code = "foreign_page"


class UnknownHostError(RequestError):
    """A request under a name that is not known to be this machine's: another site may have its name lead here."""

    status = 400
    code = "unknown_host"


class OtherStoreError(RequestError):
    """An answer that was given when the server had another store."""

    status = 409
    code = "other_store"


@dataclass(frozen=True, slots=True)
class Task:
    """What there is to label and where the answers go.

    ``queue`` are the questions in the order they are asked, ``crops`` their images in the same order, and ``go_on`` the
    command that continues from ``answers``, the CSV with the majority's answers.
    """

    queue: Sequence[Label]
    crops: Sequence[Crop]
    store: Store
    answers: Path
    go_on: str


class Desk:
    """A task with what the routes keep at hand."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.digests = [hashlib.sha256(crop.data).hexdigest() for crop in task.crops]
        self.images = {digest: crop.data for digest, crop in zip(self.digests, task.crops, strict=True)}
        self.places = {crop.name: place for place, crop in enumerate(task.crops)}
        self.import_limit = IMPORT_BYTES + sum(
            IMPORT_BYTES_PER_CROP + 4 * -(-len(crop.data) // 3) for crop in task.crops
        )
        self._writing = threading.Lock()

    def write_answers(self) -> None:
        """Bring the CSV up to the store; after a kill in between, the next answer or start does."""
        with self._writing:
            write_answers(self.task.answers, majority(self.task.store.votes()))


def app(task: Task, hosts: Iterable[str]) -> Starlette:
    """The application; it writes the answers file before it takes requests, and after every change.

    Args:
        task: what to label.
        hosts: names, without port, under which browsers may reach it, beside any address.
    """
    desk = Desk(task)
    desk.write_answers()
    application = Starlette(
        routes=[
            *(Route(path, page) for path in _PAGE),
            Route("/api/state", state),
            Route("/api/answer", answer, methods=["POST"]),
            Route("/api/undo", undo, methods=["POST"]),
            Route("/api/import", take_in, methods=["POST"]),
            Route("/api/export/{name}", export),
            Route("/crops/{digest}/{size}.png", crop_image),
        ],
        middleware=[Middleware(Guard, hosts=hosts)],
        exception_handlers={
            EyestateError: _refuse,
            HTTPException: _refuse_route,
            ClientDisconnect: _give_up,
            Exception: _fail,
        },
    )
    application.state.desk = desk
    return application


class Guard:
    """Rejects unknown hosts and changes that other origins ask for, and adds security headers to every response."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str]) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        request = Request(scope)
        host = request.headers.get("host", "")
        if not self._is_known(host):
            response = _error(
                UnknownHostError(
                    f"{host:.200} is not known to be this machine; start with --allow-host to allow a name"
                )
            )
            await response(scope, receive, send_guarded)
        elif request.method not in ("GET", "HEAD") and _is_foreign(request):
            response = _error(ForeignPageError("only the labelling page itself may change answers"))
            await response(scope, receive, send_guarded)
        else:
            await self._app(scope, receive, send_guarded)

    def _is_known(self, host: str) -> bool:
        """Whether it is a known name, or an address, to which no other site's name can have led."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
            return name in self._hosts or bool(ip_address(name))
        except ValueError:
            return False


def page(request: Request) -> Response:
    """``GET /``, ``/page.css`` and ``/page.js``."""
    path = Path(__file__).with_name(_PAGE[request.url.path])
    return Response(path.read_bytes(), media_type=_MEDIA_TYPES[path.suffix])


def crop_image(request: Request) -> Response:
    """``GET /crops/{digest}/{size}.png``: a crop of the queue, named by its content: browsers may keep it."""
    data = _desk(request).images.get(request.path_params["digest"])
    size = request.path_params["size"]
    if data is None or size not in (*SIDES, "exact"):
        raise NotFoundError("there is no such crop in the queue")
    headers = {"Cache-Control": "private, max-age=31536000, immutable"}
    return Response(_png(data, SIDES.get(size)), media_type="image/png", headers=headers)


def state(request: Request) -> Response:
    """``GET /api/state?annotator=…``: the queue, everyone's votes on it, and what this annotator can undo."""
    desk = _desk(request)
    store, places = desk.task.store, desk.places
    annotator = request.query_params.get("annotator")
    actions = store.actions(annotator_name(annotator)) if annotator else []
    return _json(
        {
            "store": store.id,
            "answers": str(desk.task.answers),
            "go_on": desk.task.go_on,
            "crops": [
                {"file": item.file, "image": digest, "p_open": item.p_open}
                for item, digest in zip(desk.task.queue, desk.digests, strict=True)
            ],
            "votes": [
                [places[vote.file], vote.annotator, VOTE_WORDS[vote.label]]
                for vote in store.votes()
                if vote.file in places
            ],
            "actions": [
                {"id": action.id, "crop": places[action.file], "previous": action.previous}
                for action in actions
                if action.file in places
            ],
        }
    )


async def answer(request: Request) -> Response:
    """``POST /api/answer``: ``{"store", "id", "annotator", "file", "label"}``; committed before the response."""
    desk = _desk(request)
    said = await _message(request, desk, ("id", "annotator", "file", "label"))
    if said["label"] not in VOTE_CODES:
        raise RequestError(f"label must be {', '.join(VOTE_CODES)}")
    if said["file"] not in desk.places:
        raise RequestError(f"{said['file']:.200} is none of the crops to label")

    def save() -> None:
        name = annotator_name(said["annotator"])
        desk.task.store.answer(said["id"], name, said["file"], VOTE_CODES[said["label"]])
        desk.write_answers()

    await run_in_threadpool(save)
    return _json({"saved": True})


async def undo(request: Request) -> Response:
    """``POST /api/undo``: ``{"store", "id", "annotator"}``, the id of the answer; responds whether it was undone."""
    desk = _desk(request)
    said = await _message(request, desk, ("id", "annotator"))

    def take_back() -> bool:
        undone = desk.task.store.undo(said["id"], annotator_name(said["annotator"]))
        desk.write_answers()
        return undone

    return _json({"undone": await run_in_threadpool(take_back)})


async def take_in(request: Request) -> Response:
    """``POST /api/import?name=…``: the body, as ``exchange.parse`` reads it, is imported whole or not at all."""
    desk = _desk(request)
    data = await _body(request, ("text/csv", "application/json"), desk.import_limit)
    name = Path(request.query_params.get("name", "")).name or "imported"

    def add() -> Mapping[str, int]:
        imported = desk.task.store.take_in(parse(data, name, desk.task.store.files))
        desk.write_answers()
        return {"changed": imported.changed, "unchanged": imported.unchanged, "outdated": imported.outdated}

    return _json(await run_in_threadpool(add))


def export(request: Request) -> Response:
    """``GET /api/export/…``: ``answers.csv``, ``votes.csv``, ``label-studio.json`` or ``label-studio.xml``."""
    desk = _desk(request)
    store, name = desk.task.store, request.path_params["name"]
    match name:
        case "answers.csv":
            desk.write_answers()
            content, media_type = desk.task.answers.read_bytes(), "text/csv"
        case "votes.csv":
            content, media_type = votes_csv(store.votes()).encode(errors="surrogateescape"), "text/csv"
        case "label-studio.json":
            tasks = label_studio(desk.task.crops, store.votes())
            content, media_type = json.dumps(tasks).encode(), "application/json"
        case "label-studio.xml":
            content, media_type = LABELING_CONFIG.encode(), "application/xml"
        case _:
            raise NotFoundError("there is no such export")
    return Response(content, media_type=media_type, headers={"Content-Disposition": f'attachment; filename="{name}"'})


def _desk(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


@lru_cache(maxsize=4096)
def _png(data: bytes, side: int | None) -> bytes:
    """A crop as PNG, enlarged (or reduced) smoothly to ``side`` pixels on its longer side."""
    image = Image.fromarray(decode(data))
    if side is not None:
        scale = side / max(image.size)
        width, height = (max(1, round(length * scale)) for length in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _is_foreign(request: Request) -> bool:
    """Browsers say which page a POST comes from; programs such as curl do not, and cannot be made to by a page."""
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    own = f"{request.url.scheme}://{request.headers.get('host')}"
    return origin not in (None, own) or site not in (None, "same-origin")


async def _message(request: Request, desk: Desk, fields: Iterable[str]) -> Mapping[str, str]:
    """The JSON object that a request brings, all fields of it text."""
    data = await _body(request, ("application/json",), MAX_ANSWER_BYTES)
    try:
        said: Any = json.loads(data)
    except (ValueError, RecursionError):
        raise RequestError("the body is no JSON") from None
    if not isinstance(said, dict):
        raise RequestError("the body must be an object")
    for field in ("store", *fields):
        if not isinstance(said.get(field), str):
            raise RequestError(f"{field} must be text")
    if said["store"] != desk.task.store.id:
        raise OtherStoreError("the server has another store of answers now; reload the page")
    return said


async def _body(request: Request, media_types: Sequence[str], limit: int) -> bytes:
    """The body, rejected as soon as it is known to be too large.

    The media types are ones that no page elsewhere can send without asking first.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in media_types:
        raise UnsupportedMediaTypeError(f"the content type must be {' or '.join(media_types)}")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise BodyTooLargeError(f"the body is over the limit of {limit:,} bytes")
    return bytes(body)


def _json(answer: object, status: int = 200) -> Response:
    return Response(json.dumps(answer), status, media_type="application/json")


def _error(error: EyestateError) -> Response:
    # What is wrong with the data here came with the request.
    status = 422 if isinstance(error, DataError) else error.status
    return _json({"error": {"code": error.code, "message": error.message}}, status)


async def _refuse(_request: Request, error: Exception) -> Response:
    assert isinstance(error, EyestateError)
    return _error(error)


async def _refuse_route(_request: Request, error: Exception) -> Response:
    """No such path or method."""
    assert isinstance(error, HTTPException)
    return _json({"error": {"code": "not_found", "message": error.detail}}, error.status_code)


async def _give_up(_request: Request, _left: Exception) -> Response:
    """The client left before its body was complete; nobody reads this response."""
    return Response(status_code=499)  # nginx's "client closed request"


async def _fail(_request: Request, _cause: Exception) -> Response:
    """An internal error: the response is short, the server's log complete."""
    return _error(EyestateError("the server failed on this request; the window it runs in says why"))
