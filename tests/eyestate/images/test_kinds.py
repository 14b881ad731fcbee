"""Every kind of file has the outcome that the documentation says, and looks as it should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eyestate.errors import ImageError
from eyestate.images import decode, decode_rgb, luma
from tests.eyestate.images.kinds import KINDS, Kind, table

PAGE = Path(__file__).parents[3] / "docs" / "image-formats.md"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.image_format}, {kind.name}")
def test_kind(kind: Kind) -> None:
    for file in kind.files:
        if kind.outcome != "scored":
            with pytest.raises(ImageError) as error:
                decode(file)
            assert error.value.code == kind.outcome
            continue
        grey = decode(file)
        assert np.abs(luma(decode_rgb(file)).astype(int) - grey).max() <= 3
        if kind.grey is not None:
            assert np.abs(grey.astype(int) - kind.grey).max() <= kind.tolerance


def test_the_documentation_has_the_table() -> None:
    assert table() in PAGE.read_text()
