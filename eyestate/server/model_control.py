"""Which model is served, agreed upon by all workers: another one is loaded while they go on serving the present one.

Workers cannot call each other. They agree by files in a folder that they share: one says which model is served and
which is a candidate, and each worker has one that says how far it is. A candidate is served once every worker has
loaded and compiled it; if one of them cannot, none of them serves it.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Generic, Literal, TypeVar

from pydantic import BaseModel

from eyestate.atomic import write_atomically
from eyestate.bundle import Bundle, CascadeBundle, load_model
from eyestate.errors import EyestateError, ModelControlError

log = logging.getLogger("eyestate.server.model_control")

_POLL_SECONDS: Final = 0.2

Opened = TypeVar("Opened")


class _Choice(BaseModel):
    """A bundle, and the number of the attempt to serve it."""

    number: int
    path: Path
    sha256: str


class _Agreement(BaseModel):
    """What all workers go by."""

    attempts: int = 0
    served: _Choice | None = None  # None: that of the settings
    candidate: _Choice | None = None


class _Progress(BaseModel):
    """How far a worker is with an attempt."""

    number: int
    state: Literal["loaded", "failed", "serving"]
    fault: str = ""


class ModelControl(Generic[Opened]):
    """One worker's part in it."""

    def __init__(
        self,
        folder: Path,
        workers: int,
        model: Bundle | CascadeBundle,
        *,
        open_model: Callable[[Bundle | CascadeBundle], Awaitable[Opened]],
        serve: Callable[[Opened], object],
    ) -> None:
        """Args:
        folder: that all workers of the service share, and nobody else.
        workers: how many there are.
        model: of the settings.
        open_model: loads a model and compiles it.
        serve: has what it returned answer all requests from now on.
        """
        self._agreement = folder / "models.json"
        self._lock = folder / "models.lock"
        self._own = folder / f"models-{os.getpid()}.json"
        self._folder = folder
        self._workers = workers
        self._open = open_model
        self._serve = serve
        self._version = (0, 0)  # of the agreement, as last read
        self._tried = self._serving = 0  # the numbers of attempts
        self._opened: Opened | None = None
        self.model = model
        if served := self._read().served:
            self.model = _load(served)
            self._tried = self._serving = served.number

    async def follow(self) -> None:
        """Do as is agreed. Runs until cancelled."""
        if self._serving:  # from the start on, in place of a worker that has died
            self._tell(self._serving, "serving")
        while True:
            try:
                stat = self._agreement.stat()
                if (stat.st_ino, stat.st_mtime_ns) != self._version:
                    self._version = stat.st_ino, stat.st_mtime_ns
                    await self._do(self._read())
            except FileNotFoundError:
                pass  # nothing has been agreed yet
            except OSError as error:
                log.warning("cannot tell the other workers: %s", error.strerror)
            await asyncio.sleep(_POLL_SECONDS)

    async def _do(self, agreed: _Agreement) -> None:
        candidate, served = agreed.candidate, agreed.served
        if candidate and candidate.number != self._tried:
            await self._try(candidate)
        if served and served.number != self._serving:
            if served.number != self._tried:
                await self._try(served)
            if self._opened is not None:
                self._serve(self._opened)
                self._serving = served.number
                self._tell(served.number, "serving")
        if not candidate:
            self._opened = None

    async def _try(self, choice: _Choice) -> None:
        self._tried, self._opened = choice.number, None
        try:
            bundle = await asyncio.to_thread(_load, choice)
            self._opened = await self._open(bundle)
        except Exception as error:  # whatever it is, the present model goes on, and who asked is told
            log.warning("%s is not loaded: %s", choice.path.name, error)
            self._tell(choice.number, "failed", error.message if isinstance(error, EyestateError) else repr(error))
        else:
            self._tell(choice.number, "loaded")

    async def load(self, path: Path) -> None:
        """Have all workers serve another model, and return when they do. Cancelled before, it changes nothing.

        Raises:
            BundleError: the bundle is damaged or does not fit this version.
            ModelControlError: another one is being loaded, or a worker cannot load it: the present one is served on.
        """
        with ExitStack() as stack:
            lock = stack.enter_context(self._lock.open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ModelControlError("another model is being loaded; try again when that is done") from None
            bundle = await asyncio.to_thread(load_model, path)
            agreed = self._read()
            choice = _Choice(number=agreed.attempts + 1, path=path.resolve(), sha256=bundle.manifest.sha256)
            before = agreed.model_copy(update={"attempts": choice.number, "candidate": None})
            try:
                self._agree(before.model_copy(update={"candidate": choice}))
                await self._all("loaded", choice.number)
            except BaseException:
                self._agree(before)
                raise
            self._agree(before.model_copy(update={"served": choice}))
            await self._all("serving", choice.number)

    async def _all(self, state: Literal["loaded", "serving"], number: int) -> None:
        """Wait until all workers are as far."""
        while True:
            reports = [report for report in self._reports() if report.number == number]
            if faults := [report.fault for report in reports if report.state == "failed"]:
                raise ModelControlError(f"{faults[0]}; the present model is served on")
            if sum(report.state == state for report in reports) >= self._workers:
                return
            await asyncio.sleep(_POLL_SECONDS)

    def _reports(self) -> list[_Progress]:
        """Of the workers that live."""
        reports = []
        for file in self._folder.glob("models-*.json"):
            if Path("/proc", file.stem.removeprefix("models-")).exists():
                reports.append(_Progress.model_validate_json(file.read_bytes()))
            else:
                file.unlink(missing_ok=True)
        return reports

    def _tell(self, number: int, state: Literal["loaded", "failed", "serving"], fault: str = "") -> None:
        write_atomically(self._own, _Progress(number=number, state=state, fault=fault).model_dump_json())

    def _read(self) -> _Agreement:
        try:
            return _Agreement.model_validate_json(self._agreement.read_bytes())
        except FileNotFoundError:
            return _Agreement()

    def _agree(self, agreement: _Agreement) -> None:
        write_atomically(self._agreement, agreement.model_dump_json())


def _load(choice: _Choice) -> Bundle | CascadeBundle:
    bundle = load_model(choice.path)
    if bundle.manifest.sha256 != choice.sha256:
        raise ModelControlError(f"{choice.path} has changed since it was chosen")
    return bundle
