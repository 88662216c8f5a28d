"""Aggregates and intervals against SciPy, hand-worked cases and paper.md's constants."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from offline.results.aggregates import (
    Aggregates,
    Estimate,
    Scores,
    aggregates,
    estimate,
    iqm,
    iqm_above,
    iqm_difference,
    mean,
    median,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
    widening,
)
from offline.results.statistics import SCORE_RANGES

# As the benchmark states them, in the order of the games' names.
EASY = """
    bigfish 1,40 bossfight 0.5,13 caveflyer 3.5,12 chaser 0.5,13 climber 2,12.6 coinrun 5,10
    dodgeball 1.5,19 fruitbot -1.5,32.4 heist 3.5,10 jumper 1,10 leaper 1.5,10 maze 5,10
    miner 1.5,13 ninja 3.5,10 plunder 4.5,30 starpilot 2.5,64
"""
HARD = """
    bigfish 0,40 bossfight 0.5,13 caveflyer 2,13.4 chaser 0.5,14.2 climber 1,12.6 coinrun 5,10
    dodgeball 1.5,19 fruitbot -0.5,27.2 heist 2,10 jumper 1,10 leaper 1.5,10 maze 4,10
    miner 1.5,20 ninja 2,10 plunder 3,30 starpilot 1.5,35
