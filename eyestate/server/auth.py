"""API keys: the authentication of requests, and what each key may do."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eyestate.errors import SettingError
from eyestate.server.admission import Quota

log = logging.getLogger("eyestate.server.auth")

RIGHTS: Final = "eyestate.rights"  # in a request's scope: the ``Rights`` of its key, where keys are required
_RELOAD_SECONDS: Final = 5.0
_OPTION: Final = re.compile(rb"\s+([A-Za-z_]+)=(\S*)$")


@dataclass(frozen=True, slots=True)
class Rights:
    """What a key may do.

    Attributes:
        crops_per_second: that it may have scored, by this process; None for any number.
        burst: of them that may come at once.
        admin: whether it may load models.
        quota: what is left of the crops, None for any number.
    """

    crops_per_second: float | None = None
    burst: float | None = None
    admin: bool = False
    quota: Quota | None = None


class ApiKeys:
    """The keys in a file, one a line; blank lines and lines that begin with ``#`` are ignored.

    What a key may do stands behind it: ``crops_per_second=100 burst=1000 admin=true``, each if it applies.

    The file is reread when it changes, so keys are rotated without a restart: add the new key, move the clients, remove
    the old key. A file that cannot be read, or that holds no key because it is being rewritten, changes nothing.
    """

    def __init__(self, path: Path, workers: int = 1) -> None:
        """Args:
        path: of the file.
        workers: among which quotas are divided.

        Raises:
            SettingError: the file cannot be read, is not UTF-8, holds no key or something that is unknown behind one.
        """
        self._path = path
        self._workers = workers
        self._version = _version(path)
        self._keys = _keys(path, workers, {})
        self._checked = time.monotonic()
        self._fault = ""

    def accept(self, key: bytes) -> Rights | None:
        """What a key may do, None if it is not in the file, in constant time."""
        if time.monotonic() - self._checked > _RELOAD_SECONDS:
            self._reload()
        digest = hashlib.sha256(key).digest()
        # All of them, even after a match.
        matches = [rights for known, rights in self._keys.items() if hmac.compare_digest(digest, known)]
        return matches[0] if matches else None

    def _reload(self) -> None:
        """Read the file if it changed; if that fails, keep the present keys and say so once."""
        self._checked = time.monotonic()
        try:
            version = _version(self._path)
            if version != self._version:
                self._keys = _keys(self._path, self._workers, self._keys)
                self._version, self._fault = version, ""
        except SettingError as error:
            if error.message != self._fault:
                log.warning("cannot read the API keys again, the old ones stay valid: %s", error.message)
                self._fault = error.message


def _version(path: Path) -> tuple[int, int, int]:
    """What changes whenever a file is written or replaced.

    Raises:
        SettingError: there is no such file, or it may not be looked at.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise SettingError(f"EYESTATE_API_KEYS_FILE: cannot read {path}: {error.strerror}") from None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _keys(path: Path, workers: int, before: dict[bytes, Rights]) -> dict[bytes, Rights]:
    """What each key in a file may do, by the key's SHA-256. A byte-order mark is skipped.

    Args:
        path: of the file.
        workers: among which quotas are divided.
        before: what was in the file, of which quotas that are the same go on being used up.

    Raises:
        SettingError: the file cannot be read, is not UTF-8, holds a key that no header can carry, none at all, or
            something behind one that is no option or has no such value.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise SettingError(f"EYESTATE_API_KEYS_FILE: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingError(f"EYESTATE_API_KEYS_FILE: {path} is not UTF-8 text; save it as UTF-8") from None
    keys: dict[bytes, Rights] = {}
    for number, line in enumerate(text.encode().splitlines(), 1):
        key, options = _parted(line.strip())
        if not key or key.startswith(b"#"):
            continue
        if min(key) < 0x20 or 0x7F in key:
            raise SettingError(f"EYESTATE_API_KEYS_FILE: {path} holds control characters; save it as UTF-8 text")
        try:
            rights = _rights(options, workers)
        except ValueError as error:
            raise SettingError(f"EYESTATE_API_KEYS_FILE: {path}, line {number}: {error}") from None
        digest = hashlib.sha256(key).digest()
        old = before.get(digest)
        same = old and (old.crops_per_second, old.burst, old.admin) == (
            rights.crops_per_second,
            rights.burst,
            rights.admin,
        )
        keys[digest] = old if old and same else rights
    if not keys:
        raise SettingError(f"EYESTATE_API_KEYS_FILE: {path} holds no key; write one key a line")
    return keys


def _parted(line: bytes) -> tuple[bytes, dict[str, str]]:
    """A key, and the options behind it."""
    options: dict[str, str] = {}
    while match := _OPTION.search(line):
        options[match[1].decode()] = match[2].decode()
        line = line[: match.start()]
    return line, options


def _rights(options: dict[str, str], workers: int) -> Rights:
    if unknown := options.keys() - {"crops_per_second", "burst", "admin"}:
        raise ValueError(f"{min(unknown)} is unknown; there are crops_per_second, burst and admin")
    admin = options.get("admin", "false").lower()
    if admin not in ("true", "false"):
        raise ValueError(f"admin is {admin!r}; it may be true or false")
    if "crops_per_second" not in options:
        if "burst" in options:
            raise ValueError("burst needs crops_per_second")
        return Rights(admin=admin == "true")
    rate = _number("crops_per_second", options["crops_per_second"]) / workers
    burst = max(1.0, _number("burst", options["burst"]) / workers if "burst" in options else rate)
    return Rights(rate, burst, admin == "true", Quota(rate, burst))


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e12:
        raise ValueError(f"{name} is {text!r}; it must be a number above 0")
    return value
