"""When an interval shows that a difference is what a claim wants it to be.

Three outcomes: shown, shown to be otherwise, or neither. An estimate without an interval shows
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from offline.results.aggregates import Estimate

SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"


class Evidence(NamedTuple):
    """A difference of IQMs, what the claim wants of it, and whether its interval shows that."""

    what: str
    estimate: Estimate
    wanted: str
    outcome: str


def below(what: str, difference: Estimate, bound: float = 0.0) -> Evidence:
    """Wanted: the difference is less than `bound`."""
    low, high = difference.low, difference.high
    outcome = UNDECIDED
    if low is not None and high is not None:
        outcome = SUPPORTED if high < bound else CONTRADICTED if low > bound else UNDECIDED
    return Evidence(what, difference, f"below {bound:g}", outcome)


def above(what: str, difference: Estimate, bound: float = 0.0) -> Evidence:
    """Wanted: the difference is more than `bound`."""
    low, high = difference.low, difference.high
    outcome = UNDECIDED
    if low is not None and high is not None:
        outcome = SUPPORTED if low > bound else CONTRADICTED if high < bound else UNDECIDED
    return Evidence(what, difference, f"above {bound:g}", outcome)


def within(what: str, difference: Estimate, margin: float) -> Evidence:
    """Wanted: the difference is less than `margin`, up or down."""
    low, high = difference.low, difference.high
    outcome = UNDECIDED
    if low is not None and high is not None:
        inside, outside = -margin < low and high < margin, low > margin or high < -margin
        outcome = SUPPORTED if inside else CONTRADICTED if outside else UNDECIDED
    return Evidence(what, difference, f"between {-margin:g} and {margin:g}", outcome)


def all_of(outcomes: Iterable[str]) -> str:
    """Supported if all are, contradicted if one is; undecided without any."""
    found = set(outcomes)
    if CONTRADICTED in found:
        return CONTRADICTED
    return SUPPORTED if found == {SUPPORTED} else UNDECIDED


def any_of(outcomes: Iterable[str]) -> str:
    """Supported if one is, contradicted if all are; undecided without any."""
    found = set(outcomes)
    if SUPPORTED in found:
        return SUPPORTED
    return CONTRADICTED if found == {CONTRADICTED} else UNDECIDED
