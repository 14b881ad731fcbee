"""The service's own routes under uvicorn, with faults on order, to test what talks to it.

A fault is taken from the list that was put for each POST, in turn: ``{"status": 429, "headers": {...}}`` is answered
in place of the service, ``{"delay": 0.5}`` waits before it answers, ``{"cut": true}`` breaks off in the middle of the
answer, ``{"page": true}`` answers 200 with a page of HTML as a proxy may. ``{"over": 1000, …}`` is a fault of requests
with more bytes than that, and ``{"holding": "text", …}`` of those that hold the text. ``null`` is no fault.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eyestate import limits
from eyestate.bundle import load_model
from eyestate.server.app import create_app, wrap
from eyestate.settings import settings
from tools.harness.servers import free_port

PROJECT = Path(__file__).parents[1]


@dataclass(frozen=True)
class FaultyService:
    """A running service: its address, its process, and the faults to come."""

    url: str
    process: subprocess.Popen[bytes]

    def order(self, *faults: dict[str, Any] | None, then: dict[str, Any] | None = None) -> None:
        """Put faults for the next POSTs, and one for all that follow them; forget what was seen."""
        httpx.put(f"{self.url}/faults", json={"faults": faults, "then": then}).raise_for_status()

    def seen(self) -> dict[str, Any]:
        """What came since the last order: ``posts``, how many of them at a time at ``most``, and their ``headers``."""
        seen: dict[str, Any] = httpx.get(f"{self.url}/faults").json()
        return seen


@contextmanager
def faulty_service(
    bundle: Path, log: Path, port: int = 0, max_pixels: int = limits.MAX_PIXELS
) -> Iterator[FaultyService]:
    """A service of its own with the model of a bundle, perhaps with a lower limit on the pixels of a request."""
    port = port or free_port()
    command = [sys.executable, "-m", "tests.faulty_service", str(port)]
    environment = {**os.environ, "EYESTATE_MODEL": str(bundle), "MAX_PIXELS": str(max_pixels)}
    with (
        log.open("ab") as output,
        subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=output, stderr=output) as process,
    ):
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(process, url, log)
            yield FaultyService(url, process)
        finally:
            process.kill()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/readyz").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError(f"the service did not become ready:\n{log.read_text()}")


class Faults:
    """ASGI middleware that misbehaves as ordered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._forget([], None)

    def _forget(self, faults: list[dict[str, Any] | None], then: dict[str, Any] | None) -> None:
        self._faults, self._then = faults, then
        self._posts = self._now = self._most = 0
        self._headers: list[dict[str, str]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/faults":
            request = Request(scope, receive)
            if request.method == "PUT":
                self._forget(**await request.json())
            seen = {"posts": self._posts, "most": self._most, "headers": self._headers}
            await JSONResponse(seen)(scope, receive, send)
        elif scope["type"] == "http" and scope["method"] == "POST":
            self._posts += 1
            self._now += 1
            self._most = max(self._most, self._now)
            self._headers.append(dict(Request(scope).headers))
            try:
                await self._post((self._faults.pop(0) if self._faults else self._then) or {}, scope, receive, send)
            finally:
                self._now -= 1
        else:
            await self._app(scope, receive, send)

    async def _post(self, fault: dict[str, Any], scope: Scope, receive: Receive, send: Send) -> None:
        if fault.keys() & {"over", "holding"}:
            content = await Request(scope, receive).body()
            receive = _received(content)
            if len(content) <= fault.get("over", 0) or fault.get("holding", "").encode() not in content:
                fault = {}
        await asyncio.sleep(fault.get("delay", 0))
        if "status" in fault:
            body = {"error": {"code": "ordered", "message": "as ordered"}}
            await JSONResponse(body, fault["status"], fault.get("headers"))(scope, receive, send)
        elif "page" in fault:
            await Response("<html>Please log in</html>", media_type="text/html")(scope, receive, send)
        elif "cut" in fault:
            headers = [(b"content-length", b"1000")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
        else:
            await self._app(scope, receive, send)


def _received(body: bytes) -> Receive:
    """A body that was read, to be read again."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else await asyncio.Future()

    return receive


if __name__ == "__main__":
    limits.MAX_PIXELS = int(os.environ.get("MAX_PIXELS", limits.MAX_PIXELS))  # type: ignore[misc]  # a constant elsewhere
    chosen = settings()
    service = create_app(chosen, load_model())
    uvicorn.run(Faults(wrap(service, service, chosen)), port=int(sys.argv[1]), log_level="warning")
