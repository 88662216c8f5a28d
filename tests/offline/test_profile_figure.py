"""Performance profiles as they are drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex

from tests.drawn_figures import drawn, heights, lines, report_on
from tests.synthetic_runs import constant_returns, write_run

NAME = "profiles-easy-200-d1M"


def write_games(save_path: Path, method: str, **means: tuple[float, ...]) -> None:
    """Runs with these mean returns on test levels, by game and in order of seeds."""
    for game, by_seed in means.items():
        for seed, mean in enumerate(by_seed):
            returns = constant_returns(mean, mean, mean)
            write_run(save_path, returns, env_name=game, algo=method, seed=seed)


def test_a_profile_falls_by_each_runs_share_at_its_score(tmp_path: Path) -> None:
    # Scores 0.2 and 0.6 of coinrun (5 to 10), 0.5 of maze (the same): games count alike.
    write_games(tmp_path, "bc", coinrun=(6.0, 8.0), maze=(7.5,))
    axes = drawn(report_on(tmp_path))[NAME].figure.axes[0]
    thresholds = np.asarray(lines(axes)["bc"].get_xdata(), float)
    assert (thresholds[0], thresholds[-1]) == pytest.approx((0.0, 0.6))
    for threshold, share in zip(thresholds, heights(axes, "bc"), strict=True):
        if all(abs(threshold - score) > 1e-9 for score in (0.2, 0.5, 0.6)):
            games = (np.mean([threshold < 0.2, threshold < 0.6]), threshold < 0.5)
            assert share == pytest.approx(np.mean(games))


@pytest.mark.parametrize(("mean", "low", "high"), [(5.0, 0.0, 0.1), (4.0, -0.2, -0.1)])
def test_runs_that_all_score_nothing_have_an_axis_to_stand_on(
    tmp_path: Path, mean: float, low: float, high: float
) -> None:
    write_games(tmp_path, "bc", coinrun=(mean, mean))
    axes = drawn(report_on(tmp_path))[NAME].figure.axes[0]
    assert axes.get_xlim() == pytest.approx((low, high))


def test_a_band_needs_two_seeds_of_every_game(tmp_path: Path) -> None:
    write_games(tmp_path, "bc", coinrun=(6.0, 8.0), maze=(7.5,))
    write_games(tmp_path, "cql", coinrun=(6.0, 8.0), maze=(7.5, 7.0))
    figure = drawn(report_on(tmp_path))[NAME]
    (band,) = figure.figure.axes[0].collections
    whose = lines(figure.figure.axes[0])["cql"].get_color()
    assert to_hex(band.get_facecolor()[0]) == to_hex(whose)
    assert "none where a game has one seed" in figure.caption


def test_one_seed_has_no_band_and_the_caption_says_so(tmp_path: Path) -> None:
    write_games(tmp_path, "bc", coinrun=(6.0,), maze=(7.5,))
    figure = drawn(report_on(tmp_path))[NAME]
    assert not figure.figure.axes[0].collections
    assert "No interval: a game has one seed." in figure.caption


def test_the_band_holds_the_profile(tmp_path: Path) -> None:
    write_games(tmp_path, "bc", coinrun=(6.0, 8.0, 7.0), maze=(7.5, 7.0, 9.0))
    axes = drawn(report_on(tmp_path))[NAME].figure.axes[0]
    (band,) = axes.collections
    (outline,) = band.get_paths()
    xs, ys = outline.vertices.T
    for x, share in zip(lines(axes)["bc"].get_xdata(), heights(axes, "bc"), strict=True):
        edges = ys[np.isclose(xs, x)]
        assert edges.min() - 1e-9 <= share <= edges.max() + 1e-9
    assert ys.min() >= 0.0
    assert ys.max() <= 1.0


def test_a_reference_player_has_the_share_of_its_games(tmp_path: Path) -> None:
    write_games(tmp_path, "bc", coinrun=(9.0,), maze=(9.0,))
    axes = drawn(report_on(tmp_path, ["ppo"]))[NAME].figure.axes[0]
    # Online PPO scores 0.734 on coinrun's test levels and 0.106 on maze's.
    xs = np.asarray(lines(axes)["online PPO"].get_xdata(), float)
    ys = np.array(heights(axes, "online PPO"))
    assert set(ys[xs < 0.1]) == {1.0}
    assert set(ys[(xs > 0.11) & (xs < 0.73)]) == {0.5}
    assert set(ys[xs > 0.74]) == {0.0}
