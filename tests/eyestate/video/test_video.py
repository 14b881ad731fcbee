from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

import eyestate
from eyestate.arrays import Pixels
from eyestate.errors import InputChangedError, OutputError, VideoError
from eyestate.mtcnn import Face, FaceDetector
from eyestate.video import recording
from eyestate.video.job import Job, Outcome, run, videos
from eyestate.video.reading import opened
from eyestate.video.recording import locked
from eyestate.video.results import SCHEMA
from tests.eyestate.video.clips import SIZE, write_clip

STEADY = [n / 20 for n in range(50)]


@pytest.fixture(scope="module")
def job() -> Job:
    return Job(eyestate.load(), FaceDetector())


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", STEADY)


def quietly(what: str) -> Callable[[float, float], None]:
    return lambda done, total: None


def rows(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(folder / "timeline.parquet").to_pylist()
    return found


def times(path: Path) -> list[float]:
    with opened(str(path)) as video:
        return [time for time, _ in video.frames()]


def is_the_blink(outcome: Outcome) -> bool:
    (course,) = outcome.people
    (event,) = course.events
    return event.kind == "blink" and abs(event.start - 1) < 0.06 and abs(event.duration - 0.3) < 0.06


def test_a_blink_is_found_and_everything_is_written(job: Job, clip: Path, tmp_path: Path) -> None:
    outcome = run(str(clip), tmp_path, Job(job.scorer, job.detector, annotated=True), quietly)
    assert is_the_blink(outcome)
    assert pq.read_schema(tmp_path / "timeline.parquet").equals(SCHEMA)
    timeline = rows(tmp_path)
    assert [row["time"] for row in timeline] == pytest.approx(STEADY, abs=1e-3)
    assert {row["state"] for row in timeline if 1.05 < row["time"] < 1.25} == {"closed"}
    assert min(row["left"] for row in timeline if row["time"] < 1) > 0.9
    (event,) = csv.DictReader((tmp_path / "events.csv").read_text().splitlines())
    told = json.loads((tmp_path / "events.json").read_text())
    assert (told["frames"], told["bad_frames"], told["people"][0]["blinks"]) == (50, 0, 1)
    assert float(event["start"]) == told["people"][0]["events"][0]["start"]
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert times(tmp_path / "annotated.mp4") == pytest.approx(STEADY, abs=1e-3)


def test_faces_are_followed_between_searches(job: Job, clip: Path, tmp_path: Path, monkeypatch: Any) -> None:
    searched: list[Pixels] = []
    detect = FaceDetector.detect

    def counted(self: FaceDetector, photo: Pixels) -> list[Face]:
        searched.append(photo)
        return detect(self, photo)

    monkeypatch.setattr(FaceDetector, "detect", counted)
    outcome = run(str(clip), tmp_path, job, quietly)
    assert len(outcome.people[0].times) == 50
    assert len(searched) == 3  # at 0, 1 and 2 seconds


def interrupted(what: str) -> Callable[[float, float], None]:
    def shown(done: float, total: float) -> None:
        raise KeyboardInterrupt

    return shown


def test_an_interrupted_job_goes_on(job: Job, clip: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(recording, "PART_SECONDS", 0.5)
    whole = run(str(clip), tmp_path / "whole", job, quietly)

    with pytest.raises(KeyboardInterrupt):
        run(str(clip), tmp_path / "parts", job, interrupted)
    begun = json.loads((tmp_path / "parts" / "_manifest.json").read_text())
    assert not begun["complete"]
    assert begun["frames"] == 32
    resumed = run(str(clip), tmp_path / "parts", job, quietly)
    assert resumed.manifest.frames == whole.manifest.frames
    assert resumed.manifest.bad == 0
    assert resumed.people[0].events == whole.people[0].events
    assert [row["time"] for row in rows(tmp_path / "parts")] == [row["time"] for row in rows(tmp_path / "whole")]


def test_a_frame_at_which_it_is_interrupted_is_not_there_twice(
    job: Job, clip: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    times = iter(range(100))

    def interrupt(manifest: recording.Manifest, name: str, value: Any) -> None:
        if name == "until" and next(times) == 9:
            raise KeyboardInterrupt
        super(recording.Manifest, manifest).__setattr__(name, value)

    monkeypatch.setattr(recording.Manifest, "__setattr__", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(str(clip), tmp_path, job, quietly)
    found = run(str(clip), tmp_path, job, quietly)
    assert len({row["time"] for row in rows(tmp_path)}) == len(rows(tmp_path)) == found.manifest.frames


def test_an_interrupted_stream_has_results(job: Job, clip: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("eyestate.video.job.is_live", lambda source: True)
    outcome = run(str(clip), tmp_path, job, interrupted)
    assert outcome.manifest.frames == len(rows(tmp_path)) == 32
    assert is_the_blink(outcome)


def test_a_finished_job_is_not_done_again(job: Job, clip: Path, tmp_path: Path, monkeypatch: Any) -> None:
    first = run(str(clip), tmp_path, job, quietly)
    monkeypatch.setattr(recording, "opened", None)
    assert run(str(clip), tmp_path, job, quietly).people == first.people


def test_another_video_is_refused(job: Job, clip: Path, tmp_path: Path) -> None:
    run(str(clip), tmp_path / "out", job, quietly)
    other = write_clip(tmp_path / "other.mp4", STEADY[:5])
    with pytest.raises(InputChangedError, match="choose another --output"):
        run(str(other), tmp_path / "out", job, quietly)


def test_two_runs_do_not_write_to_one_folder(job: Job, clip: Path, tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(OutputError, match="another run"):
        run(str(clip), tmp_path, job, quietly)


def test_people_have_numbers(job: Job, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "two.mp4", STEADY, heads=2)
    outcome = run(str(clip), tmp_path / "out", job, quietly)
    assert [course.person for course in outcome.people] == [1, 2]
    assert [len(course.events) for course in outcome.people] == [1, 1]
    lefts = [{row["person"]: row["face_left"] for row in rows(tmp_path / "out") if row["time"] == t} for t in (0, 2)]
    assert all(abs(lefts[0][person] - lefts[1][person]) < 20 for person in (1, 2))


@pytest.mark.parametrize("turned", [90, 180, 270])
def test_a_turned_video_is_read_upright(turned: int, clip: Path, tmp_path: Path) -> None:
    with opened(str(write_clip(tmp_path / "turned.mp4", STEADY[:2], turned=turned))) as video:
        _, pixels = next(video.frames())
    with opened(str(clip)) as video:
        _, upright = next(video.frames())
    assert pixels.shape == (SIZE[1], SIZE[0], 3)
    assert np.abs(pixels.astype(int) - upright).mean() < 5


def test_uneven_frames_keep_their_times(tmp_path: Path) -> None:
    uneven = list(itertools.accumulate([0.0, 0.01, 0.2, 0.033, 0.5, 0.04]))
    assert times(write_clip(tmp_path / "uneven.mkv", uneven)) == pytest.approx(uneven, abs=2e-3)


def test_times_begin_at_the_first_frame(tmp_path: Path) -> None:
    late = [10 + time for time in STEADY[:5]]
    assert times(write_clip(tmp_path / "late.ts", late)) == pytest.approx(STEADY[:5], abs=2e-3)


def test_damaged_frames_are_counted_and_the_rest_is_scored(job: Job, clip: Path, tmp_path: Path) -> None:
    with av.open(str(clip)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.pos and packet.size]
    data = bytearray(clip.read_bytes())
    for position, size in packets[30:33]:
        data[position : position + size] = b"\xff" * size
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(data)
    outcome = run(str(damaged), tmp_path / "out", job, quietly)
    assert outcome.manifest.bad >= 3
    assert outcome.manifest.frames + outcome.manifest.bad == 50
    assert is_the_blink(outcome)


def test_a_video_that_breaks_off_is_scored_to_its_end(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.ts", STEADY)
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size * 2 // 3])
    assert 20 < len(times(clip)) < 50


def test_without_a_face_there_is_nobody(job: Job, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "empty.mp4", STEADY[:10], heads=0)
    outcome = run(str(clip), tmp_path / "out", job, quietly)
    assert outcome.people == []
    assert rows(tmp_path / "out") == []
    assert (tmp_path / "out" / "plot.png").exists()


def test_a_folder_without_videos_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no video")
    with pytest.raises(VideoError, match="no video files"):
        videos(str(tmp_path), tmp_path / "out")
