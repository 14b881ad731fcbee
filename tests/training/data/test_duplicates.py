from __future__ import annotations

import io
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from eyestate.images import decode
from training.data.datasets import Crop
from training.data.duplicates import HASH_BITS, near_duplicates, perceptual_hashes
from training.data.synthetic import labelled

EYES = [pixels for pixels, _ in labelled(12, seed=50)]


def crop(name: str, pixels: npt.NDArray[np.uint8], quality: int = 95, side: int = 64, brighter: float = 1) -> Crop:
    """The picture as a JPEG of some quality, size and exposure."""
    image = Image.fromarray(np.clip(pixels * brighter, 0, 255).astype(np.uint8)).resize((side, side))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Crop(name, file.getvalue())


ORIGINALS = [crop(str(number), pixels) for number, pixels in enumerate(EYES)]


def test_different_eyes_are_different() -> None:
    assert len(set(near_duplicates(ORIGINALS).tolist())) == len(EYES)


@settings(max_examples=20)
@given(
    st.lists(
        st.tuples(
            st.integers(0, len(EYES) - 1),
            st.integers(60, 95),
            st.sampled_from([32, 48, 64]),
            st.sampled_from([0.8, 1.0]),
        ),
        min_size=1,
        max_size=10,
    )
)
def test_copies_of_an_eye_are_a_group(copies: list[tuple[int, int, int, float]]) -> None:
    """Re-encoded, scaled and darkened ones, in any order."""
    crops = [crop("", EYES[eye], quality, side, brighter) for eye, quality, side, brighter in copies]
    groups = near_duplicates([*ORIGINALS, *crops])
    assert groups.dtype == np.int64
    assert [groups[len(EYES) + place] for place in range(len(crops))] == [groups[eye] for eye, *_ in copies]
    assert len(set(groups.tolist())) == len(EYES)


def test_a_copy_of_a_copy_is_of_the_group() -> None:
    """One eye turning into another by small steps: the ends are unlike, and of one group by way of the others."""
    first, last = EYES[0].astype(float), EYES[1].astype(float)
    steps = [crop("", (first + share * (last - first)).astype(np.uint8)) for share in np.linspace(0, 1, 25)]
    assert len(set(near_duplicates([steps[0], steps[-1]]).tolist())) == 2
    assert len(set(near_duplicates(steps).tolist())) == 1


@pytest.mark.parametrize("n", [0, 1])
def test_few_crops(n: int) -> None:
    groups = near_duplicates(ORIGINALS[:n])
    assert groups.tolist() == [0] * n
    assert groups.dtype == np.int64


def test_crops_of_one_tone_are_no_error() -> None:
    plain = [crop("", np.full((64, 64), tone, np.uint8)) for tone in (0, 128, 255)]
    assert near_duplicates([*plain, ORIGINALS[0]]).shape == (4,)


def test_hashes_ignore_brightness_and_tell_eyes_apart() -> None:
    hashes = perceptual_hashes(ORIGINALS)
    assert hashes.dtype == np.uint64
    assert int(hashes.max()) < 2**HASH_BITS
    darker = perceptual_hashes([crop("", pixels, brighter=0.7) for pixels in EYES])
    own = np.bitwise_count(hashes ^ darker)
    others = [int(np.bitwise_count(a ^ b)) for (i, a), (j, b) in product(enumerate(hashes), repeat=2) if i < j]
    assert own.max() < np.median(others) / 3


def test_sizes_and_colours_do_not_matter() -> None:
    grey = decode(ORIGINALS[0].data)
    file = io.BytesIO()
    Image.fromarray(np.stack([grey] * 3, axis=2)).resize((200, 160)).save(file, "PNG")
    assert near_duplicates([ORIGINALS[0], Crop("", file.getvalue())]).tolist() == [0, 0]
