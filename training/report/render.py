"""Render a report as one page and as Markdown with pictures beside it."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from eyestate.atomic import write_atomically
from training.report.content import Report

CODE = re.compile("`([^`]+)`")


def write_page(report: Report, path: Path) -> None:
    """Write the report with its galleries as one self-contained HTML file."""
    _write(path, _render("page.html", report))


def write_markdown(report: Report, path: Path) -> None:
    """Write the report without its galleries as Markdown, with its figures as PNG files beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for figure in report.figures:
        write_atomically(path.parent / f"{figure.name}.png", figure.png)
    _write(path, _render("page.md", report))


def _render(template: str, report: Report) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("training.report", "."),
        autoescape=jinja2.select_autoescape(("html",)),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"data_uri": data_uri, "html": html, "number": number, "md": markdown, "anchor": anchor}
    return environment.get_template(template).render(report=report)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode("utf-8", "replace"))  # file names need not be UTF-8


def data_uri(png: bytes) -> str:
    """A PNG as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def html(text: str) -> Markup:
    """Escaped text for HTML, with `code` marked up."""
    return Markup(CODE.sub(r"<code>\1</code>", str(escape(text))))  # noqa: S704  # escaped first


def number(text: str) -> Markup:
    """A cell that starts with a number; it may wrap before the brackets that follow, but not within either part."""
    value, bracket, rest = text.partition(" (")
    return Markup("<span>{}</span> <span>{}</span>").format(value, bracket.lstrip() + rest)


def markdown(text: str) -> str:
    """Text for Markdown: the special characters of Markdown, its tables and HTML are escaped outside of `code`."""
    parts = re.split("(`[^`]+`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([\\|<>*\[\]])", r"\\\1", part) for part in parts)


def anchor(title: str) -> str:
    """A heading's anchor on GitHub."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
