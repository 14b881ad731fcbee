from __future__ import annotations

import gc
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eyestate.batch.inputs import Input, Part, Reader, Row, open_input
from eyestate.batch.parquet import Columns
from eyestate.errors import ImageError, InputChangedError, InputError, UnreadableFileError
from tests.eyestate.batch.crops import png, write_folder, write_parquet, write_tar, write_zip

COLUMNS = Columns()
CROPS = {f"{place:02d}.png": png(place) for place in range(23)}


def opened(*inputs: str | Path) -> Input:
    return open_input(map(str, inputs), COLUMNS)


def rows(source: Input, rows_per_part: int = 10) -> list[Row]:
    reader = Reader()
    try:
        return [row for part in source.parts(rows_per_part) for row in reader.rows(part)]
    finally:
        reader.close()


def keys(source: Input) -> list[str]:
    return [row.key for row in rows(source)]


def error(row: Row) -> str:
    assert isinstance(row.image, ImageError)
    return row.image.code


class TestFolder:
    def test_order(self, tmp_path: Path) -> None:
        names = ["b/2.png", "b/10.PNG", "a.jpg", "b.webp", "b/c/x.bmp", "ä.jpeg"]
        write_folder(tmp_path, dict.fromkeys(names, b"x") | {"notes.md": b"", ".hidden.png": b"", ".git/x.png": b""})
        source = opened(tmp_path)
        assert keys(source) == ["a.jpg", "b/10.PNG", "b/2.png", "b/c/x.bmp", "b.webp", "ä.jpeg"]
        assert (source.kind, source.rows) == ("images", 6)
        assert {row.source for row in rows(source)} == {None}
        assert str(source.left_out) == "left out: hidden or of the system: 2; other files: 1 (.md)"

    def test_links(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "in", {"a.png": png(1)})
        (folder / "b.png").symlink_to(folder / "a.png")
        (folder / "c.png").symlink_to(folder / "nowhere.png")
        (folder / "circle").symlink_to(folder)
        (folder / "day2").symlink_to(write_folder(tmp_path / "disk", {"d.png": png(2)}))
        source = opened(folder)
        assert keys(source) == ["a.png", "b.png", "day2/d.png"]
        assert str(source.left_out) == "left out: links that lead back or nowhere: 2"

    def test_name_of_any_bytes(self, tmp_path: Path) -> None:
        (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(png(3))
        (row,) = rows(opened(tmp_path))
        assert row == (None, os.fsdecode(b"\xff.png"), png(3))

    def test_file_that_went_away(self, tmp_path: Path) -> None:
        source = opened(write_folder(tmp_path, CROPS))
        (part, *_) = source.parts(10)
        (tmp_path / "01.png").unlink()
        (tmp_path / "02.png").write_bytes(bytes(20 * 2**20 + 1))
        found = list(Reader().rows(part))
        assert (error(found[1]), error(found[2])) == ("unavailable_file", "image_too_large")


class TestList:
    def test_lines(self, tmp_path: Path) -> None:
        write_folder(tmp_path / "deep", CROPS)
        (tmp_path / "folder.png").mkdir()
        os.mkfifo(tmp_path / "pipe.png")
        lines = ["deep/01.png", "", str(tmp_path / "deep/02.png"), "none.png", "folder.png", "pipe.png", "a\0b"]
        (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
        source = opened(tmp_path / "list.txt")
        found = rows(source)
        assert (source.kind, source.rows) == ("list", 6)
        assert [row.key for row in found] == [line for line in lines if line]
        assert [row.image for row in found[:2]] == [png(1), png(2)]
        assert [error(row) for row in found[2:]] == ["unreadable_file"] * 4

    def test_empty(self, tmp_path: Path) -> None:
        (tmp_path / "list.txt").write_text("\n")
        with pytest.raises(InputError, match="names no file that is there"):
            opened(tmp_path / "list.txt")

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    @pytest.mark.parametrize(
        "text",
        [
            "deep\\é.png\n01.png",
            '#TYPE System.IO.FileInfo\n"FullName"\n"deep/é.png"\n"01.png"',
            "\nName\n----\ndeep/é.png  \n01.png  ",
        ],
        ids=["plain", "Export-Csv", "Out-File"],
    )
    def test_as_powershell_and_excel_write_them(self, tmp_path: Path, encoding: str, end: str, text: str) -> None:
        write_folder(tmp_path, {"deep/e\u0301.png": png(1), "01.png": png(2)})
        mark = "\ufeff" if encoding == "utf-16-be" else ""
        (tmp_path / "list.csv").write_bytes((mark + text + "\n").replace("\n", end).encode(encoding))
        assert [row.image for row in rows(opened(tmp_path / "list.csv"))] == [png(1), png(2)]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"01.png;open\n02.png;closed\n", "names no file that is there"),
            ("01.png\topen\n".encode("utf-16"), "names no file that is there"),
            (b"\xff\xfe0", "looks like utf-16, but is not: save it as UTF-8"),
        ],
    )
    def test_lists_of_something_else(self, tmp_path: Path, content: bytes, message: str) -> None:
        write_folder(tmp_path, {"01.png": png(1)})
        (tmp_path / "list.txt").write_bytes(content)
        with pytest.raises(InputError, match=message):
            opened(tmp_path / "list.txt")

    def test_urls_and_names_of_windows(self, tmp_path: Path) -> None:
        write_folder(tmp_path / "in", {"a b.png": png(0), "\u00e9.png": png(1)})
        url = (tmp_path / "in" / "a b.png").as_uri()
        spark = url.replace("file://", "file:")
        lines = [url.encode(), spark.encode(), "\u00e9.png".encode("cp1252"), "\u00e9.png".encode(), b"file://[a.png"]
        (tmp_path / "in" / "list.txt").write_bytes(b"\r\n".join(lines))
        *images, none = [row.image for row in rows(opened(tmp_path / "in" / "list.txt"))]
        assert images == [png(0), png(0), png(1), png(1)]
        assert isinstance(none, UnreadableFileError)


