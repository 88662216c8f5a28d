"""The map of one run's levels, against episodes written by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh

from common.evaluation import write_episodes, write_evaluation
from common.rollout import EpisodeResult
from offline.results.level_figure import best_run, level_figure, level_returns
from offline.results.method_styles import DrawnFigure
from tests.drawn_figures import drawn, lines, report_on
from tests.synthetic_runs import constant_returns, write_run

NAME = "levels-bc-easy-200-d1M"
EPISODES = {
    # Level 21 was played twice; 5 counts as 0 and 10 as 1.
    "train": [
        EpisodeResult(21, 10.0, 50),
        EpisodeResult(21, 6.0, 50),
        EpisodeResult(0, 5.0, 50),
        EpisodeResult(199, 10.0, 50),
    ],
    "validation": [EpisodeResult(200, 7.0, 50)],
    "test": [EpisodeResult(10**9, 4.0, 50), EpisodeResult(10**6, 9.0, 50)],
}


def write_levels(save_path: Path, **settings: int) -> None:
    run = write_run(save_path, None, env_name="coinrun", algo="bc", seed=1, **settings)
    write_evaluation(run / "evaluate.csv", EPISODES)
    write_episodes(run / "evaluate_episodes.csv", EPISODES)


def tiles(axes: Axes) -> np.ma.MaskedArray:
    (mesh,) = (artist for artist in axes.collections if isinstance(artist, QuadMesh))
    values: np.ma.MaskedArray = np.ma.asarray(mesh.get_array())
    return values


def levels_of(save_path: Path, name: str = NAME) -> DrawnFigure:
    return drawn(report_on(save_path))[name]


def test_a_level_has_the_mean_of_its_episodes() -> None:
    assert level_returns(EPISODES["train"]) == {0: 5.0, 21: 8.0, 199: 10.0}


def test_every_training_level_has_its_place_and_a_tile_if_it_was_played(tmp_path: Path) -> None:
    write_levels(tmp_path)
    axes = levels_of(tmp_path).figure.axes[0]
    returns = tiles(axes)
    assert returns.shape == (10, 20)
    assert {place: returns[place] for place in zip(*np.nonzero(~returns.mask), strict=True)} == {
        (0, 0): 5.0,
        (1, 1): 8.0,
        (9, 19): 10.0,
    }
    dots = lines(axes)["not played"].get_xydata()
    assert len(dots) == 197
    assert [1.5, 1.5] not in dots.tolist()
    assert [2.5, 1.5] in dots.tolist()
    assert [text.get_text() for text in axes.get_yticklabels()][:2] == ["0", "20"]


def test_the_caption_counts_levels_that_were_learnt_and_not(tmp_path: Path) -> None:
    write_levels(tmp_path)
    assert (
        "3 of 200 were played, 2 with at least half of the score range, 1 with no more than an "
        "agent that sees nothing."
    ) in levels_of(tmp_path).caption


def test_levels_are_ranked_from_best_to_worst(tmp_path: Path) -> None:
    write_levels(tmp_path)
    labelled = lines(levels_of(tmp_path).figure.axes[1])
    assert labelled["training levels"].get_ydata() == pytest.approx([10.0, 8.0, 5.0])
    assert labelled["training levels"].get_xdata() == pytest.approx([100 / 6, 50.0, 500 / 6])
    assert labelled["test levels"].get_ydata() == pytest.approx([9.0, 4.0])


def test_of_very_many_levels_those_that_were_played_are_shown(tmp_path: Path) -> None:
    write_levels(tmp_path, num_levels=5000)
    axes = levels_of(tmp_path, "levels-bc-easy-5000-d1M").figure.axes[0]
    assert tiles(axes).compressed().tolist() == [5.0, 8.0, 10.0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["0"]
    assert "not played" not in lines(axes) or not len(lines(axes)["not played"].get_xydata())


def test_the_run_shown_is_the_best_on_validation_levels(tmp_path: Path) -> None:
    for seed, (validation, test) in enumerate([(7.0, 9.9), (8.0, 5.0), (6.0, 9.0)]):
        returns = constant_returns(9.0, validation, test)
        write_run(tmp_path, returns, env_name="coinrun", algo="bc", seed=seed)
    report = report_on(tmp_path)
    best = best_run(report.comparisons[0].chosen["bc"])
    assert best is not None
    assert best.seed == 1
    assert (
        f"coinrun, seed 1, acting sampled (run {best.folder.name})" in drawn(report)[NAME].caption
    )


def test_games_are_compared_by_normalised_return(tmp_path: Path) -> None:
    # 6.0 is 0.2 of coinrun's range of 5 to 10, and 5.9 is 0.37 of heist's of 3.5 to 10.
    for game, validation in (("coinrun", 6.0), ("heist", 5.9)):
        returns = constant_returns(9.0, validation, 6.0)
        write_run(tmp_path, returns, env_name=game, algo="bc", seed=1)
    assert "on heist" in levels_of(tmp_path).title


def test_a_single_level_has_no_map(tmp_path: Path) -> None:
    write_run(tmp_path, {"train": [9.0, 8.0]}, env_name="coinrun", meta={"level": 40})
    (run,) = report_on(tmp_path).collection.runs
    assert level_figure(run, run.trained_mode) is None


def test_any_run_can_be_drawn_in_any_mode_it_was_evaluated_in(tmp_path: Path) -> None:
    returns = constant_returns(9.0, 7.0, 6.0)
    write_run(tmp_path, returns, deterministic_returns=returns, env_name="coinrun", seed=1)
    (run,) = report_on(tmp_path).collection.runs
    figure = level_figure(run, "deterministic")
    assert figure is not None
    assert "acting deterministic" in figure.caption
