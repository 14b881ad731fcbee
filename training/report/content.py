"""The parts of a report, whatever it is rendered to.

Texts are plain, but for `code` between backticks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from training.report.outputs import NotRunError

NONE = "–"  # not applicable
NOT_RUN = "not run"
UNKNOWN = "unknown"  # a number of the original report
NOT_MEASURED = "not measured"
NOT_RECORDED = "not recorded"
ONE_CLUSTER = "one cluster only"
PLACEHOLDERS = (NONE, NOT_RUN, UNKNOWN, NOT_MEASURED, NOT_RECORDED, ONE_CLUSTER)
NUMBER = re.compile(r"(about )?[+-]?\d[\d,.]*%?( |$)")


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A few sentences."""

    kind: ClassVar = "paragraph"
    text: str


@dataclass(frozen=True, slots=True)
class Missing:
    """Says that the stage of something was not run."""

    kind: ClassVar = "missing"
    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under a header."""

    kind: ClassVar = "table"
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def numeric(self, column: int) -> bool:
        """Whether the column holds numbers, or placeholders for some, and is to be aligned right."""
        cells = [row[column] for row in self.rows]
        numbers = [bool(NUMBER.match(cell)) for cell in cells]
        return any(numbers) and all(number or cell in PLACEHOLDERS for number, cell in zip(numbers, cells, strict=True))


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture that shows no crop, so that it may be committed; ``name`` is its file name without the suffix."""

    kind: ClassVar = "figure"
    name: str
    title: str
    png: bytes
    caption: str


@dataclass(frozen=True, slots=True)
class Tile:
    """A picture of a gallery."""

    png: bytes
    caption: str


@dataclass(frozen=True, slots=True)
class Gallery:
    """Pictures for the page only: crops, or plots too numerous to commit."""

    kind: ClassVar = "gallery"
    title: str
    tiles: Sequence[Tile]
    caption: str
    wide: bool = False


Block = Paragraph | Missing | Table | Figure | Gallery


@dataclass(frozen=True, slots=True)
class Section:
    """A titled part of the report."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True)
class Report:
    """The whole report, in reading order."""

    title: str
    sections: Sequence[Section]

    @property
    def figures(self) -> list[Figure]:
        return [block for section in self.sections for block in section.blocks if isinstance(block, Figure)]


def gather(*makers: Callable[[], Sequence[Block]]) -> list[Block]:
    """The blocks of all makers; where a stage was not run, a line that says so, without repetitions."""
    blocks: list[Block] = []
    for make in makers:
        try:
            blocks += make()
        except NotRunError as error:
            line = Missing(error.message)
            if line not in blocks:
                blocks.append(line)
    return blocks
