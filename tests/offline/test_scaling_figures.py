"""Score against the number of training levels and the size of the data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.drawn_figures import drawn, heights, lines, report_on
from tests.synthetic_runs import constant_returns, write_run

RETURNS = constant_returns(9.0, 7.0, 6.0)
BY_LEVELS, BY_SIZE = "by-num_levels", "by-dataset_size"


def write_coinrun(save_path: Path, train: float, test: float, **settings: object) -> None:
    """A run with these mean returns; 5 counts as 0 and 10 as 1."""
    given = {"env_name": "coinrun", "algo": "bc", "seed": 1, **settings}
    if "num_levels" in given:
        given.setdefault("dataset", f"data/levels_{given['num_levels']}")
    write_run(save_path, constant_returns(train, 7.0, test), **given)


def test_scores_stand_at_the_number_of_levels_of_their_runs(tmp_path: Path) -> None:
    write_coinrun(tmp_path, 9.0, 6.0, num_levels=50)
    write_coinrun(tmp_path, 8.5, 7.0, num_levels=200)
    write_coinrun(tmp_path, 8.0, 8.0, num_levels=1000)
    training, test = drawn(report_on(tmp_path))[BY_LEVELS].figure.axes
    assert lines(training)["bc train"].get_xdata() == pytest.approx([50, 200, 1000])
    assert heights(training, "bc train") == pytest.approx([0.8, 0.7, 0.6])
    assert heights(test, "bc test") == pytest.approx([0.2, 0.4, 0.6])
    assert [text.get_text() for text in test.get_xticklabels()] == ["50", "200", "1K"]


def test_scores_stand_at_the_size_of_the_data_of_their_runs(tmp_path: Path) -> None:
    write_coinrun(tmp_path, 9.0, 6.0, dataset_size=100_000)
    write_coinrun(tmp_path, 8.5, 7.0, dataset_size=10_000_000)
    figures = drawn(report_on(tmp_path))
    assert BY_LEVELS not in figures
    axes = figures[BY_SIZE].figure.axes[0]
    assert lines(axes)["bc train"].get_xdata() == pytest.approx([1e5, 1e7])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["100K", "10M"]


def test_runs_on_other_data_of_one_size_are_not_in_the_line(tmp_path: Path) -> None:
    for folder, size, test in (("10M", 10**6, 6.0), ("1M_E", 10**6, 9.0), ("10M", 10**7, 7.0)):
        write_coinrun(tmp_path, 9.0, test, dataset=f"data/{folder}", dataset_size=size)
    axes = drawn(report_on(tmp_path))[BY_SIZE].figure.axes[1]
    assert lines(axes)["bc test"].get_xdata() == pytest.approx([1e6, 1e7])
    assert heights(axes, "bc test") == pytest.approx([0.2, 0.4])


def test_runs_on_the_same_data_are_no_study_of_levels(tmp_path: Path) -> None:
    for levels, test in ((50, 6.0), (200, 7.0)):
        write_coinrun(tmp_path, 9.0, test, num_levels=levels, dataset="data/1M_E")
    assert BY_LEVELS not in drawn(report_on(tmp_path))


def test_runs_that_vary_in_neither_have_no_such_figure(tmp_path: Path) -> None:
    write_coinrun(tmp_path, 9.0, 6.0, num_levels=50)
    write_coinrun(tmp_path, 9.0, 6.0, num_levels=50, seed=2)
    write_coinrun(tmp_path, 9.0, 6.0, num_levels=50, algo="cql")
    assert not [name for name in drawn(report_on(tmp_path)) if name.startswith("by-")]


def test_methods_stand_apart_by_a_few_percent(tmp_path: Path) -> None:
    for method in ("bc", "cql", "iql"):
        for levels in (50, 200):
            write_coinrun(tmp_path, 9.0, 6.0, num_levels=levels, algo=method)
    labelled = lines(drawn(report_on(tmp_path))[BY_LEVELS].figure.axes[0])
    first, middle, last = (
        np.asarray(labelled[f"{method} train"].get_xdata()) for method in ("bc", "cql", "iql")
    )
    assert middle == pytest.approx([50, 200])
    assert first / middle == pytest.approx([1 / 1.03] * 2)
    assert last / middle == pytest.approx([1.03] * 2)


def test_only_games_count_that_all_of_the_runs_have(tmp_path: Path) -> None:
    for levels in (50, 200):
        write_coinrun(tmp_path, 9.0, 6.0, num_levels=levels)
        write_coinrun(tmp_path, 8.0, 6.0, num_levels=levels, algo="cql")
    write_coinrun(tmp_path, 13.0, 13.0, num_levels=200, env_name="miner")
    figure = drawn(report_on(tmp_path))[BY_LEVELS]
    assert heights(figure.figure.axes[0], "bc train") == pytest.approx([0.8, 0.8])
    assert "coinrun, 1 seed each" in figure.caption


def test_runs_without_a_common_game_have_no_such_figure(tmp_path: Path) -> None:
    write_coinrun(tmp_path, 9.0, 6.0, num_levels=50)
    write_coinrun(tmp_path, 9.0, 6.0, num_levels=200, env_name="miner")
    assert BY_LEVELS not in drawn(report_on(tmp_path))


def test_bars_need_two_seeds_and_the_caption_says_so(tmp_path: Path) -> None:
    for levels, seeds in ((50, (1, 2, 3)), (200, (1,))):
        for seed in seeds:
            write_coinrun(tmp_path, 8.0 + 0.1 * seed, 6.0, num_levels=levels, seed=seed)
    figure = drawn(report_on(tmp_path))[BY_LEVELS]
    bars = [line for line in figure.figure.axes[0].lines if "interval" in str(line.get_label())]
    (bar,) = bars
    low, high = np.asarray(bar.get_ydata(), float)
    assert low < 0.64 < high
    assert bar.get_xdata() == pytest.approx([50, 50])
    assert "none where a game has one seed" in figure.caption
    assert "1 to 3 seeds each" in figure.caption


def test_mixed_checkpoints_are_told_in_the_caption(tmp_path: Path) -> None:
    for levels, checkpoint in ((50, "final"), (200, "best")):
        told = {"checkpoint": checkpoint, "dataset": f"data/levels_{levels}"}
        write_run(tmp_path, RETURNS, num_levels=levels, epochs=1, **told)
    caption = drawn(report_on(tmp_path))[BY_LEVELS].caption
    assert "Mixed checkpoints (best: BC; final: BC): evaluate all runs alike." in caption


def test_hard_levels_are_a_series_of_their_own(tmp_path: Path) -> None:
    for mode in ("easy", "hard"):
        for levels in (50, 200):
            write_coinrun(tmp_path, 9.0, 6.0, num_levels=levels, distribution_mode=mode)
    figures = drawn(report_on(tmp_path))
    titles = {name: f.title for name, f in figures.items() if name.startswith("by-")}
    fixed = "up to 1,000,000 transitions"
    assert titles == {
        BY_LEVELS: f"Score against number of training levels: easy, {fixed}",
        f"{BY_LEVELS}-2": f"Score against number of training levels: hard, {fixed}",
    }


def test_a_series_is_titled_by_what_its_runs_have_in_common(tmp_path: Path) -> None:
    for kind in ("", "_S"):
        for size in (1000, 2000):
            for levels in (50, 200):
                settings = {"num_levels": levels, "dataset": f"data/{levels}{kind}"}
                write_coinrun(tmp_path, 9.0, 6.0, dataset_size=size, **settings)
    figures = drawn(report_on(tmp_path))
    titles = [figures[name].title for name in figures if name.startswith("by-")]
    by_levels = [
        f"easy, up to {size} transitions{kind}"
        for size in ("1,000", "2,000")
        for kind in ("", ", suboptimal data")
    ]
    by_size = [f"easy, {n} levels, data/{n}{kind}" for n in (50, 200) for kind in ("", "_S")]
    expected = [
        *(f"Score against number of training levels: {told}" for told in by_levels),
        *(f"Score against transitions of data: {told}" for told in by_size),
    ]
    assert sorted(titles) == sorted(expected)


def test_players_of_a_whole_series_are_lines(tmp_path: Path) -> None:
    for size in (100_000, 1_000_000):
        write_coinrun(tmp_path, 9.0, 6.0, dataset_size=size)
    write_coinrun(tmp_path, 9.0, 6.0, num_levels=50)
    figures = drawn(report_on(tmp_path, ["ppo"]))
    training, test = figures[BY_SIZE].figure.axes
    assert heights(training, "online PPO") == pytest.approx([0.91] * 2)
    assert heights(test, "online PPO") == pytest.approx([0.734] * 2)
    # It was trained on 200 levels, not on 50.
    assert "online PPO" not in lines(figures[BY_LEVELS].figure.axes[0])
