from __future__ import annotations

import errno
import os
import stat
from contextlib import nullcontext
from pathlib import Path

import pytest

from eyestate.atomic import PREFIX, atomic_writer, write_atomically


@pytest.mark.parametrize("durable", [True, False])
def test_the_file_changes_only_when_it_is_written_whole(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "new" / "folder" / "file"
    with atomic_writer(path, durable=durable, owner="7") as file:
        file.write(b"one")
        (draft,) = path.parent.iterdir()
        assert draft.name.startswith(f"{PREFIX}7-")
    assert path.read_bytes() == b"one"
    with atomic_writer(path, durable=durable) as file:
        file.write(b"two")
        file.flush()
        assert path.read_bytes() == b"one"
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["file"]  # noqa: PTH208  # names alone


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_of_a_draft_that_fails(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    write_atomically(path, "before")

    def fail() -> None:
        with atomic_writer(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_text_is_utf8_and_names_of_any_bytes_survive(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", "é \udcff")
    assert (tmp_path / "file").read_bytes() == "é ".encode() + b"\xff"


def test_a_folder_in_the_way_is_an_error_that_leaves_no_draft(tmp_path: Path) -> None:
    (tmp_path / "file" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="file"):
        write_atomically(tmp_path / "file", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("number", "passes"), [(errno.EINVAL, True), (errno.EOPNOTSUPP, True), (errno.EIO, False)])
def test_folders_that_cannot_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, passes: bool
) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    outcome = nullcontext() if passes else pytest.raises(OSError, match=os.strerror(number))
    with outcome, atomic_writer(tmp_path / "file", durable=True) as file:
        file.write(b"x")
    assert (tmp_path / "file").read_bytes() == b"x"
