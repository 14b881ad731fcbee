"""The notes of a version, from the changelog."""

from __future__ import annotations

import re
from typing import Final

import click

_HEADING: Final = re.compile(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", re.MULTILINE)


class ReleaseError(click.ClickException):
    """Something stands in the way of a release; the message says what to do."""


def notes(changelog: str, version: str) -> str:
    """What the changelog says of a version, which must be its newest one.

    Args:
        changelog: in the form of Keep a Changelog.
        version: of the package.

    Raises:
        ReleaseError: there are changes that belong to no version, or the newest version is another or has no date.
    """
    _, *parts = _HEADING.split(changelog)
    sections = list(zip(parts[::3], parts[1::3], (text.strip() for text in parts[2::3]), strict=True))
    if sections and sections[0][0] == "Unreleased":
        if sections[0][2]:
            raise ReleaseError("the changelog lists changes under [Unreleased]: move them to a version")
        del sections[0]
    newest, date, text = sections[0] if sections else ("none", None, "")
    if newest != version:
        raise ReleaseError(f"the version is {version}, the newest one in the changelog {newest}: they must be the same")
    if not date:
        raise ReleaseError(f"the changelog gives no date for {version}: write `## [{version}] - YYYY-MM-DD`")
    return f"# eyestate {version}\n\nReleased on {date}.\n\n{text}\n"
