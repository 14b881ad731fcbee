from __future__ import annotations

import os
from pathlib import Path

import pytest

from eyestate.errors import SettingError
from eyestate.server import auth
from eyestate.server.auth import ApiKeys


def write(path: Path, text: str, changed: int) -> None:
    path.write_text(text)
    os.utime(path, ns=(changed, changed))


def test_keys_are_rotated_without_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "_RELOAD_SECONDS", 0)
    file = tmp_path / "keys"
    write(file, "old\n", 1)
    keys = ApiKeys(file)
    assert keys.accept("old")
    assert not keys.accept("new")
    write(file, "old\nnew\n", 2)
    assert keys.accept("old")
    assert keys.accept("new")
    write(file, "new\n", 3)
    assert not keys.accept("old")
    file.unlink()
    assert keys.accept("new"), "a file that is away for a moment locks nobody out"


@pytest.mark.parametrize("text", ["", "\n  \n", "# only a comment\n"])
def test_a_file_without_keys_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "keys").write_text(text)
    with pytest.raises(SettingError, match="no key"):
        ApiKeys(tmp_path / "keys")


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="cannot read"):
        ApiKeys(tmp_path / "keys")


@pytest.mark.parametrize("key", [None, "", " ", "right\n", "RIGHT", "ключ"])
def test_what_is_no_key(tmp_path: Path, key: str | None) -> None:
    (tmp_path / "keys").write_text("right\n")
    assert not ApiKeys(tmp_path / "keys").accept(key)
