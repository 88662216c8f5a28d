"""Points, intervals and players of the figures of scores, against values worked by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from offline.results.comparison import GAP
from offline.results.statistics import TEST, TRAIN
from tests.drawn_figures import drawn, heights, lines, report_on
from tests.synthetic_runs import constant_returns, write_run

SCORES, GAPS = "scores-easy-200-d1M", "gap-easy-200-d1M"


def write_coinrun(save_path: Path, method: str, *means: tuple[float, float]) -> None:
    """Runs with these mean returns on training and test levels; 5 counts as 0 and 10 as 1."""
    for seed, (train, test) in enumerate(means):
        returns = constant_returns(train, 7.0, test)
        write_run(save_path, returns, env_name="coinrun", algo=method, seed=seed)


def test_points_are_interquartile_means_of_normalised_returns(tmp_path: Path) -> None:
    write_coinrun(tmp_path, "bc", (9.0, 7.0), (8.0, 6.0), (8.5, 6.5))
    write_coinrun(tmp_path, "cql", (6.0, 6.0), (6.0, 5.0), (6.0, 5.5), (6.0, 9.5))
    axes = drawn(report_on(tmp_path))[SCORES].figure.axes[0]
    assert heights(axes, "bc train") == pytest.approx([0.7])  # no run of three is outside
    assert heights(axes, "bc test") == pytest.approx([0.3])
    assert heights(axes, "cql train") == pytest.approx([0.2])
    assert heights(axes, "cql test") == pytest.approx([0.15])  # of 0, 0.1, 0.2, 0.9: the middle two


def test_bars_end_where_the_intervals_of_the_comparison_do(tmp_path: Path) -> None:
    write_coinrun(tmp_path, "bc", (9.0, 7.0), (8.0, 6.0), (8.5, 6.5))
    report = report_on(tmp_path)
    figures = drawn(report)
    for name, split in ((SCORES, TRAIN), (SCORES, TEST), (GAPS, GAP)):
        told = report.comparisons[0].aggregates["bc", split].iqm
        assert told.low is not None
        bar = heights(figures[name].figure.axes[0], f"interval of bc {split}")
        assert bar == [told.low, told.high]


def test_the_gap_is_that_of_training_minus_test_run_by_run(tmp_path: Path) -> None:
    write_coinrun(tmp_path, "bc", (9.0, 7.0), (8.0, 7.5), (8.5, 6.0))
    axes = drawn(report_on(tmp_path))[GAPS].figure.axes[0]
    assert heights(axes, "bc gap") == pytest.approx([(0.4 + 0.1 + 0.5) / 3])


def test_one_seed_has_a_point_and_no_bar_and_the_caption_says_so(tmp_path: Path) -> None:
    write_coinrun(tmp_path, "bc", (9.0, 7.0))
    figures = drawn(report_on(tmp_path))
    for name in (SCORES, GAPS):
        labels = lines(figures[name].figure.axes[0])
        assert not [label for label in labels if label.startswith("interval")]
        assert "No interval: a game has one seed." in figures[name].caption
        assert "coinrun, 1 seed each" in figures[name].caption


def test_filled_points_are_training_levels_and_hollow_ones_test_levels(tmp_path: Path) -> None:
    write_coinrun(tmp_path, "bc", (9.0, 7.0))
    labelled = lines(drawn(report_on(tmp_path))[SCORES].figure.axes[0])
    train, test = labelled["bc train"], labelled["bc test"]
    assert train.get_markerfacecolor() == train.get_color() == test.get_color()
    assert test.get_markerfacecolor() == "white"
    assert train.get_xdata() < test.get_xdata()


def test_the_caption_tells_the_values_to_those_who_do_not_see_the_figure(tmp_path: Path) -> None:
    write_coinrun(tmp_path, "bc", (9.0, 7.0))
    figures = drawn(report_on(tmp_path))
    assert "Training levels: BC 0.80. Test levels: BC 0.40." in figures[SCORES].caption
    assert "Gap: BC 0.40." in figures[GAPS].caption


def test_reference_players_have_points_and_lines_across(tmp_path: Path) -> None:
    write_coinrun(tmp_path, "bc", (9.0, 7.0))
    figures = drawn(report_on(tmp_path, ["ppo", "behaviour"]))
    axes = figures[SCORES].figure.axes[0]
    # 9.55 on training and 8.67 on test levels, of 5 to 10.
    for split, score in ((TRAIN, 0.91), (TEST, 0.734)):
        assert heights(axes, f"online PPO {split}") == pytest.approx([score])
        assert [line for line in axes.lines if line.get_ydata() == pytest.approx([score] * 2)]
    assert heights(figures[GAPS].figure.axes[0], "online PPO gap") == pytest.approx([0.176])
    assert [t.get_text() for t in axes.get_xticklabels()] == [
        "BC",
        "online\nPPO",
        "behaviour\npolicy",
    ]
    assert "OpenAI's logs" in figures[SCORES].caption


def test_a_player_without_figures_for_a_game_is_not_drawn(tmp_path: Path) -> None:
    write_coinrun(tmp_path, "bc", (9.0, 7.0))
    write_run(tmp_path, constant_returns(9.0, 7.0, 6.0), env_name="plunder", algo="bc", seed=1)
    figures = drawn(report_on(tmp_path, ["behaviour"]))  # there is no policy for plunder
    assert not [label for label in lines(figures[SCORES].figure.axes[0]) if "behaviour" in label]
    assert "behaviour policy" not in figures[SCORES].caption


def test_a_game_that_a_method_lacks_does_not_count_and_is_named(tmp_path: Path) -> None:
    write_coinrun(tmp_path, "bc", (9.0, 7.0))
    write_coinrun(tmp_path, "cql", (6.0, 6.0))
    write_run(tmp_path, constant_returns(13.0, 13.0, 13.0), env_name="miner", algo="bc", seed=0)
    figures = drawn(report_on(tmp_path))
    assert heights(figures[SCORES].figure.axes[0], "bc train") == pytest.approx([0.8])
    for name in (SCORES, GAPS, "profiles-easy-200-d1M"):
        told = "Left out, because not every method has it: miner (not CQL)."
        assert told in figures[name].caption
        assert "coinrun, 1 seed each" in figures[name].caption


def test_without_a_common_game_there_are_learning_curves_but_no_scores(tmp_path: Path) -> None:
    write_coinrun(tmp_path, "bc", (9.0, 7.0))
    write_run(tmp_path, constant_returns(9.0, 9.0, 9.0), env_name="miner", algo="cql", seed=0)
    kinds = {name.split("-")[0] for name in drawn(report_on(tmp_path))}
    assert kinds == {"curves", "levels"}


def test_a_single_level_has_a_score_and_neither_gap_nor_profile(tmp_path: Path) -> None:
    write_run(tmp_path, {"train": [9.0, 8.0]}, env_name="coinrun", meta={"level": 40})
    figures = drawn(report_on(tmp_path))
    assert set(figures) == {"scores-easy-200-d1M-level40", "curves-easy-200-d1M-level40"}
    axes = figures["scores-easy-200-d1M-level40"].figure.axes[0]
    assert heights(axes, "bc train") == pytest.approx([0.7])
    assert "test" not in figures["scores-easy-200-d1M-level40"].caption


def test_the_setting_that_stands_for_a_method_is_named(tmp_path: Path) -> None:
    for lr, validation in ((0.001, 6.0), (0.005, 8.0)):
        returns = constant_returns(9.0, validation, 6.0)
        write_run(tmp_path, returns, env_name="coinrun", algo="bc", seed=0, lr=lr)
    told = drawn(report_on(tmp_path))[SCORES].caption
    assert "BC: lr 0.005, the best of 2 settings on validation levels." in told
