from __future__ import annotations

import json

from eyestate.server import openapi
from tools.site.reference import http_reference

DOCUMENT = json.loads(openapi.document())
REFERENCE = http_reference(DOCUMENT)


def test_every_operation_and_schema_has_a_section() -> None:
    lines = REFERENCE.splitlines()
    for path, operations in DOCUMENT["paths"].items():
        for method in operations:
            assert f"## `{method.upper()} {path}`" in lines
    for name in DOCUMENT["components"]["schemas"]:
        assert f"### {name}" in lines


def test_types_are_written_out() -> None:
    assert "| `score` | number (from 0 to 1, P(open): 0 is certainly closed, 1 certainly open) | yes |" in REFERENCE
    assert "| `results` | list of [Verdict](#verdict) or [ErrorResponse](#errorresponse) | yes |" in REFERENCE
    assert "| `quality` | query | boolean |" in REFERENCE


def test_tables_have_the_same_number_of_cells_in_each_row() -> None:
    for table in REFERENCE.split("\n\n"):
        rows = [line for line in table.splitlines() if line.startswith("|")]
        assert len({row.replace("\\|", "").count("|") for row in rows}) <= 1, table