"""


def random_scores(games: int, seeds: int, seed: int) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    means = generator.uniform(0, 1, games)
    return [generator.normal(m, 0.1, seeds) for m in means]


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(("mode", "stated"), [("easy", EASY), ("hard", HARD)])
def test_the_normalisation_constants_are_those_of_the_benchmark(mode: str, stated: str) -> None:
    words = stated.split()
    pairs = (tuple(float(number) for number in pair.split(",")) for pair in words[1::2])
    assert SCORE_RANGES[mode] == dict(zip(words[::2], pairs, strict=True))


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
@pytest.mark.parametrize("games", [1, 3, 16])
def test_the_iqm_is_scipys_trimmed_mean(games: int, seeds: int) -> None:
    scores = random_scores(games, seeds, seed=games)
    assert iqm(scores) == pytest.approx(stats.trim_mean(np.concatenate(scores), 0.25))


def test_the_aggregates_of_two_games_are_those_worked_by_hand() -> None:
    scores = [np.array([0.0, 0.4]), np.array([0.8, 1.2])]
    # Sorted 0 .4 .8 1.2: the middle two. Means by game .2 and 1. To a score of 1: 1, .6, .2, 0.
    assert iqm(scores) == pytest.approx(0.6)
    assert median(scores) == pytest.approx(0.6)
    assert mean(scores) == pytest.approx(0.6)
    assert optimality_gap(scores) == pytest.approx(1.8 / 4)


def test_the_median_is_over_games_of_the_mean_over_seeds() -> None:
    # Means 1, 2 and 6; the median of all runs would be 1.5.
    scores = [np.array([1.0, 1.0]), np.array([0.0, 4.0]), np.array([0.0, 12.0])]
    assert median(scores) == pytest.approx(2.0)


@pytest.mark.parametrize("statistic", [iqm, median, mean, optimality_gap])
@pytest.mark.parametrize(("games", "seeds"), [(16, 3), (4, 10)])
def test_intervals_are_scipys_widened_by_what_few_seeds_hide(
    statistic: Callable[[Scores], np.ndarray], games: int, seeds: int
) -> None:
    scores = random_scores(games, seeds, seed=seeds)
    theirs = stats.bootstrap(
        scores,
        lambda *samples, axis: statistic(samples),
        n_resamples=20_000,
        method="percentile",
        vectorized=True,
        random_state=1,
    ).confidence_interval
    mine = estimate(statistic, scores, generator())
    factor = math.sqrt(seeds / (seeds - 1)) * stats.t.ppf(0.975, games * (seeds - 1)) / 1.959964
    expected = [mine.value + factor * (end - mine.value) for end in theirs]
    width = expected[1] - expected[0]
    # Both draw at random: the ends agree to a fiftieth of the width.
    assert [mine.low, mine.high] == pytest.approx(expected, abs=0.02 * width)


def test_no_optimality_gap_is_below_zero() -> None:
    # Redrawn seeds lack 0, 0.8 or 1.6 of a score of 1; widened 9.17-fold about 0.8.
    gap = aggregates([np.array([1.2, -0.6])], generator()).optimality_gap
    assert gap == pytest.approx((0.8, 0.0, 0.8 + 0.8 * widening([2])))


@pytest.mark.parametrize("seeds", [2, 3, 4, 5, 6, 9, 33, 1001])
@pytest.mark.parametrize("games", [1, 16])
def test_the_widening_has_students_t(games: int, seeds: int) -> None:
    t = stats.t.ppf(0.975, games * (seeds - 1))
    exact = math.sqrt(seeds / (seeds - 1)) * t / stats.norm.ppf(0.975)
    assert widening([seeds] * games) == pytest.approx(exact, rel=2e-3)


def test_the_widening_is_that_of_the_games_with_few_seeds() -> None:
    # Of the variance 1/2 + 1/10 redrawing sees 1/4 + 9/100: short by 0.6 / 0.34. The degrees of
    # freedom are 0.6^2 / (1/4 + 1/100 / 9), between those of two seeds and of two games of two.
    t = stats.t.ppf(0.975, 0.36 / (0.25 + 0.01 / 9))
    assert widening([2, 10]) == pytest.approx(math.sqrt(0.6 / 0.34) * t / 1.959964, rel=0.03)


@pytest.mark.parametrize("scores", [[[0.1], [0.2], [0.3]], [[0.1, 0.2], [0.3]]])
def test_a_game_with_one_seed_leaves_no_interval(scores: list[list[float]]) -> None:
    told = aggregates([np.array(game) for game in scores], generator())
    assert all((number.low, number.high) == (None, None) for number in told)
    assert told.mean.value == pytest.approx(np.mean([np.mean(game) for game in scores]))


@pytest.mark.parametrize("scores", [[], [np.array([0.5, 0.6]), np.array([])]])
def test_no_game_or_an_empty_one_is_refused(scores: Scores) -> None:
    with pytest.raises(ValueError, match="at least one run"):
        estimate(iqm, scores, generator())


@pytest.mark.parametrize("seeds", [(3, 1), (1, 3), (2, 1), (5, 2)])
def test_every_game_counts_alike_however_many_seeds_it_has(seeds: tuple[int, int]) -> None:
    # Half of the weight is at 0.8 and half at 0.2, in the middle of it too; to 1 lack 0.2 and 0.8.
    scores = [np.full(seeds[0], 0.8), np.full(seeds[1], 0.2)]
    for statistic in (iqm, median, mean, optimality_gap):
        assert statistic(scores) == pytest.approx(0.5)


def test_a_run_at_the_edge_of_the_middle_half_counts_in_part() -> None:
    # Runs of the first game weigh 1/6, the other's 1/2. In order 0 .3 .6 .9 their weights end at
    # 1/6, 1/3, 5/6 and 1; between 1/4 and 3/4 lie 1/12 of .3 and 5/12 of .6.
    scores = [np.array([0.0, 0.3, 0.9]), np.array([0.6])]
    assert iqm(scores) == pytest.approx((0.3 / 12 + 5 * 0.6 / 12) / (1 / 2))
    draws = [np.stack([game, game + 1]) for game in scores]
    assert iqm(draws) == pytest.approx([0.55, 1.55])


def test_the_interval_of_unequal_games_is_of_seeds_drawn_within_each() -> None:
    scores = [np.array([0.0, 1.0]), np.array([2.0, 3.0, 4.0])]
    interval = estimate(mean, scores, generator())
    assert interval.value == pytest.approx((0.5 + 3.0) / 2)
    assert interval.low is not None
    assert interval.high is not None
    # Between the mean of the least and of the most of each game.
    wider = widening([2, 3])
    assert 1.75 + wider * ((0 + 2) / 2 - 1.75) <= interval.low < interval.high


def test_the_same_generator_gives_the_same_interval() -> None:
    scores = random_scores(4, 3, seed=0)
    assert aggregates(scores, generator()) == aggregates(scores, generator())
    assert isinstance(aggregates(scores, generator()), Aggregates)


def test_runs_that_all_agree_have_an_interval_of_no_width() -> None:
    assert estimate(iqm, [np.full(3, 0.5)] * 2, generator()) == Estimate(0.5, 0.5, 0.5)


def test_the_probability_of_improvement_of_three_seeds_against_three_is_that_by_hand() -> None:
    # Game 1: 1 beats nobody, 3 beats 2 and ties with 3, 5 beats 2, 3 and 4: (0 + 1.5 + 3) / 9.
    # Game 2: every run of A beats every run of B: 1. The mean of .5 and 1.
    a = [np.array([1.0, 3.0, 5.0]), np.array([7.0, 8.0, 9.0])]
    b = [np.array([2.0, 3.0, 4.0]), np.array([1.0, 2.0, 3.0])]
    first = probability_of_improvement(a[:1], b[:1], generator())
    assert first.value == pytest.approx(4.5 / 9)
    assert probability_of_improvement(a, b, generator()).value == pytest.approx(0.75)
    assert probability_of_improvement(b, a, generator()).value == pytest.approx(0.25)


def test_the_probability_of_improvement_is_the_mann_whitney_statistic() -> None:
    a, b = random_scores(1, 4, seed=5)[0], random_scores(1, 6, seed=5)[0]
    expected = stats.mannwhitneyu(a, b).statistic / 24
    assert probability_of_improvement([a], [b], generator()).value == pytest.approx(expected)


def test_the_interval_of_a_probability_stays_one() -> None:
    a, b = random_scores(2, 3, seed=6), random_scores(2, 3, seed=6)
    _, low, high = probability_of_improvement([a[0] + 0.1, a[1]], b, generator())
    assert low is not None
    assert high is not None
    assert 0 <= low < high <= 1


@pytest.mark.parametrize(
    ("seeds_of_a", "seeds_of_b", "pairs"),
    [((3,), (3,), 3), ((3,), (5,), 3), ((3, 3), (3, 3), 6), ((2, 9), (9, 9), 4)],
)
def test_wins_of_all_runs_leave_a_probability_open_below(
    seeds_of_a: tuple[int, ...], seeds_of_b: tuple[int, ...], pairs: int
) -> None:
    a = [np.arange(seeds) + 10.0 for seeds in seeds_of_a]
    b = [np.arange(seeds) + 0.0 for seeds in seeds_of_b]
    least = stats.binomtest(pairs, pairs).proportion_ci(0.95, "exact").low
    assert probability_of_improvement(a, b, generator()) == pytest.approx((1.0, least, 1.0))
    assert probability_of_improvement(b, a, generator()) == pytest.approx((0.0, 0.0, 1 - least))


def test_one_seed_leaves_a_probability_without_interval() -> None:
    assert probability_of_improvement(
        [np.array([1.0])], [np.array([0.0, 2.0])], generator()
    ) == Estimate(0.5)


def test_methods_with_different_games_are_not_compared() -> None:
    with pytest.raises(ValueError, match="compare on common ones"):
        probability_of_improvement([np.ones(2)], [np.ones(2)] * 2, generator())


def test_the_interval_of_a_difference_has_the_noise_of_both() -> None:
    a, b = random_scores(16, 3, seed=7), random_scores(16, 3, seed=8)
    difference = iqm_difference(a, b, generator())
    assert difference.value == pytest.approx(float(iqm(a) - iqm(b)))
    one, other = (iqm_above(scores, 0.0, generator()) for scores in (a, b))

    def half(interval: Estimate) -> float:
        assert interval.low is not None
        assert interval.high is not None
        return (interval.high - interval.low) / 2

    assert half(difference) == pytest.approx(math.hypot(half(one), half(other)), rel=0.1)


def test_a_difference_to_a_certain_number_shifts_the_interval() -> None:
    scores = random_scores(4, 3, seed=9)
    plain, shifted = estimate(iqm, scores, generator()), iqm_above(scores, 0.25, generator())
    assert shifted == pytest.approx([end - 0.25 for end in plain])  # type: ignore[operator]


def test_a_profile_is_the_share_of_runs_above_each_score_with_games_alike() -> None:
    # Above 0.3 lie half of the first game's runs and all of the second's, and 0.6 is not above 0.6.
    scores = [np.array([0.2, 0.4]), np.array([0.6])]
    profile = performance_profile(scores, np.array([0.0, 0.3, 0.5, 0.6]), generator())
    assert profile.shares.tolist() == [1.0, 0.75, 0.5, 0.0]
    assert (profile.low, profile.high) == (None, None)


def test_the_band_of_a_profile_is_the_widened_interval_of_a_binomial() -> None:
    # 20 of 40 runs are above the first score, so of 40 redrawn ones a binomial number is.
    scores = [np.repeat([0.0, 1.0], 20)]
    profile = performance_profile(scores, np.array([0.5, 2.0]), generator())
    low, high = stats.binom.ppf([0.025, 0.975], 40, 0.5) / 40
    wider = widening([40])
    assert profile.low is not None and profile.high is not None
    assert profile.low == pytest.approx([0.5 + wider * (low - 0.5), 0.0])
    assert profile.high == pytest.approx([0.5 + wider * (high - 0.5), 0.0])


def test_the_band_of_a_profile_ends_at_none_and_all_of_the_runs() -> None:
    profile = performance_profile([np.array([0.0, 1.0])], np.array([0.5]), generator())
    assert (profile.low, profile.high) == (np.array([0.0]), np.array([1.0]))


def test_a_profile_without_runs_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one run each"):
        performance_profile([], np.array([0.5]), generator())
