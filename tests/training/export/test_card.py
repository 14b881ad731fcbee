from __future__ import annotations

from training.export.card import with_section

CARD = "# a model\n\n## Results\n\nnumbers\n\n## Limits\n\nmany\n"


def test_a_section_comes_to_the_end() -> None:
    assert with_section(CARD, "Calibration", "fits\n") == f"{CARD}\n## Calibration\n\nfits\n"


def test_a_section_is_replaced_in_its_place() -> None:
    assert with_section(CARD, "Results", "others") == "# a model\n\n## Results\n\nothers\n\n## Limits\n\nmany\n"


def test_writing_twice_changes_nothing() -> None:
    once = with_section(CARD, "Calibration", "fits")
    assert with_section(once, "Calibration", "fits") == once
    assert with_section(with_section(once, "Limits", "few"), "Limits", "many") == once
