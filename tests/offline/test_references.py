"""The players that stand beside the runs: where their figures come from, and where they fit."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.learning import measure_random
from offline.results.collected import collect
from offline.results.comparable import Condition
from offline.results.references import RANDOM_RETURNS, behaviour, ppo, random
from tests.synthetic_runs import constant_returns, write_run

ROOT = Path(__file__).resolve().parents[2]
# As the benchmark states them: training and test levels after 25M steps.
PPO = """
    bigfish 12.09 4.78 bossfight 8.30 7.63 caveflyer 7.22 5.27 chaser 6.61 5.87
    climber 8.63 5.86 coinrun 9.55 8.67 dodgeball 5.05 1.91 fruitbot 29.68 26.53
    heist 7.93 2.75 jumper 8.60 5.74 leaper 6.18 5.82 maze 9.35 5.53
    miner 12.81 9.39 ninja 7.68 5.79 plunder 5.27 4.63 starpilot 29.98 23.79
"""


def condition(tmp_path: Path, **flags: object) -> Condition:
    """What a run with these flags learned from and is measured on."""
    write_run(tmp_path, constant_returns(1, 1, 1), epochs=1, **flags)
    return collect([tmp_path]).runs[0].setting.condition


def test_ppo_has_the_returns_of_the_benchmark(tmp_path: Path) -> None:
    words = PPO.split()
    stated = {
        game: {"train": float(train), "test": float(test)}
        for game, train, test in zip(words[::3], words[1::3], words[2::3], strict=True)
    }
    reference = ppo(condition(tmp_path))
    assert reference is not None
    assert reference.returns == stated
    # (9.55 - 5) / 5 and (12.81 - 1.5) / 11.5.
    scores = reference.scores("train", ["coinrun", "miner"], "easy")
    assert scores == pytest.approx([0.91, 0.98348], abs=1e-5)
    assert reference.scores("validation", ["coinrun"], "easy") == []


@pytest.mark.parametrize(
    "flags", [{"distribution_mode": "hard"}, {"num_levels": 100}, {"meta": {"level": 40}}]
)
def test_no_player_is_shown_on_levels_that_it_was_not_measured_on(
    tmp_path: Path, flags: dict[str, object]
) -> None:
    other = condition(tmp_path, **flags)
    assert [ppo(other), random(other), behaviour(other)] == [None, None, None]


def test_the_behaviour_policy_has_the_returns_of_its_card(tmp_path: Path) -> None:
    card = (ROOT / "online" / "policies" / "coinrun.md").read_text(encoding="utf-8")
    reference = behaviour(condition(tmp_path))
    assert reference is not None
    for split, value in reference.returns["coinrun"].items():
        assert re.search(rf"^\| {split} \| {value:.2f} ±", card, re.MULTILINE)
    assert list(reference.returns["coinrun"]) == ["train", "validation", "test"]


def test_the_bundled_policy_is_no_behaviour_policy_of_other_data(tmp_path: Path) -> None:
    assert behaviour(condition(tmp_path, dataset="data/1M_E")) is None


def test_the_random_player_agrees_with_the_benchmark_of_learning() -> None:
    page = (ROOT / "docs" / "learning.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"\| uniform random \| sampled \| (.*)", page)
    assert tuple(float(cell.split()[0]) for cell in row.split("|")[:3]) == RANDOM_RETURNS["coinrun"]


@pytest.mark.slow
def test_the_random_player_has_the_returns_that_it_gets_when_played() -> None:
    settings = argparse.Namespace(env_name="fruitbot", num_episodes=200, seed=88)
    played = measure_random(settings).returns
    means = [float(np.mean(played[split])) for split in ("train", "validation", "test")]
    assert list(RANDOM_RETURNS["fruitbot"]) == pytest.approx(means, abs=0.0051)
