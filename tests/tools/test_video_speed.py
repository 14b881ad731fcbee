from __future__ import annotations

from pathlib import Path

import eyestate
from eyestate.mtcnn import FaceDetector
from tools.video_speed import Cost, measure, report, write_clip


def test_following_costs_less_than_searching_each_frame(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", 1)
    scorer, detector = eyestate.load(), FaceDetector()
    followed = measure(tmp_path / "clip.mp4", scorer, detector, 1)
    searched = measure(tmp_path / "clip.mp4", scorer, detector, 0)
    assert followed.processor < searched.processor / 2


def test_the_report_says_what_two_cores_can_do() -> None:
    text = report({"followed": Cost(8.0, 10.0)}, 20, "`cascade`", 1.0)
    assert "| followed | 8.0 | 250 | 10.0 |" in text
