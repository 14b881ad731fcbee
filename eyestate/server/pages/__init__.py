"""The pages for people: ``/``, which describes the API, and ``/try``, which scores a picture or the webcam.

They are clients of the HTTP API like any other and load nothing from elsewhere. ``try.js`` says how ``/try`` works.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from eyestate.server import openapi
from eyestate.server.pages import api

_FOLDER: Final = Path(__file__).parent
_ASSETS: Final = ("base.css", "icon.svg", "api.css", "api.js", "try.css", "live.js", "try.js", "sample.jpg")
_MEDIA_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
}
_HEADERS: Final = {
    "Cache-Control": "no-cache",  # kept, and asked for with its ETag each time: a release changes all files at once
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; "  # for WebSockets of the same host, too
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
PATHS: Final = ("/", "/try", *(f"/pages/{name}" for name in _ASSETS))


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    media_type: str
    etag: str


async def page(request: Request) -> Response:
    """One of ``PATHS``: 304 where the browser has it already."""
    file = _file(request.scope["path"])
    headers = {**_HEADERS, "ETag": file.etag}
    known = (tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(","))
    if file.etag in known:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)


@cache
def _file(path: str) -> _File:
    if path == "/":
        content, suffix = api.html(json.loads(openapi.document())).encode(), ".html"
    else:
        source = _FOLDER / ("try.html" if path == "/try" else path.removeprefix("/pages/"))
        content, suffix = source.read_bytes(), source.suffix
    return _File(content, _MEDIA_TYPES[suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')
