"""Results as figures, each saved as PNG to look at and as SVG to print.

matplotlib is imported when a figure is drawn, so that commands start without it. Figures are made
without pyplot: no display, no global state.
"""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from common.errors import ToolkitError
from offline.results.statistics import SPLITS, SplitSummary, score_range

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Paul Tol's "high contrast" scheme: distinct for every kind of colour vision and in grey print.
COLOURS = {"train": "#004488", "validation": "#DDAA33", "test": "#BB5566"}
SPLIT_LABELS = {
    "train": "training levels",
    "validation": "validation levels",
    "test": "test levels (unseen)",
}
_INK, _FAINT = "#222222", "#8A8A8A"
STYLE: Any = {
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "figure.constrained_layout.wspace": 0.06,
    "figure.dpi": 200,
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "legend.frameon": False,
    "svg.hashsalt": "procgen-offline-generalization",
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}
_BAR_WIDTH = 0.26
_LINE: dict[str, Any] = {"linewidth": 1.2, "markersize": 3.0}
_MARKERS = {"train": "o", "validation": "s", "test": "^"}


def evaluation_figure(
    rows: Mapping[str, Mapping[str, SplitSummary]],
    title: str,
    path: str | Path,
    *,
    env_name: str,
    distribution_mode: str = "easy",
    behaviour_policy: str | None = None,
) -> list[Path]:
    """Mean return per method and split as grouped bars; the whiskers are one standard error.

    `rows` maps a method's name to its summaries by split, as for `results_table`. The group named
    `behaviour_policy`, the one that made the data, stands first, on a shaded ground. The left axis
    is the raw return, the right one the normalised score.

    Returns the files written, `<path>.png` and `<path>.svg`. Raises ValueError without rows or for
    a game without a score range, ToolkitError if a file cannot be written.
    """
    if not rows:
        raise ValueError("a figure needs the results of at least one method")
    lowest, highest = score_range(env_name, distribution_mode)
    methods = sorted(rows, key=lambda method: method != behaviour_policy)
    with new_figure(width=max(5.2, 2.2 + 1.35 * len(methods)), height=3.7) as figure:
        axes = figure.add_subplot()
        _draw_bars(axes, [rows[method] for method in methods])
        axes.set_xlim(-0.6, len(methods) - 0.4)
        axes.set_xticks(range(len(methods)), methods)
        axes.tick_params(axis="x", length=0)
        axes.axhline(0.0, color=_FAINT, linewidth=0.8)
        axes.axhline(lowest, color=_FAINT, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0.5)
        axes.set_ylim(_return_limits(rows, lowest, highest))
        axes.set_ylabel("mean return per episode")
        if behaviour_policy in rows:
            axes.axvspan(-0.6, 0.5, color="#F0F0F0", zorder=0)
            axes.set_xticks(range(len(methods)), [f"{methods[0]}\n(made the data)", *methods[1:]])

        def score(returns: ArrayLike) -> ArrayLike:
            return (np.asarray(returns) - lowest) / (highest - lowest)

        def raw(scores: ArrayLike) -> ArrayLike:
            return lowest + np.asarray(scores) * (highest - lowest)

        score_axis = axes.secondary_yaxis("right", functions=(score, raw))
        score_axis.set_yticks(np.linspace(0.0, 1.0, 6))
        score_axis.set_ylabel("normalised score")
        axes.set_title(title, pad=24)
        axes.legend(
            loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=3, borderpad=0.2, columnspacing=1.2
        )
        figure.supxlabel(_note(rows), x=0.99, ha="right", fontsize=7, color=_FAINT)
        return save_figure(figure, Path(path))


