"""API keys: the authentication of requests."""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from pathlib import Path
from typing import Final

from eyestate.errors import SettingError

log = logging.getLogger("eyestate.server.auth")

_RELOAD_SECONDS: Final = 5.0


class ApiKeys:
    """The keys in a file, one a line; blank lines and lines that begin with ``#`` are ignored.

    The file is reread when it changes, so keys are rotated without a restart: add the new key, move the clients, remove
    the old key. A file that cannot be read, or that holds no key because it is being rewritten, changes nothing.
    """

    def __init__(self, path: Path) -> None:
        """Raises:
        SettingError: the file cannot be read, is not UTF-8 or holds no key.
        """
        self._path = path
        self._version = _version(path)
        self._digests = _digests(path)
        self._checked = time.monotonic()
        self._fault = ""

    def accept(self, key: bytes) -> bool:
        """Whether a key is in the file, in constant time."""
        if time.monotonic() - self._checked > _RELOAD_SECONDS:
            self._reload()
        digest = hashlib.sha256(key).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._digests]  # all of them, even after a match
        return any(matches)

    def _reload(self) -> None:
        """Read the file if it changed; if that fails, keep the present keys and say so once."""
        self._checked = time.monotonic()
        try:
            version = _version(self._path)
            if version != self._version:
                self._digests = _digests(self._path)
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


def _digests(path: Path) -> list[bytes]:
    """The SHA-256 of each key in a file. A byte-order mark is skipped.

    Raises:
        SettingError: the file cannot be read, is not UTF-8, holds a key that no header can carry, or holds none.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise SettingError(f"EYESTATE_API_KEYS_FILE: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingError(f"EYESTATE_API_KEYS_FILE: {path} is not UTF-8 text; save it as UTF-8") from None
    lines = [line.strip() for line in text.encode().splitlines()]
    keys = [line for line in lines if line and not line.startswith(b"#")]
    if not keys:
        raise SettingError(f"EYESTATE_API_KEYS_FILE: {path} holds no key; write one key a line")
    if any(min(key) < 0x20 or 0x7F in key for key in keys):
        raise SettingError(f"EYESTATE_API_KEYS_FILE: {path} holds control characters; save it as UTF-8 text")
    return [hashlib.sha256(key).digest() for key in keys]
