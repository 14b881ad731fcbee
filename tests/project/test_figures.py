"""Every figure of README and docs is of what ships, or says that it is not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tools import figures
from tools.figures import KNOWN_STALE, OF_OTHER_MODELS, PAGES, REPORTS, filled, is_current, reports, shipped, standing

BLOCK = re.compile(r"<!-- (?:measured|figures|standing): .+? -->.*?<!-- end -->", re.DOTALL)
CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
MEASURED = re.compile(r"\b0\.0\d{2,3}\b|\b\d[\d,.]* (?:crops|requests|images)/s\b|\b\d[\d,.]* ms\b")
# Figures of models that do not ship: what was tried on the way to those that do.
OF_WHAT_SHIPS = [page for page in PAGES if page.name != "training.md"]


def of(report: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((REPORTS / report).read_text())
    return content


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_are_filled_from_the_present_reports(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert filled(text) == text, "run make figures"


def test_only_known_reports_are_older_than_the_models() -> None:
    """A model that changes leaves its reports behind: measure anew, or list them where readers are told."""
    assert {name for name, report in reports().items() if not is_current(report)} == KNOWN_STALE


def test_every_model_has_reports_on_its_quality() -> None:
    for name in figures.SHOWN:
        for kind in ("evaluation", "calibration", "behaviour"):
            assert of(f"{name}/{kind}.json")["sha256"] == shipped()[name]["sha256"]


def test_reports_of_other_models_are_there() -> None:
    assert all((REPORTS / name).exists() for name in (*OF_OTHER_MODELS, *KNOWN_STALE))


@pytest.mark.parametrize("page", OF_WHAT_SHIPS, ids=lambda page: page.name)
def test_sections_with_figures_say_what_they_are_of(page: Path) -> None:
    head, *sections = re.split(r"^(?=## )", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    if BLOCK.search(head) and "<!-- standing:" in head:
        return  # it holds for the page
    for section in (head, *sections):
        if found := MEASURED.search(CODE.sub("", BLOCK.sub("", section))):
            assert BLOCK.search(section), f"{section.splitlines()[0]}: what is {found[0]} of? Add a standing block"


def test_a_report_of_another_model_is_told_apart() -> None:
    ours = {"name": "cascade", "version": "9", "sha256": shipped()["cascade"]["sha256"]}
    assert is_current({"about": {"models": [ours]}})
    assert is_current({"about": {"models": [ours, {"name": "small", "version": "1", "sha256": "0"}]}})
    assert not is_current({"about": {"models": [ours | {"sha256": "0" * 64}]}})
    assert not is_current({"about": {"measured": "2026-01-01"}})
    assert not is_current({"model": "cascade", "sha256": "0" * 64})


def test_what_is_older_is_said_in_bold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(figures, "REPORTS", tmp_path)
    about = {"measured": "2026-11-30T00:00:00+00:00", "models": [shipped()["cascade"]]}
    (tmp_path / "now.json").write_text(json.dumps({"about": about}))
    (tmp_path / "then.json").write_text(json.dumps({"about": {"measured": "2026-11-01T00:00:00+00:00"}}))
    sha256 = shipped()["cascade"]["sha256"][:12]
    assert standing("now.json") == f"Measured on `cascade` (SHA-256 `{sha256}`), 2026-11-30."
    assert standing("then.json") == "**Measured on version 1.0 of the models, 2026-11-01, not on what ships now.**"
    assert standing("cascade 0.9.0").startswith("**Measured on version 0.9.0 of `cascade`")
    text = "a\n<!-- standing: now.json -->\n\nold\n\n<!-- end -->\nb 0.036\n"
    assert filled(text) == text.replace("old", standing("now.json"))


def test_an_unknown_block_fails() -> None:
    with pytest.raises(KeyError):
        filled("<!-- figures: nonsense -->\n<!-- end -->\n")


def test_one_time_until_ready() -> None:
    """How long a start takes is stated once, from the report, with what it is made of."""
    performance = PAGES[0].parent / "docs" / "performance.md"
    assert "<!-- figures: start -->" in performance.read_text()
    others = "\n".join(BLOCK.sub("", page.read_text()) for page in PAGES)
    assert not re.search(r"\d s until|is ready \d+|[Rr]eady after \d|From start to ready", others)
