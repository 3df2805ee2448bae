"""Markdown that keeps its shape whatever a site is called: everything that is filled in is escaped."""

import re
from collections.abc import Iterable
from typing import Any

from markdown_it import MarkdownIt
from markupsafe import Markup

_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
# An underscore between letters is no emphasis, and vidir_modern reads better without a backslash.
_MARKS = re.compile(r"[\\`*\[\]|~#!]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
# What would begin a list, a heading's underline or a rule at the start of a line; a negative number does not.
_FIRST = re.compile(r"^([-+=])(?!\d)|^(\d+)([.)])(?=\s|$)")


class Markdown(str):
    """Text that is Markdown already, and is not escaped again."""

    __slots__ = ()


def escaped(value: Any) -> Markdown:
    """Return any value as one line of Markdown that shows its text; Markdown stays as it is.

    No markup of the value's own is left: neither HTML, links, images and emphasis nor the bars of tables.
    """
    if isinstance(value, Markdown):
        return value
    text = " ".join(str(value).split()).translate(_ENTITIES)
    text = _MARKS.sub(lambda found: f"\\{found.group()}", text)
    return Markdown(
        _FIRST.sub(lambda found: f"\\{found[1]}" if found[1] else f"{found[2]}\\{found[3]}", text)
    )


def missing(wanted: str) -> Markdown:
    """Return the mark for what a run cannot know, with what is wanted."""
    return Markdown(f"**missing: to be written by the site** ({escaped(wanted)})")


def told(sentences: Iterable[str]) -> str:
    """Return the sentences that say anything, one after the other."""
    return " ".join(sentence for sentence in sentences if sentence)


def as_html(markdown: str) -> Markup:
    """Return CommonMark with tables as HTML for the report's page; headings begin at h3, below the page's.

    HTML in the text is shown, not obeyed.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(markdown)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1:]) + 2)}"
    return Markup(parser.renderer.render(tokens, parser.options, {}))