class TestContainers:
    @pytest.fixture
    def shards(self, tmp_path: Path) -> Path:
        folder = tmp_path / "shards"
        (folder / "more").mkdir(parents=True)
        items = list(CROPS.items())
        write_tar(folder / "b.tar", dict(items[:9]))
        write_zip(folder / "c.zip", dict(items[9:15]))
        write_tar(folder / "more" / "d.tar.gz", dict(items[15:]))
        return folder

    @pytest.mark.parametrize("form", ["folder", "pattern", "names"])
    def test_shards(self, shards: Path, form: str) -> None:
        sources = {
            "folder": [shards],
            "pattern": [shards / "**" / "*.*"],
            "names": [shards / "c.zip", shards / "more" / "d.tar.gz", shards / "b.tar"],
        }
        source = opened(*sources[form])
        found = rows(source)
        assert (source.kind, source.rows) == ("archives", 23)
        assert {row.key: row.image for row in found} == CROPS
        assert keys(source) == sorted(CROPS)
        assert [row.source for row in found] == ["b.tar"] * 9 + ["c.zip"] * 6 + ["more/d.tar.gz"] * 8

    def test_parquet_folder(self, tmp_path: Path) -> None:
        write_parquet(tmp_path / "a.parquet", list(CROPS.values())[:12])
        write_parquet(tmp_path / "b.parquet", list(CROPS.values())[12:])
        source = opened(tmp_path)
        assert [row.image for row in rows(source)] == list(CROPS.values())
        assert [row.key for row in rows(source)] == [*map(str, range(12)), *map(str, range(11))]

    def test_file_that_shrank(self, shards: Path) -> None:
        source = opened(shards)
        write_tar(shards / "b.tar", dict(list(CROPS.items())[:3]))
        with pytest.raises(InputChangedError, match=r"b\.tar had 9 images or more and now has 3"):
            rows(source)