def learning_curve_figure(logs_csv: str | Path, title: str, path: str | Path) -> list[Path]:
    """Training loss (left) and mean evaluation returns (right) against the epoch, of one run.

    `logs_csv` is a run's `logs.csv`. Returns the files written, `<path>.png` and `<path>.svg`.
    Raises ToolkitError if the log is missing, lacks a column or has no row.
    """
    logs = _read_logs(Path(logs_csv))
    with new_figure(width=7.2, height=2.9) as figure:
        loss_axes, return_axes = figure.subplots(1, 2)
        loss_axes.plot(logs["epoch"], logs["train_loss"], color=_INK, marker="o", **_LINE)
        loss_axes.set_ylabel("training loss")
        for split, column in _RETURN_COLUMNS.items():
            return_axes.plot(
                logs["epoch"],
                logs[column],
                color=COLOURS[split],
                marker=_MARKERS[split],
                label=SPLIT_LABELS[split],
                **_LINE,
            )
        return_axes.set_ylabel("mean return per episode")
        return_axes.legend(fontsize=7.5)
        for axes in (loss_axes, return_axes):
            axes.spines["right"].set_visible(False)
            axes.set_xlabel("epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
        figure.suptitle(title, x=0.01, ha="left", weight="bold")
        return save_figure(figure, Path(path))


def _draw_bars(axes: Axes, groups: list[Mapping[str, SplitSummary]]) -> None:
    for k, split in enumerate(SPLITS):
        present = [(i, group[split]) for i, group in enumerate(groups) if split in group]
        if not present:
            continue
        x = np.array([i for i, _ in present]) + (k - 1) * _BAR_WIDTH
        means = np.array([summary.mean for _, summary in present])
        # One episode has no standard error: no whisker rather than one of length zero.
        errors = np.array([summary.standard_error for _, summary in present])
        axes.bar(
            x, means, 0.92 * _BAR_WIDTH, color=COLOURS[split], label=SPLIT_LABELS[split], zorder=2
        )
        axes.errorbar(
            x, means, errors, fmt="none", ecolor=_INK, elinewidth=1.0, capsize=2.5, zorder=3
        )
        for position, mean, reach in zip(x, means, np.nan_to_num(errors), strict=True):
            outwards = 1 if mean >= 0 else -1
            axes.annotate(
                f"{mean:.1f}",
                (position, mean + outwards * reach),
                xytext=(0, 3 * outwards),
                textcoords="offset points",
                ha="center",
                va="bottom" if outwards > 0 else "top",
                fontsize=7.5,
            )


def _return_limits(
    rows: Mapping[str, Mapping[str, SplitSummary]], lowest: float, highest: float
) -> tuple[float, float]:
    """Limits of the return axis: zero, the score range, every whisker and the numbers at them."""
    every = [summary for summaries in rows.values() for summary in summaries.values()]
    means = np.array([summary.mean for summary in every])
    errors = np.nan_to_num([summary.standard_error for summary in every])
    bottom = min(0.0, lowest, *(means - errors))
    top = max(0.0, highest, *(means + errors))
    room = 0.08 * (top - bottom)
    return (bottom - room if bottom < 0 else 0.0), top + room


def _note(rows: Mapping[str, Mapping[str, SplitSummary]]) -> str:
    counts = {summary.episodes for summaries in rows.values() for summary in summaries.values()}
    episodes = f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    return (
        f"{episodes} episodes per bar, whiskers ± 1 standard error; "
        "dashed: the return of an agent that sees nothing"
    )


_RETURN_COLUMNS = {
    "train": "train_rets_mean",
    "validation": "val_rets_mean",
    "test": "test_rets_mean",
}


def _read_logs(path: Path) -> dict[str, list[float]]:
    """The columns to plot; a cell that is empty (not evaluated) becomes nan, a gap in the curve."""
    columns = ["epoch", "train_loss", *_RETURN_COLUMNS.values()]
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise ToolkitError(f"{path}: cannot be read ({error.strerror})") from error
    if not rows:
        raise ToolkitError(f"{path}: has no row yet; train for an epoch first")
    missing = [column for column in columns if rows[0].get(column) is None]
    if missing:
        raise ToolkitError(f"{path}: lacks the column {', '.join(missing)}")
    try:
        return {column: [float(row[column] or "nan") for row in rows] for column in columns}
    except ValueError as error:
        raise ToolkitError(f"{path}: {error}") from error


@contextlib.contextmanager
def new_figure(width: float, height: float) -> Iterator[Figure]:
    """A figure of `width` x `height` inches, drawn and saved in this module's style."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: Path) -> list[Path]:
    """Write PNG and SVG beside each other, each complete or not at all."""
    stem = path.with_suffix("") if path.suffix in {".png", ".svg"} else path
    written = []
    for kind in ("png", "svg"):
        target = stem.with_name(f"{stem.name}.{kind}")
        unfinished = target.with_name(f".{target.name}.tmp-{os.getpid()}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            # No date in the SVG: the same numbers give the same file.
            figure.savefig(
                unfinished, format=kind, metadata={"Date": None} if kind == "svg" else None
            )
            unfinished.replace(target)
        except OSError as error:
            raise ToolkitError(f"{target}: cannot be written ({error.strerror})") from error
        finally:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
        written.append(target)
    return written
