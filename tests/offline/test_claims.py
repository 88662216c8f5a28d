"""The rules that turn intervals into verdicts, and each claim on runs that settle it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from offline.results.aggregates import Estimate
from offline.results.claims import CLAIMS, Verdict
from offline.results.claims_file import claims_markdown
from offline.results.evidence import above, all_of, any_of, below, within
from offline.results.reporting import make_report
from offline.results.statistics import score_range
from tests.synthetic_runs import constant_returns, write_run

YES, NO, OPEN = "supported", "contradicted", "undecided"
ALL = ("bc", "bcq", "bct", "cql", "dt", "iql")
Scores = Mapping[str, tuple[float, float]]


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [(-0.2, -0.1, YES), (0.1, 0.2, NO), (-0.1, 0.1, OPEN), (-0.1, 0.0, OPEN), (None, None, OPEN)],
)
def test_below_needs_the_whole_interval_on_that_side(
    low: float | None, high: float | None, outcome: str
) -> None:
    assert below("it", Estimate(0.0, low, high)).outcome == outcome


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [(0.11, 0.2, YES), (0.0, 0.09, NO), (0.05, 0.2, OPEN), (None, None, OPEN)],
)
def test_above_a_bound_needs_the_whole_interval_on_that_side(
    low: float | None, high: float | None, outcome: str
) -> None:
    assert above("it", Estimate(0.0, low, high), 0.1).outcome == outcome


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (-0.04, 0.04, YES),
        (0.06, 0.1, NO),
        (-0.1, -0.06, NO),
        (-0.06, 0.0, OPEN),
        (-1.0, 1.0, OPEN),
        (None, None, OPEN),
    ],
)
def test_within_needs_the_whole_interval_inside(
    low: float | None, high: float | None, outcome: str
) -> None:
    assert within("it", Estimate(0.0, low, high), 0.05).outcome == outcome


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [([YES, YES], YES), ([YES, OPEN, NO], NO), ([YES, OPEN], OPEN), ([], OPEN)],
)
def test_all_of(outcomes: list[str], expected: str) -> None:
    assert all_of(outcomes) == expected


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [([NO, YES, OPEN], YES), ([NO, NO], NO), ([NO, OPEN], OPEN), ([], OPEN)],
)
def test_any_of(outcomes: list[str], expected: str) -> None:
    assert any_of(outcomes) == expected


def write_scores(
    save_path: Path, scores: Scores, noise: float = 0.001, seeds: int = 3, **flags: object
) -> None:
    """Runs on coinrun and miner whose normalised train and test scores are about `scores`."""
    for game in ("coinrun", "miner"):
        low, high = score_range(game)
        for method, pair in scores.items():
            for seed in range(seeds):
                shifted = np.array(pair) + noise * (seed - 1)
                train, test = low + (high - low) * shifted
                returns = constant_returns(train, test, test)
                write_run(
                    save_path, returns, env_name=game, algo=method, seed=seed, epochs=1, **flags
                )


def verdict(save_path: Path, claim: str) -> Verdict:
    """The only verdict on a claim."""
    report = make_report([save_path], [], np.random.default_rng(0))
    (found,) = [each for each in report.verdicts if each.claim == claim]
    return found


def test_c1_is_supported_if_every_method_is_below_ppo_on_both_splits(tmp_path: Path) -> None:
    # PPO on coinrun and miner: .91 and .98 on training levels, .73 and .69 on test levels.
    write_scores(tmp_path, {"bc": (0.8, 0.6), "iql": (0.7, 0.5)})
    found = verdict(tmp_path, "C1")
    assert found.outcome == YES
    ppo_test = ((8.67 - 5) / 5 + (9.39 - 1.5) / 11.5) / 2
    (bc_test,) = [e for e in found.evidence if e.what.startswith("BC minus online PPO, test")]
    assert bc_test.estimate.value == pytest.approx(0.6 - ppo_test)
    assert found.missing == ["14 of the 16 games"]


def test_c1_is_contradicted_by_one_method_above_ppo_on_one_split(tmp_path: Path) -> None:
    write_scores(tmp_path, {"bc": (0.8, 0.75), "iql": (0.7, 0.5)})
    found = verdict(tmp_path, "C1")
    assert found.outcome == NO
    assert found.deciding is not None
    assert found.deciding.what == "BC minus online PPO, test levels, 2 games"


def test_c1_is_undecided_if_an_interval_holds_ppo(tmp_path: Path) -> None:
    write_scores(tmp_path, {"bc": (0.8, 0.7), "iql": (0.7, 0.5)}, noise=0.1)
    assert verdict(tmp_path, "C1").outcome == OPEN


def test_c1_needs_ppo_on_the_same_levels(tmp_path: Path) -> None:
    write_scores(tmp_path, {"bc": (0.8, 0.6)}, num_levels=100)
    found = verdict(tmp_path, "C1")
    assert found.outcome == OPEN
    assert "online PPO" in found.missing[0]


def test_c2_is_supported_if_bc_is_above_every_other_method(tmp_path: Path) -> None:
    write_scores(tmp_path, {name: (0.8, 0.6 if name == "bc" else 0.5) for name in ALL})
    found = verdict(tmp_path, "C2")
    assert found.outcome == YES
    assert len(found.evidence) == 5


def test_c2_is_contradicted_by_one_better_method_even_if_others_are_missing(
    tmp_path: Path,
) -> None:
    write_scores(tmp_path, {"bc": (0.8, 0.5), "iql": (0.8, 0.6)})
    found = verdict(tmp_path, "C2")
    assert found.outcome == NO
    assert found.missing[0] == "runs of BCQ, BCT, CQL, DT"


def test_c2_is_undecided_while_a_method_is_missing(tmp_path: Path) -> None:
    write_scores(tmp_path, {"bc": (0.8, 0.6), "iql": (0.8, 0.5)})
    found = verdict(tmp_path, "C2")
    assert found.outcome == OPEN
    assert [e.outcome for e in found.evidence] == [YES]


def test_c2_is_undecided_without_a_second_seed(tmp_path: Path) -> None:
    scores = {name: (0.8, 0.6 if name == "bc" else 0.1) for name in ALL}
    write_scores(tmp_path, scores, seeds=1)
    found = verdict(tmp_path, "C2")
    assert found.outcome == OPEN
    assert "one seed has no interval" in found.missing[0]


@pytest.mark.parametrize(
    ("cql", "noise", "outcome"), [(0.4, 0.001, YES), (0.55, 0.001, NO), (0.5, 0.02, OPEN)]
)
def test_c3_asks_whether_bc_leads_by_a_tenth(
    tmp_path: Path, cql: float, noise: float, outcome: str
) -> None:
    write_scores(tmp_path, {"bc": (0.6, 0.6), "cql": (cql, cql)}, noise)
    assert verdict(tmp_path, "C3").outcome == outcome


@pytest.mark.parametrize(
    ("bc", "iql", "noise", "outcome"),
    [
        ((0.5, 0.4), (0.6, 0.4), 0.001, YES),  # better on train, no better on test
        ((0.5, 0.4), (0.6, 0.5), 0.001, NO),  # better on test as well
        ((0.6, 0.4), (0.5, 0.4), 0.001, NO),  # not even better on train
        ((0.5, 0.4), (0.6, 0.4), 0.1, OPEN),
    ],
)
def test_c4_asks_for_a_lead_on_training_levels_only(
    tmp_path: Path,
    bc: tuple[float, float],
    iql: tuple[float, float],
    noise: float,
    outcome: str,
) -> None:
    rl = {"bcq": (0.3, 0.2), "cql": (0.3, 0.2), "iql": iql}
    write_scores(tmp_path, {"bc": bc, **rl}, noise, dataset="data/1M_S")
    assert verdict(tmp_path, "C4").outcome == outcome


def test_c4_needs_suboptimal_data(tmp_path: Path) -> None:
    write_scores(tmp_path, {"bc": (0.5, 0.4), "iql": (0.6, 0.4)}, dataset="data/1M_E")
    found = verdict(tmp_path, "C4")
    assert (found.outcome, found.evidence) == (OPEN, ())
    assert "suboptimal data" in found.missing[0]


@pytest.mark.parametrize(
    ("few", "many", "noise", "outcome"),
    [
        ((0.6, 0.3), (0.6, 0.4), 0.001, YES),
        ((0.6, 0.3), (0.6, 0.2), 0.001, NO),  # test falls
        ((0.6, 0.3), (0.4, 0.4), 0.001, NO),  # train is not flat
        ((0.6, 0.3), (0.6, 0.4), 0.1, OPEN),
    ],
)
def test_c5_asks_for_flat_training_and_rising_test_returns(
    tmp_path: Path,
    few: tuple[float, float],
    many: tuple[float, float],
    noise: float,
    outcome: str,
) -> None:
    write_scores(tmp_path, {"bc": few}, noise, num_levels=10, dataset="data/levels_10")
    write_scores(tmp_path, {"bc": many}, noise, num_levels=200, dataset="data/levels_200")
    found = verdict(tmp_path, "C5")
    assert found.outcome == outcome
    assert found.evidence[1].what == "BC with num_levels 200 minus 10, test levels, 2 games"
    assert found.evidence[1].estimate.value == pytest.approx(many[1] - few[1])


@pytest.mark.parametrize(
    ("more", "noise", "outcome"), [(0.4, 0.001, YES), (0.5, 0.001, NO), (0.45, 0.02, OPEN)]
)
def test_c6_asks_whether_more_data_changes_less_than_a_twentieth(
    tmp_path: Path, more: float, noise: float, outcome: str
) -> None:
    write_scores(tmp_path, {"bc": (0.6, 0.4)}, noise, dataset_size=1_000_000)
    write_scores(tmp_path, {"bc": (0.6, more)}, noise, dataset_size=10_000_000)
    found = verdict(tmp_path, "C6")
    assert found.outcome == outcome
    (evidence,) = found.evidence
    assert evidence.what == (
        "BC with dataset_size 10,000,000 minus 1,000,000, test levels, 2 games"
    )


def test_c6_is_judged_on_the_same_data_where_other_data_are_as_large(tmp_path: Path) -> None:
    million = 1_000_000
    for folder, size, test in (("10M", 1, 0.4), ("1000K", 1, 0.2), ("10M", 10, 0.4)):
        flags = {"dataset": f"data/{folder}", "dataset_size": size * million}
        write_scores(tmp_path, {"bc": (0.6, test)}, **flags)
    found = verdict(tmp_path, "C6")
    assert found.outcome == YES
    assert found.evidence[0].estimate.value == pytest.approx(0.0)
    assert "1000K" not in found.where


@pytest.mark.parametrize("other", ["25M", "1M_S"])
def test_c6_is_not_judged_between_data_of_other_policies(tmp_path: Path, other: str) -> None:
    # 25M is the whole log of PPO, which was weak at first.
    write_scores(tmp_path, {"bc": (0.6, 0.4)}, dataset="data/1M_E", dataset_size=1_000_000)
    write_scores(tmp_path, {"bc": (0.6, 0.4)}, dataset=f"data/{other}", dataset_size=25_000_000)
    assert verdict(tmp_path, "C6").evidence == ()


def test_a_difference_in_both_levels_and_size_settles_neither_claim(tmp_path: Path) -> None:
    write_scores(tmp_path, {"bc": (0.6, 0.3)}, num_levels=10, dataset_size=1000)
    write_scores(tmp_path, {"bc": (0.6, 0.4)}, num_levels=200, dataset_size=2000)
    assert verdict(tmp_path, "C5").evidence == ()
    assert verdict(tmp_path, "C6").evidence == ()


def test_every_claim_is_judged_and_written_with_what_is_missing(tmp_path: Path) -> None:
    write_scores(tmp_path, {"bc": (0.8, 0.6), "cql": (0.4, 0.2)})
    report = make_report([tmp_path], [], np.random.default_rng(0))
    assert [each.claim for each in report.verdicts] == list(CLAIMS)
    text = claims_markdown(report.verdicts)
    assert "## C3 supported: CQL is far below BC" in text
    assert "BC minus CQL, train levels, 2 games" in text
    assert "- Missing: runs of BCQ, BCT, DT, IQL; 14 of the 16 games." in text
