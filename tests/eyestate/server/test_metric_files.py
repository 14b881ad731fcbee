from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import pytest

from eyestate.errors import SettingError
from eyestate.server import metric_files

CLAIM = "import sys; from pathlib import Path; from eyestate.server import metric_files; "
CLAIM += "print(metric_files.claim(Path(sys.argv[1]), 1).name)"


def claim_elsewhere(home: Path) -> str:
    return subprocess.run(
        [sys.executable, "-c", CLAIM, home], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_what_an_earlier_service_left_is_removed(tmp_path: Path) -> None:
    before_there_were_locks = tmp_path / "prometheus_multiproc_dir"
    before_there_were_locks.mkdir()
    (before_there_were_locks / "gauge_livesum_999.db").write_bytes(b"of long ago")
    claim_elsewhere(tmp_path)
    folder = metric_files.claim(tmp_path, 2)
    assert list(tmp_path.iterdir()) == [folder]
    assert {file.name for file in folder.iterdir()} == {
        f"{kind}_{place}.db" for kind in metric_files.KINDS for place in (1, 2)
    }


def test_a_second_service_of_the_same_home_has_a_folder_of_its_own(tmp_path: Path) -> None:
    folder = metric_files.claim(tmp_path, 1)
    assert folder.name == "prometheus_multiproc_dir"
    file = metric_files.path(folder, "counter", 1)
    file.write_bytes(b"counted")
    assert claim_elsewhere(tmp_path) != folder.name
    assert file.read_bytes() == b"counted"


def test_services_that_start_at_once_do_not_take_each_other_for_dead(tmp_path: Path) -> None:
    command = [sys.executable, "-c", f"{CLAIM}; sys.stdout.flush(); input()", str(tmp_path)]
    services = [subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) for _ in range(4)]
    try:
        names = {service.stdout.readline().strip() for service in services if service.stdout}
        assert len(names) == len(services)
        assert {folder.name for folder in tmp_path.iterdir()} == names
    finally:
        for service in services:
            service.communicate("\n")


def test_where_there_are_no_locks_each_service_has_a_folder_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    first, second = metric_files.claim(tmp_path, 1), metric_files.claim(tmp_path, 1)
    assert first != second
    assert len(list(first.iterdir())) == len(metric_files.KINDS)


def test_what_cannot_be_removed_is_left_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of another user, who started the service on this home before."""
    left = tmp_path / "prometheus_multiproc_dir"
    left.mkdir()

    def refused(_: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(shutil, "rmtree", refused)
    assert metric_files.claim(tmp_path, 1) != left


def test_the_space_is_taken_at_once(tmp_path: Path) -> None:
    folder = metric_files.claim(tmp_path, 1)
    assert all(file.stat().st_blocks * 512 >= metric_files.FILE_BYTES for file in folder.iterdir())


def test_a_full_disk_is_an_error_that_says_how_much_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(SettingError, match=r"the metrics need 2,048 KiB in .*: No space left on device"):
        metric_files.claim(tmp_path, 2)


def test_files_that_were_removed_are_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = metric_files.claim(tmp_path, 1)
    shutil.rmtree(folder)
    metric_files.forget_gauges(folder, 1)
    assert {file.name for file in folder.iterdir()} == {f"{kind}_1.db" for kind in metric_files.KINDS}
    other = metric_files.claim(tmp_path, 1)
    assert other != folder
    assert folder.exists()
    shutil.rmtree(folder)
    folder.write_text("in the way")
    metric_files.forget_gauges(folder, 1)
    assert "cannot write the files of metrics" in caplog.text
