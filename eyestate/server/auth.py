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
    the old key.
    """

    def __init__(self, path: Path) -> None:
        """Raises:
        SettingError: the file cannot be read or holds no key.
        """
        self._path = path
        self._changed = 0
        self._checked = 0.0
        self._digests: list[bytes] = []
        self._load()
        if not self._digests:
            raise SettingError(f"EYESTATE_API_KEYS_FILE: {path} holds no key; write one key a line")

    def accept(self, key: str | None) -> bool:
        """Whether a key is in the file, in constant time."""
        if time.monotonic() - self._checked > _RELOAD_SECONDS:
            self._load()
        digest = _digest(key or "")
        matches = [hmac.compare_digest(digest, known) for known in self._digests]  # all of them, even after a match
        return any(matches)

    def _load(self) -> None:
        """Read the file if it changed; if that fails, keep the present keys."""
        self._checked = time.monotonic()
        try:
            changed = self._path.stat().st_mtime_ns
            if changed != self._changed:
                lines = (line.strip() for line in self._path.read_text().splitlines())
                self._digests = [_digest(line) for line in lines if line and not line.startswith("#")]
                self._changed = changed
        except OSError as error:
            if not self._digests:
                raise SettingError(f"EYESTATE_API_KEYS_FILE: cannot read {self._path}: {error.strerror}") from None
            log.warning("cannot read the API keys again: %s; the old ones stay valid", error.strerror)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
