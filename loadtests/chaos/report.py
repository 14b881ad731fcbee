"""Report a chaos run: a JSON file, the claims on the terminal, and the exit code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tools.harness.claims import Claim, format_claims
from tools.harness.report import write_report


def save_run(output: Path, name: str, about: dict[str, Any], figures: dict[str, Any], claims: Sequence[Claim]) -> bool:
    """Write ``chaos-NAME.json``, and return whether all claims hold."""
    held = all(claim.held for claim in claims)
    result = {"run": name, "held": held, "claims": [claim._asdict() for claim in claims]} | figures | {"about": about}
    write_report(output, f"chaos-{name}", result)
    return held


def report_run(
    output: Path, name: str, about: dict[str, Any], figures: dict[str, Any], claims: Sequence[Claim]
) -> None:
    """Write ``chaos-NAME.json``, print the claims, and exit with 1 unless all of them hold."""
    held = save_run(output, name, about, figures, claims)
    click.echo(format_claims(claims))
    if not held:
        raise SystemExit(1)
