"""The numbers reported for an agent: mean, standard error, normalised score, generalisation gap.

Pure functions of episode returns, so that the commands, the tables and the figures all report the
same thing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)

# (minimum, maximum) return per game. Source: Cobbe et al. 2020 (Procgen), appendix C; the minimum
# is the return of an agent that sees nothing, the maximum that of a perfect one.
SCORE_RANGES: dict[str, dict[str, tuple[float, float]]] = {
    "easy": {
        "bigfish": (1.0, 40.0),
        "bossfight": (0.5, 13.0),
        "caveflyer": (3.5, 12.0),
        "chaser": (0.5, 13.0),
        "climber": (2.0, 12.6),
        "coinrun": (5.0, 10.0),
        "dodgeball": (1.5, 19.0),
        "fruitbot": (-1.5, 32.4),
        "heist": (3.5, 10.0),
        "jumper": (1.0, 10.0),
        "leaper": (1.5, 10.0),
        "maze": (5.0, 10.0),
        "miner": (1.5, 13.0),
        "ninja": (3.5, 10.0),
        "plunder": (4.5, 30.0),
        "starpilot": (2.5, 64.0),
    },
    "hard": {
        "bigfish": (0.0, 40.0),
        "bossfight": (0.5, 13.0),
        "caveflyer": (2.0, 13.4),
        "chaser": (0.5, 14.2),
        "climber": (1.0, 12.6),
        "coinrun": (5.0, 10.0),
        "dodgeball": (1.5, 19.0),
        "fruitbot": (-0.5, 27.2),
        "heist": (2.0, 10.0),
        "jumper": (1.0, 10.0),
        "leaper": (1.5, 10.0),
        "maze": (4.0, 10.0),
        "miner": (1.5, 20.0),
        "ninja": (2.0, 10.0),
        "plunder": (3.0, 30.0),
        "starpilot": (1.5, 35.0),
    },
}


class SplitSummary(NamedTuple):
    """What the episodes of one split say about an agent.

    `mean` is the mean raw return, `standard_error` that of the mean (nan for one episode) and
    `normalised` the mean as a score (0: an agent that sees nothing, 1: a perfect one).
    """

    split: str
    episodes: int
    mean: float
    standard_error: float
    normalised: float


class Gap(NamedTuple):
    """Training minus test: raw return, its standard error, and normalised score."""

    mean: float
    standard_error: float
    normalised: float


def score_range(env_name: str, distribution_mode: str = "easy") -> tuple[float, float]:
    """The returns that count as 0 and as 1.

    Raises ValueError for a game or mode without published constants.
    """
    if distribution_mode not in SCORE_RANGES:
        raise ValueError(
            f"no score range for distribution mode {distribution_mode!r}: "
            f"there is one for {', '.join(SCORE_RANGES)}"
        )
    ranges = SCORE_RANGES[distribution_mode]
    if env_name not in ranges:
        raise ValueError(
            f"no score range for game {env_name!r}: there is one for {', '.join(ranges)}"
        )
    return ranges[env_name]


@overload
def normalised_score(returns: float, env_name: str, distribution_mode: str = ...) -> float: ...


@overload
def normalised_score(
    returns: ArrayLike, env_name: str, distribution_mode: str = ...
) -> float | NDArray[np.float64]: ...


def normalised_score(
    returns: ArrayLike, env_name: str, distribution_mode: str = "easy"
) -> float | NDArray[np.float64]:
    """(return - minimum) / (maximum - minimum), elementwise; a single return gives a float.

    Not clipped: an agent worse than the minimum scores below 0.
    """
    lowest, highest = score_range(env_name, distribution_mode)
    scores = (np.asarray(returns, dtype=np.float64) - lowest) / (highest - lowest)
    return float(scores) if scores.ndim == 0 else scores


def standard_error(values: ArrayLike) -> float:
    """The standard error of the mean of independent `values` (n,): sample std (ddof 1) / sqrt(n).

    nan for fewer than two values, which say nothing about their spread.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.size < 2:
        return float("nan")
    return float(values.std(ddof=1) / np.sqrt(values.size))


def summarise(
    returns_by_split: Mapping[str, ArrayLike], env_name: str, distribution_mode: str = "easy"
) -> dict[str, SplitSummary]:
    """Summaries of raw episode returns (n,), keyed and ordered as `returns_by_split`.

    Raises ValueError for a split without episodes.
    """
    summaries = {}
    for split, returns in returns_by_split.items():
        values = np.asarray(returns, dtype=np.float64)
        if values.size == 0:
            raise ValueError(f"the {split} split has no episodes to summarise")
        mean = float(values.mean())
        summaries[split] = SplitSummary(
            split=split,
            episodes=values.size,
            mean=mean,
            standard_error=standard_error(values),
            normalised=normalised_score(mean, env_name, distribution_mode),
        )
    return summaries


def generalisation_gap(summaries: Mapping[str, SplitSummary] | Iterable[SplitSummary]) -> Gap:
    """Train mean minus test mean; the two samples are independent, so their variances add.

    Raises ValueError if the training or the test split is missing.
    """
    every = summaries.values() if isinstance(summaries, Mapping) else summaries
    by_split = {summary.split: summary for summary in every}
    if TRAIN not in by_split or TEST not in by_split:
        raise ValueError(f"a gap needs the splits {TRAIN} and {TEST}, not {', '.join(by_split)}")
    train, test = by_split[TRAIN], by_split[TEST]
    return Gap(
        mean=train.mean - test.mean,
        standard_error=float(np.hypot(train.standard_error, test.standard_error)),
        normalised=train.normalised - test.normalised,
    )
