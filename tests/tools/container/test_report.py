"""The figures in docs/container.md are those measured."""

from __future__ import annotations

import json
import re

import pytest

from tools.container.build import TARGETS, Target
from tools.container.engine import PROJECT

DOCUMENT = (PROJECT / "docs" / "container.md").read_text()


@pytest.mark.parametrize("target", TARGETS)
def test_document_matches_the_report(target: Target) -> None:
    report = json.loads((PROJECT / "reports" / "container" / f"{target}.json").read_text())
    rows = re.findall(r"^\| \w.+? \| (.+?) \| (.+?) \|$", DOCUMENT, re.MULTILINE)
    stated = {row[TARGETS.index(target)] for row in rows}
    assert stated >= {
        f"{report['bytes'] / 1e6:,.0f} MB",
        f"{report['compressed_bytes'] / 1e6:,.0f} MB",
        f"{report['median_seconds_to_ready']:.1f} s",
        str(report["sbom_components"]),
    }
