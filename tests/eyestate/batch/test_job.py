from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from rich.console import Console

from eyestate import limits
from eyestate.batch import progress
from eyestate.batch.engine import Destination, Service, score_parts
from eyestate.batch.inputs import Part, open_input
from eyestate.batch.job import Job, run
from eyestate.batch.outputs import Manifest
from eyestate.batch.parquet import Columns
from eyestate.cli import main
from eyestate.errors import InputError, ModelChangedError, ServiceError
from tests.bundles import write_bundle
from tests.eyestate.batch.crops import png, write_folder, write_parquet, write_tar, write_zip
from tests.faulty_service import FaultyService, faulty_service

CROPS = {f"{place:03d}.png": png(place) for place in range(250)}


class Told(list[str]):
    """What a job tells of its progress."""

    total = done = 0

    def __enter__(self) -> Told:
        return self

    def __exit__(self, *_: object) -> None: ...

    def begin(self, total: int, done: int) -> None:
        self.total, self.done = total, done

    def advance(self, rows: int) -> None:
        self.done += rows

    def note(self, text: str) -> None:
        self.append(text)


def asked(service: FaultyService) -> Service:
    return Service(service.url, api_key=None, verify=True, patience=30, in_flight=3, rows_per_request=10)


def job(service: FaultyService, output: Path, source: Path, **changes: Any) -> Job:
    settings: dict[str, Any] = {"rows_per_part": 40, **changes}
    return Job((str(source),), output, asked(service), **settings)


def assert_scored(output: Path, images: dict[str, bytes] = CROPS) -> None:
    """Every row is there once, in order, with its own score."""
    table = pq.read_table(output).to_pydict()
    assert table["row"] == list(range(len(images)))
    assert table["key"] == list(images)
    expected = [int(Path(key).stem[:3]) / 255 if images[key].startswith(b"\x89PNG") else np.nan for key in images]
    np.testing.assert_allclose(np.array(table["score"], float), expected, atol=1e-3)
    for score, state, error, message in zip(
        *(table[name] for name in ("score", "state", "error", "message")), strict=True
    ):
        assert ((score is None), (state is None)) == ((error is not None), (message is not None))


