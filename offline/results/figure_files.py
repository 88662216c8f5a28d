"""A figure of a report as it is written: the folder of figures and the page take the same."""

from __future__ import annotations

from typing import NamedTuple

FOLDER = "figures"  # in that of the report


class FigureFile(NamedTuple):
    """One figure. `name` is that of its files, `caption` says in words what it shows (alt text)."""

    name: str
    title: str
    caption: str
    svg: str
