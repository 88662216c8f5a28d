from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from common.episodes import Episode
from offline.data.frames import Frames
from offline.data.packing import open_game
from offline.data.placement import DataDevice, place_frames
from offline.data.store import PackedStore, Selection, select_episodes
from offline.data.views import TransitionView, ViewKind, WindowView, epoch_batches, make_view
from tests.data_fixtures import make_episode, write_game

CPU = torch.device("cpu")
KINDS: tuple[ViewKind, ...] = ("state_actions", "transitions", "windows")
ON_CPU: tuple[DataDevice, ...] = ("ram", "mmap")
EPISODES = [
    make_episode(1, [0.0, 1.0, 0.04, 0.0, 10.0], level_seed=1),
    make_episode(2, [2.5], level_seed=2),
    make_episode(3, [1.0, 1.0, 1.0], level_seed=1, terminated=False),
    make_episode(4, [0.0, -1.5], level_seed=3),
    make_episode(5, [0.0, 0.0, 7.0], level_seed=1),
]
# (episode, step) of each transition; the last row of episode 3 is next state only.
TRANSITIONS = [
    (episode, step)
    for episode in EPISODES
    for step in range(episode.length - (not episode.terminated))
]


@pytest.fixture
def stores(tmp_path: Path) -> list[PackedStore]:
    """The episodes spread over two datasets: 1, 2, 3 and 4, 5."""
    write_game(tmp_path / "a" / "miner", EPISODES[:3])
    write_game(tmp_path / "b" / "miner", EPISODES[3:])
    return [open_game(tmp_path / name, "miner", progress=False) for name in ("a", "b")]


@pytest.fixture
def selection(stores: list[PackedStore]) -> Selection:
    return select_episodes(stores)


@pytest.fixture(params=["ram", "mmap"])
def frames(selection: Selection, request: pytest.FixtureRequest) -> Frames:
    return place_frames(selection, CPU, data_device=request.param)


def slow_return_to_go(episode: Episode, step: int) -> float:
    total = 0.0
    for reward in episode.rewards[step:]:
        total += float(reward)
    return total


# Transitions


def test_every_transition_is_that_of_its_episode(selection: Selection, frames: Frames) -> None:
    view = TransitionView(selection, frames, CPU)
    assert len(view) == len(TRANSITIONS) == 13
    batch = view.batch(np.arange(len(view)))
    for i, (episode, step) in enumerate(TRANSITIONS):
        np.testing.assert_array_equal(batch.observations[i], episode.observations[step])
        assert batch.actions[i] == episode.actions[step]
        assert batch.rewards[i] == episode.rewards[step]
        assert batch.dones[i] == episode.dones[step]


def test_the_next_state_never_leaves_its_episode(selection: Selection, frames: Frames) -> None:
    view = TransitionView(selection, frames, CPU)
    following = view.batch(np.arange(len(view))).next_observations
    assert following is not None
    for i, (episode, step) in enumerate(TRANSITIONS):
        next_step = step if episode.dones[step] else step + 1
        np.testing.assert_array_equal(following[i], episode.observations[next_step])


def test_transitions_have_the_promised_types(selection: Selection, frames: Frames) -> None:
    batch = TransitionView(selection, frames, CPU).batch(np.array([3, 0, 3]))
    assert [(tuple(field.shape), field.dtype) for field in batch if field is not None] == [
        ((3, 64, 64, 3), torch.uint8),
        ((3,), torch.int64),
        ((3,), torch.float32),
        ((3, 64, 64, 3), torch.uint8),
        ((3,), torch.float32),
    ]


def test_state_actions_come_without_next_states(selection: Selection, frames: Frames) -> None:
    batch = TransitionView(selection, frames, CPU, next_observations=False).batch(np.array([12]))
    assert batch.next_observations is None
    assert batch.observations[0, 0, 0].tolist() == [5, 0, 2]


# Windows


