"""Admission control: who may send a body, who is worked for, and the error for whom waiting would cost too much."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Final

from eyestate.errors import BodyTooLargeError, OverloadedError, QuotaExceededError

MAX_ACTIVE: Final = 1_024  # requests that are worked for; with more of them all would be late
SMALL_BODY_BYTES: Final = 2**20  # room is kept for requests with no more than that
MIN_BYTES_PER_SECOND: Final = 240  # of a body, as ASP.NET's Kestrel has it
PATIENCE_SECONDS: Final = 10.0  # that a body may be behind that rate
_STALLED_SECONDS: Final = 1.0  # behind it, after which a body gives way to others
_SMOOTHING: Final = 0.1  # weight of the newest value in the moving average


def smoothed(average: float, newest: float, weight: float = 1.0) -> float:
    """The exponential moving average after another value, which counts in full at a weight of 1."""
    return average + _SMOOTHING * weight * (newest - average)


def overloaded(waiting: str, seconds: float) -> OverloadedError:
    """The error for a request that is turned away.

    Args:
        waiting: what waits already, such as "12 crops".
        seconds: until there should be room.
    """
    retry_after = math.ceil(seconds)
    return OverloadedError(f"{waiting} are waiting already; try again in {retry_after} s", retry_after)


class Places:
    """The places of requests that are worked for: one for each whose body is complete.

    One client address gets three quarters of them, and bodies that are not small together get half.
    """

    def __init__(self, total: int = MAX_ACTIVE) -> None:
        self._total = total
        self._most = total - total // 4  # of one address
        self._taken = self._large = 0
        self._of_client: dict[str, int] = {}
        self._expected: dict[str, int] = {}  # requests in this iteration of the event loop, by address,
        self._coming = 0  # and in all
        self._all_taken = f"{total:,} requests are on their way already; try again in 1 s"
        self._own_taken = f"{self._most:,} requests from this address are on their way already; try again in 1 s"

    def expect(self, client: str) -> str | None:
        """At the head of a request: why there will be no place for it, None where there should be one.

        Those that are let in take their places after the event loop has read from all connections, perhaps hundreds of
        them, so they count until then.
        """
        own = self._expected.get(client, 0)
        if self._taken + self._coming >= self._most and (why := self._full(client, own, self._coming)):
            return why
        if not self._coming:
            asyncio.get_running_loop().call_soon(self._all_read)
        self._expected[client] = own + 1
        self._coming += 1
        return None

    def _all_read(self) -> None:
        self._expected.clear()
        self._coming = 0

    def full(self, client: str) -> str | None:
        """Why there is no place for another request of a client, None where there is one."""
        return self._full(client, 0, 0) if self._taken >= self._most else None

    def check(self, client: str) -> None:
        """Whether there is a place for another request of a client.

        Raises:
            OverloadedError: there is none.
        """
        if why := self.full(client):
            raise OverloadedError(why, 1)

    def _full(self, client: str, own: int, coming: int) -> str | None:
        if self._taken + coming >= self._total:
            return self._all_taken
        return self._own_taken if self._of_client.get(client, 0) + own >= self._most else None

    def take(self, upload: Upload) -> None:
        """Give a place to a request whose body is complete.

        Raises:
            OverloadedError: there is none.
        """
        self.check(upload.client)
        if upload.large:
            if self._large >= self._total - self._total // 2:
                raise OverloadedError(
                    f"{self._large:,} requests with large bodies are on their way already; try again in 1 s", 1
                )
            self._large += 1
        self._taken += 1
        self._of_client[upload.client] = self._of_client.get(upload.client, 0) + 1
        upload.placed = True

    def leave(self, upload: Upload) -> None:
        """Take back the place of a request that has ended, if it had one."""
        if not upload.placed:
            return
        self._taken -= 1
        self._large -= upload.large
        self._of_client[upload.client] -= 1
        if not self._of_client[upload.client]:
            del self._of_client[upload.client]


class Upload:
    """The body of a request on its way in.

    Attributes:
        client: the address it comes from.
        size: bytes that have arrived.
        complete: whether all has arrived; the request then takes a place.
        placed: whether it has got it.
        due: when the client is too slow, by ``time.perf_counter``; infinite while nothing is expected of it.
        begun: when the head was here, by the same clock.
        ended: when the last bytes came that the service has waited for; ``begun`` where it has waited for none.
    """

    __slots__ = ("_patience", "_places", "begun", "client", "complete", "due", "ended", "placed", "size")

    def __init__(self, client: str, places: Places | None) -> None:
        """Args:
        client: the address it comes from.
        places: None where the request needs none.
        """
        self.client = client
        self.size = 0
        self.complete = self.placed = False
        self.due = math.inf
        self.begun = self.ended = time.perf_counter()
        self._places = places
        self._patience = PATIENCE_SECONDS

    @property
    def large(self) -> bool:
        """Whether there is more of it than of a small body."""
        return self.size > SMALL_BODY_BYTES

    def expect(self) -> None:
        """The service waits for the next bytes."""
        self.due = time.perf_counter() + self._patience

    def arrived(self, size: int, *, complete: bool) -> None:
        """The next bytes have arrived, perhaps the last.

        Raises:
            OverloadedError: all has arrived, but there is no place for the request.
        """
        self.ended = time.perf_counter()
        self.size += size
        self.complete = complete
        if not complete:
            self._patience = min(self.due - self.ended + size / MIN_BYTES_PER_SECOND, PATIENCE_SECONDS)
        self.due = math.inf
        if complete and self._places:
            self._places.take(self)

    def seconds(self) -> tuple[float, float]:
        """How long the body took, and how long the answer has taken since: now that it has been sent, or is given up.

        Of a body that is still awaited all the time is the client's.
        """
        now = time.perf_counter()
        if self.due != math.inf:
            self.ended = now
        return self.ended - self.begun, now - self.ended


class Quota:
    """The crops that an API key may have scored: a token bucket. Belongs to one event loop."""

    def __init__(self, crops_per_second: float, burst: float) -> None:
        """Args:
        crops_per_second: in the long run.
        burst: crops at once, after a pause.
        """
        self._rate = crops_per_second
        self._burst = burst
        self._left = burst
        self._counted = time.monotonic()

    def take(self, crops: int) -> None:
        """Count crops before they are scored.

        Raises:
            QuotaExceededError: they are too many for now; none is counted.
            BodyTooLargeError: they are more than ever at once.
        """
        if crops > self._burst:
            raise BodyTooLargeError(
                f"there are {crops:,} crops, and this API key may have {int(self._burst):,} scored at once; send fewer"
            )
        self._require(crops)
        self._left -= crops

    def take_afterwards(self, crops: int) -> None:
        """Count crops of which nobody knew how many they would be; later ones wait for them."""
        self._left -= crops

    def require_one(self) -> None:
        """Whether there is anything left.

        Raises:
            QuotaExceededError: there is not.
        """
        self._require(1)

    def give_back(self, crops: int) -> None:
        """Do not count crops that were counted before, since their request begins again."""
        self._left += crops

    def _require(self, crops: int) -> None:
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._counted) * self._rate)
        self._counted = now
        if crops > self._left:
            retry_after = math.ceil((crops - self._left) / self._rate)
            raise QuotaExceededError(
                f"this API key may have {self._rate:g} crops a second scored here; try again in {retry_after} s",
                retry_after,
            )


def slowest(uploads: list[Upload]) -> Upload | None:
    """The upload that is furthest behind the least rate, if one is far enough behind to give way to others."""
    stalled_before = time.perf_counter() + PATIENCE_SECONDS - _STALLED_SECONDS
    found = min(uploads, key=lambda upload: upload.due, default=None)
    return found if found and found.due < stalled_before else None
