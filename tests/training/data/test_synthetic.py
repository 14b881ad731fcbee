"""Synthetic eyes: seeded, well-formed, and closed or open where they should be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from eyestate.arrays import Pixels
from eyestate.images import decode
from training.commands.generate import generate_command
from training.data.synthetic import FILMSTRIP_STEPS, SIDE, Eye, filmstrip, labelled, random_eye, render

SEEDS = range(8)


def eye(seed: int, opening: float) -> Eye:
    return random_eye(np.random.default_rng(seed), opening)


def plain(opening: float) -> Eye:
    """An eye straight ahead in the middle of even, sharp, noiseless light."""
    return replace(
        eye(0, opening),
        centre_x=0,
        centre_y=0,
        half_width=0.7,
        tilt=0,
        gaze_x=0,
        gaze_y=0,
        glint=0,
        glasses=0,
        light=1,
        light_x=0,
        light_y=0,
        contrast=1,
        blur=0,
        noise=0,
    )


def pupil_pixels(drawn: Eye) -> int:
    """How many pixels show the pupil: those that change when it shrinks to a point."""
    return int(np.count_nonzero(render(drawn) != render(replace(drawn, pupil=0))))


@pytest.mark.parametrize("side", [24, SIDE, 200])
def test_crops_are_grey_squares_of_the_given_side(side: int) -> None:
    pixels = render(eye(1, 1.0), side)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (side, side)
    assert np.ptp(pixels) > 20


def test_equal_seeds_draw_equal_crops() -> None:
    assert eye(3, 0.8) == eye(3, 0.8)
    np.testing.assert_array_equal(render(eye(3, 0.8)), render(eye(3, 0.8)))


def test_different_seeds_draw_different_crops() -> None:
    crops = {render(eye(seed, 0.8)).tobytes() for seed in SEEDS}
    assert len(crops) == len(SEEDS)


def test_the_opening_does_not_change_what_is_drawn_at_random() -> None:
    assert eye(5, 0.0) == replace(eye(5, 1.0), opening=0.0)


def test_closing_leaves_everything_but_the_eye_as_it_was() -> None:
    change = np.abs(render(plain(0.0)).astype(int) - render(plain(1.0)))
    around = np.s_[12:48, 5:59]  # the corners of the eye are at 9.6 and 54.4
    assert change[around].max() > 50
    change[around] = 0
    assert change.max() <= 1


def test_a_closed_eye_shows_neither_iris_nor_sclera() -> None:
    closed = plain(0.0)
    other_eyeball = replace(closed, iris_tone=1.0, sclera_tone=0.0, pupil=0.1, glint=1.0, gaze_x=0.3)
    np.testing.assert_array_equal(render(closed), render(other_eyeball))


def test_the_visible_pupil_grows_with_the_opening() -> None:
    visible = [pupil_pixels(plain(opening)) for opening in (0.0, 0.4, 0.6, 1.0)]
    assert visible[0] == 0
    assert visible == sorted(set(visible))


def test_the_middle_of_an_open_eye_is_darker_than_its_white() -> None:
    pixels = render(plain(1.0)).astype(int)
    middle = pixels[SIDE // 2 - 2 : SIDE // 2 + 2, SIDE // 2 - 2 : SIDE // 2 + 2].mean()
    white = pixels[SIDE // 2, SIDE // 2 + 12 : SIDE // 2 + 16].mean()
    assert middle < white / 2


def test_a_closed_lid_leaves_a_dark_line_that_hangs_below_the_corners() -> None:
    pixels = render(plain(0.0)).astype(int)
    middle, halfway = SIDE // 2, SIDE // 2 + 18
    line = pixels[SIDE // 3 :, [middle, halfway]].argmin(axis=0)
    assert line[0] > line[1]


def test_light_brightens_and_glasses_darken() -> None:
    bare = plain(1.0)
    assert render(replace(bare, light=0.5)).mean() < 0.6 * render(bare).mean()
    assert render(replace(bare, glasses=0.8)).mean() < render(bare).mean()


def test_an_eye_turns_round_with_its_nose() -> None:
    right = render(replace(plain(1.0), nose_right=True)).astype(int)
    left = render(replace(plain(1.0), nose_right=False)).astype(int)
    # Not equal when mirrored: the uneven skin belongs to the crop.
    assert np.abs(right - left[:, ::-1]).mean() < 0.5 * np.abs(right - left).mean()


def test_labels_are_balanced_and_follow_the_opening() -> None:
    drawn = labelled(10, seed=2)
    assert [label for _, label in drawn] == [0, 1] * 5
    assert all(pixels.shape == (SIDE, SIDE) and pixels.dtype == np.uint8 for pixels, _ in drawn)


def test_fewer_labelled_crops_are_the_first_of_more() -> None:
    few, many = labelled(4, seed=9), labelled(10, seed=9)
    for (pixels, label), (same_pixels, same_label) in zip(few, many, strict=False):
        np.testing.assert_array_equal(pixels, same_pixels)
        assert label == same_label


def test_the_filmstrip_runs_from_open_to_closed() -> None:
    strip = filmstrip(eye(4, 0.3))
    assert strip.shape == (SIDE, SIDE * FILMSTRIP_STEPS)
    np.testing.assert_array_equal(strip[:, :SIDE], render(eye(4, 1.0)))
    np.testing.assert_array_equal(strip[:, -SIDE:], render(eye(4, 0.0)))


def files_of(output: Path, *arguments: str) -> dict[str, Pixels]:
    result = CliRunner().invoke(generate_command, ["--output", str(output), *arguments])
    assert result.exit_code == 0, result.output
    return {path.name: decode(path.read_bytes()) for path in sorted(output.iterdir())}


def test_generate_writes_pairs_of_readable_crops(tmp_path: Path) -> None:
    files = files_of(tmp_path / "new" / "folder", "--count", "2", "--seed", "7")
    names = ["closed_0000.jpg", "open_0000.jpg", "closed_0001.jpg", "open_0001.jpg"]
    assert sorted(files) == sorted(names)
    for name, (drawn, _) in zip(names, labelled(4, seed=7), strict=True):
        assert np.abs(files[name].astype(int) - drawn).mean() < 3


def test_generate_repeats_itself_for_equal_seeds_only(tmp_path: Path) -> None:
    first = files_of(tmp_path / "a", "--count", "1", "--seed", "1")
    again = files_of(tmp_path / "b", "--count", "1", "--seed", "1")
    other = files_of(tmp_path / "c", "--count", "1", "--seed", "2")
    np.testing.assert_equal(first, again)
    assert not np.array_equal(first["open_0000.jpg"], other["open_0000.jpg"])


def test_generate_adds_a_filmstrip_when_asked(tmp_path: Path) -> None:
    files = files_of(tmp_path, "--count", "1", "--filmstrip")
    assert files["filmstrip.jpg"].shape == (SIDE, SIDE * FILMSTRIP_STEPS)


@pytest.mark.parametrize("arguments", [["--count", "0"], ["--seed", "-1"]])
def test_generate_refuses_impossible_numbers(tmp_path: Path, arguments: list[str]) -> None:
    result = CliRunner().invoke(generate_command, ["--output", str(tmp_path), *arguments])
    assert result.exit_code == 2
    assert not list(tmp_path.iterdir())
