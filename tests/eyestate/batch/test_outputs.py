from __future__ import annotations

import errno
import fcntl
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eyestate.batch.outputs import SCHEMA, Manifest, PartEntry, Plan, open_output, same_model, write_part
from eyestate.errors import InputChangedError, ModelChangedError, OutputError
from eyestate.schema import LoadedModel

PLAN = Plan(kind="images", rows=6, fingerprint="f", rows_per_part=2, shards=1)
MODEL = LoadedModel(name="m", version="1", sha256="0" * 64)
OTHER = LoadedModel(name="m", version="2", sha256="1" * 64)


def table(first: int) -> pa.Table:
    rows = [
        {"row": first, "key": f"{first}", "score": 0.5, "state": "uncertain"},
        {"row": first + 1, "key": f"{first + 1}", "error": "corrupt_image", "message": "damaged"},
    ]
    return pa.Table.from_pylist(rows, SCHEMA)


def written(folder: Path, number: int) -> PartEntry:
    return write_part(folder, number, 0, table(2 * number))


def manifest(folder: Path) -> Manifest:
    return Manifest.model_validate_json((folder / "_manifest.json").read_bytes())


def test_parts_and_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "out"
    with open_output(folder, PLAN, 0) as output:
        for number in (2, 0):
            output.add(written(folder, number), MODEL)
    with open_output(folder, PLAN, 0) as output:
        assert output.done == {0, 2}
        output.add(written(folder, 1), MODEL)
        output.finish()
    found = manifest(folder)
    assert [part.name for part in found.parts] == [f"part-00000{number}.parquet" for number in range(3)]
    assert found.complete
    assert found.model == MODEL
    assert found.totals.model_dump() == {"rows": 6, "open": 0, "closed": 0, "uncertain": 3, "failed": 3, "postponed": 0}
    assert pq.read_table(folder)["row"].to_pylist() == list(range(6))  # the folder is a data set: nothing else is seen


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with (
        open_output(tmp_path, PLAN, 0),
        pytest.raises(OutputError, match="another run is writing to"),
        open_output(tmp_path, PLAN, 0),
    ):
        pass
    with open_output(tmp_path, PLAN, 0):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OutputError, match=r"cannot lock files .* choose an --output"), open_output(tmp_path, PLAN, 0):
        pass


def test_shards_run_side_by_side(tmp_path: Path) -> None:
    plan = PLAN.model_copy(update={"shards": 2})
    with open_output(tmp_path, plan, 0) as first, open_output(tmp_path, plan, 1) as second:
        first.add(write_part(tmp_path, 0, 0, table(0)), MODEL)
        second.add(write_part(tmp_path, 1, 1, table(2)), MODEL)
    assert sorted(path.name for path in tmp_path.glob("_*")) == ["_manifest-0.json", "_manifest-1.json"]
    with pytest.raises(OutputError, match="--rows-per-part 2 and 2 shards"), open_output(tmp_path, PLAN, 0):
        pass


def test_shards_share_the_model(tmp_path: Path) -> None:
    plan = PLAN.model_copy(update={"shards": 2})
    with open_output(tmp_path, plan, 0) as first:
        first.add(write_part(tmp_path, 0, 0, table(0)), MODEL)
    with open_output(tmp_path, plan, 1) as second:
        part = write_part(tmp_path, 1, 1, table(2))
        with pytest.raises(ModelChangedError, match=r"m 2 \(111111111111…\), and this output began with m 1"):
            second.add(part, OTHER)


@pytest.mark.parametrize("damage", ["missing", "cut", "changed"])
def test_part_that_is_no_longer_whole_is_forgotten(tmp_path: Path, damage: str) -> None:
    with open_output(tmp_path, PLAN, 0) as output:
        for number in range(3):
            output.add(written(tmp_path, number), MODEL)
        output.finish()
    path = tmp_path / "part-000001.parquet"
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + (b"" if damage == "cut" else b"?"))
    with open_output(tmp_path, PLAN, 0) as output:
        assert sorted(output.done) == [0, 2]
        assert (output.lost, output.manifest.complete) == (1, False)
        assert output.manifest.totals.rows == 4


def test_a_part_removed_while_others_are_written_leaves_the_output_incomplete(tmp_path: Path) -> None:
    with open_output(tmp_path, PLAN, 0) as output:
        for number in range(3):
            output.add(written(tmp_path, number), MODEL)
        (tmp_path / "part-000001.parquet").unlink()
        with pytest.raises(OutputError, match=r"part-000001\.parquet among them, were removed .* run the same command"):
            output.finish()
    with open_output(tmp_path, PLAN, 0) as output:
        assert (sorted(output.done), output.manifest.complete) == ([0, 2], False)


@pytest.mark.parametrize("another", [False, True])
def test_a_folder_removed_while_parts_are_written_is_not_written_to(tmp_path: Path, another: bool) -> None:
    folder = tmp_path / "out"
    with open_output(folder, PLAN, 0) as output:
        part = written(folder, 0)
        shutil.rmtree(folder)
        if another:
            folder.mkdir()
        else:
            with pytest.raises(OutputError, match=r"out was removed while the job wrote to it: run the same command"):
                written(folder, 1)
        with pytest.raises(OutputError, match="was removed"):
            output.add(part, MODEL)
    assert list(tmp_path.glob("out/*")) == []
    with open_output(folder, PLAN, 0) as output:
        assert not output.done


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"fingerprint": "g"}, InputChangedError, "was begun with another input .* choose another --output"),
        ({"rows": 7}, InputChangedError, r"6 rows; now 7"),
        ({"rows_per_part": 3}, OutputError, "--rows-per-part 2"),
    ],
)
def test_another_plan(tmp_path: Path, change: dict[str, object], error: type[Exception], message: str) -> None:
    with open_output(tmp_path, PLAN, 0):
        pass
    with pytest.raises(error, match=message), open_output(tmp_path, PLAN.model_copy(update=change), 0):
        pass


def test_folders_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write to"), open_output(tmp_path / "file", PLAN, 0):
        pass
    (tmp_path / "part-000000.parquet").write_bytes(b"")
    with pytest.raises(OutputError, match="parts without a manifest"), open_output(tmp_path, PLAN, 0):
        pass
    (tmp_path / "_manifest.json").write_text("{")
    with pytest.raises(OutputError, match="is not a manifest"), open_output(tmp_path, PLAN, 0):
        pass


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    with open_output(tmp_path, PLAN, 0):
        pass
    (tmp_path / ".draft-0-abc").write_bytes(b"half a part")
    (tmp_path / ".draft-1-abc").write_bytes(b"of another shard, which may be at work")
    with open_output(tmp_path, PLAN, 0):
        assert [path.name for path in tmp_path.glob(".draft*")] == [".draft-1-abc"]


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with open_output(tmp_path, PLAN, 0):
        before = sorted(tmp_path.iterdir())
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match=r"cannot write .*part-000000\.parquet: No space left on device"):
            written(tmp_path, 0)
        assert sorted(tmp_path.iterdir()) == before


def test_same_model() -> None:
    assert same_model(None, None) is None
    assert same_model(None, MODEL) == same_model(MODEL, None) == same_model(MODEL, MODEL) == MODEL
    with pytest.raises(ModelChangedError, match="choose another --output"):
        same_model(MODEL, OTHER)
