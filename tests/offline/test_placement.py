from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UsageError
from common.games import FRAME_BYTES, FRAME_SHAPE
from offline.data.packing import open_game
from offline.data.placement import DataDevice, available_memory, place_frames
from offline.data.store import (
    COLUMNS,
    EPISODE_FIELDS,
    FORMAT,
    FORMAT_VERSION,
    PackedStore,
    Selection,
    StoreError,
    describe,
    select_episodes,
)
from offline.data.views import ViewKind, make_view
from tests.data_fixtures import make_episode, write_game
from tests.offline_commands import ROOT, TINY, TRAIN, assert_same_end, flags, run, run_folder

CPU = torch.device("cpu")
EPISODES = [
    make_episode(1, [0.0, 1.0, 0.04, 0.0, 10.0], level_seed=1),
    make_episode(2, [2.5], level_seed=2),
    make_episode(3, [1.0, 1.0, 1.0], level_seed=1, terminated=False),
    make_episode(4, [0.0, -1.5], level_seed=3),
    make_episode(5, [0.0, 0.0, 7.0], level_seed=1),
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


def hollow_store(path: Path, rows: int) -> PackedStore:
    """A store of one-step episodes whose black frames take no room on the disk."""
    path.mkdir(parents=True)
    frames = (rows, *FRAME_SHAPE)
    np.lib.format.open_memmap(path / "frames.npy", "w+", np.uint8, frames)
    for name, dtype in COLUMNS.items():
        np.save(path / f"{name}.npy", np.ones(rows, dtype))
    episodes = np.zeros(rows, [*EPISODE_FIELDS, ("source", "S1")])
    episodes["start"], episodes["length"], episodes["terminated"] = np.arange(rows), 1, True
    episodes["return"] = np.arange(rows)
    np.save(path / "episodes.npy", episodes)
    manifest = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "rows": rows,
        "episodes": rows,
        "skipped": [],
        "source_fingerprint": "",
        "procgen": None,
    }
    (path / "manifest.json").write_text(json.dumps(manifest))
    return PackedStore.open(path)


# Which episodes, without a look at their frames


class Untouchable:
    """Frames that must not be read."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"the frames were asked for {name}")


def test_episodes_are_chosen_without_reading_frames(stores: list[PackedStore]) -> None:
    blind = [replace(store, frames=Untouchable()) for store in stores]  # type: ignore[arg-type]
    chosen = select_episodes(blind, dataset_size=9, percentile=0.5, episode_order="best")
    assert describe(chosen).max_return == pytest.approx(11.04)
    assert chosen.column("rewards").sum() == pytest.approx(11.04)


def test_several_datasets_combine_without_copying_frames(tmp_path: Path) -> None:
    stores = [hollow_store(tmp_path / name, 4000) for name in ("a", "b")]  # 49 MB each
    selection = select_episodes(stores)
    tracemalloc.start()
    frames = place_frames(selection, CPU, "mmap")
    view = make_view("transitions", selection, frames, 1, CPU)
    batch = view.batch(np.array([0, 7999]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert batch.observations.shape[0] == 2
    assert peak < 5e6


# Where frames go


@pytest.mark.parametrize("place", ["ram", "mmap"])
def test_part_of_the_data_is_gathered_by_its_own_rows(
    stores: list[PackedStore], place: DataDevice
) -> None:
    part = select_episodes(stores, levels=[1])  # episodes 1, 3 and 5: 5 + 3 + 3 rows
    frames = place_frames(part, CPU, place)
    pixels = frames.gather(torch.tensor([10, 0, 5, 7, 4, 8]))[:, 0, 0, [0, 2]]
    assert pixels.tolist() == [[5, 2], [1, 0], [3, 0], [3, 2], [1, 4], [5, 0]]


def test_frames_within_the_budget_go_to_ram(selection: Selection) -> None:
    frames = place_frames(selection, CPU, memory_budget_gb=1.0)
    assert "in RAM (the budget is 1.0 GB)" in frames.description
    assert frames.batches_ahead == 0


def test_frames_beyond_the_budget_stay_on_disk_and_are_read_ahead(selection: Selection) -> None:
    frames = place_frames(selection, CPU, memory_budget_gb=0.0)
    assert "read from disk as needed (the RAM budget is 0.0 GB)" in frames.description
    assert frames.batches_ahead > 0


def test_frames_read_as_needed_may_be_asked_for_in_any_order_and_twice(
    selection: Selection,
) -> None:
    frames = place_frames(selection, CPU, memory_budget_gb=0.0)
    rows = [13, 4, 5, 0, 4, 9]  # of episodes 5, 1, 2, 1, 1 and 4; 8 and 9 are in different stores
    assert frames.gather(torch.tensor(rows))[:, 0, 0, 0].tolist() == [5, 1, 2, 1, 1, 4]
    assert frames.gather(torch.tensor([8, 9]))[:, 0, 0, 0].tolist() == [3, 4]


def test_a_store_that_shrinks_while_it_is_read_is_named(tmp_path: Path) -> None:
    store = hollow_store(tmp_path / "store", 10)
    frames = place_frames(select_episodes([store]), CPU, "mmap")
    os.truncate(store.path / "frames.npy", 5 * FRAME_BYTES)
    assert frames.gather(torch.tensor([3])).sum() == 0
    with pytest.raises(StoreError, match=r"store is damaged \(frames\.npy is shorter than it was"):
        frames.gather(torch.tensor([7]))


_GATHER = """
import sys
import numpy as np, torch
from pathlib import Path
from offline.data.placement import place_frames
from offline.data.store import PackedStore, select_episodes

