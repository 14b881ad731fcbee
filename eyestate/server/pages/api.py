"""The page ``GET /``: the OpenAPI document as HTML that is read without a script."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Any, Final

from eyestate.media_types import JSON, MULTIPART

BASE_URL: Final = "http://127.0.0.1:3000"  # in the examples; the page's script puts its own in place of it
_OPEN: Final = "scoring"  # the tag whose routes are shown unfolded

Node = Mapping[str, Any]

_PAGE: Final = """\
<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <meta name="color-scheme" content="light dark">
  <title>eyestate – HTTP API</title>
  <link rel="icon" href="pages/icon.svg">
  <link rel="stylesheet" href="pages/base.css">
  <link rel="stylesheet" href="pages/api.css">
  <script src="pages/api.js" defer></script>
</head>
<body>
  <header>
    <h1>eyestate <span>{version}</span></h1>
    <p>{description}</p>
    <nav><a class="button" href="try">Try it with a picture</a> <a href="openapi.json">openapi.json</a></nav>
  </header>
  <main>
{sections}
  </main>
  <footer>OpenAPI {openapi} · {licence}</footer>
</body>
</html>
"""


def html(document: Node) -> str:
    """The page about an API.

    Args:
        document: its OpenAPI description, whose schemas are referred to as ``#/components/schemas/NAME``.
    """
    schemas = document["components"]["schemas"]
    operations = [
        (method.upper(), path, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    ]
    info = document["info"]
    return _PAGE.format(
        version=escape(info["version"]),
        description=_prose(info["description"]),
        sections="\n".join(
            _section(tag, members, schemas) for tag, members in groupby(operations, lambda each: each[2]["tags"][0])
        ),
        openapi=escape(document["openapi"]),
        licence=escape(info["license"]["name"]),
    )


def _section(tag: str, operations: Iterable[tuple[str, str, Node]], schemas: Node) -> str:
    routes = "\n".join(_route(*operation, schemas, unfolded=tag == _OPEN) for operation in operations)
    return f"<section>\n<h2>{escape(tag[0].upper() + tag[1:])}</h2>\n{routes}\n</section>"


def _route(method: str, path: str, operation: Node, schemas: Node, *, unfolded: bool) -> str:
    body = operation.get("requestBody", {}).get("content", {})
    responses = operation["responses"].items()
    answers = {status: answer for status, answer in responses if status < "400"}
    errors = {status: answer for status, answer in responses if status >= "400"}
    told = [
        f"<p>{_prose(operation['description'])}</p>" if "description" in operation else "",
        "" if "101" in answers else f'<pre class="command">{_command(path, body)}</pre>',  # curl opens no WebSocket
        _table("Parameters", map(_parameter, operation.get("parameters", ()))),
        _table("Body", (_format(media_type, content["schema"]) for media_type, content in body.items())),
        _table("Response", map(_answer, answers.items())),
        _errors(errors, schemas),
    ]
    shown = [
        _outline("JSON of the body", body, schemas),
        *(_outline("JSON of the response", answer.get("content", {}), schemas) for answer in answers.values()),
    ]
    return (
        f'<details class="route"{" open" if unfolded else ""}>'
        f'<summary><b class="{method.lower()}">{method}</b> <code>{_breakable(path)}</code>'
        f"<span>{_prose(operation['summary'])}</span></summary>"
        f'<div class="about"><div class="told">{"".join(told)}</div><div class="shown">{"".join(shown)}</div></div>'
        "</details>"
    )


def _errors(errors: Node, schemas: Node) -> str:
    """Whatever may be answered instead, folded."""
    if not errors:
        return ""
    form = next((_outline("JSON of an error", error.get("content", {}), schemas) for error in errors.values()), "")
    return (
        f"<details><summary>Errors: {', '.join(errors)}</summary>"
        f"{_table('', map(_answer, errors.items()))}{form}</details>"
    )


def _table(title: str, rows: Iterable[Sequence[str]]) -> str:
    lines = "".join(f'<tr><th scope="row">{head}</th><td>{rest}</td></tr>' for head, rest in rows)
    heading = f"<h3>{title}</h3>" if title else ""
    return f"{heading}<table>{lines}</table>" if lines else ""


def _parameter(parameter: Node) -> tuple[str, str]:
    notes = [f"in the {parameter['in']}", parameter["schema"]["type"]]
    if "default" in parameter["schema"]:
        notes.append(f"{_literal(parameter['schema']['default'])} unless given")
    description = _prose(parameter.get("description", ""))
    return f"<code>{escape(parameter['name'])}</code>", f"{description} <small>{', '.join(notes)}</small>"


def _format(media_type: str, schema: Node) -> tuple[str, str]:
    if "properties" in schema:
        fields = (
            f"the field <code>{escape(name)}</code>{', once or several times' if field['type'] == 'array' else ''}"
            for name, field in schema["properties"].items()
        )
        says = ", ".join(fields)
    elif "$ref" in schema:
        says = "JSON, outlined beside"
    else:
        says = _prose(schema.get("description", "the file itself"))
    return f"<code>{_breakable(media_type)}</code>", says


def _answer(numbered: tuple[str, Node]) -> tuple[str, str]:
    status, answer = numbered
    others = [
        f"<code>{_breakable(media_type)}</code>" for media_type in answer.get("content", {}) if media_type != JSON
    ]
    also = f" <small>also as {', '.join(others)}</small>" if others else ""
    return f"<code>{status}</code>", _prose(answer["description"]) + also


def _command(path: str, content: Node) -> str:
    """How curl asks for it, with the first format of the body."""
    url = escape(BASE_URL + re.sub(r"{(\w+)}", lambda place: place[1].upper(), path))
    if not content:
        return f"curl {url}"
    kind, body = next(iter(content.items()))
    if kind == MULTIPART:
        ((name, field),) = body["schema"]["properties"].items()
        files = ("one.jpg", "two.jpg") if field["type"] == "array" else ("picture.jpg",)
        return f"curl {' '.join(f'-F {escape(name)}=@{file}' for file in files)} {url}"
    return f"curl -H 'Content-Type: {escape(kind)}' -d @request.json {url}"


def _outline(title: str, content: Node, schemas: Node) -> str:
    if JSON not in content:
        return ""
    text = _Outline(schemas).of(content[JSON]["schema"])
    return f'<h3>{title}</h3><pre tabindex="0"><code>{text}</code></pre>'


class _Outline:
    """What JSON looks like, in the manner of TypeScript; a schema that comes again is only named."""

    def __init__(self, schemas: Node) -> None:
        self._schemas = schemas
        self._shown: set[str] = set()

    def of(self, schema: Node, indent: str = "") -> str:
        match schema:
            case {"$ref": str(reference)}:
                text = self._named(reference.rpartition("/")[2], indent)
            case {"anyOf": alternatives} | {"oneOf": alternatives}:
                text = " | ".join(self.of(each, indent) for each in alternatives)
            case {"enum": values}:
                text = " | ".join(map(_literal, values))
            case {"const": value}:
                text = _literal(value)
            case {"properties": properties}:
                fields = "".join(self._field(name, field, f"{indent}  ") for name, field in properties.items())
                text = f"{{\n{fields}{indent}}}"
            case {"items": items}:
                text = f"[{self.of(items, indent)}, …]"
            case _:
                text = schema.get("type", "any")
        return text

    def _named(self, name: str, indent: str) -> str:
        if name in self._shown:
            return name
        self._shown.add(name)
        return f"<b>{name}</b> {self.of(self._schemas[name], indent)}"

    def _field(self, name: str, schema: Node, indent: str) -> str:
        note = f"{indent}<i>// {_prose(schema['description'])}</i>\n" if "description" in schema else ""
        return f"{note}{indent}{escape(name)}: {self.of(schema, indent)}\n"


def _literal(value: object) -> str:
    return escape(json.dumps(value), quote=False)


def _prose(text: str) -> str:
    """Text with code in single or double backticks."""
    return re.sub("(`+)(.+?)\\1", r"<code>\2</code>", escape(text))


def _breakable(text: str) -> str:
    """A path or media type that a narrow window may break."""
    return re.sub("[/.]", r"\g<0><wbr>", escape(text))
