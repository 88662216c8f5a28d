"""How often the intervals of a report hold the truth, in simulated studies."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from offline.results.aggregates import Scores, estimate, iqm, mean, median, optimality_gap


def coverage(statistic: Callable[[Scores], np.ndarray], games: int, seeds: int) -> float:
    """How often, of 1000 simulated studies, the interval holds the mean over very many of them."""
    world = np.random.default_rng(3)
    means, noise = world.uniform(0, 1, games), world.uniform(0.05, 0.15, games)
    many = world.normal(means[:, None, None], noise[:, None, None], (games, 20_000, seeds))
    truth = statistic(list(many)).mean()
    held = 0
    for _ in range(1000):
        scores = [world.normal(m, n, seeds) for m, n in zip(means, noise, strict=True)]
        interval = estimate(statistic, scores, world)
        assert interval.low is not None
        assert interval.high is not None
        held += interval.low <= truth <= interval.high
    return held / 1000


@pytest.mark.parametrize(
    ("statistic", "games", "seeds"),
    [
        *(
            (statistic, games, 3)
            for statistic in (iqm, mean, optimality_gap)
            for games in (16, 3, 1)
        ),
        (median, 16, 3),
    ],
)
def test_95_in_100_intervals_hold_the_truth(
    statistic: Callable[[Scores], np.ndarray],
    games: int,
    seeds: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("offline.results.aggregates.DRAWS", 1000)
    assert 0.93 <= coverage(statistic, games, seeds) <= 0.97


def test_the_interval_of_a_median_of_few_games_is_too_narrow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As the module's docstring and docs/sweeps.md warn.
    monkeypatch.setattr("offline.results.aggregates.DRAWS", 1000)
    assert 0.85 <= coverage(median, games=3, seeds=3) <= 0.91