def resident():
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("RssFile:") + 1]) * 1024

selection = select_episodes([PackedStore.open(Path(sys.argv[1]))])
frames = place_frames(selection, torch.device("cpu"), "auto", float(sys.argv[2]))
generator = np.random.default_rng(0)
frames.gather(torch.arange(2))
before = largest = resident()
for _ in range(60):
    frames.gather(torch.from_numpy(generator.integers(selection.num_rows, size=64)))
    largest = max(largest, resident())
print(largest - before)
"""


@pytest.mark.parametrize(("budget_gb", "least", "most"), [(10.0, 40e6, 1e9), (0.012, 0, 4e6)])
def test_no_more_frames_are_resident_than_the_budget(
    tmp_path: Path, budget_gb: float, least: float, most: float
) -> None:
    hollow_store(tmp_path / "store", 10_000)  # 123 MB
    done = subprocess.run(
        [sys.executable, "-c", _GATHER, str(tmp_path / "store"), str(budget_gb)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert least <= int(done.stdout) <= most


def test_a_place_that_cannot_hold_the_frames_is_refused(selection: Selection) -> None:
    with pytest.raises(UsageError, match="data_device ram"):
        place_frames(selection, CPU, "ram", memory_budget_gb=0.0)
    with pytest.raises(UsageError, match="data_device cuda"):
        place_frames(selection, CPU, "cuda")
    with pytest.raises(UsageError, match="choose one of auto, cuda, ram, mmap"):
        place_frames(selection, CPU, "disk")  # type: ignore[arg-type]


def test_available_memory_is_within_that_of_the_machine() -> None:
    machine = Path("/proc/meminfo").read_text().split()
    assert 0 < available_memory() <= int(machine[machine.index("MemTotal:") + 1]) * 1024


# Training


def test_training_is_the_same_wherever_the_frames_live(dataset: Path, tmp_path: Path) -> None:
    for place, budget in (("ram", 1.0), ("mmap", 0.0001)):
        settings = {**TINY, "dataset": dataset, "xpid": "run", "data_device": place}
        settings |= {"memory_budget_gb": budget, "save_path": tmp_path / place}
        done = run(TRAIN, *flags(settings))
        assert done.returncode == 0, done.stderr
        assert ("read from disk as needed" in done.stderr) == (place == "mmap")
    assert_same_end(run_folder(tmp_path / "ram"), run_folder(tmp_path / "mmap"))


KINDS: tuple[ViewKind, ...] = ("state_actions", "transitions", "windows")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("place", ["cuda", "ram", "mmap"])
def test_batches_reach_the_gpu_from_everywhere(selection: Selection, place: DataDevice) -> None:
    cuda = torch.device("cuda")
    on_gpu = place_frames(selection, cuda, place)
    here = place_frames(selection, CPU, "ram")
    indices = np.array([12, 0, 4, 7])
    for kind in KINDS[1:]:
        theirs = make_view(kind, selection, on_gpu, 3, cuda).batch(indices)
        mine = make_view(kind, selection, here, 3, CPU).batch(indices)
        for a, b in zip(mine, theirs, strict=True):
            assert a is not None
            assert b is not None
            assert b.device.type == "cuda"
            assert torch.equal(a, b.cpu())