class TestScores:
    @pytest.mark.parametrize("kind", ["folder", "tar", "tgz", "zip", "parquet"])
    def test_every_kind_of_input(self, service: FaultyService, tmp_path: Path, kind: str) -> None:
        images = CROPS | {"007.png": b"no image", "101.png": b""}
        if kind == "folder":
            source = write_folder(tmp_path / "in", images)
        elif kind == "parquet":
            source = write_parquet(tmp_path / "in.parquet", list(images.values()), row_group_size=33)
            images = {str(place): data for place, data in enumerate(images.values())}
        else:
            source = (write_zip if kind == "zip" else write_tar)(tmp_path / f"in.{kind}", images)
        told = Told()
        manifest = run(job(service, tmp_path / "out", source), told)
        assert_scored(tmp_path / "out", images)
        states = pq.read_table(tmp_path / "out")["state"].to_pylist()
        assert manifest.totals.model_dump() == {
            "rows": 250,
            "failed": 2,
            "postponed": 0,
            **{state: states.count(state) for state in ("open", "closed", "uncertain")},
        }
        assert manifest.complete
        assert manifest.model is not None
        assert manifest.model.name == "brightness"
        assert (told.total, told.done) == (250, 250)

    def test_errors_name_their_cause(self, service: FaultyService, tmp_path: Path) -> None:
        lines = ["000.png", "missing.png", "broken.png", "tiny.png"]
        folder = write_folder(tmp_path, {"000.png": png(0), "broken.png": png(0)[:45], "tiny.png": b"x"})
        (folder / "list.txt").write_text("\n".join(lines))
        run(job(service, tmp_path / "out", folder / "list.txt"), Told())
        rows = pq.read_table(tmp_path / "out").to_pylist()
        assert [row["error"] for row in rows] == [None, "unreadable_file", "corrupt_image", "unsupported_image"]
        assert "missing.png" in rows[1]["message"]

    def test_input_without_a_readable_row(self, service: FaultyService, tmp_path: Path) -> None:
        (tmp_path / "list.txt").write_text("a.png\nb.png\n")
        (tmp_path / "a.png").mkdir()
        manifest = run(job(service, tmp_path / "out", tmp_path / "list.txt"), Told())
        assert (manifest.totals.failed, manifest.model, manifest.complete) == (2, None, True)
        assert service.seen()["posts"] == 0

    def test_names_of_any_bytes(self, service: FaultyService, tmp_path: Path) -> None:
        write_folder(tmp_path / "in", {os.fsdecode(b"\xff.png"): png(0), os.fsdecode(b"\xfe.png"): b""})
        run(job(service, tmp_path / "out", tmp_path / "in"), Told())
        assert pq.read_table(tmp_path / "out")["key"].to_pylist() == ["\\udcfe.png", "\\udcff.png"]

    def test_requests_are_bounded_in_bytes(
        self, service: FaultyService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(limits, "REQUEST_BYTES", 3 * len(png(100)))
        run(job(service, tmp_path / "out", write_folder(tmp_path / "in", CROPS)), Told())
        assert_scored(tmp_path / "out")
        assert service.seen()["posts"] >= 250 / 3

    def test_reads_no_further_ahead_than_needed(self, service: FaultyService, tmp_path: Path) -> None:
        source = open_input([str(write_folder(tmp_path / "in", CROPS))], Columns())
        taken = scored = 0

        def parts() -> Iterator[Part]:
            nonlocal taken
            for part in source.parts(5):
                taken += part.rows
                yield part

        def count(rows: int) -> None:
            nonlocal scored
            scored += rows
            assert taken - scored <= 5 * (2 * 3 + 1)

        (tmp_path / "out").mkdir()
        score_parts(
            parts(), asked(service), Destination(tmp_path / "out", 0, None), scored=count, written=lambda *_: None
        )
        assert taken == scored == 250


class TestFaults:
    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        return write_folder(tmp_path / "in", CROPS)

    def test_faults_are_ridden_out(self, service: FaultyService, tmp_path: Path, source: Path) -> None:
        faults: list[dict[str, Any] | None] = [{"status": 429, "headers": {"Retry-After": "1"}}, {"cut": True}, None]
        service.order(*faults * 4)
        run(job(service, tmp_path / "out", source), Told())
        assert_scored(tmp_path / "out")
        assert service.seen()["most"] <= 3

    def test_stopped_job_goes_on_where_it_was(self, service: FaultyService, tmp_path: Path, source: Path) -> None:
        service.order(*[None] * 13, then={"status": 401})
        with pytest.raises(ServiceError, match="401"):
            run(job(service, tmp_path / "out", source), Told())
        kept = Manifest.model_validate_json((tmp_path / "out" / "_manifest.json").read_bytes())
        assert [part.number for part in kept.parts] == [0, 1, 2]
        service.order()
        told = Told()
        manifest = run(job(service, tmp_path / "out", source), told)
        assert manifest.parts[:3] == kept.parts
        assert service.seen()["posts"] == 250 / 10 - 3 * 4
        assert (told.total, told.done) == (250, 250)
        assert_scored(tmp_path / "out")

    def test_finished_job_asks_nobody(self, service: FaultyService, tmp_path: Path, source: Path) -> None:
        first = run(job(service, tmp_path / "out", source), Told())
        service.order(then={"status": 500})
        assert run(job(service, tmp_path / "out", source), Told()) == first

    def test_lost_part_is_scored_again(self, service: FaultyService, tmp_path: Path, source: Path) -> None:
        first = run(job(service, tmp_path / "out", source), Told())
        (tmp_path / "out" / "part-000002.parquet").unlink()
        told = Told()
        assert run(job(service, tmp_path / "out", source), told) == first
        assert "1 parts are missing or damaged and are scored again" in told
        assert_scored(tmp_path / "out")

    def test_rows_that_failed_for_other_reasons_are_tried_again(
        self, service: FaultyService, tmp_path: Path, source: Path
    ) -> None:
        (source / "123.png").write_bytes(png(123) + b"poison")
        (source / "007.png").write_bytes(b"no image")
        images = CROPS | {"007.png": b"no image"}
        service.order(then={"holding": "poison", "status": 500})
        first = run(job(service, tmp_path / "out", source), Told())
        assert (first.totals.failed, first.totals.postponed, first.complete) == (1, 1, False)
        row = pq.read_table(tmp_path / "out").to_pylist()[123]
        assert (row["score"], row["error"]) == (None, "ordered")
        service.order(then={"holding": "poison", "status": 413})
        again = run(job(service, tmp_path / "out", source), Told())
        assert (again.totals, again.complete) == (first.totals, False)
        service.order()
        told = Told()
        last = run(job(service, tmp_path / "out", source), told)
        assert (last.totals.failed, last.totals.postponed, last.complete) == (1, 0, True)
        assert service.seen()["posts"] == 4  # the requests of that one part
        assert (told.total, told.done) == (250, 250)
        assert_scored(tmp_path / "out", images)
        service.order(then={"status": 500})
        assert run(job(service, tmp_path / "out", source), Told()) == last

    def test_refusals_that_an_older_version_took_for_final(
        self, service: FaultyService, tmp_path: Path, source: Path
    ) -> None:
        (source / "007.png").write_bytes(b"no image")
        run(job(service, tmp_path / "out", source), Told())
        path = tmp_path / "out" / "_manifest.json"
        older = json.loads(path.read_text()) | {"schema_version": 1}
        for entry in (older["totals"], *older["parts"]):
            del entry["postponed"]
        path.write_text(json.dumps(older))
        service.order()
        assert run(job(service, tmp_path / "out", source), Told()).complete
        assert service.seen()["posts"] == 4
        assert_scored(tmp_path / "out", CROPS | {"007.png": b"no image"})

    @pytest.mark.parametrize("kind", ["folder", "list"])
    def test_files_that_vanish_while_the_job_runs(
        self, service: FaultyService, tmp_path: Path, source: Path, kind: str
    ) -> None:
        given, images = source, CROPS
        if kind == "list":
            given, images = tmp_path / "list.txt", CROPS | {"250.png": b""}
            given.write_text("".join(f"{source}/{name}\n" for name in images))

        class Removing(Told):
            def advance(self, rows: int) -> None:
                super().advance(rows)
                if self.done == 100:
                    source.rename(tmp_path / "unmounted")

        first = run(job(service, tmp_path / "out", given), Removing())
        assert (first.complete, first.totals.failed) == (False, len(images) - len(CROPS))
        assert first.totals.postponed > 0
        (tmp_path / "unmounted").rename(source)
        last = run(job(service, tmp_path / "out", given), Told())
        assert (last.complete, last.totals.failed) == (True, len(images) - len(CROPS))
        assert pq.read_table(tmp_path / "out")["score"].null_count == last.totals.failed

    def test_killed_service_that_comes_back(self, tmp_path: Path, source: Path) -> None:
        bundle, log = write_bundle(tmp_path), tmp_path / "service.log"
        with faulty_service(bundle, log) as first:
            first.order(then={"delay": 0.05})
            failures: list[BaseException] = []

            def score() -> None:
                try:
                    run(job(first, tmp_path / "out", source), Told())
                except BaseException as error:
                    failures.append(error)

            thread = threading.Thread(target=score)
            thread.start()
            deadline = time.monotonic() + 30
            while not list((tmp_path / "out").glob("part-*")) and time.monotonic() < deadline:
                time.sleep(0.01)
            first.process.kill()
            first.process.wait()
            with faulty_service(bundle, log, port=int(first.url.rpartition(":")[2])):
                thread.join(60)
        assert failures == []
        assert_scored(tmp_path / "out")

    def test_other_model(self, service: FaultyService, tmp_path: Path, source: Path) -> None:
        service.order(*[None] * 8, then={"status": 401})
        with pytest.raises(ServiceError, match="401"):
            run(job(service, tmp_path / "out", source), Told())
        with (
            faulty_service(write_bundle(tmp_path, "brighter"), tmp_path / "service.log") as other,
            pytest.raises(ModelChangedError, match=r"scores with brighter .* began with brightness"),
        ):
            run(job(other, tmp_path / "out", source), Told())
        service.order()
        run(job(service, tmp_path / "out", source), Told())
        assert_scored(tmp_path / "out")

    def test_output_within_the_input(self, service: FaultyService, source: Path) -> None:
        with pytest.raises(InputError, match="lies in the input"):
            run(job(service, source / "out", source), Told())


def test_shards(service: FaultyService, tmp_path: Path) -> None:
    source = write_tar(tmp_path / "in.tar", CROPS)
    manifests = [run(job(service, tmp_path / "out", source, shard=shard, shards=3), Told()) for shard in (2, 0, 1)]
    assert [[part.number for part in manifest.parts] for manifest in manifests] == [[2, 5], [0, 3, 6], [1, 4]]
    assert all(manifest.complete for manifest in manifests)
    assert_scored(tmp_path / "out")


def test_more_shards_than_parts(service: FaultyService, tmp_path: Path) -> None:
    source = write_tar(tmp_path / "in.tar", CROPS)
    manifest = run(job(service, tmp_path / "out", source, shard=9, shards=10), Told())
    assert (manifest.parts, manifest.complete) == ((), True)


class TestProgress:
    def test_lines(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(progress, "LINE_SECONDS", 0)
        console = Console(file=io.StringIO())
        with progress.Lines(console) as shown:
            shown.begin(1_000_000, 5_000)
            time.sleep(0.01)
            shown.advance(1_000)
        assert isinstance(console.file, io.StringIO)
        line = console.file.getvalue()
        assert line.startswith("6,000 of 1,000,000 rows, ")
        assert "rows/s, " in line
        assert line.endswith(" s left\n")

    def test_bar(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TERM", "xterm")
        console = Console(file=io.StringIO(), force_terminal=True, width=100)
        with progress.Bar(console) as shown:
            shown.begin(200, 50)
            shown.advance(100)
            shown.note("[worth] knowing")
        assert isinstance(console.file, io.StringIO)
        assert "150/200" in console.file.getvalue()
        assert "[worth] knowing" in console.file.getvalue()

    @pytest.mark.parametrize(
        ("terminal", "term", "kind"),
        [(True, "xterm", progress.Bar), (True, "dumb", progress.Lines), (False, "xterm", progress.Lines)],
    )
    def test_a_bar_only_where_a_line_can_be_redrawn(
        self, monkeypatch: pytest.MonkeyPatch, terminal: bool, term: str, kind: type
    ) -> None:
        monkeypatch.setenv("TERM", term)
        monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
        assert type(progress.progress()) is kind


class TestCommand:
    @staticmethod
    def command(*arguments: str | Path) -> list[str | Path]:
        return [Path(sys.executable).with_name("eyestate"), "batch", *arguments]

    def eyestate(self, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={**os.environ, **environment},
        )

    def test_all_scored(self, service: FaultyService, tmp_path: Path) -> None:
        source, output = write_folder(tmp_path / "in", CROPS), tmp_path / "out"
        result = self.eyestate(source, "--endpoint", service.url, "--output", output, EYESTATE_API_KEY="k3y")
        assert (result.returncode, result.stderr) == (0, "reading the input …\n")
        assert re.fullmatch(rf"250 rows in {output}: \d+ open, \d+ closed, \d+ uncertain, 0 failed\n", result.stdout)
        assert {headers["authorization"] for headers in service.seen()["headers"]} == {"Bearer k3y"}
        assert_scored(output)

    def test_key_of_a_file(self, service: FaultyService, tmp_path: Path) -> None:
        (tmp_path / "key").write_bytes(b"\xef\xbb\xbfk3y\r\n")
        source = write_folder(tmp_path / "in", {"0.png": png(0)})
        given: list[str | Path] = [source, "--endpoint", service.url, "--output", tmp_path / "out"]
        assert self.eyestate(*given, "--api-key-file", tmp_path / "key", EYESTATE_API_KEY="other").returncode == 0
        assert {headers["authorization"] for headers in service.seen()["headers"]} == {"Bearer k3y"}
        (tmp_path / "key").write_bytes(b"\n")
        result = self.eyestate(*given, "--api-key-file", tmp_path / "key")
        assert result.stderr.endswith("key is empty; it must hold the API key\n")

    def test_some_failed(self, service: FaultyService, tmp_path: Path) -> None:
        source = write_parquet(tmp_path / "in.parquet", [png(0), None])
        result = self.eyestate(
            source, "--key-column", "id", "--endpoint", service.url, "--output", tmp_path / "out", "--shard", "0/2"
        )
        assert result.returncode == 3, result.stderr
        assert pq.read_table(tmp_path / "out")["key"].to_pylist() == ["eye-0", "eye-1"]
        assert (tmp_path / "out" / "_manifest-0.json").exists()

    def test_some_postponed(self, service: FaultyService, tmp_path: Path) -> None:
        service.order(then={"holding": "poison", "status": 413})
        source = write_folder(tmp_path / "in", {"0.png": png(0), "1.png": png(1) + b"poison"})
        result = self.eyestate(source, "--endpoint", service.url, "--output", tmp_path / "out")
        assert result.returncode == 1
        assert result.stdout.endswith(": 0 open, 1 closed, 0 uncertain, 0 failed, 1 postponed\n")
        assert "run the same command to try these again" in result.stderr

    def test_gives_up(self, service: FaultyService, tmp_path: Path) -> None:
        service.order(then={"status": 429, "headers": {"Retry-After": "1"}})
        source = write_folder(tmp_path / "in", CROPS)
        output = tmp_path / "out"
        result = self.eyestate(source, "--endpoint", service.url, "--output", output, "--patience", "1.5")
        assert result.returncode == 1
        assert "answered 429 (ordered): as ordered; gave up after" in result.stderr
        assert result.stderr.endswith("What is scored is kept; run the same command to go on.\n")
        assert "Traceback" not in result.stderr

    def test_asked_to_stop(self, service: FaultyService, tmp_path: Path) -> None:
        service.order(then={"delay": 0.2})
        source, output = write_folder(tmp_path / "in", CROPS), tmp_path / "out"
        size = ["--rows-per-part", "20", "--rows-per-request", "20", "--in-flight", "1"]
        command = self.command(source, "--endpoint", service.url, "--output", output, *size)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            deadline = time.monotonic() + 30
            while not list(output.glob("part-*")) and time.monotonic() < deadline:
                time.sleep(0.01)
            process.terminate()
            _, stderr = process.communicate(timeout=20)
        assert process.returncode == 1
        assert stderr.endswith("Error: stopped; run the same command to go on\n")
        service.order()
        assert run(job(service, output, source, rows_per_part=20), Told()).complete
        assert_scored(output)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--shard", "3/3"], "give I/N with I from 0 to N - 1"),
            (["--shard", "x"], "give I/N"),
            (["--rows-per-request", "0"], "is not in the range"),
            (["--engine", "spark"], "is not one of"),
        ],
    )
    def test_wrong_usage(self, tmp_path: Path, arguments: list[str], message: str) -> None:
        given = ["batch", str(tmp_path), "--endpoint", "http://x", "--output", str(tmp_path / "out")]
        result = CliRunner().invoke(main, [*given, *arguments])
        assert result.exit_code == 2
        assert message in result.output

    def test_without_the_extra(self, tmp_path: Path) -> None:
        code = (
            "import sys; sys.modules['pyarrow'] = None; sys.modules['onnxruntime'] = None\n"
            "from eyestate.cli import main; main(['batch', '.', '--endpoint', 'http://x', '--output', 'o'])"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
        assert result.returncode == 1
        assert result.stderr == "Error: pyarrow is not installed; install it with: pip install 'eyestate[client]'\n"
