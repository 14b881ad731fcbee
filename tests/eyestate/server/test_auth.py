from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from eyestate.errors import SettingError
from eyestate.server import auth
from eyestate.server.auth import ApiKeys


def write(path: Path, content: bytes, changed: int) -> None:
    path.write_bytes(content)
    os.utime(path, ns=(changed, changed))


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where keys are; each request sees its changes."""
    monkeypatch.setattr(auth, "_RELOAD_SECONDS", -1)
    return tmp_path / "keys"


def test_keys_are_rotated_without_a_restart(file: Path) -> None:
    write(file, b"old\n", 1)
    keys = ApiKeys(file)
    assert keys.accept(b"old")
    assert not keys.accept(b"new")
    write(file, b"old\nnew\n", 2)
    assert keys.accept(b"old")
    assert keys.accept(b"new")
    write(file, b"new\n", 3)
    assert not keys.accept(b"old")
    write(file, b"other\n", 3)
    assert keys.accept(b"other"), "a file that is written twice within a tick of the clock differs in size"


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"# all of them are to be written below\n",
        "# Schlüssel\nnew\n".encode("cp1252"),
        "new\n".encode("utf-16"),
        "new\n".encode("utf-16-le"),
        b"new\x00\n",
    ],
)
def test_a_fault_at_a_rotation_keeps_the_old_keys_and_is_said_once(
    file: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A rewrite in progress, an editor's encoding or a file that is away locks nobody out."""
    write(file, b"old\n", 1)
    keys = ApiKeys(file)
    if content is None:
        file.unlink()
    else:
        write(file, content, 2)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert keys.accept(b"old")
            assert not keys.accept(b"new")
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "cannot read the API keys again, the old ones stay valid"
    ]
    write(file, b"new\n", 2)
    assert keys.accept(b"new")
    assert not keys.accept(b"old")


@pytest.mark.parametrize("text", ["", "\n  \n", "# only a comment\n", "\ufeff", "\ufeff# comment\n"])
def test_a_file_without_keys_is_an_error(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingError, match="no key"):
        ApiKeys(file)


def test_a_missing_file_is_an_error(file: Path) -> None:
    with pytest.raises(SettingError, match="cannot read"):
        ApiKeys(file)


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_file_in_another_encoding_is_an_error_that_says_what_to_do(file: Path, encoding: str) -> None:
    file.write_bytes("# Schlüssel\nkey\n".encode(encoding))
    with pytest.raises(SettingError, match="save it as UTF-8"):
        ApiKeys(file)


@pytest.mark.parametrize("content", ["first\nключ\n", "\ufefffirst\r\nключ\r\n", "# ü\n\n first \t\nключ"])
def test_keys_are_the_bytes_of_utf8(file: Path, content: str) -> None:
    file.write_text(content, encoding="utf-8", newline="")
    keys = ApiKeys(file)
    assert keys.accept(b"first")
    assert keys.accept("ключ".encode())


@pytest.mark.parametrize("key", [b"", b" ", b"right\n", b"RIGHT", "ключ".encode()])
def test_what_is_no_key(file: Path, key: bytes) -> None:
    file.write_text("right\n")
    assert not ApiKeys(file).accept(key)


def test_what_a_key_may_do_stands_behind_it(file: Path) -> None:
    file.write_bytes(
        b"a pass phrase = x\nlimited\tcrops_per_second=10  burst=100\nroot admin=true\nequal== crops_per_second=2\n"
    )
    keys = ApiKeys(file, workers=4)
    unlimited = keys.accept(b"a pass phrase = x")
    assert unlimited is not None
    assert (unlimited.quota, unlimited.admin) == (None, False)
    limited = keys.accept(b"limited")
    assert limited is not None
    assert (limited.crops_per_second, limited.burst, limited.admin) == (2.5, 25, False)
    root = keys.accept(b"root")
    assert root is not None
    assert (root.quota, root.admin) == (None, True)
    equal = keys.accept(b"equal==")
    assert equal is not None
    assert (equal.crops_per_second, equal.burst) == (0.5, 1)
    assert keys.accept(b"limited crops_per_second=10  burst=100") is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("crops_per_second=0", "crops_per_second is '0'; it must be a number above 0"),
        ("crops_per_second=many", "'many'"),
        ("crops_per_second=nan", "'nan'"),
        ("crops_per_second=1 burst=-1", "burst is '-1'"),
        ("burst=5", "burst needs crops_per_second"),
        ("admin=yes", "admin is 'yes'; it may be true or false"),
        ("crop_per_second=5", "crop_per_second is unknown"),
    ],
)
def test_options_that_cannot_be_meant_name_their_line(file: Path, options: str, message: str) -> None:
    file.write_text(f"first\nsecond {options}\n")
    with pytest.raises(SettingError, match=f"line 2: .*{message}"):
        ApiKeys(file)


def test_a_quota_that_is_used_up_is_not_renewed_by_a_change_of_the_file(file: Path) -> None:
    write(file, b"limited crops_per_second=1 burst=5\n", 1)
    keys = ApiKeys(file)
    before = keys.accept(b"limited")
    write(file, b"limited crops_per_second=1 burst=5\nother\n", 2)
    assert keys.accept(b"limited") is before
    write(file, b"limited crops_per_second=2 burst=5\n", 3)
    assert keys.accept(b"limited") is not before
