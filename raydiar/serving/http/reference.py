"""The interface's OpenAPI document as a page to read.

Swagger's page would load its scripts from other people's servers, into the origin where the keys
of users are. This one has no scripts, and works without the internet.
"""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

_BOUNDS = {
    "minimum": "at least {:g}",
    "maximum": "at most {:g}",
    "minLength": "{:g} or more characters",
    "maxLength": "up to {:g} characters",
    "minItems": "{:g} or more",
    "maxItems": "up to {:g}",
}


def render(document: Mapping[str, Any]) -> str:
    """A page about an OpenAPI document.

    Parameters
    ----------
    document : mapping
        As FastAPI makes it.

    Returns
    -------
    html : str
    """
    schemas = document["components"]["schemas"]
    info = document["info"]
    title = escape(f"{info['title']} {info['version']}: REST interface")
    paragraphs = info["description"].strip().split("\n\n")
    operations = [
        _operation(method, path, operation, schemas)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title>",
            '<link rel="stylesheet" href="web/style.css">',
            '<link rel="stylesheet" href="web/reference.css"></head>',
            f"<body><main class='reference'><h1>{title}</h1>",
            *(f"<p>{_marked(text)}</p>" for text in paragraphs),
            "<p>For tools: <a href='openapi.json'>openapi.json</a></p>",
            *operations,
            "</main></body></html>",
        ]
    )


def _operation(
    method: str, path: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]
) -> str:
    key = "" if "security" in operation else " <small>without a key</small>"
    lines = [
        f"<section><h2><code>{method.upper()} {escape(path)}</code>{key}</h2>",
        f"<p>{_marked(operation.get('description', ''))}</p>",
    ]
    rows = [
        _row(parameter["name"], parameter["schema"], parameter.get("required", False), parameter)
        for parameter in operation.get("parameters", [])
    ]
    if rows:
        lines += ["<h3>In the address</h3>", _table(rows)]
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        lines += [f"<h3>Body, {escape(media_type)}</h3>", _schema(content["schema"], schemas)]
    lines += ["<h3>Answers</h3>", "<ul>"]
    for status, answer in operation["responses"].items():
        lines.append(f"<li>{status}: {escape(answer['description'])}</li>")
    lines.append("</ul>")
    success = operation["responses"]["200"].get("content", {}).get("application/json")
    if success and success.get("schema"):
        lines.append(_schema(success["schema"], schemas))
    return "\n".join([*lines, "</section>"])


def _schema(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    """Its fields, and those of the schemas that they name."""
    if "$ref" not in schema:
        rows = list(_rows(schema))
        return _table(rows) if rows else ""
    tables, waiting, seen = [], [_name(schema)], set()
    while waiting:
        name = waiting.pop(0)
        if name in seen:
            continue
        if seen:  # those after the first are named by its fields
            tables.append(f"<h4>{escape(name)}</h4>")
        seen.add(name)
        tables.append(_table(list(_rows(schemas[name]))))
        waiting += _references(schemas[name])
    return "\n".join(tables)


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, Mapping):
        if "$ref" in schema:
            yield _name(schema)
        for part in schema.values():
            yield from _references(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _references(part)


def _name(schema: Mapping[str, Any]) -> str:
    return schema["$ref"].rpartition("/")[2]


def _rows(schema: Mapping[str, Any]) -> Iterator[str]:
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        yield _row(name, field, name in required, field)


def _row(name: str, schema: Mapping[str, Any], required: bool, described: Mapping[str, Any]) -> str:
    needed = "required" if required else ""
    cells = (f"<code>{escape(name)}</code>", escape(_type(schema)), needed)
    text = _marked(described.get("description", ""))
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in (*cells, text)) + "</tr>"


def _table(rows: list[str]) -> str:
    return f"<table>{''.join(rows)}</table>"


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return _name(schema)
    if "anyOf" in schema:
        kinds = (_type(kind) for kind in schema["anyOf"] if kind.get("type") != "null")
        return " or ".join(dict.fromkeys(kinds))
    for choices in ("enum", "const"):
        if choices in schema:
            values = schema[choices] if choices == "enum" else [schema[choices]]
            return ", ".join(map(str, values))
    kind = schema.get("type", "anything")
    if kind == "array":
        kind = f"list of {_type(schema.get('items', {}))}"
    bounds = [text.format(schema[name]) for name, text in _BOUNDS.items() if name in schema]
    return ", ".join([kind, *bounds])


def _marked(text: str) -> str:
    """Text with `code` in it."""
    parts = escape(" ".join(text.split())).split("`")
    return "".join(f"<code>{p}</code>" if n % 2 else p for n, p in enumerate(parts))
