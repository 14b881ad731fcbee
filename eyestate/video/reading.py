"""Frames of a video file or a stream, with their times, upright."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from eyestate.arrays import Pixels
from eyestate.errors import VideoError
from eyestate.extras import extra

with extra("video"):
    import av

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

SUFFIXES: Final = frozenset(
    {".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"}
)
LIVE: Final = ("rtsp://", "rtsps://", "rtmp://", "udp://", "srt://")
_PATIENCE: Final = 10.0  # seconds that a stream may take to open, or to send the next packet


class Video:
    """An open video.

    Attributes:
        seconds: its length, as far as its header tells.
        bad: frames so far that could not be decoded.
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self.bad = 0
        self._container = container
        self._stream = stream
        self._start = stream.start_time or 0
        self._base = stream.time_base or 1
        length = stream.duration * self._base if stream.duration else (container.duration or 0) / av.time_base
        self.seconds = float(length)

    def frames(self, after: float = -math.inf) -> Iterator[tuple[float, Pixels]]:
        """The frames later than a time: seconds since the first one, and upright RGB, uint8 (height, width, 3).

        Times are those that the video gives its frames, whatever rate it claims.
        """
        for time, frame in self.decoded(after):
            yield time, upright(frame)

    def decoded(self, after: float = -math.inf) -> Iterator[tuple[float, VideoFrame]]:
        """As ``frames``, as they are decoded."""
        if after > 0:
            with suppress(av.FFmpegError):  # what cannot seek is read from its beginning
                self._container.seek(self._start + int(after / self._base), stream=self._stream, backward=True)
        latest = after
        expected: set[int] = set()  # times of frames whose packets were read
        for packet in self._packets():
            if packet.pts is not None and not packet.is_discard and self._seconds(packet.pts) > after:
                expected.add(packet.pts)
            try:
                frames: list[Any] = packet.decode()
            except av.FFmpegError:
                continue
            for frame in frames:
                pts = frame.dts if frame.pts is None else frame.pts
                if pts is None or frame.is_corrupt or self._seconds(pts) <= latest:
                    continue
                passed = {other for other in expected if other <= pts}
                self.bad += len(passed - {pts})
                expected -= passed
                latest = self._seconds(pts)
                yield latest, frame
        self.bad += len(expected)

    def _packets(self) -> Iterator[Any]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:  # cut off; what the file has left cannot be told apart
                self.bad += 1
                return
            if packet is None:
                return
            yield packet

    def _seconds(self, pts: int) -> float:
        return float((pts - self._start) * self._base)


@contextmanager
def opened(source: str) -> Iterator[Video]:
    """Open a file or a stream.

    Raises:
        VideoError: it cannot be read, or holds no video.
    """
    live = is_live(source)
    try:
        if not live and not Path(source).stat().st_size:
            raise VideoError(f"{source} is empty")
        options = {"rtsp_transport": "tcp"} if source.startswith("rtsp") else {}
        container = av.open(source, options=options, timeout=_PATIENCE if live else None)
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{source} cannot be read as a video: {error.strerror or error}") from None
    with container:
        streams = [stream for stream in container.streams.video if not _is_cover(stream)]
        if not streams:
            raise VideoError(f"{source} holds no video" + (", only sound" if container.streams.audio else ""))
        streams[0].thread_type = "AUTO"
        yield Video(container, streams[0])


def is_live(source: str) -> bool:
    """Whether a source is a stream, which has neither a beginning nor an end of its own."""
    return source.startswith(LIVE)


def upright(frame: VideoFrame) -> Pixels:
    """The pixels of a frame, turned as its metadata says: RGB, uint8 (height, width, 3)."""
    pixels = frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def _is_cover(stream: VideoStream) -> bool:
    """Whether a stream is the picture that music files carry."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)
