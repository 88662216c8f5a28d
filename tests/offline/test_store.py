from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.errors import UsageError
from offline.data.packing import open_game
from offline.data.store import PackedStore, Selection, StoreError, describe, select_episodes
from tests.data_fixtures import make_episode, write_game

# (number, rewards, level): returns 1, 5, 5, 0, 3 and lengths 2, 3, 1, 4, 2, as recorded.
FIRST = [
    make_episode(1, [0.0, 1.0], level_seed=10),
    make_episode(2, [0.0, 2.0, 3.0], level_seed=11),
    make_episode(3, [5.0], level_seed=10),
    make_episode(4, [0.0] * 4, level_seed=12),
    make_episode(5, [1.0, 2.0], level_seed=11),
]
SECOND = [make_episode(6, [0.0, 4.0], level_seed=11), make_episode(7, [9.0], level_seed=13)]


@pytest.fixture
def store(tmp_path: Path) -> PackedStore:
    write_game(tmp_path / "a" / "miner", FIRST)
    return open_game(tmp_path / "a", "miner", progress=False)


@pytest.fixture
def second(tmp_path: Path) -> PackedStore:
    write_game(tmp_path / "b" / "miner", SECOND)
    return open_game(tmp_path / "b", "miner", progress=False)


def numbers(selection: Selection) -> list[int]:
    """The numbers of the chosen episodes, read from their first frames."""
    return [
        int(selection.stores[store].frames[start, 0, 0, 0])
        for store, start in zip(selection.store_of, selection.episodes["start"], strict=True)
    ]


def test_without_options_every_episode_is_chosen_as_recorded(store: PackedStore) -> None:
    selection = select_episodes([store])
    assert numbers(selection) == [1, 2, 3, 4, 5]
    assert (selection.num_rows, selection.num_transitions) == (12, 12)


def test_the_episode_that_passes_the_dataset_size_is_included(store: PackedStore) -> None:
    assert numbers(select_episodes([store], dataset_size=4)) == [1, 2]


def test_a_dataset_size_reached_exactly_takes_no_further_episode(store: PackedStore) -> None:
    assert numbers(select_episodes([store], dataset_size=5)) == [1, 2]


def test_a_dataset_size_beyond_the_data_takes_all(store: PackedStore) -> None:
    assert numbers(select_episodes([store], dataset_size=1000)) == [1, 2, 3, 4, 5]


def test_best_order_takes_the_highest_returns_and_ties_as_recorded(store: PackedStore) -> None:
    # Best first: 2 (return 5, 3 steps), 3 (return 5, 1 step), 5 (3), 1 (1), 4 (0).
    assert numbers(select_episodes([store], dataset_size=3, episode_order="best")) == [2]
    assert numbers(select_episodes([store], dataset_size=4, episode_order="best")) == [2, 3]
    assert numbers(select_episodes([store], dataset_size=5, episode_order="best")) == [2, 3, 5]


def test_random_order_depends_on_the_seed_alone(store: PackedStore) -> None:
    def chosen(seed: int) -> list[int]:
        return numbers(select_episodes([store], dataset_size=4, episode_order="random", seed=seed))

    assert chosen(3) == chosen(3)
    assert len({tuple(chosen(seed)) for seed in range(20)}) > 3


def test_percentile_keeps_the_best_episodes_up_to_its_share(store: PackedStore) -> None:
    # 12 transitions, a quarter is 3: episode 2 alone. A third is 4: episodes 2 and 3.
    assert numbers(select_episodes([store], percentile=0.25)) == [2]
    assert numbers(select_episodes([store], percentile=1 / 3)) == [2, 3]


def test_percentile_looks_only_at_the_episodes_of_the_dataset_size(store: PackedStore) -> None:
    # The first 2 transitions are episode 1: half of it is 1 transition, and the episode is whole.
    assert numbers(select_episodes([store], dataset_size=2, percentile=0.5)) == [1]
    # Of episodes 1, 2, 3 (6 transitions for a size of 6) half is 3: episode 2.
    assert numbers(select_episodes([store], dataset_size=6, percentile=0.5)) == [2]


def test_percentile_one_keeps_all_that_the_dataset_size_took(store: PackedStore) -> None:
    # 2 + 3 = 5 transitions for a size of 3: the best alone would reach it, and both stay.
    assert numbers(select_episodes([store], dataset_size=3, percentile=1.0)) == [1, 2]


def test_levels_are_filtered_before_the_dataset_size_counts(store: PackedStore) -> None:
    assert numbers(select_episodes([store], levels=[10, 12])) == [1, 3, 4]
    assert numbers(select_episodes([store], levels=[10, 12], dataset_size=3)) == [1, 3]


