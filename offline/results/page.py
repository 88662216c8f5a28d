"""One page that tells a report: index.html, which opens from the disk and asks for nothing else.

What is read in order (answer, tables, figures, claims) is HTML here. The table of runs and the
view of a single run are made in the browser by the scripts in page_files/, from the JSON of
page_data.py. A policy in the page's head lets the browser run those scripts alone and load nothing.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from common.files import readable, write_atomically
from offline.results.figure_files import FOLDER, FigureFile
from offline.results.page_data import important_first, page_data, unique_names
from offline.results.page_films import Film, films
from offline.results.page_html import Markup, element, join, script_json, section, unfolding
from offline.results.page_results import answers, claims, comparisons, left_out
from offline.results.reporting import Report

MAX_BYTES = 15_000_000  # of the page, films included
MAX_DATA = 9_000_000  # of these, for the runs: curves, levels and settings
MAX_PICTURES = 5_000_000  # of these, for the pictures of the figures
_FILES = Path(__file__).parent / "page_files"
_IN_SIGHT = 4  # figures
_VIEW_BOX = re.compile(r'viewBox="0 0 ([\d.]+) ([\d.]+)"')
_PIXELS = 1.75  # to a point, so that letters are as large as those of the page
# One script after another: each makes functions that the later ones call.
_SCRIPTS = ("dom.js", "charts.js", "levels.js", "films.js", "details.js", "runs.js")


def write_page(report: Report, figures: Sequence[FigureFile], path: Path) -> None:
    """Write the page, whole or not at all; ToolkitError naming the file if that is impossible."""
    write_atomically(path, page(report, figures).encode())


def page(report: Report, figures: Sequence[FigureFile]) -> str:
    """The whole page as HTML, below MAX_BYTES with as many films as that leaves room for.

    Figures for which there is no room are named.
    """
    runs = report.collection.runs
    style = _asset("page.css")
    theme, scripts = _asset("theme.js"), _scripts()
    parts = {
        "policy": _policy([style], [theme, scripts]),
        "title": element("title", f"Report: {_count(len(runs), 'run')}"),
        "style": style,
        "theme": theme,
        "headline": headline(report),
        "results": join(comparisons(report)),
        "figures": _figures(figures),
        "claims": claims(report.verdicts),
        "left_out": left_out(report.collection.left_out),
        "navigation": _navigation(report, figures),
        "scripts": scripts,
        **dict.fromkeys(("data", "film_list", "film_data"), ""),
    }
    template = Template((_FILES / "page.html").read_text(encoding="utf-8"))
    room = MAX_BYTES - len(readable(template.substitute(parts)).encode())
    parts["data"] = script_json(page_data(report, min(room, MAX_DATA)))
    room -= len(parts["data"])
    told = films(runs, important_first(report), room)
    parts["film_list"], parts["film_data"] = _film_blocks(unique_names(runs), told)
    return readable(template.substitute(parts))


def headline(report: Report) -> Markup:
    """What was compared, on how much, and what came out."""
    runs = report.collection.runs
    methods = sorted({run.method.upper() for run in runs})
    games = sorted({run.game for run in runs})
    where = games[0] if len(games) == 1 else _count(len(games), "game")
    seeds = sorted({len(seeds) for seeds in _seeds(report).values()})
    facts = {
        "Runs": f"{len(runs):,}",
        "Methods": ", ".join(methods),
        "Games": games[0] if len(games) == 1 else str(len(games)),
        "Seeds": f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}",
        "Newest run": _newest(report),
    }
    listed = [
        element("div", element("dt", name), element("dd", value)) for name, value in facts.items()
    ]
    return join(
        [
            element("h1", f"{_count(len(methods), 'method')} on {where}"),
            element("dl", *listed, class_="facts"),
            answers(report),
        ]
    )


def _seeds(report: Report) -> dict[Any, set[int]]:
    """Seeds by setting and game."""
    seeds: dict[Any, set[int]] = {}
    for run in report.collection.runs:
        seeds.setdefault((run.setting, run.game), set()).add(run.seed)
    return seeds


def _newest(report: Report) -> str:
    """The day (UTC) of the newest evaluation, by the date of its file."""
    times = []
    for run in report.collection.runs:
        try:
            times.append((run.folder / "evaluate.csv").stat().st_mtime)
        except OSError:
            continue  # deleted since it was read
    newest = datetime.fromtimestamp(max(times), timezone.utc) if times else None
    return newest.date().isoformat() if newest else "unknown"


def _navigation(report: Report, figures: Sequence[FigureFile]) -> Markup:
    places = {
        "results": "Results",
        **({"figures": "Figures"} if figures else {}),
        "claims": "Claims",
        "runs": "Runs",
        **({"left-out": "Left out"} if report.collection.left_out else {}),
    }
    return join([element("a", name, href=f"#{place}") for place, name in places.items()])


def _figures(figures: Sequence[FigureFile]) -> Markup:
    """The first ones in sight, the others folded away; nothing without figures."""
    if not figures:
        return Markup()
    shown, room = [], MAX_PICTURES
    for figure in figures:
        picture = _picture(figure, room)
        room -= len(picture or "")
        shown.append(_figure(figure, picture))
    first, others = shown[:_IN_SIGHT], shown[_IN_SIGHT:]
    if others:
        first.append(unfolding(f"{len(others)} more figures", *others))
    return section("figures", "Figures", *first)


def _picture(figure: FigureFile, room: int) -> Markup | None:
    """A picture of its own, so that neither its names nor its styles meet those of the page.

    None if it has more than `room` bytes.
    """
    if len(figure.svg) > room:
        return None  # its address is longer yet
    address = "data:image/svg+xml," + quote(figure.svg, safe=" !$()*+,-./:;=?@_~'")
    size = _VIEW_BOX.search(figure.svg)
    width, height = (
        (round(_PIXELS * float(side)) for side in size.groups()) if size else (None, None)
    )
    picture = element(
        "img",
        src=address,
        alt=figure.title,
        aria_describedby=_caption_id(figure),
        width=width,
        height=height,
    )
    return picture if len(picture) <= room else None


def _figure(figure: FigureFile, picture: Markup | None) -> Markup:
    """The figure with its caption; where the page has no room for the picture, with its file."""
    if picture is None:
        file = f"{FOLDER}/{figure.name}.svg"
        link = element("a", file, href=file)
        shown = element("p", "The page has no room for this figure: see ", link, class_="note")
    else:
        frame = {"class_": "paper", "tabindex": 0, "role": "group", "aria_label": figure.title}
        shown = element("div", picture, **frame)
    return element(
        "figure",
        element("h3", figure.title),
        shown,
        element("figcaption", figure.caption, id=_caption_id(figure)),
        id=f"figure-{figure.name}",
    )


def _caption_id(figure: FigureFile) -> str:
    return f"caption-{figure.name}"


def _film_blocks(names: Sequence[str], told: Sequence[Sequence[Film]]) -> tuple[Markup, Markup]:
    """JSON of the films by run, and a block of base64 for each that is embedded.

    The blocks are apart from the JSON so that nothing reads them before a run is opened.
    """
    listed: dict[str, list[dict[str, str]]] = {}
    blocks: list[Markup] = []
    for name, of_run in zip(names, told, strict=True):
        for film in of_run:
            block = ""
            if film.data:
                block = f"film-{len(blocks)}"
                data = Markup(film.data)
                blocks.append(element("script", data, type="text/plain", id=block))
            listed.setdefault(name, []).append(
                {
                    "title": film.title,
                    "kind": film.kind,
                    "path": readable(film.path),
                    "block": block,
                    "reason": film.reason,
                }
            )
    return script_json(listed), join(blocks)


def _scripts() -> Markup:
    return Markup('(() => {\n"use strict";\n' + "".join(map(_asset, _SCRIPTS)) + "})();\n")


def _asset(name: str) -> Markup:
    return Markup((_FILES / name).read_text(encoding="utf-8"))


def _policy(styles: Sequence[str], scripts: Sequence[str]) -> Markup:
    """Content security policy: these styles and scripts, pictures and films from data URIs."""
    sources = {"default-src": "'none'", "img-src": "data:", "media-src": "data:"}
    sources["style-src"] = " ".join(map(_hash, styles))
    sources["script-src"] = " ".join(map(_hash, scripts))
    content = "; ".join(f"{kind} {source}" for kind, source in sources.items())
    return Markup(f'<meta http-equiv="Content-Security-Policy" content="{content}">')


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"
