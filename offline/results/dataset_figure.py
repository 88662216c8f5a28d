"""What the data of a game look like: how its levels start, and histograms of its episodes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from offline.data.inspection import GameReport
from offline.data.store import PackedStore, Selection, select_episodes
from offline.results.contact_sheet import SHEET_WIDTH, draw_sheet, sheet_height
from offline.results.figures import COLOURS, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TILES = 24
_PLOT_HEIGHT = 4.6  # inches
_BINS = 30


def dataset_figure(report: GameReport, stores: Sequence[PackedStore], path: Path) -> list[Path]:
    """First frames of up to 24 levels, and histograms of returns, lengths, actions and levels.

    `stores` are those of the report. Returns the files written, `<path>.png` and `<path>.svg`.
    Raises ToolkitError if a file cannot be written.
    """
    selection = select_episodes(stores)
    levels, first_episodes, counts = np.unique(
        selection.episodes["level_seed"], return_index=True, return_counts=True
    )
    # Spread over all levels that there are.
    shown = np.unique(np.linspace(0, len(levels) - 1, _TILES).round().astype(int))
    top = sheet_height(len(shown))
    with new_figure(width=SHEET_WIDTH, height=top + _PLOT_HEIGHT) as figure:
        sheet, plots = figure.subfigures(
            2, 1, squeeze=False, height_ratios=[top, _PLOT_HEIGHT]
        ).flat
        draw_sheet(
            sheet,
            [_first_frame(selection, episode) for episode in first_episodes[shown]],
            [f"level {level}" if level >= 0 else "unknown level" for level in levels[shown]],
        )
        axes = plots.subplot_mosaic(
            [["return", "action"], ["length", "action"], ["levels", "action"]]
        )
        _draw_histogram(axes["return"], selection.episodes["return"])
        axes["return"].set_title(f"return per episode (mean {report.returns.mean:.2f})")
        _draw_histogram(axes["length"], selection.episodes["length"])
        axes["length"].set_title(f"steps per episode (mean {report.lengths.mean:.1f})")
        _draw_histogram(axes["levels"], counts[levels >= 0], "levels")
        axes["levels"].set_title("episodes per level")
        _draw_actions(axes["action"], report)
        figure.suptitle(
            f"{report.game}: {report.episodes:,} episodes, {report.transitions:,} transitions, "
            f"{report.levels.known:,} levels",
            x=0.01,
            ha="left",
            weight="bold",
        )
        return save_figure(figure, path)


def _first_frame(selection: Selection, episode: int) -> np.ndarray:
    """(64, 64, 3) uint8."""
    store = selection.stores[selection.store_of[episode]]
    frame: np.ndarray = store.frames[selection.episodes["start"][episode]]
    return frame


def _draw_histogram(axes: Axes, values: np.ndarray, unit: str = "episodes") -> None:
    axes.set_ylabel(unit)
    axes.spines["right"].set_visible(False)
    if not len(values):
        return
    low, high = values.min(), values.max()
    whole = bool((values == np.round(values)).all())
    # Each bin of whole numbers holds as many of them as any other.
    width = np.ceil((high - low + 1) / _BINS)
    bins = np.arange(low - 0.5, high + 0.5 + width, width).tolist() if whole else _BINS
    axes.hist(values, bins, color=COLOURS["train"], rwidth=0.9)
    axes.locator_params(axis="x", integer=whole, min_n_ticks=1)
    axes.locator_params(axis="y", integer=True, min_n_ticks=1, nbins=4)


def _draw_actions(axes: Axes, report: GameReport) -> None:
    names = [f"{action.buttons}  {action.action:>2}" for action in report.actions]
    shares = [100 * action.share for action in report.actions]
    bars = axes.barh(names, shares, color=COLOURS["train"])
    axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=7.5)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.12)
    axes.spines["right"].set_visible(False)
    axes.set_title("actions (% of transitions)")
