"""Batches copied to a card ahead of use are the batches that were made.

Only a card can show it: streams that are imitated would prove nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from offline.data.ahead import read_ahead
from offline.data.copies import CopiesAhead
from offline.data.packing import open_game
from offline.data.placement import DataDevice, place_frames
from offline.data.store import Selection, select_episodes
from offline.data.views import ViewKind, make_view
from tests.data_fixtures import make_episode, write_game

CPU = torch.device("cpu")
needs_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
KINDS: tuple[ViewKind, ...] = ("state_actions", "transitions", "windows")
LONG = 50_000_000  # clock cycles, some 30 ms


@pytest.fixture
def selection(tmp_path: Path) -> Selection:
    episodes = [make_episode(number, [1.0] * 20) for number in range(1, 11)]
    write_game(tmp_path / "miner", episodes)
    return select_episodes([open_game(tmp_path, "miner", progress=False)])


@pytest.mark.gpu
@needs_card
@pytest.mark.parametrize("place", ["cuda", "ram", "mmap"])
@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_whole_however_late_the_steps_run(
    selection: Selection, place: DataDevice, kind: ViewKind
) -> None:
    cuda = torch.device("cuda")
    theirs = make_view(kind, selection, place_frames(selection, cuda, place), 3, cuda)
    mine = make_view(kind, selection, place_frames(selection, CPU, "ram"), 3, CPU)
    orders = [np.random.default_rng(i).integers(len(mine), size=64) for i in range(12)]
    copies = CopiesAhead(cuda)
    seen = []
    for _ in range(2):  # as two epochs
        made = read_ahead(map(theirs.gather, orders), theirs.batches_ahead)
        for batch in copies.of(made):
            # The step reads its batch long after the host has gone on to the next ones.
            torch.cuda._sleep(LONG)
            seen.append([None if field is None else field.clone() for field in batch])
    torch.cuda.synchronize()
    assert len(seen) == 24
    for indices, fields in zip(orders * 2, seen, strict=True):
        for wanted, found in zip(mine.batch(indices), fields, strict=True):
            assert (wanted is None) == (found is None)
            assert wanted is None or torch.equal(wanted, found.cpu())
