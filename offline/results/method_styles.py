"""How methods, splits and reference players look: the same in every figure of a report.

A method has a colour and a marker of its own, so that figures can be read in grey print and with
any kind of colour vision. Filled markers and solid lines are training levels, hollow markers and
dashed lines test levels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from itertools import cycle
from typing import TYPE_CHECKING, Any, NamedTuple

from offline.arguments import ALGORITHMS
from offline.results.figures import STYLE
from offline.results.statistics import TEST, TRAIN

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

COLUMN, PAGE = 3.5, 7.2  # inches: a column of a paper, and both with the gap between them
GREY = "#555555"
SPLIT_NAMES = {TRAIN: "training levels", TEST: "test levels"}
SPLIT_LINES: dict[str, Any] = {TRAIN: "solid", TEST: (0, (2.5, 1.2))}


class MethodStyle(NamedTuple):
    """Colour and marker of a method."""

    colour: str
    marker: str


class DrawnFigure(NamedTuple):
    """A figure as matplotlib's object; otherwise as `FigureFile`."""

    name: str
    title: str
    caption: str
    figure: Figure


# Okabe and Ito's palette without its yellow, which white paper swallows.
_COLOURS = ("#0072B2", "#E69F00", "#56B4E9", "#D55E00", "#009E73", "#CC79A7", "#000000")
_MARKERS = ("o", "s", "D", "v", "^", "P", "X", "p")
_STYLES = {
    name: MethodStyle(colour, marker)
    for name, colour, marker in zip(ALGORITHMS, cycle(_COLOURS), cycle(_MARKERS), strict=False)
}
_SIZES: Any = {
    "axes.spines.right": False,
    "axes.titlesize": 8.0,
    "font.size": 8.0,
    "legend.borderpad": 0.2,
    "legend.columnspacing": 1.2,
    "legend.fontsize": 7.5,
    "legend.handletextpad": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.5,
    "svg.fonttype": "none",
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
}
_UNKNOWN = MethodStyle("#000000", "*")  # a run of a newer version
_REFERENCE_LINES: dict[str, Any] = {
    "online PPO": (0, (7, 2)),
    "random": (0, (1, 1.5)),
    "behaviour policy": (0, (6, 1.5, 1, 1.5)),
}


def method_style(name: str) -> MethodStyle:
    """The style of a method, by the name of its --algo."""
    return _STYLES.get(name, _UNKNOWN)


def reference_line(name: str) -> dict[str, Any]:
    """Line2D properties of a reference player, by `Reference.name`."""
    return {
        "color": GREY,
        "linewidth": 0.9,
        "linestyle": _REFERENCE_LINES.get(name, "solid"),
        "zorder": 1.5,
    }


@contextlib.contextmanager
def report_style() -> Iterator[None]:
    """While figures of a report are drawn and saved: type that a column's width leaves readable.

    Text stays text in the SVG: small, searchable, and set in the reader's font.
    """
    import matplotlib

    with matplotlib.rc_context({**STYLE, **_SIZES}):
        yield


def blank_figure(width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def method_handles(names: Iterable[str]) -> list[Artist]:
    """Entries of a legend for these methods."""
    from matplotlib.lines import Line2D

    styles = {name: method_style(name) for name in names}
    return [
        Line2D([], [], color=style.colour, label=name.upper(), **line_marker(style, 5.5))
        for name, style in styles.items()
    ]


def split_handles(splits: Iterable[str], *, lines: bool) -> list[Artist]:
    """Entries of a legend for splits: of lines, or of filled and hollow points."""
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], color=GREY, linestyle=SPLIT_LINES[split], label=SPLIT_NAMES[split])
        if lines
        else Line2D([], [], linestyle="none", label=SPLIT_NAMES[split], **point(split, GREY, "o"))
        for split in splits
    ]


def reference_handles(names: Iterable[str]) -> list[Artist]:
    """Entries of a legend for the lines of reference players."""
    from matplotlib.lines import Line2D

    return [Line2D([], [], label=name, **reference_line(name)) for name in names]


def line_marker(style: MethodStyle, size: float) -> dict[str, Any]:
    """Line2D properties of a marker that stands out of lines of the same grey."""
    return {
        "marker": style.marker,
        "markersize": size,
        "markeredgecolor": "white",
        "markeredgewidth": 0.4,
    }


def point(split: str, colour: str, marker: str) -> dict[str, Any]:
    """Line2D properties of a point: filled, or hollow on test levels."""
    face = "white" if split == TEST else colour
    return {
        "color": colour,
        "marker": marker,
        "markerfacecolor": face,
        "markeredgecolor": colour,
        "markeredgewidth": 1.1,
    }
