"""Reports on runs that a test made up, and what was drawn of them, read back from the artists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from offline.results.method_styles import DrawnFigure
from offline.results.report_figures import draw_figures
from offline.results.reporting import Report, make_report


def report_on(save_path: Path, references: Sequence[str] = ()) -> Report:
    """What the report command makes of the runs below a folder."""
    return make_report([save_path], references, np.random.default_rng(0))


def drawn(report: Report) -> dict[str, DrawnFigure]:
    """Every figure of a report, by name."""
    return {figure.name: figure for figure in draw_figures(report)}


def lines(axes: Axes) -> dict[str, Line2D]:
    """The lines of a panel by label."""
    return {str(line.get_label()): line for line in axes.lines}


def heights(axes: Axes, label: str) -> list[float]:
    """The y-values of the line with this label."""
    return np.asarray(lines(axes)[label].get_ydata(), float).tolist()
