"""The files in which worker processes count, so that one of them can show what all have counted.

There is one set of files for each place of a worker, not for each process: a worker that takes the place of another
goes on counting where that one ended. Prometheus' client maps the files into memory, where a full disk is a bus error
instead of an exception, so their space is reserved before the first worker starts.
"""

from __future__ import annotations

import fcntl
import itertools
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from eyestate.errors import SettingError

log = logging.getLogger("eyestate.server.metric_files")

GAUGES: Final = ("gauge_livesum", "gauge_livemax")
KINDS: Final = ("counter", "histogram", *GAUGES)
FILE_BYTES: Final = 2**18  # twice what all metrics with all their labels fill
_FOLDERS: Final = "prometheus_multiproc_dir"  # the name of the first of a home, and what those of others begin with


def claim(home: Path, workers: int) -> Path:
    """A new folder of metrics for this service alone, with room for all workers; those of dead services are removed.

    It is locked until this process and its children end, however they end.

    Args:
        home: where it is made, for any number of services.
        workers: places for workers, numbered from 1.

    Raises:
        SettingError: it cannot be made, or there is no room for it.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(home):
            for left in home.glob(f"{_FOLDERS}*"):
                with suppress(OSError):  # of another user
                    _remove_unless_in_use(left)
            folder = _made(home)
            _lock(folder)
        for kind, place in itertools.product(KINDS, range(1, workers + 1)):
            _reserve(path(folder, kind, place))
    except OSError as error:
        needed = workers * len(KINDS) * FILE_BYTES // 2**10
        raise SettingError(f"BENTOML_HOME: the metrics need {needed:,} KiB in {home}: {error.strerror}") from None
    return folder


def _made(home: Path) -> Path:
    """A new folder, which has BentoML's name unless another service has it."""
    folder = home / _FOLDERS
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return Path(tempfile.mkdtemp(prefix=f"{_FOLDERS}-", dir=home))
    return folder


def path(folder: Path, kind: str, place: int) -> Path:
    """The file of a place for one kind of metrics, as Prometheus' client names it."""
    return folder / f"{kind}_{place}.db"


def forget_gauges(folder: Path, place: int) -> None:
    """Drop the present state of a worker that has ended; what it counted stays.

    What somebody has removed meanwhile, as programs that tidy up temporary folders do, is made anew.
    """
    try:
        if not folder.exists():
            folder.mkdir(mode=0o700, parents=True)
            _lock(folder)
        for kind in KINDS:
            file = path(folder, kind, place)
            if not file.exists():
                _reserve(file)
            elif kind in GAUGES:
                with file.open("r+b") as left:
                    left.write(bytes(8))  # the bytes in use
    except OSError as error:
        log.error("cannot write the files of metrics in %s: %s", folder, error.strerror)


def _reserve(file: Path) -> None:
    with file.open("wb") as reserved:
        os.posix_fallocate(reserved.fileno(), 0, FILE_BYTES)


@contextmanager
def _one_at_a_time(home: Path) -> Iterator[None]:
    """Wait until no other service looks for dead ones or is about to lock a folder that it has just made."""
    descriptor = os.open(home, os.O_RDONLY)
    try:
        with suppress(OSError):  # of a file system without locks, where nothing is removed
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _lock(folder: Path) -> int | None:
    """Lock a folder. Returns the descriptor that holds the lock; None where another service does, or nobody can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_unless_in_use(folder: Path) -> None:
    descriptor = _lock(folder)
    if descriptor is None:
        return
    try:
        shutil.rmtree(folder)
    finally:
        os.close(descriptor)
