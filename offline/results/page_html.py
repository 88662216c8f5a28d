"""HTML in which text is text: whatever a run is called, it cannot become markup."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from typing import Any

from offline.results.table_files import Table, cell_text, is_text

_VOID = frozenset({"img"})  # of those used here; they have no end tag


class Markup(str):
    """HTML that `element` or `join` made; every other string is text and gets escaped."""

    __slots__ = ()


def element(name: str, *children: str, **attributes: object) -> Markup:
    """`<name attributes>children</name>`, both escaped unless they are `Markup`.

    An attribute that is False or None is left out, True has no value. Names lose a trailing
    underscore (`class_`), and other underscores become hyphens (`aria_label`).
    """
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}"
        + ("" if value is True else f'="{html.escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(parts: Sequence[str]) -> Markup:
    """The parts one after another, text escaped."""
    return Markup("".join(p if isinstance(p, Markup) else html.escape(p) for p in parts))


def with_flags(text: str) -> Markup:
    """Text in which flags such as --num_levels are set as code, and never broken."""
    parts = re.split(r"(--\w+)", text)
    return join([element("code", p) if p.startswith("--") else p for p in parts])


def script_json(value: Any) -> Markup:
    """JSON for the inside of a script element, which ends at `</script>` even within quotes.

    ASCII only, so that neither line separators nor half characters of odd file names matter.
    Raises ValueError for nan and infinity, which JSON lacks.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def scrolling(label: str, *children: str) -> Markup:
    """A frame for what may be wider than the screen; keyboards scroll it, too."""
    return element("div", *children, class_="scroll", role="region", aria_label=label, tabindex=0)


def table(told: Table, label: str) -> Markup:
    """A `Table` and its notes; numbers are aligned to the right."""
    sides = ["text" if is_text(told, i) else "number" for i in range(len(told.header))]
    head = [
        element("th", heading, scope="col", class_=side)
        for heading, side in zip(told.header, sides, strict=True)
    ]
    rows = []
    for row in told.rows:
        first, *others = map(cell_text, row)
        cells = [
            element("td", text, class_=side) for text, side in zip(others, sides[1:], strict=True)
        ]
        rows.append(element("tr", element("th", first, scope="row", class_=sides[0]), *cells))
    body = element("table", element("thead", element("tr", *head)), element("tbody", *rows))
    return join([scrolling(label, body), notes(told.notes)])


def section(name: str, title: str, *children: str) -> Markup:
    """A part of the page under a heading, which `#name` leads to."""
    heading = element("h2", title, id=f"{name}-title")
    return element("section", heading, *children, id=name, aria_labelledby=f"{name}-title")


def notes(texts: Sequence[str]) -> Markup:
    """Small print, a line each; nothing where there is none."""
    lines = [element("li", text) for text in texts]
    return element("ul", *lines, class_="notes") if lines else Markup()


def unfolding(summary: str, *children: str, open_: bool = False) -> Markup:
    """Content that a click on its name shows and hides."""
    return element("details", element("summary", summary), *children, open=open_)
