"""The little Markdown that the pages about errors are written in, as HTML: headings, paragraphs, lists, code, bold.

The input is ours; everything is escaped nevertheless.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from typing import Final

_INLINE: Final = (
    (re.compile(r"`([^`]+)`"), r"<code>\1</code>"),
    (re.compile(r"\*\*([^*]+)\*\*"), r"<strong>\1</strong>"),
)
_HEADING: Final = re.compile(r"(#{1,4}) (.+)")
_ITEM: Final = re.compile(r"(?:[-*]|\d+\.) (.+)")


def html_of(markdown: str) -> str:
    """Blocks are separated by blank lines; a fence keeps its lines as they are."""
    return "\n".join(_block(block) for block in _blocks(markdown))


def _blocks(markdown: str) -> Iterator[list[str]]:
    block: list[str] = []
    fenced = False
    for line in markdown.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        if line.strip() or fenced:
            block.append(line)
        elif block:
            yield block
            block = []
    if block:
        yield block


def _block(lines: list[str]) -> str:
    if lines[0].startswith("```"):
        return f"<pre><code>{escape(chr(10).join(lines[1:-1]))}</code></pre>"
    if heading := _HEADING.fullmatch(lines[0]):
        level = len(heading[1])
        rest = "\n" + _block(lines[1:]) if lines[1:] else ""
        return f"<h{level}>{inline(heading[2])}</h{level}>{rest}"
    if _ITEM.fullmatch(lines[0].strip()):
        items = "".join(f"<li>{inline(item)}</li>" for item in _items(lines))
        return f"<ul>{items}</ul>"
    return f"<p>{inline(' '.join(line.strip() for line in lines))}</p>"


def _items(lines: list[str]) -> Iterator[str]:
    item = ""
    for line in lines:
        if found := _ITEM.fullmatch(line.strip()):
            if item:
                yield item
            item = found[1]
        else:
            item += " " + line.strip()
    yield item


def inline(text: str) -> str:
    """Code and bold within a line."""
    text = escape(text, quote=False)
    for pattern, replacement in _INLINE:
        text = pattern.sub(replacement, text)
    return text