class TestTables:
    """The folders of Spark and Delta Lake."""

    @staticmethod
    def delta(folder: Path, *commits: list[dict[str, object]]) -> Path:
        log = folder / "_delta_log"
        log.mkdir(parents=True)
        for version, actions in enumerate(commits):
            (log / f"{version:020d}.json").write_text("\n".join(map(json.dumps, actions)))
        return folder

    def test_spark(self, tmp_path: Path) -> None:
        for name in ("part-0", "day=1/part-1", "_c0=x/part-2", "_temporary/0/part-0", "_old/part-3", "_metadata"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            write_parquet(tmp_path / f"{name}.parquet", [png(len(name))])
        (tmp_path / "_SUCCESS").touch()
        (tmp_path / ".part-0.parquet.crc").touch()
        source = opened(tmp_path)
        assert [row.source for row in rows(source)] == [
            "_c0=x/part-2.parquet",
            "day=1/part-1.parquet",
            "part-0.parquet",
        ]
        assert str(source.left_out) == "left out: hidden or of the system: 5"
        assert opened(tmp_path / "**" / "*.parquet").rows == 3

    @pytest.mark.parametrize(("kind", "sign"), [("Iceberg", "metadata/v1.metadata.json"), ("Hudi", ".hoodie/x")])
    def test_other_tables_with_earlier_versions(self, tmp_path: Path, kind: str, sign: str) -> None:
        table = write_folder(tmp_path / "tables" / "eyes", {sign: b"", "data/x": b""})
        write_parquet(table / "data" / "a.parquet", [png(0)])
        for given in (table, table.parent):
            with pytest.raises(InputError, match=f"eyes is a table of Apache {kind}"):
                opened(given)

    def test_paths_of_files_that_are_not_there(self, tmp_path: Path) -> None:
        paths = ["a.png", "hf://eyes/b.png"]
        table = tmp_path / "eyes.parquet"
        for column in (pa.array(paths), pa.array([{"bytes": None, "path": path} for path in paths])):
            pq.write_table(pa.table({"image": column}), table)
            with pytest.raises(
                InputError, match=r"holds no images, only where they are, and there is no file 'a\.png'"
            ):
                opened(table)
            write_folder(tmp_path, {"a.png": png(0)})
            found = rows(opened(table))
            assert found[0].image == png(0)
            assert error(found[1]) == "unreadable_file"
            (tmp_path / "a.png").unlink()

    def test_delta_table_has_its_present_rows(self, tmp_path: Path) -> None:
        table = tmp_path / "lake" / "table"
        table.mkdir(parents=True)
        files = {f"part {number}.parquet": [png(number)] for number in range(4)}
        for name, images in files.items():
            write_parquet(table / name, images)
        adds: list[dict[str, object]] = [{"add": {"path": f"part%20{number}.parquet"}} for number in range(4)]
        self.delta(table, [{"protocol": {}}, adds[0], adds[1]], [{"remove": {"path": "part%201.parquet"}}, adds[2]])
        assert [row.image for row in rows(opened(table))] == [png(0), png(2)]
        checkpoint = pa.table({"add": [{"path": "part%203.parquet"}, None], "remove": [None, {"path": "x"}]})
        pq.write_table(checkpoint, table / "_delta_log" / f"{1:020d}.checkpoint.parquet")
        assert [row.image for row in rows(opened(table))] == [png(3)]
        with pytest.raises(InputError, match="is a Delta table, with files of earlier versions: give the folder"):
            opened(table / "*.parquet")
        with pytest.raises(InputError, match="holds the Delta table"):
            opened(table.parent)

    @pytest.mark.parametrize(
        ("commits", "message"),
        [
            ([[{"add": {"path": "a.parquet", "deletionVector": {"storageType": "u"}}}]], "marked as deleted"),
            ([[{"add": {"path": "s3://x/a.parquet"}}]], "it has files elsewhere, such as s3://x/a.parquet"),
            ([[{"add": "x"}]], "its log is damaged"),
            ([], "commits are missing"),
            ([[]], "there are no images"),
        ],
    )
    def test_delta_tables_that_are_not_read(
        self, tmp_path: Path, commits: list[list[dict[str, object]]], message: str
    ) -> None:
        with pytest.raises(InputError, match=message):
            opened(self.delta(tmp_path, *commits))

    def test_delta_logs_that_are_not_read(self, tmp_path: Path) -> None:
        log = self.delta(tmp_path, [], []) / "_delta_log"
        (log / f"{0:020d}.json").unlink()
        with pytest.raises(InputError, match="commits are missing"):
            opened(tmp_path)
        (log / f"{0:020d}.json").write_text("{")
        with pytest.raises(InputError, match="its log is damaged"):
            opened(tmp_path)
        (log / f"{1:020d}.checkpoint.80a083e8-7026.json").touch()
        with pytest.raises(InputError, match="is of a newer form"):
            opened(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "holds no images, no archives"),
        (["a.png", "b.tar"], r"holds both images and b\.tar: .* pattern such as '.*/\*\.tar'"),
        (["a.tar", "b.parquet"], "only one of these kinds"),
        (["notes.md"], "holds no images"),
    ],
)
def test_folders_that_cannot_be_told(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        opened(write_folder(tmp_path, dict.fromkeys(names, b"")))


def test_inputs_that_cannot_be_told(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a.png": b"", "a.txt": b"", "b.txt": b""})
    write_tar(tmp_path / "empty.tar", {})
    with pytest.raises(InputError, match="name of the input is empty"):
        opened("")
    with pytest.raises(InputError, match=r"there is no .*none\*"):
        opened(tmp_path / "none*")
    with pytest.raises(InputError, match=r"a\.png cannot be read here"):
        opened(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.txt cannot be read here"):
        opened(tmp_path / "*.txt")
    with pytest.raises(InputError, match=r"there are no images in empty\.tar"):
        opened(tmp_path / "empty.tar")


class TestParts:
    @pytest.fixture(params=["folder", "tar", "zip", "tgz", "parquet", "list"])
    def source(self, request: pytest.FixtureRequest, tmp_path: Path) -> Input:
        items = list(CROPS.items())
        pieces = [dict(items[:11]), dict(items[11:12]), dict(items[12:])]
        if request.param == "folder":
            return opened(write_folder(tmp_path, CROPS))
        if request.param == "list":
            write_folder(tmp_path, CROPS)
            (tmp_path / "list.txt").write_text("\n".join(CROPS))
            return opened(tmp_path / "list.txt")
        for number, piece in enumerate(pieces):
            path = tmp_path / f"{number}.{request.param}"
            if request.param == "parquet":
                write_parquet(path, list(piece.values()))
            else:
                (write_zip if request.param == "zip" else write_tar)(path, piece)
        return opened(tmp_path)

    @pytest.mark.parametrize("rows_per_part", [1, 4, 11, 12, 23, 24, 1_000])
    def test_every_row_once(self, source: Input, rows_per_part: int) -> None:
        parts = list(source.parts(rows_per_part))
        assert [part.number for part in parts] == list(range(len(parts)))
        assert [part.first for part in parts] == list(range(0, 23, rows_per_part))
        assert [part.rows for part in parts[:-1]] == [rows_per_part] * (len(parts) - 1)
        assert sum(part.rows for part in parts) == source.rows == 23
        assert [row.image for row in rows(source, rows_per_part)] == list(CROPS.values())

    def test_each_part_alone_and_in_any_order(self, source: Input) -> None:
        parts: list[Part] = pickle.loads(pickle.dumps(list(source.parts(4))))
        whole = rows(source)
        reader = Reader()
        for part in [*reversed(parts), *parts[::2]]:
            assert list(reader.rows(part)) == whole[part.first : part.first + part.rows]
        reader.close()

    def test_abandoned_reader_leaves_no_file_open(self, source: Input) -> None:
        reader = Reader()
        next(reader.rows(next(source.parts(10))))
        reader.close()
        del reader
        gc.collect()  # an open file would be a ResourceWarning, which is an error here


class TestFingerprint:
    @pytest.mark.parametrize(
        "change",
        [
            lambda folder: (folder / "00.png").write_bytes(png(9) + b"\n"),
            lambda folder: (folder / "00.png").rename(folder / "0.png"),
            lambda folder: (folder / "00.png").unlink(),
            lambda folder: (folder / "new.png").write_bytes(png(0)),
            lambda folder: os.utime(folder / "00.png", ns=(1, 1)),
        ],
        ids=["content", "name", "removed", "added", "time"],
    )
    def test_changes(self, tmp_path: Path, change: Callable[[Path], object]) -> None:
        folder = write_folder(tmp_path, CROPS)
        before = opened(folder).fingerprint
        assert opened(folder).fingerprint == before
        change(folder)
        assert opened(folder).fingerprint != before

    def test_other_place(self, tmp_path: Path) -> None:
        before = opened(write_folder(tmp_path / "a", CROPS)).fingerprint
        (tmp_path / "a").rename(tmp_path / "b")
        assert opened(tmp_path / "b").fingerprint == before

    def test_listed_file_and_columns(self, tmp_path: Path) -> None:
        write_folder(tmp_path, {"b.png": png(0), "list.txt": b"a.png\nb.png\n"})
        before = opened(tmp_path / "list.txt").fingerprint
        (tmp_path / "a.png").write_bytes(png(0))
        assert opened(tmp_path / "list.txt").fingerprint != before
        table = write_parquet(tmp_path / "a.parquet", [png(0)])
        by_id = open_input([str(table)], Columns("image", "id"))
        assert by_id.fingerprint != opened(table).fingerprint

    def test_change_between_the_two_walks(self, tmp_path: Path) -> None:
        source = opened(write_folder(tmp_path, CROPS))
        (tmp_path / "new.png").write_bytes(png(0))
        with pytest.raises(InputChangedError, match="changed while it was being read"):
            rows(source)