@pytest.mark.parametrize("context_length", [1, 2, 4, 8])
def test_a_window_is_the_past_of_its_transition_padded_at_the_end(
    selection: Selection, frames: Frames, context_length: int
) -> None:
    view = WindowView(selection, frames, CPU, context_length)
    assert len(view) == len(TRANSITIONS)
    batch = view.batch(np.arange(len(view)))
    for i, (episode, last) in enumerate(TRANSITIONS):
        steps = range(max(0, last - context_length + 1), last + 1)
        padding = context_length - len(steps)
        assert batch.mask[i].tolist() == [True] * len(steps) + [False] * padding
        assert batch.time_steps[i].tolist() == [*steps] + [0] * padding
        assert batch.actions[i].tolist() == [episode.actions[t] for t in steps] + [0] * padding
        for k, step in enumerate([*steps] + [last] * padding):
            np.testing.assert_array_equal(batch.observations[i, k], episode.observations[step])


def test_returns_to_go_are_those_of_a_slow_loop(selection: Selection, frames: Frames) -> None:
    batch = WindowView(selection, frames, CPU, 3).batch(np.arange(len(TRANSITIONS)))
    for i, (episode, last) in enumerate(TRANSITIONS):
        expected = [slow_return_to_go(episode, step) for step in range(max(0, last - 2), last + 1)]
        expected += [0.0] * (3 - len(expected))
        np.testing.assert_allclose(batch.returns_to_go[i], expected, rtol=1e-6)


def test_windows_have_the_promised_types(selection: Selection, frames: Frames) -> None:
    batch = WindowView(selection, frames, CPU, 4).batch(np.array([0, 1]))
    assert [(tuple(field.shape), field.dtype) for field in batch] == [
        ((2, 4), torch.float32),
        ((2, 4, 64, 64, 3), torch.uint8),
        ((2, 4), torch.int64),
        ((2, 4), torch.int64),
        ((2, 4), torch.bool),
    ]


def test_a_window_of_no_steps_is_refused(selection: Selection, frames: Frames) -> None:
    with pytest.raises(ValueError, match="context_length 0"):
        WindowView(selection, frames, CPU, 0)


def test_a_view_is_made_by_its_name(selection: Selection, frames: Frames) -> None:
    first = np.array([0])
    state_actions = make_view("state_actions", selection, frames, 5, CPU).batch(first)
    transitions = make_view("transitions", selection, frames, 5, CPU).batch(first)
    windows = make_view("windows", selection, frames, 5, CPU).batch(first)
    assert state_actions[3] is None
    assert transitions[3] is not None
    assert windows[1].shape == (1, 5, 64, 64, 3)
    with pytest.raises(ValueError, match="state_actions, transitions, windows"):
        make_view("pairs", selection, frames, 5, CPU)  # type: ignore[arg-type]


# Order


def test_an_epoch_visits_every_sample_exactly_once() -> None:
    batches = list(epoch_batches(103, 10, seed=1, epoch=0))
    assert [len(batch) for batch in batches] == [10] * 10 + [3]
    assert sorted(np.concatenate(batches)) == list(range(103))


def test_an_epoch_can_be_entered_at_any_batch() -> None:
    whole = list(epoch_batches(103, 10, seed=1, epoch=4))
    rest = list(epoch_batches(103, 10, seed=1, epoch=4, start_batch=7))
    assert [batch.tolist() for batch in rest] == [batch.tolist() for batch in whole[7:]]


def test_seed_and_epoch_each_change_the_order() -> None:
    orders = [(1, 0), (1, 1), (2, 0), (1, 0)]
    first = [tuple(np.concatenate([*epoch_batches(50, 8, *order)])) for order in orders]
    assert first[0] == first[3]
    assert len(set(first)) == 3


def test_a_sample_is_equally_likely_at_every_place() -> None:
    # 3,000 draws of the first of 5 samples: each is expected 600 times, standard deviation 22.
    firsts = [next(epoch_batches(5, 1, seed=0, epoch=epoch))[0] for epoch in range(3000)]
    assert np.all(np.abs(np.bincount(firsts) - 600) < 110)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_the_same_wherever_the_frames_live(
    selection: Selection, kind: ViewKind
) -> None:
    ram, mapped = (
        make_view(kind, selection, place_frames(selection, CPU, place), 3, CPU) for place in ON_CPU
    )
    for indices in epoch_batches(len(ram), 4, seed=5, epoch=0):
        for mine, theirs in zip(ram.batch(indices), mapped.batch(indices), strict=True):
            if mine is None or theirs is None:
                assert mine is theirs
            else:
                assert torch.equal(mine, theirs)
