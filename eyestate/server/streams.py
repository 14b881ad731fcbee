"""``/v1/stream``: frames in, and for each the score, the state of the eyes and what has happened so far.

A stream is one person over time. Its frames are answered one after the other, in order; how many may wait, and which
are left out for newer ones, is up to the ``Inbox`` of its connection.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final, Literal, cast
from urllib.parse import parse_qsl

from starlette.types import Message, Receive, Scope, Send

from eyestate import quality, verdicts
from eyestate.arrays import Pixels
from eyestate.errors import (
    DetectorError,
    DrainingError,
    EyestateError,
    NotFoundError,
    OriginNotAllowedError,
    OverloadedError,
    RequestError,
    RequestTimeoutError,
    UnauthorizedError,
)
from eyestate.faces import Found, cut
from eyestate.images import decode_rgb, header_pixels, shrunk
from eyestate.mtcnn import Box, FaceDetector
from eyestate.server import metrics
from eyestate.server.auth import RIGHTS
from eyestate.server.edge import Edge, identity
from eyestate.server.memory import BYTES_PER_PIXEL, WORK
from eyestate.server.responses import error_body
from eyestate.server.runtime import Decoded, Runtime, quota_of
from eyestate.server.websockets import INBOX, NORMAL, VIOLATION, Ending, Inbox
from eyestate.temporal import WINDOW, Event, Timeline
from eyestate.tracking import follow

log = logging.getLogger("eyestate.requests")

ROUTE: Final = "/v1/stream"
KEY_SECONDS: Final = 10.0  # for the message with the key
_MAX_QUERY_BYTES: Final = 2_048
_MAX_TIME: Final = 1e15  # seconds, beyond which a double has no milliseconds
_DECIMALS: Final = 6

Mode = Literal["face", "crop"]
Side = Literal["left", "right"]


@dataclass(frozen=True, slots=True)
class Options:
    """What the query of a stream asks for.

    Attributes:
        mode: whether frames show a person or are crops of an eye.
        eye: which eye the crops are of.
        newest: whether a frame that waits gives way to a newer one.
    """

    mode: Mode
    eye: Side
    newest: bool


def options(query: bytes) -> Options:
    """The options in a query; others are ignored, as elsewhere.

    Raises:
        RequestError: a value is not one of those it may have, or the query far too long.
    """
    if len(query) > _MAX_QUERY_BYTES:
        raise RequestError(f"the query is over the limit of {_MAX_QUERY_BYTES:,} bytes")
    given = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))

    def choice(name: str, *choices: str) -> str:
        value = given.get(name, choices[0]).lower()
        if value not in choices:
            raise RequestError(f"{name} is {value!r}; it may be {' or '.join(choices)}")
        return value

    return Options(
        cast("Mode", choice("mode", "face", "crop")),
        cast("Side", choice("eye", "left", "right")),
        choice("newest", "false", "true") == "true",
    )


class Streams:
    """The streams of this process, as an ASGI application for WebSockets."""

    def __init__(self, edge: Edge, runtime: Callable[[], Runtime], limit: int, origins: tuple[str, ...]) -> None:
        """Args:
        edge: knows the API keys, and whether the service stops.
        runtime: of this process, once it has started.
        limit: of streams that are open; one address gets three quarters of them.
        origins: other sites whose pages may open streams; ``*`` stands for all.
        """
        self._edge = edge
        self._runtime = runtime
        self._limit = limit
        self._origins = origins
        self._open = 0
        self._of_client: dict[str, int] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a stream until one of both sides ends it."""
        started = time.perf_counter()
        request_id, key = identity(dict(scope["headers"]))
        client = scope["client"][0] if scope.get("client") else ""
        await receive()
        try:
            chosen = options(scope["query_string"])
            authorized = self._admit(scope, client, key, chosen)
        except EyestateError as error:
            await _deny(error, request_id, send)
            log.info("stream %d", error.status, extra={"request_id": request_id.decode(), "client": client})
            metrics.request_done(ROUTE, error.status, 0.0, time.perf_counter() - started)
            return
        self._enter(client)
        try:
            await send({"type": "websocket.accept", "headers": [(b"x-request-id", request_id)]})
            metrics.request_done(ROUTE, 101, 0.0, time.perf_counter() - started)
            stream = _Stream(self._runtime, chosen, scope, receive, send)
            ending = await stream.run(None if authorized else partial(self._accepts, scope))
        finally:
            self._leave(client)
        log.debug(
            "stream %d",
            ending.code,
            extra={"code": ending.code, "frames": stream.frames, "request_id": request_id.decode(), "client": client},
        )

    def _accepts(self, scope: Scope, key: str | bytes) -> bool:
        """Whether a key is known; what it may do is noted in the scope."""
        if self._edge.keys is None:
            return True
        scope[RIGHTS] = self._edge.keys.accept(key.encode() if isinstance(key, str) else key)
        return scope[RIGHTS] is not None

    def _admit(self, scope: Scope, client: str, key: bytes, chosen: Options) -> bool:
        """Whether the stream may begin, and if so whether it needs no key any more."""
        if not self._limit:
            raise NotFoundError("this service takes no streams: EYESTATE_STREAMS is 0")
        if self._edge.rejecting:
            raise DrainingError("the service is stopping; open the stream again, at another instance")
        headers = dict(scope["headers"])
        origin = headers.get(b"origin", b"").decode("latin-1").lower()
        if origin and not self._is_allowed(origin, headers.get(b"host", b"").decode("latin-1").lower()):
            raise OriginNotAllowedError(f"pages of {origin} may not open streams; name it in EYESTATE_ALLOWED_ORIGINS")
        if key and not self._accepts(scope, key):
            raise UnauthorizedError("the API key is not known")
        if chosen.mode == "face" and self._runtime().face_pool is None:
            raise DetectorError("this service finds no faces: its detector is missing or damaged, as its log says")
        if self._open >= self._limit:
            raise OverloadedError(f"{self._open:,} streams are open already; try again in 10 s", 10)
        if self._of_client.get(client, 0) >= max(1, self._limit - self._limit // 4):
            raise OverloadedError("too many streams of this address are open already; try again in 10 s", 10)
        return bool(key) or self._edge.keys is None

    def _is_allowed(self, origin: str, host: str) -> bool:
        """Whether pages of an origin may open streams; a WebSocket is not subject to CORS, and asks nobody."""
        return origin.partition("://")[2] == host or "*" in self._origins or origin in self._origins

    def _enter(self, client: str) -> None:
        self._open += 1
        self._of_client[client] = self._of_client.get(client, 0) + 1
        metrics.STREAMS.set(self._open)

    def _leave(self, client: str) -> None:
        self._open -= 1
        self._of_client[client] -= 1
        if not self._of_client[client]:
            del self._of_client[client]
        metrics.STREAMS.set(self._open)


async def _deny(error: EyestateError, request_id: bytes, send: Send) -> None:
    metrics.rejected(error.code)
    body = error_body(error).model_dump_json().encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    headers += [(b"x-request-id", request_id), (b"connection", b"close")]
    if isinstance(error, OverloadedError):
        headers.append((b"retry-after", b"%d" % error.retry_after))
    if isinstance(error, UnauthorizedError):
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "websocket.http.response.start", "status": error.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})


