"""HTML for people, made of the OpenAPI document on the server: no script, one stylesheet of our own.

Each operation is a `<details>`; what a type consists of stands once, under Types, and is linked to: always open, since
without a script a link cannot open anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any, Final

from appliance.api.components import Json
from appliance.api.markdown import html_of, inline
from appliance.api.problems import PROBLEM_TYPE
from appliance.api.schema_text import type_of
from appliance.kernel.errors import ApplianceError

STYLESHEET: Final = Path(__file__).with_name("page.css")
_METHODS: Final = ("get", "head", "post", "put", "patch", "delete")


def reference(document: Json) -> str:
    """The whole document as one page."""
    info = document["info"]
    parts = [
        f"<header><h1>{escape(info['title'])}</h1>",
        f"<p class=muted>Version {escape(info['version'])}, OpenAPI {escape(document['openapi'])}: ",
        '<a href="/api/openapi.json">openapi.json</a>, <a href="/errors">error codes</a></p>',
        html_of(info["description"]),
        "</header>",
        _navigation(document),
        "<main>",
        *_tags(document),
        *_types(document),
        "</main>",
    ]
    return _whole(info["title"], "\n".join(parts))


def error(code: str, markdown: str) -> str:
    """The page of one error code."""
    links = '<p class=muted><a href="/errors">All error codes</a>, <a href="/api">API</a></p>'
    return _whole(code, f"<main class=text>{html_of(markdown)}{links}</main>")


def error_list(errors: Mapping[str, type[ApplianceError]]) -> str:
    """All error codes with their statuses and titles."""
    rows = "".join(
        f'<tr><td>{found.status}</td><td><a href="/errors/{escape(code)}"><code>{escape(code)}</code></a></td>'
        f"<td>{escape(found.title)}</td></tr>"
        for code, found in errors.items()
    )
    table = f"<table><thead><tr><th>Status<th>Code<th>Meaning</tr></thead><tbody>{rows}</tbody></table>"
    return _whole(
        "Error codes", f'<main class=text><h1>Error codes</h1>{table}<p class=muted><a href="/api">API</a></p></main>'
    )


def _whole(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<title>{escape(title)}</title>\n<link rel="stylesheet" href="/api/style.css">\n</head>\n'
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _navigation(document: Json) -> str:
    links = "".join(f'<a href="#{_anchor(tag["name"])}">{escape(tag["name"])}</a>' for tag in document["tags"])
    return f'<nav aria-label="Contents">{links}<a href="#types">Types</a></nav>'


def _anchor(text: str) -> str:
    return "tag-" + "".join(letter if letter.isalnum() else "-" for letter in text.lower())


def _tags(document: Json) -> Iterator[str]:
    for tag in document["tags"]:
        yield f'<section><h2 id="{_anchor(tag["name"])}">{escape(tag["name"])}</h2>'
        for path, methods in document["paths"].items():
            for method in _METHODS:
                operation = methods.get(method)
                if operation is not None and tag["name"] in operation["tags"]:
                    yield _operation(method, path, operation, document)
        yield "</section>"


def _operation(method: str, path: str, operation: Json, document: Json) -> str:
    name = operation["operationId"]
    needs = operation.get("x-permission") or ("any key or login" if operation["security"] else "nobody in particular")
    parts = [
        f'<details class=operation id="{escape(name)}"><summary>',
        f'<span class="method {method}">{method.upper()}</span> <code class=path>{escape(path)}</code> ',
        f"<span class=summary>{inline(operation['summary'])}</span></summary>",
        html_of(operation["description"]),
        f"<p class=muted>Needs <code>{escape(needs)}</code>; operation <code>{escape(name)}</code></p>",
        _parameters(operation.get("parameters", []), document),
        _body(operation.get("requestBody")),
        _responses(operation["responses"], document),
        "</details>",
    ]
    return "".join(parts)


def _parameters(parameters: list[Json], document: Json) -> str:
    if not parameters:
        return ""
    rows = []
    for given in parameters:
        found = _found(given, document)
        required = " <span class=required>required</span>" if found.get("required") else ""
        rows.append(
            f"<tr><td><code>{escape(found['name'])}</code>{required}</td><td>{escape(found['in'])}</td>"
            f"<td>{type_of(found['schema'])}</td><td>{inline(found.get('description', ''))}</td></tr>"
        )
    head = "<thead><tr><th>Name<th>In<th>Type<th>Meaning</tr></thead>"
    return f"<h3>Parameters</h3><table>{head}<tbody>{''.join(rows)}</tbody></table>"


def _body(body: Json | None) -> str:
    return f"<h3>Body</h3><p>{_content(body['content'])}</p>" if body else ""


def _content(content: Json) -> str:
    shown = (f"<code>{escape(kind)}</code> {type_of(media['schema'])}" for kind, media in content.items())
    return ", ".join(shown)


def _responses(responses: Json, document: Json) -> str:
    rows = "".join(
        f"<tr><td>{status}</td><td>{_response(_found(answer, document))}</td></tr>"
        for status, answer in responses.items()
    )
    return f"<h3>Answers</h3><table><tbody>{rows}</tbody></table>"


def _found(given: Json, document: Json) -> Json:
    """What a reference leads to, or the thing itself."""
    if "$ref" not in given:
        return given
    _, _, kind, name = given["$ref"].split("/")
    found: Json = document["components"][kind][name]
    return found


def _response(response: Json) -> str:
    if codes := _codes(response):
        return ", ".join(f'<a href="/errors/{escape(code)}"><code>{escape(code)}</code></a>' for code in codes)
    shown = _content(response.get("content", {})) or escape(response["description"])
    headers = "".join(
        f"<br><code>{escape(name)}</code> {inline(header['description'])}"
        for name, header in response.get("headers", {}).items()
    )
    return shown + headers


def _codes(response: Json) -> list[str]:
    """The error codes of an answer that is a problem document."""
    problem: Json = response.get("content", {}).get(PROBLEM_TYPE, {}).get("schema", {})
    codes = [part["properties"]["code"]["enum"] for part in problem.get("allOf", []) if "properties" in part]
    return [str(code) for found in codes for code in found]


def _types(document: Json) -> Iterator[str]:
    yield '<section><h2 id="types">Types</h2>'
    for name, schema in document["components"]["schemas"].items():
        yield f'<div class=type id="type-{escape(name)}"><h3><code>{escape(name)}</code></h3>'
        yield html_of(" ".join(schema.get("description", "").split()))
        yield _members(schema)
        yield "</div>"
    yield "</section>"


def _members(schema: Json) -> str:
    if "properties" not in schema:
        return f"<p>{type_of(schema)}</p>"
    required = set(schema.get("required", ()))
    rows = "".join(_member(name, member, name in required) for name, member in schema["properties"].items())
    return f"<table><thead><tr><th>Member<th>Type<th>Meaning</tr></thead><tbody>{rows}</tbody></table>"


def _member(name: str, member: Any, required: bool) -> str:  # noqa: FBT001 - one cell of a table
    mark = " <span class=required>required</span>" if required else ""
    return (
        f"<tr><td><code>{escape(name)}</code>{mark}</td><td>{type_of(member)}</td>"
        f"<td>{inline(member.get('description', ''))}</td></tr>"
    )
