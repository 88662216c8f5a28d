"""Learning curves against the logs that they were drawn from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection

from offline.results.curve_figure import MAX_POINTS, mean_curve
from offline.results.method_styles import DrawnFigure
from offline.results.run_files import LearningCurve
from tests.drawn_figures import drawn, lines, report_on
from tests.synthetic_runs import constant_returns, write_run

NAME = "curves-easy-200-d1M"
RETURNS = constant_returns(9.0, 7.0, 6.0)
COLUMNS = {"train": "train_rets_mean", "test": "test_rets_mean"}


def curve(epochs: list[float], returns: list[float]) -> LearningCurve:
    return LearningCurve(np.array(epochs), np.zeros(len(epochs)), {"test": np.array(returns)})


def curves_of(save_path: Path, *references: str) -> DrawnFigure:
    return drawn(report_on(save_path, references))[NAME]


def test_the_mean_over_seeds_comes_with_its_standard_error() -> None:
    mean = mean_curve([curve([1, 2], [3.0, 5.0]), curve([1, 2], [5.0, 9.0])], "test")
    assert mean is not None and mean.errors is not None
    assert mean.epochs.tolist() == [1, 2]
    assert mean.means.tolist() == [4.0, 7.0]
    # Of two values the standard error is half their distance.
    assert mean.errors.tolist() == pytest.approx([1.0, 2.0])


def test_a_run_that_stopped_early_stays_where_it_was() -> None:
    mean = mean_curve([curve([1, 2, 3], [1.0, 2.0, 6.0]), curve([1, 2], [3.0, 4.0])], "test")
    assert mean is not None
    assert mean.means.tolist() == [2.0, 3.0, 5.0]


def test_epochs_before_the_first_evaluation_of_every_run_have_no_mean() -> None:
    mean = mean_curve([curve([1, 2, 3], [1.0, 2.0, 3.0]), curve([2, 3], [4.0, 5.0])], "test")
    assert mean is not None
    assert mean.epochs.tolist() == [2, 3]


def test_epochs_without_an_evaluation_are_passed_over() -> None:
    mean = mean_curve([curve([1, 2, 3], [1.0, float("nan"), 3.0])], "test")
    assert mean is not None
    assert (mean.epochs.tolist(), mean.means.tolist()) == ([1, 3], [1.0, 3.0])
    assert mean_curve([curve([1], [float("nan")])], "test") is None


def test_curves_are_means_of_the_logs_and_bands_their_standard_errors(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path, RETURNS, env_name="coinrun", algo="bc", seed=seed) for seed in (1, 2, 3)
    ]
    logs = pd.concat([pd.read_csv(run / "logs.csv") for run in runs]).groupby("epoch")
    axes = curves_of(tmp_path).figure.axes[0]
    for (split, column), band in zip(COLUMNS.items(), axes.collections, strict=True):
        means, errors = logs[column].mean(), logs[column].sem()
        line = lines(axes)[f"bc {split}"]
        assert line.get_xdata() == pytest.approx(means.index)
        assert line.get_ydata() == pytest.approx(means.to_numpy())
        assert isinstance(band, PolyCollection)
        xs, ys = band.get_paths()[0].vertices.T
        for epoch in means.index:
            edges = sorted(set(np.round(ys[xs == epoch], 9)))
            assert edges[0] == pytest.approx(means[epoch] - errors[epoch], abs=1e-6)
            assert edges[-1] == pytest.approx(means[epoch] + errors[epoch], abs=1e-6)


def test_training_levels_are_solid_and_test_levels_dashed(tmp_path: Path) -> None:
    write_run(tmp_path, RETURNS, env_name="coinrun", algo="bc", seed=1)
    labelled = lines(curves_of(tmp_path).figure.axes[0])
    assert labelled["bc train"].get_linestyle() == "-"
    assert labelled["bc test"].get_linestyle() == "--"
    assert labelled["bc train"].get_color() == labelled["bc test"].get_color()


def test_one_seed_has_no_band_and_the_caption_says_so(tmp_path: Path) -> None:
    write_run(tmp_path, RETURNS, env_name="coinrun", algo="bc", seed=1)
    figure = curves_of(tmp_path)
    assert not figure.figure.axes[0].collections
    assert "One seed: no band." in figure.caption


def test_every_game_that_a_method_has_gets_a_panel(tmp_path: Path) -> None:
    for game, method in (("coinrun", "bc"), ("coinrun", "cql"), ("miner", "bc"), ("maze", "bc")):
        write_run(tmp_path, RETURNS, env_name=game, algo=method, seed=1)
    figure = curves_of(tmp_path).figure
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["coinrun", "maze", "miner"]
    assert ["cql train" in lines(axes) for axes in figure.axes] == [True, False, False]


def test_a_long_curve_is_thinned_out_between_its_ends(tmp_path: Path) -> None:
    run = write_run(tmp_path, RETURNS, env_name="coinrun", algo="bc", seed=1, epochs=900)
    line = lines(curves_of(tmp_path).figure.axes[0])["bc train"]
    epochs = np.asarray(line.get_xdata(), int)
    assert (len(epochs), epochs[0], epochs[-1]) == (MAX_POINTS, 1, 900)
    logs = pd.read_csv(run / "logs.csv").set_index("epoch")
    assert line.get_ydata() == pytest.approx(logs.loc[epochs, "train_rets_mean"].to_numpy())


@pytest.mark.parametrize(("epochs", "scale"), [(400, "log"), (80, "linear")])
def test_epochs_are_logarithmic_where_methods_train_much_longer_than_others(
    tmp_path: Path, epochs: int, scale: str
) -> None:
    write_run(tmp_path, RETURNS, env_name="coinrun", algo="bc", seed=1, epochs=40)
    write_run(tmp_path, RETURNS, env_name="coinrun", algo="cql", seed=1, epochs=epochs)
    axes = curves_of(tmp_path).figure.axes[0]
    assert axes.get_xscale() == scale
    low, high = axes.get_xlim()
    assert low < 1 < epochs < high


def test_players_are_lines_at_their_return_on_test_levels(tmp_path: Path) -> None:
    write_run(tmp_path, RETURNS, env_name="coinrun", algo="bc", seed=1)
    labelled = lines(curves_of(tmp_path, "ppo", "random").figure.axes[0])
    assert list(labelled["online PPO"].get_ydata()) == [8.67, 8.67]
    assert list(labelled["random"].get_ydata()) == [2.70, 2.70]


def test_a_run_whose_log_is_broken_is_left_out_and_told(tmp_path: Path) -> None:
    run = write_run(tmp_path, RETURNS, env_name="coinrun", algo="bc", seed=1)
    (run / "logs.csv").write_text("epoch\n")
    write_run(tmp_path, RETURNS, env_name="coinrun", algo="bc", seed=2)
    figure = curves_of(tmp_path)
    assert "Runs left out because their logs.csv cannot be read: 1." in figure.caption
    assert not figure.figure.axes[0].collections


def test_without_any_log_there_are_no_curves(tmp_path: Path) -> None:
    run = write_run(tmp_path, RETURNS, env_name="coinrun", algo="bc", seed=1)
    (run / "logs.csv").unlink()
    assert NAME not in drawn(report_on(tmp_path))


def test_a_single_level_has_no_curve_of_test_levels(tmp_path: Path) -> None:
    write_run(tmp_path, {"train": [9.0, 8.0]}, env_name="coinrun", meta={"level": 40})
    figure = drawn(report_on(tmp_path))["curves-easy-200-d1M-level40"]
    assert set(lines(figure.figure.axes[0])) == {"bc train"}
    assert "test" not in figure.caption
