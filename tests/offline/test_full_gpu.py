"""A GPU whose memory others take while a run needs it costs the run nothing but time.

There is no card in most places where this runs, so PyTorch's own error is raised where a card would
raise it. That shows what is made of the error; that a card then has room again, only a card shows.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import ToolkitError
from common.evaluation import Results, evaluate
from offline import training
from offline.arguments import parse_training
from offline.data import placement
from offline.data.frames import FileFrames, Frames, ResidentFrames
from offline.data.loading import load_data
from offline.data.packing import open_game
from offline.data.placement import DataDevice, place_frames
from offline.data.store import Selection, select_episodes
from offline.data.views import TransitionBatch, TransitionView, WindowView, make_view
from offline.lockstep import fit
from tests.offline_commands import (
    CPU,
    GAME,
    TINY,
    TRAIN,
    assert_same_end,
    error_line,
    flags,
    make_run,
    run,
    run_folder,
)

CARD = torch.device("cuda")


@pytest.fixture(scope="module")
def selection(dataset: Path) -> Selection:
    return select_episodes([open_game(dataset, GAME, progress=False)], dataset_size=60)


# While frames are placed


@pytest.fixture
def shrinking_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card that says it has a terabyte and then has nothing."""
    load = placement._load

    def load_or_fail(
        selection: Selection, device: torch.device, *rest: Any, **named: Any
    ) -> Frames:
        if device == CARD:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return load(selection, device, *rest, **named)

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10**12, 10**12))
    monkeypatch.setattr(placement, "_load", load_or_fail)


@pytest.mark.usefixtures("shrinking_card")
@pytest.mark.parametrize("place", ["auto", "cuda"])
def test_frames_that_no_longer_fit_on_the_gpu_go_to_ram(
    selection: Selection, place: DataDevice
) -> None:
    frames = place_frames(selection, CARD, place, memory_budget_gb=1.0)
    assert isinstance(frames, ResidentFrames)
    assert frames.device == CPU
    assert frames.description.endswith(
        "in RAM (the GPU ran out of memory with them; the budget is 1.0 GB)"
    )


@pytest.mark.usefixtures("shrinking_card")
def test_frames_that_fit_neither_on_the_gpu_nor_in_ram_stay_in_their_files(
    selection: Selection,
) -> None:
    frames = place_frames(selection, CARD, "auto", memory_budget_gb=0.0)
    assert isinstance(frames, FileFrames)
    assert "the GPU ran out of memory with them" in frames.description


def test_a_gpu_that_is_not_there_is_refused_with_exit_code_2(dataset: Path, tmp_path: Path) -> None:
    settings = {**TINY, "dataset": dataset, "save_path": tmp_path, "data_device": "cuda"}
    done = run(TRAIN, *flags(settings))
    assert done.returncode == 2
    assert error_line(done).startswith("data_device cuda: ")
    assert not os.listdir(tmp_path)


# While the run goes


class FailingOnce(TransitionView):
    """A view whose `number`-th batch (from 1) finds no memory."""

    def __init__(self, selection: Selection, number: int) -> None:
        super().__init__(selection, place_frames(selection, CPU, "ram"), CPU, False)
        self._number, self._made = number, 0
        self.leave_gpu = self._to_files

    def _to_files(self) -> str:
        self.place(place_frames(self._selection, CPU, "mmap"))
        return "frames read from disk"

    def batch(self, indices: np.ndarray) -> TransitionBatch:
        self._made += 1
        if self._made == self._number:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return super().batch(indices)


@pytest.mark.parametrize("number", [1, 2, 13])  # first, in the first epoch, in the second
def test_a_run_whose_gpu_becomes_full_ends_as_one_that_had_room(
    selection: Selection, tmp_path: Path, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    calm = make_view("state_actions", selection, place_frames(selection, CPU), 1, CPU)
    fit([make_run(calm, tmp_path / "calm")])
    view = FailingOnce(selection, number)
    with caplog.at_level(logging.WARNING):
        fit([make_run(view, tmp_path / "full")])
    assert [m for m in caplog.messages if "GPU" in m] == [
        "the GPU is out of memory: going on with frames read from disk"
    ]
    assert view.batches_ahead > 0
    assert_same_end(run_folder(tmp_path / "full"), run_folder(tmp_path / "calm"))


class FailingEvaluation:
    """`evaluate`, whose `number`-th call (from 1) finds no memory."""

    def __init__(self, number: int) -> None:
        self._number, self._calls = number, 0

    def __call__(self, *arguments: Any, **named: Any) -> Results:
        self._calls += 1
        if self._calls == self._number:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return evaluate(*arguments, **named)


@pytest.mark.parametrize("number", [1, 3])  # at the end of an epoch, and of the training
def test_a_run_whose_gpu_becomes_full_in_an_evaluation_ends_as_one_that_had_room(
    selection: Selection, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"epochs": 2, "eval_freq": 1, "num_final_episodes": 2}
    calm = make_view("state_actions", selection, place_frames(selection, CPU), 1, CPU)
    fit([make_run(calm, tmp_path / "calm", **settings)])
    monkeypatch.setattr(training, "evaluate", FailingEvaluation(number))
    view = FailingOnce(selection, 0)
    fit([make_run(view, tmp_path / "full", **settings)])
    assert view.leave_gpu is None
    assert view.batches_ahead > 0
    assert_same_end(run_folder(tmp_path / "full"), run_folder(tmp_path / "calm"))


def test_a_gpu_that_is_full_without_frames_ends_the_run_in_one_line(
    selection: Selection, tmp_path: Path
) -> None:
    view = FailingOnce(selection, 2)
    view.leave_gpu = None
    with pytest.raises(ToolkitError, match=r"out of memory in epoch 1: .*--batch_size; nothing"):
        fit([make_run(view, tmp_path)])


@pytest.mark.parametrize("kind", ["transitions", "windows"])
def test_a_view_gives_the_same_batches_after_its_frames_have_moved(
    selection: Selection, kind: Any
) -> None:
    view = make_view(kind, selection, place_frames(selection, CPU, "ram"), 3, CPU)
    before = view.batch(np.arange(20))
    view.place(place_frames(selection, CPU, "mmap"))
    for wanted, found in zip(before, view.batch(np.arange(20)), strict=True):
        assert wanted is not None and found is not None
        assert torch.equal(wanted, found)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["transitions", "windows"])
def test_a_view_leaves_the_gpu_with_its_memory(dataset: Path, kind: Any) -> None:
    settings = parse_training(flags({**TINY, "dataset": dataset}), "")
    view = load_data(settings, kind, CARD).view
    before = view.batch(np.arange(20))
    held = torch.cuda.memory_allocated()
    assert view.leave_gpu is not None
    assert "ran out of memory" in view.leave_gpu()
    assert torch.cuda.memory_allocated() < held
    for wanted, found in zip(before, view.batch(np.arange(20)), strict=True):
        assert wanted is not None and found is not None
        assert found.is_cuda
        assert torch.equal(wanted, found)


def test_a_view_on_the_cpu_has_no_gpu_to_leave(selection: Selection) -> None:
    assert WindowView(selection, place_frames(selection, CPU), CPU, 3).leave_gpu is None
