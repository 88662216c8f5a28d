"""The figures of a report: which are drawn, in which order, under which names; and their files.

Every comparison has its scores, its generalisation gap and its performance profiles. Learning
curves and the levels of each method's best run are those of agents acting as they were trained to,
and so is the score against the number of levels or the size of the data.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from common.files import readable, write_atomically
from offline.results.comparable import NONE, Condition
from offline.results.comparison import Candidate, Comparison
from offline.results.curve_figure import curve_figure
from offline.results.figure_files import FOLDER, FigureFile
from offline.results.inline_svg import inline_svg
from offline.results.level_figure import best_run, level_figure
from offline.results.method_styles import DrawnFigure, report_style
from offline.results.profile_figure import profile_figure
from offline.results.run_files import AS_TRAINED
from offline.results.scaling_figures import scaling_figures
from offline.results.score_figures import gap_figure, score_figure
from offline.run_names import short_size

if TYPE_CHECKING:
    from offline.results.reporting import Report

_Job = Callable[[], Sequence[DrawnFigure | None]]


def write_figures(
    report: Report, out: Path, progress: bool = False, seed: int = 0
) -> list[FigureFile]:
    """Draw every figure into `out`/figures, as <name>.svg and <name>.png, with captions.md.

    Each file is written whole or not at all; those there are replaced. `seed` is that of the
    bootstrap. Raises ToolkitError naming a file that cannot be written.
    """
    written = []
    for drawn in draw_figures(report, progress, seed):
        png, svg = _rendered(drawn)
        write_atomically(out / FOLDER / f"{drawn.name}.png", png)
        write_atomically(out / FOLDER / f"{drawn.name}.svg", svg.encode())
        written.append(FigureFile(drawn.name, drawn.title, drawn.caption, svg))
    write_atomically(out / FOLDER / "captions.md", _captions(written).encode())
    return written


def draw_figures(report: Report, progress: bool = False, seed: int = 0) -> Iterator[DrawnFigure]:
    """Every figure of the report in order, named for its condition and acting mode, one at a time.

    A figure for which the runs say nothing is left out.
    """
    jobs = list(_jobs(report, seed))
    shown: Any = {"unit": " figures", "leave": False, "delay": 0.5, "disable": not progress}
    names: dict[str, int] = {}
    for job in tqdm(jobs, "drawing figures", **shown):
        with report_style():
            drawn = [figure for figure in job() if figure]
        for figure in drawn:
            # Folders of data whose names differ only in their parents give one name.
            names[figure.name] = names.get(figure.name, 0) + 1
            again = f"-{names[figure.name]}" if names[figure.name] > 1 else ""
            # Captions name folders of runs.
            yield figure._replace(name=figure.name + again, caption=readable(figure.caption))


def _jobs(report: Report, seed: int) -> Iterator[_Job]:
    """What draws the figures, each with random numbers of its own."""
    comparisons = dict(zip(report.comparisons, report.references, strict=True))
    for comparison, references in comparisons.items():
        generator = np.random.default_rng(seed)
        parts: list[Callable[[], DrawnFigure | None]] = [
            partial(score_figure, comparison, references),
            partial(gap_figure, comparison, references),
            partial(profile_figure, comparison, references, generator),
        ]
        if comparison.acting == AS_TRAINED:
            parts.append(partial(curve_figure, comparison, references))
            parts += [partial(_best_run_figure, c) for c in comparison.chosen.values()]
        for part in parts:
            yield partial(_of_comparison, comparison, part)
    yield partial(scaling_figures, comparisons, np.random.default_rng(seed))


def _of_comparison(
    comparison: Comparison, draw: Callable[[], DrawnFigure | None]
) -> list[DrawnFigure]:
    drawn = draw()
    if drawn is None:
        return []
    acting = [] if comparison.acting == AS_TRAINED else [comparison.acting]
    name = "-".join([drawn.name, _short_name(comparison.condition), *acting])
    return [drawn._replace(name=name, title=f"{drawn.title}: {comparison.describe()}")]


def _best_run_figure(candidate: Candidate) -> DrawnFigure | None:
    run = best_run(candidate)
    drawn = level_figure(run, candidate.mode) if run else None
    best = f"The best run of {candidate.method.upper()} on validation levels."
    return drawn and drawn._replace(caption=f"{best} {drawn.caption}")


def _short_name(condition: Condition) -> str:
    """Such as easy-200-d1M-25M: fit for a file, an XML id and a CSS selector."""
    c = condition
    parts = [c.distribution_mode, c.num_levels, f"d{short_size(c.dataset_size)}"]
    parts += [PurePath(path).name for path in c.dataset]
    parts += [c.episode_order] * (c.episode_order != "recorded")
    parts += [f"level{c.level}"] * (c.level != NONE)
    return re.sub(r"[^A-Za-z0-9_-]", "_", "-".join(map(str, parts)))


def _rendered(drawn: DrawnFigure) -> tuple[bytes, str]:
    """PNG and SVG; the same numbers give the same files."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    png, svg = io.BytesIO(), io.StringIO()
    with report_style():
        told = {"Title": drawn.title, "Description": drawn.caption, "Software": None}
        # Figure.savefig would draw everything twice, the first time to no avail.
        FigureCanvasAgg(drawn.figure).print_png(png, metadata=told)
        drawn.figure.set_layout_engine("none")  # what was laid out once need not be again
        FigureCanvasSVG(drawn.figure).print_svg(svg, metadata={"Date": None})
    return png.getvalue(), inline_svg(svg.getvalue(), drawn.name)


def _captions(figures: Sequence[FigureFile]) -> str:
    parts = [f"## {f.name}\n\n**{f.title}.** {f.caption}\n" for f in figures]
    return "\n".join(["# Figures of this report\n", *parts])