class _Stream:
    """One stream: its person, and what has happened so far."""

    def __init__(
        self, runtime: Callable[[], Runtime], chosen: Options, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._runtime = runtime
        self._options = chosen
        self._scope = scope
        self._inbox: Inbox = scope[INBOX]
        self._inbox.newest = chosen.newest
        self._receive = receive
        self._send = send
        self._timeline = Timeline()
        self._events: dict[float, Event] = {}  # of the last minute, by their start
        self._began: float | None = None
        self._time: float | None = None  # of the next frame, if the client has said it
        self._now = 0.0  # of the last frame
        self._dropped = 0
        self._box: Box | None = None  # of the face in the last frame
        self.frames = 0

    async def run(self, accepts: Callable[[str], bool] | None) -> Ending:
        """Answer messages until the end, and close; ``accepts`` tells whether a key is known, where one is due."""
        ending = await self._unlock(accepts) if accepts else None
        while ending is None:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                ending = cast("Ending", message["ending"])
            elif "text" in message:
                ending = await self._guarded(partial(self._told, message["text"]))
            else:
                ending = await self._guarded(partial(self._frame, message))
        _count_dropped(self._inbox.dropped - self._dropped)
        if ending.error:
            await self._refuse(ending.error)
        await self._send(
            {"type": "websocket.close", "code": ending.code, "reason": ending.error.code if ending.error else ""}
        )
        return ending

    async def _unlock(self, accepts: Callable[[str], bool]) -> Ending | None:
        try:
            async with asyncio.timeout(KEY_SECONDS):
                message = await self._receive()
        except TimeoutError:
            return Ending(VIOLATION, RequestTimeoutError(f"there was no key within {KEY_SECONDS:g} s"))
        if message["type"] == "websocket.disconnect":
            return cast("Ending", message["ending"])
        try:
            key = _object(message.get("text", "")).get("key")
        except RequestError:
            key = None
        if isinstance(key, str) and accepts(key):
            return None
        return Ending(
            VIOLATION,
            UnauthorizedError('send the API key in a header, or first of all the message {"key": "KEY"}'),
        )

    async def _guarded(self, work: Callable[[], Awaitable[Ending | None]]) -> Ending | None:
        """Do the work of a message; what is wrong with it is told, and the stream goes on."""
        try:
            return await work()
        except EyestateError as error:
            await self._refuse(error)
            return None

    async def _refuse(self, error: EyestateError) -> None:
        metrics.rejected(error.code)
        await self._tell(error_body(error).model_dump())

    async def _told(self, text: str) -> Ending | None:
        """A message that is no frame: when the next one was taken, or that there are no more."""
        told = _object(text)
        if "time" in told:
            moment = told["time"]
            if isinstance(moment, bool) or not isinstance(moment, (int, float)) or not abs(moment) < _MAX_TIME:
                raise RequestError("time is a number of seconds")
            self._time = float(moment)
        elif told.get("end") is True:
            self._keep(self._timeline.finish().events)
            await self._tell({"end": True, **self._so_far()})
            return Ending(NORMAL)
        elif "key" not in told:
            raise RequestError('a text message is {"time": SECONDS}, {"end": true} or {"key": "KEY"}')
        return None

    async def _frame(self, message: Message) -> None:
        """A frame: score it, and tell what it brings."""
        arrived = message["at"]
        self._began = arrived if self._began is None else self._began
        moment, self._time = arrived - self._began if self._time is None else self._time, None
        self.frames += 1
        try:
            look = self._crop if self._options.mode == "crop" else self._face
            scores, seen = await look(message["bytes"])
            try:
                update = self._timeline.update(moment, scores["left"], scores["right"])
            except ValueError:
                raise RequestError("the time of a frame has to be later than that of the frame before") from None
        except EyestateError:
            metrics.frame("failed")
            raise
        self._now = moment
        self._keep(update.events)
        dropped, self._dropped = self._inbox.dropped - self._dropped, self._inbox.dropped
        _count_dropped(dropped)
        known = [score for score in scores.values() if score is not None]
        await self._tell(
            {
                "frame": self.frames,
                "time": round(moment, _DECIMALS),
                "score": round(sum(known) / len(known), _DECIMALS) if known else None,
                "state": update.state,
                "closure": None if update.closure is None else round(update.closure, _DECIMALS),
                **seen,
                **self._so_far(),
                "dropped": self._dropped,
            }
        )
        metrics.frame("answered", time.monotonic() - arrived)

    def _keep(self, events: list[Event]) -> None:
        self._events |= {event.start: event for event in events}

    def _so_far(self) -> dict[str, Any]:
        """What has happened in the last minute, and how many blinks there were in all."""
        timeline = self._timeline
        for start in [start for start in self._events if start < self._now - WINDOW]:
            del self._events[start]
        return {
            "blinks": timeline.blinks,
            "blink_rate": _rounded(timeline.blink_rate),
            "perclos": _rounded(timeline.perclos),
            "observed": _rounded(timeline.observed),
            "events": [
                {name: _rounded(value) for name, value in asdict(event).items()} for event in self._events.values()
            ],
        }

    async def _tell(self, what: dict[str, Any]) -> None:
        await self._send({"type": "websocket.send", "text": json.dumps(what, separators=(",", ":"))})

    async def _crop(self, data: bytes) -> tuple[dict[str, float | None], dict[str, Any]]:
        """The score of a crop."""
        runtime = self._runtime()  # another model may be loaded while a stream lasts
        decoded = await runtime.decode(self._scope, [data])
        if decoded.failures:
            raise decoded.failures.pop(0)
        score = (await runtime.score(self._scope, decoded)).item()
        return {"left": None, "right": None} | {self._options.eye: score}, {}

    async def _face(self, data: bytes) -> tuple[dict[str, float | None], dict[str, Any]]:
        """The scores of the eyes of one person: the one of the last frame, at first the largest."""
        runtime = self._runtime()
        assert runtime.face_pool
        look = partial(_look, runtime.face_pool.detector, data, self._box, runtime.scorer.side)
        if quota := quota_of(self._scope):
            quota.require_one()
        seen = await runtime.face_pool.run(look)
        if quota:
            quota.take_afterwards(len(seen.found.crops))
        runtime.monitor.decoded(seen.found.decoding, runtime.monitor.look(seen.found.crops, "faces"), "faces")
        metrics.detected(seen.found.detecting, len(seen.found.faces))
        image = {"width": seen.found.width, "height": seen.found.height}
        if not seen.found.faces:
            self._box = None
            return {"left": None, "right": None}, {"face": None, "image": image}
        face, boxes = seen.found.faces[0], seen.found.eyes[0]
        self._box = face.box
        values = iter((await runtime.score({}, Decoded(seen.crops, {}, None, "faces"))).tolist())
        hidden = iter(seen.hidden)
        scores: dict[str, float | None] = {}
        eyes: dict[str, Any] = {}
        for side, box in (("right", boxes.right), ("left", boxes.left)):
            scores[side] = eyes[side] = None
            if box:
                score, reasons = next(values), next(hidden)
                scores[side] = None if reasons else score
                state = "hidden" if reasons else runtime.scorer.state(score)
                eyes[side] = {"box": _box(box), "score": scores[side] and _rounded(score), "state": state}
        return scores, {"face": {"box": _box(face.box), "eyes": eyes}, "image": image}


@dataclass(frozen=True, slots=True)
class _Seen:
    """One face at most, its crops as they are queued for scoring, and what hides the eye in each."""

    found: Found
    crops: list[Pixels]
    hidden: list[list[quality.Reason]]


def _look(detector: FaceDetector, data: bytes, last: Box | None, side: int, is_cancelled: Callable[[], bool]) -> _Seen:
    """Find a person in a frame: near the last place, else anywhere."""
    started = time.perf_counter()
    with WORK.take(header_pixels(data) * BYTES_PER_PIXEL):
        pixels = decode_rgb(data)
        decoded = time.perf_counter()
        faces = follow(detector, pixels, last, is_cancelled)
        found = cut(pixels, faces[:1], decoded - started, time.perf_counter() - decoded)
    turned = [reason for face in found.faces for reason in verdicts.turn(face)]
    assessed = zip(found.crops, found.cheeks, quality.assess(found.crops), strict=True)
    hidden = [[*turned, *verdicts.hidden(*each)] for each in assessed]
    return _Seen(found, [shrunk(crop, side) for crop in found.crops], hidden)


def _count_dropped(frames: int) -> None:
    """Count frames that gave way to newer ones."""
    if frames:
        metrics.STREAM_FRAMES.labels("dropped").inc(frames)


def _object(text: str) -> dict[str, Any]:
    """The JSON object of a text message.

    Raises:
        RequestError: it is none.
    """
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise RequestError("a text message is a JSON object")
    return told


def _rounded(value: Any) -> Any:
    return round(value, _DECIMALS) if isinstance(value, float) else value


def _box(box: Box) -> dict[str, float]:
    return {side: round(pixels, 1) for side, pixels in box._asdict().items()}
