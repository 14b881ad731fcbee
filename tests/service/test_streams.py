"""``/v1/stream`` of the real service."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from eyestate.server.websockets import MAX_MESSAGE_BYTES
from tests.images import encoded
from tests.photos import EYES, head, shut, sunglasses
from tests.service.conftest import PROJECT, started_service, wait_until_ready
from tests.service.test_service import assert_error, sample, samples
from tests.streams import Stream

OPEN, CLOSED = ((PROJECT / "examples" / f"{state}.jpg").read_bytes() for state in ("open", "closed"))
FACE = encoded(head(), "JPEG", quality=92)


def played(stream: Stream, seconds: float, *closed: tuple[float, float]) -> dict[str, object]:
    """The last answer to crops at 30 frames a second, closed within spans of time."""
    answer = {}
    for time in np.arange(0, seconds, 1 / 30).tolist():
        shown = CLOSED if any(start <= time < end for start, end in closed) else OPEN
        answer = stream.ask({"time": time}, shown)
    return answer


class TestCrops:
    def test_each_is_answered(self, service: str) -> None:
        with Stream(service, "?mode=crop") as stream:
            for number, (crop, state) in enumerate([(OPEN, "open"), (OPEN, "open"), (CLOSED, "closed")], 1):
                answer = stream.ask(crop)
                assert answer["frame"] == number
                assert (answer["score"] > 0.5) is (state == "open")
            assert set(answer) == {
                *("frame", "time", "score", "state", "closure"),
                *("blinks", "blink_rate", "perclos", "observed", "events", "dropped"),
            }

    def test_blinks_and_perclos(self, service: str) -> None:
        """Two blinks and a closure of 1.5 s in 8 s, at times that the client says."""
        with Stream(service, "?mode=crop") as stream:
            answer = played(stream, 8, (2.0, 2.2), (4.0, 4.2), (5.5, 7.0))
            end = stream.ask({"end": True})
            assert stream.close_code() == 1000
        assert answer["blinks"] == end["blinks"] == 2
        assert [event["kind"] for event in end["events"]] == ["blink", "blink", "closure"]
        assert [event["start"] for event in end["events"]] == pytest.approx([2.0, 4.0, 5.5], abs=0.04)
        assert end["events"][2]["duration"] == pytest.approx(1.5, abs=0.05)
        assert end["perclos"] == pytest.approx(1.9 / 8, abs=0.03)
        assert answer["time"] == pytest.approx(7.967, abs=0.001)

    def test_a_bad_message_is_told_and_the_stream_goes_on(self, service: str) -> None:
        with Stream(service, "?mode=crop") as stream:
            for message, code in (
                (b"no image", "unsupported_image"),
                (b"", "empty_image"),
                (OPEN[:200], "corrupt_image"),
                ("no json", "invalid_request"),
                ("[" * 5_000, "invalid_request"),
                ({"time": "now"}, "invalid_request"),
                ({"time": 10**400}, "invalid_request"),
                ({"time": float("nan")}, "invalid_request"),
                ({"what": 1}, "invalid_request"),
            ):
                assert stream.ask(message)["error"]["code"] == code
            assert stream.ask({"time": 5}, OPEN)["time"] == 5
            assert "later" in stream.ask({"time": 5}, OPEN)["error"]["message"]
            assert stream.ask({"time": 6}, OPEN)["score"] > 0.5
            assert stream.ping() == b"are you there?"


class TestFaces:
    def test_a_person_with_open_and_shut_eyes(self, service: str) -> None:
        with Stream(service) as stream:
            for photo, state in ((head(), "open"), (shut(head(), *EYES), "closed")):
                answer = stream.ask(encoded(photo, "PNG"))
                assert {eye["state"] for eye in answer["face"]["eyes"].values()} == {state}
                assert answer["image"] == {"width": 260, "height": 260}

    def test_what_is_not_seen_is_unknown(self, service: str) -> None:
        with Stream(service) as stream:
            answer = stream.ask(encoded(sunglasses(head(), (15, 12, 12), 0.9), "PNG"))
            assert (answer["score"], answer["state"]) == (None, "unknown")
            assert {eye["state"] for eye in answer["face"]["eyes"].values()} == {"hidden"}
            answer = stream.ask(encoded(head().resize((32, 32)).resize((260, 260)).rotate(180), "PNG"))
            assert (answer["face"], answer["score"], answer["state"]) == (None, None, "unknown")

    def test_the_newest_frame_wins(self, service: str) -> None:
        with Stream(service, "?newest=true") as stream:
            stream.send(*[FACE] * 40)
            answered = dropped = 0
            while answered + dropped < 40:
                answered, dropped = answered + 1, dropped + stream.answer()["dropped"]
            assert dropped > answered

    def test_otherwise_too_many_frames_end_it(self, service: str) -> None:
        with Stream(service) as stream:
            stream.send(*[FACE] * 60)
            while "error" not in (answer := stream.answer()):
                assert answer["dropped"] == 0
            assert answer["error"]["code"] == "overloaded"
            assert stream.close_code() == 1013


class TestBorders:
    def test_messages_are_limited(self, service: str) -> None:
        with Stream(service) as stream:
            stream.send(bytes(MAX_MESSAGE_BYTES + 1))
            assert stream.answer()["error"]["code"] == "invalid_request"
            assert stream.close_code() == 1009

    def test_what_is_no_websocket(self, service: str) -> None:
        with Stream(service) as stream:
            stream.socket.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert stream.close_code() == 1002

    def test_a_request_without_a_handshake(self, service: str) -> None:
        response = httpx.get(f"{service}/v1/stream")
        assert_error(response, 426, "upgrade_required")
        assert response.headers["upgrade"] == "websocket"
        offer = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "8"}
        assert_error(httpx.get(f"{service}/v1/stream", headers=offer), 426, "upgrade_required")

    def test_pages_of_other_sites(self, service: str) -> None:
        for origin, status in (("https://evil.example", 403), ("http://[", 403), ("null", 403), (service, 101)):
            with Stream(service, headers={"Origin": origin}) as stream:
                assert stream.status == status

    def test_bad_options(self, service: str) -> None:
        with Stream(service, "?mode=photo") as stream:
            assert (stream.status, stream.error) == (422, "invalid_request")

    def test_a_handshake_behind_a_request(self, service: str) -> None:
        """It is a stream once the request is answered; what comes with the handshake is not lost."""
        address = httpx.URL(service)
        handshake = (
            b"GET /v1/stream?mode=crop HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        ping = b"\x89\x80abcd"
        with socket.create_connection((address.host, address.port), timeout=20) as connection:
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
            connection.sendall(handshake + ping)
            received = b""
            while not received.endswith(b"\x8a\x00"):
                received += connection.recv(65_536)
            assert received.startswith(b"HTTP/1.1 101")
            assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in received

    def test_it_is_counted(self, service: str, client: httpx.Client) -> None:
        before = samples(client)
        with Stream(service, "?mode=crop") as stream:
            stream.ask(OPEN)
            stream.ask(b"no image")
            after = samples(client)
            assert after[sample("eyestate_streams")] >= 1
        for outcome in ("answered", "failed"):
            name = sample("eyestate_stream_frames_total", outcome=outcome)
            assert after[name] - before.get(name, 0) == 1
        name = sample("eyestate_requests_total", route="/v1/stream", status="101")
        assert after[name] - before.get(name, 0) == 1


def test_keys_limits_and_shutdown(tmp_path: Path) -> None:
    keys, log = tmp_path / "keys", tmp_path / "log"
    keys.write_text("secret\n")
    environment = {"EYESTATE_API_KEYS_FILE": str(keys), "EYESTATE_STREAMS": "4", "EYESTATE_DRAIN": "0"}
    with started_service(tmp_path / "home", log, **environment) as (process, url):
        wait_until_ready(process, url, log)
        with Stream(url, headers={"X-API-Key": "wrong"}) as stream:
            assert (stream.status, stream.error) == (401, "unauthorized")
        for first in ({"key": "wrong"}, {"time": 1}, OPEN, "no json"):
            with Stream(url, "?mode=crop") as stream:
                assert stream.ask(first)["error"]["code"] == "unauthorized"
                assert stream.close_code() == 1008
        with (
            Stream(url, "?mode=crop", headers={"Authorization": "Bearer secret"}) as first_stream,
            Stream(url, "?mode=crop") as second_stream,
            Stream(url) as third_stream,
            Stream(url) as one_too_many,
        ):
            assert (one_too_many.status, one_too_many.error) == (429, "overloaded")
            assert first_stream.ask(OPEN)["frame"] == 1
            assert second_stream.ask({"key": "secret"}, OPEN)["frame"] == 1
            second_stream.send(*[OPEN] * 5)
            process.send_signal(signal.SIGTERM)
            assert [second_stream.answer()["frame"] for _ in range(5)] == [2, 3, 4, 5, 6]
            for stream in (first_stream, second_stream, third_stream):
                assert stream.close_code() == 1001
        assert process.wait(30) == 0
    assert "secret" not in log.read_text()
    assert "Traceback" not in log.read_text()


def test_the_example_of_the_guide(service: str) -> None:
    guide = (PROJECT / "docs" / "streams.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    code = code.replace("3000", str(httpx.URL(service).port))
    shown = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True, capture_output=True, text=True)
    assert shown.stdout == "open 0\n"