def test_levels_without_an_episode_are_refused(store: PackedStore) -> None:
    with pytest.raises(UsageError, match=r"no episode of levels 7, 99: .* from 10 to 12"):
        select_episodes([store], levels=[7, 99])


def test_several_stores_are_chosen_from_together(store: PackedStore, second: PackedStore) -> None:
    assert numbers(select_episodes([store, second])) == [1, 2, 3, 4, 5, 6, 7]
    assert numbers(select_episodes([store, second], dataset_size=4, episode_order="best")) == [2, 7]
    assert numbers(select_episodes([second, store], dataset_size=4)) == [6, 7, 1]


def test_columns_follow_the_chosen_episodes(store: PackedStore, second: PackedStore) -> None:
    selection = select_episodes([store, second], levels=[11])
    assert numbers(selection) == [2, 5, 6]
    assert selection.column("rewards").tolist() == [0.0, 2.0, 3.0, 1.0, 2.0, 0.0, 4.0]
    assert selection.column("actions").tolist() == [2, 3, 4, 5, 6, 6, 7]
    assert selection.column("dones").tolist() == [False, False, True, False, True, False, True]
    assert list(selection.runs()) == [(0, 2, 5), (0, 10, 12), (1, 0, 2)]


def test_the_last_row_of_a_cut_off_episode_is_no_transition(tmp_path: Path) -> None:
    cut_off = make_episode(8, [1.0, 1.0, 1.0], terminated=False)
    write_game(tmp_path / "miner", [cut_off, FIRST[0]])
    selection = select_episodes([open_game(tmp_path, "miner", progress=False)])
    assert (selection.num_rows, selection.num_transitions) == (5, 4)


def test_a_choice_without_a_transition_is_refused(tmp_path: Path) -> None:
    write_game(tmp_path / "miner", [make_episode(8, [1.0], terminated=False)])
    with pytest.raises(UsageError, match="hold no transition"):
        select_episodes([open_game(tmp_path, "miner", progress=False)])


@pytest.mark.parametrize(
    "options",
    [{"dataset_size": 0}, {"percentile": 0.0}, {"percentile": 1.5}, {"episode_order": "x"}],
)
def test_options_out_of_range_are_refused(store: PackedStore, options: dict) -> None:
    (name,) = options
    with pytest.raises(UsageError, match=name):
        select_episodes([store], **options)


def test_the_summary_counts_and_averages(store: PackedStore, second: PackedStore) -> None:
    summary = describe(select_episodes([store, second]))
    assert (summary.episodes, summary.transitions, summary.levels) == (7, 15, 4)
    assert summary.mean_return == pytest.approx((1 + 5 + 5 + 0 + 3 + 4 + 9) / 7)
    assert (summary.min_return, summary.max_return) == (0.0, 9.0)
    assert summary.mean_length == pytest.approx(15 / 7)
    assert summary.max_length == 4


def test_unknown_levels_are_not_counted(tmp_path: Path) -> None:
    episodes = [make_episode(1, [1.0], level_seed=-1), make_episode(2, [1.0], level_seed=3)]
    write_game(tmp_path / "miner", episodes)
    store = open_game(tmp_path, "miner", progress=False)
    assert describe(select_episodes([store])).levels == 1


def test_a_store_whose_episodes_do_not_cover_its_rows_is_refused(store: PackedStore) -> None:
    episodes = np.load(store.path / "episodes.npy")
    episodes["length"][0] += 1
    np.save(store.path / "episodes.npy", episodes)
    with pytest.raises(StoreError, match="do not cover its rows"):
        PackedStore.open(store.path)


@pytest.mark.parametrize("name", ["actions", "rewards", "dones", "episodes", "frames"])
def test_a_store_that_lacks_a_file_is_refused(store: PackedStore, name: str) -> None:
    (store.path / f"{name}.npy").unlink()
    with pytest.raises(StoreError, match=rf"{name}\.npy"):
        PackedStore.open(store.path)


def test_a_store_with_columns_of_another_length_is_refused(store: PackedStore) -> None:
    np.save(store.path / "rewards.npy", np.zeros(11, np.float32))
    with pytest.raises(StoreError, match=r"rewards\.npy is float32 \(11,\)"):
        PackedStore.open(store.path)


def test_a_damaged_manifest_is_refused(store: PackedStore) -> None:
    (store.path / "manifest.json").write_text("{")
    with pytest.raises(StoreError, match=r"manifest\.json"):
        PackedStore.open(store.path)
