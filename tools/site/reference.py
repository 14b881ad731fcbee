"""The reference of the HTTP API as Markdown, from its OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]


def http_reference(document: Mapping[str, Any]) -> str:
    """One section for each operation and each schema.

    Args:
        document: OpenAPI 3.1.
    """
    return "\n".join(
        [
            "# HTTP API reference\n",
            f"{document['info']['description'].partition(' [')[0]}\n",
            "Generated from `GET /openapi.json`; the [guide](../http-api.md) explains it.\n",
            *_operations(document),
            "## Schemas\n",
            *_schemas(document["components"]["schemas"]),
        ]
    )


def _operations(document: Mapping[str, Any]) -> Iterator[str]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield f"## `{method.upper()} {path}`\n"
            yield f"{operation['summary']}.\n"
            if description := operation.get("description"):
                yield f"{description}\n"
            if parameters := operation.get("parameters"):
                yield _table(("Parameter", "In", "Type", "Description"), map(_parameter, parameters))
            if body := operation.get("requestBody"):
                yield _table(("Request body", "Schema"), _contents(body["content"]))
            yield _table(("Status", "Response", "Schema"), _responses(operation["responses"]))


def _parameter(parameter: Mapping[str, Any]) -> tuple[str, ...]:
    schema = _type(parameter["schema"])
    return f"`{parameter['name']}`", parameter["in"], schema, parameter.get("description", "")


def _responses(responses: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for status, response in responses.items():
        contents = [f"`{media}`: {schema}" for media, schema in _contents(response.get("content", {}), code=False)]
        yield status, response["description"], "; ".join(contents)


def _contents(content: Mapping[str, Any], *, code: bool = True) -> Iterator[tuple[str, str]]:
    for media_type, value in content.items():
        yield f"`{media_type}`" if code else media_type, _type(value["schema"])


def _schemas(schemas: Mapping[str, Schema]) -> Iterator[str]:
    for name, schema in sorted(schemas.items()):
        yield f"### {name}\n"
        if description := schema.get("description"):
            yield f"{_line(description)}\n"
        required = schema.get("required", ())
        rows = [
            (f"`{field}`", _type(value), "yes" if field in required else "", _line(value.get("description", "")))
            for field, value in schema.get("properties", {}).items()
        ]
        if rows:
            yield _table(("Field", "Type", "Required", "Description"), rows)


def _type(schema: Schema) -> str:  # noqa: PLR0911  # a case each
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(map(_type, options))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if properties := schema.get("properties"):
        fields = ", ".join(f"`{name}`: {_type(value)}" for name, value in properties.items())
        return f"object with {fields}"
    limits = [f"{word} {schema[key]}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in schema]
    details = [*filter(None, (schema.get("format"), " ".join(limits), _line(schema.get("description", ""))))]
    return f"{kind} ({', '.join(details)})" if details else str(kind)


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _line(text: str) -> str:
    return " ".join(text.split())
