"""Which training levels one run has learnt, and how its levels compare with those never seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.rollout import EpisodeResult
from offline.results.comparison import Candidate
from offline.results.figures import COLOURS
from offline.results.method_styles import (
    GREY,
    PAGE,
    SPLIT_LINES,
    SPLIT_NAMES,
    DrawnFigure,
    blank_figure,
)
from offline.results.run_files import CollectedRun
from offline.results.statistics import TEST, TRAIN, VALIDATION, normalised_score, score_range

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_PLACES = 1000  # where there are more training levels, those that were played have one
_SHADES = 10
_LEARNT = 0.5  # of the way from an agent that sees nothing to a perfect one


def level_returns(episodes: Sequence[EpisodeResult]) -> dict[int, float]:
    """Mean raw return of each level that was played, by its seed, in order of seeds."""
    returns: dict[int, list[float]] = {}
    for episode in episodes:
        returns.setdefault(episode.level_seed, []).append(episode.episode_return)
    return {seed: float(np.mean(returns[seed])) for seed in sorted(returns)}


def best_run(candidate: Candidate) -> CollectedRun | None:
    """The run with the highest normalised return on validation levels; None where none has any."""
    measured = {
        run: summaries[VALIDATION].normalised
        for game, runs in candidate.runs.items()
        for run, summaries in zip(runs, candidate.summaries(game), strict=True)
        if VALIDATION in summaries
    }
    return max(measured, key=lambda run: measured[run], default=None)


def level_figure(run: CollectedRun, mode: str) -> DrawnFigure | None:
    """A map of the training levels by their mean return, and all levels from best to worst.

    `mode` is a key of the run's evaluations. None for a run on a single level.
    """
    episodes = run.evaluations[mode].episodes
    if not {TRAIN, TEST} <= set(episodes):
        return None
    bounds = score_range(run.game, run.settings["distribution_mode"])
    told = {split: level_returns(episodes[split]) for split in (TRAIN, TEST)}
    figure = blank_figure(PAGE, 2.9)
    left, right = figure.subplots(1, 2, width_ratios=[1.45, 1.0])
    levels = run.settings["num_levels"]
    places = list(range(levels)) if levels <= _MOST_PLACES else list(told[TRAIN])
    _draw_map(figure, left, told[TRAIN], places, bounds)
    _draw_ranks(right, told, bounds)
    method = run.method.upper()
    scores = np.asarray(
        normalised_score([*told[TRAIN].values()], run.game, run.settings["distribution_mode"])
    )
    played = len(told[TRAIN])
    parts = [
        f"Mean raw return per level of {method} on {run.game}, seed {run.seed}, acting {mode} "
        f"(run {run.folder.name}).",
        f"Left: training levels by seed; {played} of {levels:,} were played, {_count(scores)}.",
        "A dot is a level that was not played." if played < len(places) else "",
        f"Right: levels from best to worst; {len(told[TEST])} test levels were played; grey lines: "
        "returns of an agent that sees nothing and of a perfect one.",
    ]
    caption = " ".join(part for part in parts if part)
    title = f"Levels of one {method} run on {run.game}"
    return DrawnFigure(f"levels-{run.method}", title, caption, figure)


def _count(scores: NDArray[np.float64]) -> str:
    learnt, blind = (scores >= _LEARNT).sum(), (scores <= 0.0).sum()
    return (
        f"{learnt} with at least half of the score range, {blind} with no more than an agent that "
        "sees nothing"
    )


def _draw_map(
    figure: Figure,
    axes: Axes,
    returns: dict[int, float],
    places: Sequence[int],
    bounds: tuple[float, float],
) -> None:
    """A tile per place, row by row; a dot where the level was not played."""
    import matplotlib
    from matplotlib.colors import BoundaryNorm

    every_level = len(places) > places[-1]
    columns = math.ceil(math.sqrt(2 * len(places)))
    if every_level:
        columns = 10 * math.ceil(columns / 10)  # a seed is read as row + column
    rows = math.ceil(len(places) / columns)
    tiles = np.full(rows * columns, np.nan)
    tiles[: len(places)] = [returns.get(seed, np.nan) for seed in places]
    missing = [i for i, seed in enumerate(places) if seed not in returns]
    axes.plot(
        [i % columns + 0.5 for i in missing],
        [i // columns + 0.5 for i in missing],
        linestyle="none",
        marker=".",
        markersize=2,
        color=GREY,
        label="not played",
    )
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(tiles.reshape(rows, columns)),
        cmap=matplotlib.colormaps["cividis"].resampled(_SHADES),
        norm=BoundaryNorm(np.linspace(*bounds, _SHADES + 1), _SHADES, clip=True),
        edgecolors="white",
        linewidth=0.4,
    )
    figure.colorbar(
        mesh, ax=axes, label="mean return", ticks=np.linspace(*bounds, 6), format="{x:.1f}"
    )
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    every = max(1, rows // 10)
    axes.set_yticks(
        [row + 0.5 for row in range(0, rows, every)],
        [str(places[row * columns]) for row in range(0, rows, every)],
    )
    if 2 * rows < columns:
        axes.set_aspect("equal")
    if every_level:
        shown = range(0, columns, 5)
        axes.set_xticks([column + 0.5 for column in shown], [f"+{column}" for column in shown])
        axes.set_ylabel("training level (row + column)")
    else:
        axes.set_xticks([])
        axes.set_ylabel("training levels played")


def _draw_ranks(axes: Axes, told: dict[str, dict[int, float]], bounds: tuple[float, float]) -> None:
    for bound in bounds:
        axes.axhline(bound, color="#BBBBBB", linewidth=0.8, zorder=0.5, label="bound")
    for split, returns in told.items():
        ordered = sorted(returns.values(), reverse=True)
        shares = 100 * (np.arange(len(ordered)) + 0.5) / len(ordered)
        axes.plot(
            shares,
            ordered,
            color=COLOURS[split],
            linestyle=SPLIT_LINES[split],
            drawstyle="steps-mid",
            label=SPLIT_NAMES[split],
        )
    axes.set_xlim(0, 100)
    axes.set_xlabel("levels, best first (%)")
    axes.set_ylabel("mean return")
    axes.legend(handles=axes.lines[len(bounds) :])
