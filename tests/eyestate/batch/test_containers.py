from __future__ import annotations

import errno
import gzip
import io
import os
import stat
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eyestate.batch import containers
from eyestate.batch.containers import images
from eyestate.batch.parquet import Columns
from eyestate.errors import ImageError, InputError
from eyestate.files import LeftOut
from eyestate.images import MAX_BYTES
from tests.eyestate.batch.crops import png, write_folder, write_parquet, write_tar, write_zip

COLUMNS = Columns()
CROPS = {f"{place:02d}.png": png(place) for place in range(20)}
NAMES = ["a.zip", "a.tar", "a.tar.gz", "a.TGZ", "a.parquet"]


def write(path: Path) -> Path:
    if path.suffix == ".parquet":
        return write_parquet(path, list(CROPS.values()))
    return write_zip(path, CROPS) if path.suffix == ".zip" else write_tar(path, CROPS)


def count(path: Path, columns: Columns) -> int:
    return containers.count(path, columns, LeftOut())


def outcomes(path: Path, start: int = 0, columns: Columns = COLUMNS) -> list[tuple[str, bytes | str]]:
    """Key and data, or the code of the error, of each image."""
    return [
        (image.key, image.data.code if isinstance(image.data, ImageError) else image.data)
        for image in images(path, start, columns)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_all_images_in_order(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name)
    assert count(path, COLUMNS) == 20
    found = outcomes(path)
    assert [data for _, data in found] == list(CROPS.values())
    keys = [str(place) for place in range(20)] if name == "a.parquet" else list(CROPS)
    assert [key for key, _ in found] == keys
    for start in (1, 7, 13, 19, 20):
        assert outcomes(path, start) == found[start:]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damage_is_told_and_counts_stay(name: str, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / name)
        content = bytearray(path.read_bytes())
        if data.draw(st.booleans(), "cut off"):
            del content[data.draw(st.integers(0, len(content) - 1), "length") :]
        else:
            place = data.draw(st.integers(0, len(content) - 1), "place")
            content[place] ^= data.draw(st.integers(1, 255), "bits")
        path.write_bytes(content)
        try:
            rows = count(path, COLUMNS)
        except InputError:  # a column's name or type was hit
            assert name == "a.parquet"
            return
        found = outcomes(path)
        assert len(found) == rows
        assert len(outcomes(path, rows // 2)) == rows - rows // 2
        assert all(isinstance(outcome, bytes) or outcome in ("unreadable_file", "empty_image") for _, outcome in found)


class TestArchives:
    def test_other_members_are_passed_over(self, tmp_path: Path) -> None:
        members = {"0.json": b"{}", "0.png": png(0), "0.cls": b"1", "sub/1.JPEG": png(1), "readme": b""}
        for path in (write_zip(tmp_path / "a.zip", members), write_tar(tmp_path / "a.tar", members)):
            assert [key for key, _ in outcomes(path)] == ["0.png", "sub/1.JPEG"]

    def test_what_systems_keep_beside_the_images(self, tmp_path: Path) -> None:
        names = ["__MACOSX/eyes/._0.png", "./._0.png", ".thumbs/0.png", "eyes/@eaDir/0.png/t.png", "0.heic"]
        members = dict.fromkeys(names, b"no image") | {"eyes/0.png": png(0), "./1.jfif": png(1), "_MG_2.png": png(2)}
        for path in (write_zip(tmp_path / "a.zip", members), write_tar(tmp_path / "a.tar", members)):
            left_out = LeftOut()
            assert containers.count(path, COLUMNS, left_out) == 3
            assert str(left_out) == "left out: hidden or of the system: 4; other files: 1 (.heic)"
            assert [key for key, _ in outcomes(path)] == ["eyes/0.png", "./1.jfif", "_MG_2.png"]

    def test_names_as_windows_and_macos_write_them(self, tmp_path: Path) -> None:
        members = {"eyes\\0.png": png(0), "__MACOSX\\._0.png": b"", "deep\\folder.png\\": b"", "aa/aa.png": png(1)}
        path = write_zip(tmp_path / "a.zip", members)
        path.write_bytes(
            path.read_bytes().replace(b"aa/aa", "ü/é".encode())
        )  # the Finder does not say that it is UTF-8
        assert outcomes(path) == [("eyes/0.png", png(0)), ("ü/é.png", png(1))]
        path = write_zip(tmp_path / "b.zip", {"ü/é.png": png(2), "aaa.png": png(3)})
        path.write_bytes(path.read_bytes().replace(b"aaa", "aüa".encode("cp437")))
        assert outcomes(path) == [("ü/é.png", png(2)), ("aüa.png", png(3))]

    @pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
    def test_no_member_is_lost_without_a_sign(self, tmp_path: Path, suffix: str) -> None:
        whole = write_tar(tmp_path / "whole.tar", CROPS)
        last = 512 * (2 * len(CROPS) - 1)  # where the header of the last member begins: each has a block for its data
        path = tmp_path / f"a.{suffix}"
        pack = gzip.compress if suffix == "tar.gz" else bytes
        for place in range(0, last, 192):
            content = whole.read_bytes()
            for damaged in (content[:place], content[:place] + b"\xff" * 8 + content[place + 8 :]):
                path.write_bytes(pack(damaged))
                found = outcomes(path)
                is_data = len(damaged) > place and place % 1024 >= 512
                assert len(found) == len(CROPS) if is_data else found[-1] == (path.name, "unreadable_file")

    def test_archives_that_were_joined(self, tmp_path: Path) -> None:
        content = write_tar(tmp_path / "a.tar", CROPS).read_bytes()
        for name, joined in {"b.tar": content * 2, "b.tgz": gzip.compress(content) * 2}.items():
            (tmp_path / name).write_bytes(joined)
            assert outcomes(tmp_path / name) == [*CROPS.items()] * 2

    def test_bytes_behind_the_end(self, tmp_path: Path) -> None:
        content = write_tar(tmp_path / "a.tar", CROPS).read_bytes()
        packed = gzip.compress(content)
        for name, more in {"b.tar": content + b"x" * 9_999, "b.tgz": packed + b"x", "c.tgz": packed[:-4]}.items():
            (tmp_path / name).write_bytes(more)
            assert outcomes(tmp_path / name) == [*CROPS.items()]

    @pytest.mark.parametrize("suffix", ["tar.bz2", "tbz2", "tar.xz", "txz"])
    def test_other_compressions(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"a.{suffix}"
        with tarfile.open(path, "w:xz" if "x" in suffix else "w:bz2") as archive:
            archive.add(write_folder(tmp_path / "in", CROPS), "")
        assert outcomes(path) == [*CROPS.items()]

    def test_what_is_no_file_in_a_zip(self, tmp_path: Path) -> None:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr(link, "0.png")
            archive.writestr("0.png", png(0))
        locked = bytearray(write_zip(tmp_path / "b.zip", {"0.png": png(0)}).read_bytes())
        for header, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            locked[locked.index(header) + flags] |= 1
        (tmp_path / "b.zip").write_bytes(locked)
        first, second = next(images(tmp_path / "a.zip", 0, COLUMNS)), next(images(tmp_path / "b.zip", 0, COLUMNS))
        assert isinstance(first.data, ImageError)
        assert first.data.message == "the archive's member is a link, not a file"
        assert isinstance(second.data, ImageError)
        assert "is encrypted" in second.data.message

    def test_what_is_no_archive(self, tmp_path: Path) -> None:
        for name in ("a.tar", "a.tgz", "a.zip"):
            (tmp_path / name).write_bytes(b"<html>404</html>")
            (found,) = images(tmp_path / name, 0, COLUMNS)
            assert isinstance(found.data, ImageError)
            assert len(found.data.message) < 90

    def test_header_that_would_fill_the_memory(self, tmp_path: Path) -> None:
        member = tarfile.TarInfo("1.png")
        member.pax_headers = {"comment": "x" * 3 * 2**20}
        with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
            archive.addfile(tarfile.TarInfo("0.png"))
            archive.addfile(member)
        found = list(images(tmp_path / "a.tar", 0, COLUMNS))
        assert [image.key for image in found] == ["0.png", "a.tar"]
        assert isinstance(found[1].data, ImageError)
        assert "a header has 3,145," in found[1].data.message
        with tarfile.open(tmp_path / "b.tar", "w", format=tarfile.PAX_FORMAT) as archive:
            archive.addfile(member)
        (first,) = images(tmp_path / "b.tar", 0, COLUMNS)
        assert isinstance(first.data, ImageError)
        assert "a header has 3,145," in first.data.message
        assert "\n" not in first.data.message

    def test_disk_that_fails(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class Failing(io.BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                if self.tell() > 600:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                return super().read(size)

        path = write_tar(tmp_path / "a.tar", CROPS)
        content = path.read_bytes()
        monkeypatch.setattr(Path, "open", lambda *_: Failing(content))
        with pytest.raises(InputError, match=r"cannot read .*a\.tar: .*Input/output error"):
            count(path, COLUMNS)
        assert outcomes(path)[-1][1] == "unavailable_file"

    def test_member_with_a_wrong_checksum(self, tmp_path: Path) -> None:
        path = write_zip(tmp_path / "a.zip", CROPS)
        with zipfile.ZipFile(path) as archive:
            member = archive.infolist()[3]
        content = bytearray(path.read_bytes())
        content[member.header_offset + 30 + len(member.filename) + member.compress_size - 1] ^= 0xFF
        path.write_bytes(content)
        assert [key for key, outcome in outcomes(path) if outcome == "unreadable_file"] == ["03.png"]

    def test_member_that_is_too_large(self, tmp_path: Path) -> None:
        members = {"bomb.png": bytes(MAX_BYTES + 1), "most.png": bytes(MAX_BYTES), "next.png": png(1)}
        for path in (write_zip(tmp_path / "a.zip", members), write_tar(tmp_path / "a.tgz", members)):
            assert [outcome for _, outcome in outcomes(path)] == ["image_too_large", bytes(MAX_BYTES), png(1)]

    def test_link_is_no_image(self, tmp_path: Path) -> None:
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            link = tarfile.TarInfo("link.png")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
            folder = tarfile.TarInfo("folder.png")
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
        assert outcomes(tmp_path / "a.tar") == [("link.png", "unreadable_file")]
        assert count(tmp_path / "a.tar", COLUMNS) == 1

    @pytest.mark.parametrize("name", NAMES)
    def test_file_that_is_something_else(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(b"not what its name says" * 100)
        assert count(tmp_path / name, COLUMNS) == 1
        assert outcomes(tmp_path / name) == [(name, "unreadable_file")]
        assert outcomes(tmp_path / name, 1) == []

    def test_encrypted_member(self, tmp_path: Path) -> None:
        path = write_zip(tmp_path / "a.zip", {"0.png": png(0)})
        content = bytearray(path.read_bytes())
        content[6] |= 1  # the flag, in the member's own head and in the directory
        content[content.index(b"PK\x01\x02") + 8] |= 1
        path.write_bytes(content)
        assert outcomes(path) == [("0.png", "unreadable_file")]

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"cannot read .*No such file"):
            count(tmp_path / "a.tar", COLUMNS)
        with pytest.raises(InputError, match=r"cannot read .*No such file"):
            outcomes(tmp_path / "a.tar")


class TestParquet:
    def test_null_and_large_cells(self, tmp_path: Path) -> None:
        path = write_parquet(tmp_path / "a.parquet", [png(0), None, b"", bytes(MAX_BYTES + 1), png(1)])
        found = [outcome for _, outcome in outcomes(path)]
        assert found == [png(0), "empty_image", b"", "image_too_large", png(1)]

    @pytest.mark.parametrize(("key", "keys"), [("id", ["eye-0", "eye-1"]), ("number", ["0", "1"])])
    def test_keys(self, tmp_path: Path, key: str, keys: list[str]) -> None:
        path = write_parquet(tmp_path / "a.parquet", [png(0), png(1)])
        assert [found for found, _ in outcomes(path, columns=Columns("image", key))] == keys

    def test_keys_that_are_no_text(self, tmp_path: Path) -> None:
        keys = pa.array([b"a", b"\xff"], pa.binary()).view(pa.string())
        pq.write_table(pa.table({"image": [png(0)] * 2, "id": keys}), tmp_path / "a.parquet")
        found = outcomes(tmp_path / "a.parquet", columns=Columns("image", "id"))
        assert found == [("a", png(0)), ("\\xff", png(0))]

    @pytest.mark.parametrize(
        "cells",
        [
            pa.array([png(0), None], pa.large_binary()),
            pa.array([png(0), None], pa.binary_view()),
            pa.array([png(0), None]).dictionary_encode(),
            pa.array([png(0), None], pa.binary(len(png(0)))),
            pa.array([{"bytes": png(0), "path": "x"}, None], pa.struct({"bytes": pa.binary(), "path": pa.string()})),
            pa.array([{"bytes": png(0)}, {"bytes": None}], pa.struct({"bytes": pa.large_binary()})),
        ],
        ids=["large", "view", "dictionary", "fixed", "struct", "bytes"],
    )
    @pytest.mark.parametrize("keys", [pa.array(["a", None]), pa.array(["a", None]).dictionary_encode()])
    def test_other_types_of_bytes(self, tmp_path: Path, cells: pa.Array, keys: pa.Array) -> None:
        pq.write_table(pa.table({"eye": cells, "key": keys}), tmp_path / "a.parquet")
        found = outcomes(tmp_path / "a.parquet", columns=Columns("eye", "key"))
        assert found == [("a", png(0)), ("1", "empty_image")]

    @pytest.mark.parametrize("kind", ["struct", "path", "text", "dictionary"])
    def test_paths(self, tmp_path: Path, kind: str) -> None:
        """As Hugging Face's datasets writes images that were made of paths."""
        write_folder(tmp_path / "more", {"0.png": png(0), "é.png": png(1)})
        paths = [str(tmp_path / "more" / "0.png"), "more\\é.png", "none.png", "hf://datasets/0.png", None]
        cells: dict[str, pa.Array] = {
            "struct": pa.array([{"bytes": None, "path": path} for path in paths]),
            "path": pa.array([{"path": path} for path in paths]),
            "text": pa.array(paths),
            "dictionary": pa.array(paths).dictionary_encode(),
        }
        pq.write_table(pa.table({"image": cells[kind]}), tmp_path / "a.parquet")
        found = [outcome for _, outcome in outcomes(tmp_path / "a.parquet")]
        assert found == [png(0), png(1), "unreadable_file", "unreadable_file", "empty_image"]

    def test_column_that_is_there_twice(self, tmp_path: Path) -> None:
        pq.write_table(pa.Table.from_arrays([pa.array([png(0)])] * 2, ["image", "image"]), tmp_path / "a.parquet")
        with pytest.raises(InputError, match="has several columns 'image'"):
            count(tmp_path / "a.parquet", COLUMNS)

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            (Columns("picture"), "no column 'picture'; it has id, number, image: .*--image-column"),
            (Columns("image", "name"), "no column 'name'; .*--key-column"),
            (Columns("number"), "holds int64, not encoded images or their paths"),
            (Columns("image", "image"), "a key is a string or an integer"),
        ],
    )
    def test_columns_that_do_not_fit(self, tmp_path: Path, columns: Columns, message: str) -> None:
        path = write_parquet(tmp_path / "a.parquet", [png(0)])
        with pytest.raises(InputError, match=message):
            count(path, columns)

    def test_damaged_row_group_costs_only_its_own_rows(self, tmp_path: Path) -> None:
        path = write_parquet(tmp_path / "a.parquet", list(CROPS.values()), row_group_size=5)
        metadata = pq.ParquetFile(io.BytesIO(path.read_bytes())).metadata
        start = metadata.row_group(1).column(2).data_page_offset
        content = bytearray(path.read_bytes())
        content[start : start + 20] = bytes(20)
        path.write_bytes(content)
        found = outcomes(path)
        assert [place for place, (_, outcome) in enumerate(found) if outcome == "unreadable_file"] == [5, 6, 7, 8, 9]
