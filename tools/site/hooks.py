"""Hooks of MkDocs: pages of the repository outside ``docs/`` become part of the site, links follow them.

The pages link to one another by relative paths, so that they also work where the repository is read as it is.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from eyestate.server import openapi
from tools.site.reference import http_reference

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = PurePosixPath("docs")
REPOSITORY: Final = PurePosixPath("repository")  # where pages from outside docs/ lie in the site
HTTP: Final = "reference/http.md"

_LINK: Final = re.compile(r"(?P<text>!?\[[^\]]*\])\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to, and the reference of the HTTP API."""
    files.append(File.generated(config, HTTP, content=http_reference(json.loads(openapi.document()))))
    for path in _linked():
        files.append(File.generated(config, str(REPOSITORY / path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links that leave ``docs/`` to where their targets lie in the site; a folder cannot be linked to."""
    source = _repository_path(page.file.src_uri)

    def rewritten(link: re.Match[str]) -> str:
        target = _target(source, link["target"])
        if target is None:
            return link[0]
        if (ROOT / target).is_dir():
            return link["text"].removeprefix("[").removesuffix("]")
        here = PurePosixPath(page.file.src_uri).parent
        return f"{link['text']}({os.path.relpath(_site_path(target), here)}{link['anchor'] or ''})"

    return _LINK.sub(rewritten, markdown)


def _linked() -> list[PurePosixPath]:
    """The files outside ``docs/`` that its pages, and the pages found that way, link to."""
    waiting = [PurePosixPath(path.relative_to(ROOT)) for path in sorted((ROOT / DOCS).rglob("*.md"))]
    found: dict[PurePosixPath, None] = {}
    while waiting:
        for target in _targets(waiting.pop()):
            if not target.is_relative_to(DOCS) and target not in found and (ROOT / target).is_file():
                found[target] = None
                if target.suffix == ".md":
                    waiting.append(target)
    return list(found)


def _targets(page: PurePosixPath) -> Iterator[PurePosixPath]:
    for link in _LINK.finditer((ROOT / page).read_text(encoding="utf-8")):
        if target := _target(page, link["target"]):
            yield target


def _target(page: PurePosixPath, link: str) -> PurePosixPath | None:
    """The file or folder of the repository that a relative link leads to; None where it leads nowhere here."""
    if "://" in link or link.startswith(("/", "mailto:")):
        return None
    path = PurePosixPath(os.path.normpath(page.parent / link))
    if not (ROOT / path).exists() or path.parts[:1] == ("..",):
        return None
    return path / "README.md" if (ROOT / path / "README.md").is_file() else path


def _site_path(path: PurePosixPath) -> PurePosixPath:
    return path.relative_to(DOCS) if path.is_relative_to(DOCS) else REPOSITORY / path


def _repository_path(src_uri: str) -> PurePosixPath:
    path = PurePosixPath(src_uri)
    return path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else DOCS / path
