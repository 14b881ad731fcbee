from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eyestate.errors import InputError
from eyestate.files import LeftOut, image_files, is_hidden, is_image, walk

JPEG = [".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp", ".JPG", ".JFIF"]


@pytest.mark.parametrize("suffix", [*JPEG, ".png", ".webp", ".bmp", ".dib", ".apng"])
def test_suffixes_of_the_formats(suffix: str) -> None:
    assert is_image(f"a{suffix}")
    assert is_image(f"deep.folder/a.b{suffix}")


@pytest.mark.parametrize("name", ["a.gif", "a.heic", "a.jpg.txt", "jpg", "a.jpg/", ""])
def test_other_names(name: str) -> None:
    assert not is_image(name)


@pytest.mark.parametrize(
    "name",
    [
        "._a.jpg", "x/._a.jpg", ".hidden/a.jpg", "__MACOSX/x/a.jpg", "x/@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg",
        ".ipynb_checkpoints/a-checkpoint.png", ".thumbs/a.png", "$RECYCLE.BIN/a.png", "#recycle/a.jpg", "Thumbs.db",
        "RECYCLER/S-1/a.png", "@__thumb/a.png", "@tmp/a.png", "~snapshot/a.png", "Temporary Items/a.png", "~$a.png",
        "_temporary/0/a.png", "_delta_log/0.checkpoint.parquet", "_SUCCESS", "x/_metadata.parquet", "_x/a.parquet",
    ],
)  # fmt: skip
def test_hidden_names(name: str) -> None:
    assert is_hidden(name)


@pytest.mark.parametrize(
    "name", ["_MG_1234.JPG", "_raw/a.png", "./a.png", "../a.png", "_k=1/a.parquet", "a_/x.parquet"]
)
def test_names_that_are_not_hidden(name: str) -> None:
    assert not is_hidden(name)


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def names(folder: Path, left_out: LeftOut) -> list[str]:
    return [name for name, _ in walk(folder, is_image, left_out)]


def test_links_in_a_loop(tmp_path: Path) -> None:
    root = tmp_path / "root"
    touch(root, "a/1.png", "b/2.png")
    (root / "a" / "to-b").symlink_to(root / "b")
    (root / "b" / "to-a").symlink_to(root / "a")
    (root / "up").symlink_to("..")
    (root / "self").symlink_to("self")
    left_out = LeftOut()
    found = names(root, left_out)
    assert {"a/1.png", "a/to-b/2.png", "b/2.png", "b/to-a/1.png"} <= {*found}
    assert left_out.links >= 4
    assert len(found) < 100


@pytest.fixture
def nested() -> Iterator[Callable[[str, int], Path]]:
    """Makes folders of one name in each other; outside of pytest's own folder, which it could not delete again."""
    top = Path(tempfile.mkdtemp())

    def nest(name: str, depth: int) -> Path:
        at = os.open(top, os.O_RDONLY)
        for _ in range(depth):
            os.mkdir(name, dir_fd=at)
            below = os.open(name, os.O_RDONLY, dir_fd=at)
            os.close(at)
            at = below
        os.close(os.open("a.png", os.O_CREAT, dir_fd=at))
        os.close(at)
        return top

    yield nest
    subprocess.run(["rm", "-rf", top], check=True)


def test_folders_1200_deep(nested: Callable[[str, int], Path]) -> None:
    assert names(nested("d", 1_200), LeftOut()) == ["d/" * 1_200 + "a.png"]


def test_paths_too_long_to_open(nested: Callable[[str, int], Path]) -> None:
    with pytest.raises(InputError, match="nested so deeply"):
        names(nested("d" * 250, 20), LeftOut())


def test_files_and_folders_of_a_command(tmp_path: Path) -> None:
    touch(tmp_path, "in/b.png", "in/a/x.jfif", "in/notes.txt", "in/.a.png", "._given.png")
    left_out = LeftOut()
    assert image_files([tmp_path / "._given.png", tmp_path / "in"], left_out) == [
        tmp_path / name for name in ("._given.png", "in/a/x.jfif", "in/b.png")
    ]
    assert str(left_out) == "left out: hidden or of the system: 1; other files: 1 (.txt)"


def test_pipes_and_devices(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    left_out = LeftOut()
    assert names(tmp_path, left_out) == ["a.png"]
    assert str(left_out) == "left out: pipes, sockets and devices: 2"


def test_many_other_suffixes() -> None:
    left_out = LeftOut()
    for name in ("a.txt", "b.txt", "c", "d.heic", "e.gif", "f.tif", "g.xml"):
        assert not left_out.unless_image(name)
    assert str(left_out) == "left out: other files: 7 (.txt, no suffix, .heic, .gif, .tif, …)"
