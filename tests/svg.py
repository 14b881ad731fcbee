"""What an SVG shows, whatever ids and roundings the processor that drew it brought along."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET


@dataclass(frozen=True, slots=True)
class Drawing:
    """The texts, and the coordinates of all paths in points, both in the order of the file."""

    texts: list[str]
    coordinates: list[float]


def read_svg(path: Path) -> Drawing:
    elements = list(ET.parse(path).iter())
    paths = [element.get("d", "") for element in elements if element.tag.endswith("}path")]
    return Drawing(
        texts=[element.text or "" for element in elements if element.tag.endswith("}text")],
        coordinates=[float(number) for d in paths for number in re.findall(r"-?\d+(?:\.\d+)?", d)],
    )
