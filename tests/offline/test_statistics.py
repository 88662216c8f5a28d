from __future__ import annotations

import math

import numpy as np
import pytest

from common.envs import GAMES
from offline.results.statistics import (
    SCORE_RANGES,
    SplitSummary,
    generalisation_gap,
    normalised_score,
    standard_error,
    summarise,
)


def test_every_game_has_a_score_range_in_both_modes() -> None:
    assert {mode: set(ranges) for mode, ranges in SCORE_RANGES.items()} == {
        "easy": set(GAMES),
        "hard": set(GAMES),
    }
    assert all(low < high for ranges in SCORE_RANGES.values() for low, high in ranges.values())


def test_the_score_is_0_at_the_minimum_1_at_the_maximum_and_linear_between() -> None:
    # starpilot easy: 2.5 .. 64, so 33.25 is half way.
    scores = normalised_score([2.5, 33.25, 64.0], "starpilot", "easy")
    np.testing.assert_allclose(scores, [0.0, 0.5, 1.0])


def test_the_score_depends_on_the_mode() -> None:
    # maze: easy 5 .. 10, hard 4 .. 10.
    assert normalised_score(7.0, "maze", "easy") == pytest.approx(0.4)
    assert normalised_score(7.0, "maze", "hard") == pytest.approx(0.5)


def test_the_score_is_not_clipped() -> None:
    # coinrun easy: 5 .. 10.
    assert normalised_score(0.0, "coinrun") == pytest.approx(-1.0)


@pytest.mark.parametrize(
    ("env_name", "mode", "named"), [("pong", "easy", "pong"), ("maze", "memory", "memory")]
)
def test_an_unknown_game_or_mode_is_refused_by_name(env_name: str, mode: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        normalised_score(1.0, env_name, mode)


def test_the_standard_error_uses_the_sample_deviation() -> None:
    # Mean 5, squared deviations 9 + 1 + 1 + 9 = 20, variance 20 / 3, error sqrt(20 / 3 / 4).
    assert standard_error([2.0, 4.0, 6.0, 8.0]) == pytest.approx(math.sqrt(5 / 3))


@pytest.mark.parametrize("values", [[], [3.0]])
def test_fewer_than_two_values_have_no_standard_error(values: list[float]) -> None:
    assert math.isnan(standard_error(values))


def test_a_summary_holds_count_mean_error_and_score() -> None:
    # coinrun easy: 5 .. 10. Returns 10, 10, 10, 0: mean 7.5, variance 75 / 3 = 25, error 5 / 2.
    summaries = summarise({"train": np.array([10, 10, 10, 0], np.float32)}, "coinrun", "easy")
    assert summaries == {"train": SplitSummary("train", 4, 7.5, 2.5, 0.5)}


def test_a_split_without_episodes_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="validation"):
        summarise({"train": [1.0], "validation": []}, "coinrun")


def test_the_gap_is_train_minus_test_and_the_errors_add_in_quadrature() -> None:
    summaries = {
        "train": SplitSummary("train", 100, 9.0, 0.3, 0.8),
        "validation": SplitSummary("validation", 100, 0.0, 9.9, 0.0),
        "test": SplitSummary("test", 100, 7.0, 0.4, 0.4),
    }
    expected = (2.0, 0.5, 0.4)
    assert generalisation_gap(summaries) == pytest.approx(expected)
    assert generalisation_gap(list(summaries.values())) == pytest.approx(expected)


def test_a_gap_without_a_test_split_is_refused() -> None:
    with pytest.raises(ValueError, match="test"):
        generalisation_gap({"train": SplitSummary("train", 1, 1.0, 0.1, 0.1)})
