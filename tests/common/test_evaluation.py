"""A policy is measured on the levels of each split, the same ones each time, and filed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.errors import ToolkitError
from common.evaluation import (
    Origin,
    Results,
    evaluate,
    mean_returns,
    read_episodes,
    read_origin,
    returns_by_split,
    write_episodes,
    write_evaluation,
    write_origin,
)
from common.rollout import EpisodeResult

RESULTS: Results = {
    "train": [EpisodeResult(3, 10.0, 50), EpisodeResult(199, 5.0, 120)],
    "validation": [EpisodeResult(249, -1.5, 7)],
    "test": [EpisodeResult(2147483646, 0.1, 1000), EpisodeResult(12, 0.2, 3)],
}


class UniformPolicy:
    """Random actions, each environment by its own generator."""

    def reset(self, num_envs: int, seed: int) -> None:
        self.generators = [np.random.default_rng([seed, i]) for i in range(num_envs)]

    def act(self, observations: np.ndarray, env_ids: np.ndarray) -> np.ndarray:
        return np.array([self.generators[i].integers(15) for i in env_ids])

    def observe(
        self, actions: np.ndarray, rewards: np.ndarray, dones: np.ndarray, env_ids: np.ndarray
    ) -> None:
        pass


def measure(seed: int = 5, num_episodes: int = 8, num_levels: int = 200) -> Results:
    return evaluate(
        UniformPolicy(),
        env_name="dodgeball",
        distribution_mode="easy",
        num_levels=num_levels,
        num_episodes=num_episodes,
        seed=seed,
    )


@pytest.fixture(scope="module")
def measured() -> Results:
    return measure()


def test_each_split_gets_the_episodes_asked_for(measured: Results) -> None:
    assert {split: len(episodes) for split, episodes in measured.items()} == {
        "train": 8,
        "validation": 8,
        "test": 8,
    }


def test_the_levels_are_those_of_the_splits(measured: Results) -> None:
    levels = {split: [e.level_seed for e in episodes] for split, episodes in measured.items()}
    assert all(0 <= level <= 199 for level in levels["train"])
    assert all(200 <= level <= 249 for level in levels["validation"])
    assert all(level >= 250 for level in levels["test"])  # all 2^31 but a few
    assert max(levels["test"]) > 2**24


def test_measuring_twice_gives_the_same_results(measured: Results) -> None:
    assert measure() == measured


def test_another_seed_measures_on_other_levels(measured: Results) -> None:
    other = measure(seed=6)
    for split in ("train", "validation", "test"):
        assert [e.level_seed for e in other[split]] != [e.level_seed for e in measured[split]]


def test_fewer_training_levels_move_the_validation_levels_up() -> None:
    results = measure(num_levels=10, num_episodes=4)
    assert all(e.level_seed <= 9 for e in results["train"])
    assert all(10 <= e.level_seed <= 59 for e in results["validation"])


def test_an_evaluation_can_be_left_early() -> None:
    def before_step() -> None:
        raise ToolkitError("stopped")

    with pytest.raises(ToolkitError, match="stopped"):
        evaluate(
            UniformPolicy(),
            env_name="dodgeball",
            distribution_mode="easy",
            num_levels=200,
            num_episodes=1,
            seed=5,
            before_step=before_step,
        )


def test_means_are_taken_over_episodes() -> None:
    assert mean_returns(RESULTS) == pytest.approx({"train": 7.5, "validation": -1.5, "test": 0.15})


def test_returns_are_listed_by_split() -> None:
    assert returns_by_split(RESULTS) == {
        "train": [10.0, 5.0],
        "validation": [-1.5],
        "test": [0.1, 0.2],
    }


def test_the_summary_is_one_row_in_the_columns_of_the_benchmark(tmp_path: Path) -> None:
    episode = EpisodeResult(0, 2.5, 10)
    write_evaluation(
        tmp_path / "evaluate.csv",
        {
            "train": [episode, EpisodeResult(1, 7.5, 10)],
            "validation": [episode],
            "test": [EpisodeResult(0, -1.0, 9)],
        },
    )
    text = (tmp_path / "evaluate.csv").read_text()
    assert text.splitlines() == ["final_test_ret,final_train_ret,final_val_ret", "-1.0,5.0,2.5"]


def test_the_origin_is_read_back_beside_the_summary_that_it_belongs_to(tmp_path: Path) -> None:
    path, origin = tmp_path / "evaluate.json", Origin("best", "sampled")
    write_origin(path, origin, RESULTS)
    means = mean_returns(RESULTS)
    assert read_origin(path, means) == origin
    assert read_origin(path, {**means, "test": 0.0}) is None
    assert read_origin(tmp_path / "none.json", means) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"mean_returns": 1}'])
def test_an_origin_that_is_broken_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "evaluate.json"
    path.write_text(text)
    assert read_origin(path, {"train": 1.0}) is None


def test_every_episode_is_a_row(tmp_path: Path) -> None:
    write_episodes(tmp_path / "evaluate_episodes.csv", RESULTS)
    assert (tmp_path / "evaluate_episodes.csv").read_text().splitlines() == [
        "split,level_seed,return,length",
        "train,3,10.0,50",
        "train,199,5.0,120",
        "validation,249,-1.5,7",
        "test,2147483646,0.1,1000",
        "test,12,0.2,3",
    ]


def test_episodes_are_read_back(tmp_path: Path) -> None:
    write_episodes(tmp_path / "evaluate_episodes.csv", RESULTS)
    assert read_episodes(tmp_path / "evaluate_episodes.csv") == RESULTS


def test_results_that_cannot_be_written_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ToolkitError, match=r"cannot write .*/file/evaluate.csv"):
        write_evaluation(tmp_path / "file" / "evaluate.csv", RESULTS)
