"""The environments play the levels the benchmark names, reproducibly, and can be continued."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import VectorEnv

from common.envs import (
    LevelSplit,
    ProcgenVectorEnv,
    frame_fingerprint,
    level_splits,
    procgen_build,
)
from common.errors import UsageError
from common.games import GAMES

SHORT = "dodgeball"  # random play ends within a few dozen steps


def random_actions(num_envs: int, seed: int) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(seed)
    while True:
        yield generator.integers(0, 15, num_envs)


def levels_played(
    num_envs: int, steps: int = 150, action_seed: int = 0, **options: Any
) -> list[list[int]]:
    """The levels of each environment, in the order played, as the infos name them."""
    env = ProcgenVectorEnv(SHORT, num_envs, **options)
    _, infos = env.reset()
    levels = [[int(seed)] for seed in infos["level_seed"]]
    actions = random_actions(num_envs, action_seed)
    for _ in range(steps):
        _, _, terminations, _, infos = env.step(next(actions))
        for i in np.flatnonzero(terminations):
            levels[i].append(int(infos["level_seed"][i]))
    env.close()
    return levels


def agree_as_far_as_both_go(one: list[list[int]], other: list[list[int]]) -> bool:
    pairs = [(a[: len(b)], b[: len(a)]) for a, b in zip(one, other, strict=False)]
    assert sum(len(a) - 1 for a, _ in pairs) >= 4, "too few levels to compare"
    return all(a == b for a, b in pairs)


def first_frame(level: int) -> np.ndarray:
    env = ProcgenVectorEnv(SHORT, 1, start_level=level, num_levels=1)
    frame: np.ndarray = env.reset()[0][0]
    env.close()
    return frame


# What comes back


def test_reset_gives_uint8_frames_and_the_levels_played() -> None:
    env = ProcgenVectorEnv("coinrun", 3)
    observations, infos = env.reset()
    assert isinstance(env, VectorEnv)
    assert (observations.shape, observations.dtype) == ((3, 64, 64, 3), np.uint8)
    assert (infos["level_seed"].shape, infos["level_seed"].dtype) == ((3,), np.int32)
    assert env.observation_space.contains(observations)
    env.close()


def test_step_gives_raw_float_rewards_and_boolean_flags() -> None:
    env = ProcgenVectorEnv("coinrun", 3)
    env.reset()
    observations, rewards, terminations, truncations, _ = env.step(np.array([0, 7, 14]))
    assert (observations.shape, observations.dtype) == ((3, 64, 64, 3), np.uint8)
    assert (rewards.shape, rewards.dtype) == ((3,), np.float32)
    assert (terminations.shape, terminations.dtype) == ((3,), np.bool_)
    assert (truncations.shape, truncations.dtype) == ((3,), np.bool_)
    env.close()


def test_there_are_fifteen_actions() -> None:
    env = ProcgenVectorEnv("coinrun", 2)
    assert env.single_action_space.n == 15  # type: ignore[attr-defined]
    assert env.action_space.shape == (2,)
    env.close()


def test_what_a_step_returned_is_not_changed_by_the_next_one() -> None:
    env = ProcgenVectorEnv(SHORT, 2)
    env.reset()
    actions = random_actions(2, 0)
    observations, rewards, terminations, _, infos = env.step(next(actions))
    kept = observations.copy(), rewards.copy(), terminations.copy(), infos["level_seed"].copy()
    for _ in range(40):
        env.step(next(actions))
    for now, before in zip(
        (observations, rewards, terminations, infos["level_seed"]), kept, strict=True
    ):
        np.testing.assert_array_equal(now, before)
    env.close()


def test_a_done_step_shows_the_next_level_and_names_the_one_that_ended() -> None:
    env = ProcgenVectorEnv(SHORT, 8)
    _, infos = env.reset()
    actions, ended = random_actions(8, 0), 0
    while ended < 3:
        before = infos["level_seed"]
        observations, _, terminations, truncations, infos = env.step(next(actions))
        assert not truncations.any()
        for i in np.flatnonzero(terminations):
            assert infos["prev_level_seed"][i] == before[i]
            np.testing.assert_array_equal(observations[i], first_frame(int(infos["level_seed"][i])))
            ended += 1
        np.testing.assert_array_equal(infos["level_seed"][~terminations], before[~terminations])
    env.close()


# Which levels


def test_the_splits_are_those_of_the_paper() -> None:
    assert level_splits(200) == {
        "train": LevelSplit("train", 0, 200),
        "validation": LevelSplit("validation", 200, 50),
        "test": LevelSplit("test", 250, 0),
    }


def test_the_splits_follow_the_number_of_training_levels() -> None:
    assert level_splits(40) == {
        "train": LevelSplit("train", 0, 40),
        "validation": LevelSplit("validation", 40, 50),
        "test": LevelSplit("test", 90, 0),
    }


@pytest.mark.parametrize(
    ("name", "lowest", "highest"), [("train", 0, 199), ("validation", 200, 249)]
)
def test_the_levels_played_lie_in_the_split(name: str, lowest: int, highest: int) -> None:
    split = level_splits(200)[name]
    played = levels_played(64, start_level=split.start_level, num_levels=split.num_levels)
    levels = list(itertools.chain(*played))
    assert len(levels) >= 200
    assert min(levels) >= lowest
    assert max(levels) <= highest
    assert len(set(levels)) > 40  # and they are spread over it


def test_the_test_levels_come_from_all_seeds() -> None:
    split = level_splits(200)["test"]
    played = levels_played(64, steps=0, start_level=split.start_level, num_levels=split.num_levels)
    levels = list(itertools.chain(*played))
    assert min(levels) >= 0
    assert min(levels) < 2**30 < max(levels)
    assert not set(levels) & set(range(250))


def test_a_single_level_is_played_again_and_again() -> None:
    assert set(itertools.chain(*levels_played(4, start_level=40, num_levels=1))) == {40}


def test_the_levels_follow_the_seed_whatever_the_actions() -> None:
    one = levels_played(8, action_seed=1, seed=5)
    other = levels_played(8, action_seed=2, seed=5)
    assert agree_as_far_as_both_go(one, other)


def test_another_seed_plays_other_levels() -> None:
    assert levels_played(8, steps=0, seed=5) != levels_played(8, steps=0, seed=6)


def test_the_levels_of_an_environment_do_not_depend_on_how_many_there_are() -> None:
    assert agree_as_far_as_both_go(levels_played(4, seed=5), levels_played(9, seed=5))


def test_environments_of_one_batch_play_different_sequences() -> None:
    sequences = levels_played(8, seed=5)
    assert len({tuple(levels[:2]) for levels in sequences}) == 8


# Starting again, and going on


def test_resetting_twice_gives_the_same_first_frames() -> None:
    env = ProcgenVectorEnv(SHORT, 4, seed=3)
    first, infos = env.reset()
    actions = random_actions(4, 0)
    for _ in range(40):
        env.step(next(actions))
    again, infos_again = env.reset()
    np.testing.assert_array_equal(again, first)
    np.testing.assert_array_equal(infos_again["level_seed"], infos["level_seed"])
    env.close()


def test_resetting_with_a_seed_is_like_making_the_environments_with_it() -> None:
    env, made = ProcgenVectorEnv(SHORT, 4, seed=3), ProcgenVectorEnv(SHORT, 4, seed=8)
    np.testing.assert_array_equal(env.reset(seed=8)[0], made.reset()[0])
    env.close()
    made.close()


def test_a_restored_state_continues_exactly_in_another_object() -> None:
    env = ProcgenVectorEnv(SHORT, 6, seed=3)
    env.reset()
    actions = random_actions(6, 0)
    for _ in range(20):
        env.step(next(actions))
    states = env.save_state()
    played = [next(actions) for _ in range(80)]
    expected = [env.step(a) for a in played]
    env.close()
    assert any(step[2].any() for step in expected), "no level ended: the test shows too little"

    restored = ProcgenVectorEnv(SHORT, 6, seed=3)
    restored.restore_state(states)
    for action, (frames, rewards, terminations, _, infos) in zip(played, expected, strict=True):
        now = restored.step(action)
        np.testing.assert_array_equal(now[0], frames)
        np.testing.assert_array_equal(now[1], rewards)
        np.testing.assert_array_equal(now[2], terminations)
        np.testing.assert_array_equal(now[4]["level_seed"], infos["level_seed"])
    restored.close()


def test_a_reset_after_restoring_starts_from_the_first_levels() -> None:
    env = ProcgenVectorEnv(SHORT, 4, seed=3)
    first = env.reset()[0]
    env.step(np.full(4, 8))
    env.restore_state(env.save_state())
    np.testing.assert_array_equal(env.reset()[0], first)
    env.close()


def test_the_engine_shrinks_as_its_environments_retire() -> None:
    env = ProcgenVectorEnv(SHORT, 8, seed=3)
    env.reset()
    sizes = []
    for retiring in range(8):
        env.retire(np.array([retiring]))
        env.step(np.full(8, 4))
        sizes.append(env._engine.num)
    env.close()
    assert sizes == [8, 8, 8, 4, 4, 2, 1, 1]


@pytest.mark.parametrize("mode", ["easy", "hard"])
@pytest.mark.parametrize("game", GAMES)
def test_those_that_play_on_in_a_smaller_engine_play_as_they_would_have(
    game: str, mode: str
) -> None:
    envs = [ProcgenVectorEnv(game, 4, distribution_mode=mode, seed=3) for _ in range(2)]
    for env in envs:
        env.reset()
    actions = random_actions(4, 0)
    for retiring in ([2], [0]):  # four environments in the engine, then two
        envs[0].retire(np.array(retiring))
        for _ in range(60):
            now, undisturbed = (env.step(action) for action in [next(actions)] for env in envs)
            for mine, expected in zip(now[:4], undisturbed[:4], strict=True):
                np.testing.assert_array_equal(mine[[1, 3]], expected[[1, 3]])
            for key, values in now[4].items():
                np.testing.assert_array_equal(values[[1, 3]], undisturbed[4][key][[1, 3]])
    for env in envs:
        env.close()


def test_a_state_that_lacks_some_is_refused() -> None:
    env = ProcgenVectorEnv(SHORT, 4, seed=3)
    env.retire(np.array([0]))
    with pytest.raises(ValueError, match="retired"):
        env.save_state()
    env.close()


def test_a_restored_state_brings_everyone_back() -> None:
    env = ProcgenVectorEnv(SHORT, 4, seed=3)
    env.reset()
    states = env.save_state()
    expected = env.step(np.full(4, 8))[0]
    env.retire(np.array([0, 1, 2]))
    env.restore_state(states)
    np.testing.assert_array_equal(env.step(np.full(4, 8))[0], expected)
    env.close()


def test_a_reset_brings_everyone_back_even_before_the_first_step() -> None:
    env = ProcgenVectorEnv(SHORT, 4, seed=3)
    env.retire(np.array([0, 1, 2]))
    first = env.reset()[0]
    other = ProcgenVectorEnv(SHORT, 4, seed=3)
    np.testing.assert_array_equal(first, other.reset()[0])
    moved = (env.step(np.full(4, 8))[0] != first).any(axis=(1, 2, 3))
    assert moved.all()
    env.close()
    other.close()


def test_a_restored_environment_may_retire_before_its_first_step() -> None:
    env = ProcgenVectorEnv(SHORT, 4, seed=3)
    first, infos = env.reset()
    env.restore_state(env.save_state())
    env.retire(np.array([0]))
    frames, _, _, _, now = env.step(np.full(4, 8))
    np.testing.assert_array_equal(frames[0], first[0])
    assert now["level_seed"][0] == infos["level_seed"][0]
    env.close()


def test_closing_frees_the_threads_and_can_be_repeated() -> None:
    def threads() -> int:
        return len(os.listdir("/proc/self/task"))

    before = threads()
    env = ProcgenVectorEnv("coinrun", 4)
    env.reset()
    env.close()
    env.close()
    assert threads() == before


# Refusals and facts


def test_an_unknown_game_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'coinrn'.*bigfish.*coinrun.*starpilot"):
        ProcgenVectorEnv("coinrn", 1)


def test_an_unknown_distribution_mode_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'extreme'.*easy, hard"):
        ProcgenVectorEnv("coinrun", 1, distribution_mode="extreme")


@pytest.mark.parametrize(("start", "count"), [(2**31, 1), (2**31 - 10, 11), (-1, 5), (0, -1)])
def test_levels_that_procgen_does_not_have_are_refused(start: int, count: int) -> None:
    with pytest.raises(UsageError, match=f"start_level {start}, num_levels {count}"):
        ProcgenVectorEnv("coinrun", 1, start_level=start, num_levels=count)


def test_a_list_of_seeds_is_refused() -> None:
    env = ProcgenVectorEnv("coinrun", 2)
    with pytest.raises(UsageError, match="one seed"):
        env.reset(seed=[1, 2])
    env.close()


def test_the_fingerprint_is_stable_and_tells_games_and_modes_apart() -> None:
    fingerprint = frame_fingerprint("coinrun")
    assert frame_fingerprint("coinrun") == fingerprint
    assert len(fingerprint) == 16
    others = {frame_fingerprint("maze"), frame_fingerprint("coinrun", "hard")}
    assert len(others | {fingerprint}) == 3


def test_the_build_names_the_installed_package_and_the_qt_it_draws_with() -> None:
    build = procgen_build()
    assert build["version"] == importlib.metadata.version(build["package"])
    assert "Qt5Gui" in build["qt"] or build["qt"] == "system"
    assert Path(build["qt"]).name == build["qt"]  # a name, no path of this machine
