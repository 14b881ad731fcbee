"""The page ``GET /try``: a photo, a crop or the webcam, and beside it what the service makes of it.

It is a client of the HTTP API like any other and loads nothing from elsewhere; ``page.js`` says how it works.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

_FOLDER: Final = Path(__file__).parent
_HEADERS: Final = {
    "Cache-Control": "no-cache",  # kept, and asked for with its ETag each time: a release changes all files at once
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    media_type: str
    etag: str


def _read(name: str, media_type: str) -> _File:
    content = (_FOLDER / name).read_bytes()
    return _File(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:32]}"')


_FILES: Final = {
    "/try": _read("page.html", "text/html; charset=utf-8"),
    "/try/page.css": _read("page.css", "text/css; charset=utf-8"),
    "/try/page.js": _read("page.js", "text/javascript; charset=utf-8"),
    "/try/page.svg": _read("page.svg", "image/svg+xml"),
}
PATHS: Final = tuple(_FILES)


async def page(request: Request) -> Response:
    """One of ``PATHS``: 304 where the browser has it already."""
    file = _FILES[request.scope["path"]]
    headers = {**_HEADERS, "ETag": file.etag}
    known = (tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(","))
    if file.etag in known:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
