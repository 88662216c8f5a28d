from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from common.interrupts import Stopped
from common.parts import SMALLEST_PART
from offline import training
from offline.data.packing import open_game
from offline.data.placement import place_frames
from offline.data.store import select_episodes
from offline.data.views import TransitionBatch, TransitionView, make_view
from offline.lockstep import fit
from tests.offline_commands import (
    CPU,
    GAME,
    TINY,
    TRAIN,
    FinishedRun,
    assert_same_end,
    end,
    flags,
    make_run,
    read_checkpoint,
    run,
    run_folder,
    start,
    wait_for,
)


@pytest.fixture(scope="module")
def view(dataset: Path) -> TransitionView:
    """88 transitions or a few more: eleven batches of eight and then some, of real episodes."""
    store = open_game(dataset, GAME, progress=False)
    selection = select_episodes([store], dataset_size=88)
    made = make_view("state_actions", selection, place_frames(selection, CPU), 1, CPU)
    assert isinstance(made, TransitionView)
    return made


class PowerCutError(Exception):
    """Nothing catches it and nothing is saved because of it."""


class EventfulView:
    """Passes batches on; while it makes number `when` (from 1), something happens."""

    def __init__(self, view: TransitionView, when: int, signal_number: int | None = None) -> None:
        self.view = view
        self.when = when
        self.signal_number = signal_number
        self.made = 0

    batches_ahead = 0
    leave_gpu = None

    def gather(self, indices: np.ndarray) -> TransitionBatch:
        raise AssertionError("batches are wanted on a CPU")

    def __len__(self) -> int:
        return len(self.view)

    def batch(self, indices: np.ndarray) -> TransitionBatch:
        self.made += 1
        if self.made == self.when:
            if self.signal_number is None:
                raise PowerCutError
            os.kill(os.getpid(), self.signal_number)
        return self.view.batch(indices)


def resume(view: TransitionView, save_path: Path) -> None:
    run = make_run(view, save_path, eval_freq=10)
    run.restore()
    fit([run])


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, view: TransitionView) -> Path:
    save_path = tmp_path_factory.mktemp("unbroken")
    fit([make_run(view, save_path, eval_freq=10)])
    return run_folder(save_path)


# With batches that are taken in parts


def test_a_run_in_parts_that_loses_power_ends_as_an_unbroken_one(
    dataset: Path, tmp_path: Path
) -> None:
    store = open_game(dataset, GAME, progress=False)
    selection = select_episodes([store])
    view = make_view("state_actions", selection, place_frames(selection, CPU), 1, CPU)
    assert isinstance(view, TransitionView)
    changes = {"agent_model": "pporesnetbase", "hidden_size": 16, "batch_size": 2 * SMALLEST_PART}
    changes |= {"epochs": 2, "eval_freq": 10, "num_final_episodes": 1}
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        fit([make_run(view, tmp_path / "unbroken", **changes)])
        batches = -(-len(view) // (2 * SMALLEST_PART))
        cut = EventfulView(view, batches + 2)
        with pytest.raises(PowerCutError):
            fit([make_run(cut, tmp_path / "cut", **changes)])
        again = make_run(view, tmp_path / "cut", **changes)
        again.restore()
        fit([again])
    finally:
        torch.set_num_threads(before)
    assert_same_end(run_folder(tmp_path / "cut"), run_folder(tmp_path / "unbroken"))


# The real command, killed


@pytest.mark.slow
def test_a_run_that_is_stopped_again_and_again_ends_as_an_unbroken_one(
    finished_run: FinishedRun, dataset: Path, tmp_path: Path
) -> None:
    arguments = flags(finished_run.settings, dataset=dataset, save_path=tmp_path, resume=True)
    moments = [
        ("", 0.5, signal.SIGKILL),  # while Python still imports
        ("epoch 1/3", 0.02, signal.SIGKILL),  # before anything was saved
        ("evaluating", 0.02, signal.SIGKILL),
        ("epoch 3/3", 0.0, signal.SIGTERM),
        ("final evaluation", 0.0, signal.SIGKILL),
    ]
    reached = []
    for text, seconds, number in moments:
        process = start(TRAIN, *arguments)
        wait_for(process, text)
        time.sleep(seconds)
        process.send_signal(number)
        assert end(process) == (-number if number == signal.SIGKILL else 128 + number)
        checkpoint = run_folder(tmp_path) / "model.pt"
        there = checkpoint.exists()
        reached.append(read_checkpoint(checkpoint)["progress"]["epoch"] if there else 0)
    assert reached == sorted(reached)
    assert (reached[0], reached[-1]) == (0, 3)
    finished = run(TRAIN, *arguments)
    assert finished.returncode == 0, finished.stderr
    assert_same_end(run_folder(tmp_path), finished_run.folder)


# The real command, asked to stop


def test_sigterm_ends_with_143_and_a_checkpoint_within_the_epoch(
    terminated_run: tuple[Path, int],
) -> None:
    save_path, code = terminated_run
    assert code == 128 + signal.SIGTERM
    progress = read_checkpoint(run_folder(save_path) / "model.pt")["progress"]
    assert progress["epoch"] == 2
    assert progress["batch"] > 0
    assert progress["rows"] == 1


def test_ctrl_c_ends_with_130_and_a_line_that_says_how_to_go_on(
    dataset: Path, tmp_path: Path
) -> None:
    process = start(TRAIN, *flags(TINY, dataset=dataset, save_path=tmp_path, xpid="run"))
    wait_for(process, "epoch 1/3")
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert "Traceback" not in error.decode()
    assert (
        error.decode().splitlines()[-1].startswith("error: stopped; the same command with --resume")
    )
    assert (run_folder(tmp_path) / "model.pt").exists()


# To the batch


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("when", [1, 7, 12, 17])
def test_a_signal_ends_the_run_with_the_batch_under_way_which_is_saved(
    view: TransitionView, tmp_path: Path, number: signal.Signals, when: int
) -> None:
    eventful = EventfulView(view, when, number)
    with pytest.raises(Stopped) as stopped:
        fit([make_run(eventful, tmp_path, eval_freq=10)])
    assert stopped.value.exit_code == 128 + number
    assert eventful.made == when
    progress = read_checkpoint(run_folder(tmp_path) / "model.pt")["progress"]
    per_epoch = -(-len(view) // TINY["batch_size"])
    assert (progress["epoch"] - 1) * per_epoch + progress["batch"] == when


@pytest.mark.parametrize("when", [1, 7, 12, 17])
def test_a_run_resumed_within_an_epoch_ends_as_an_unbroken_one(
    view: TransitionView, unbroken: Path, tmp_path: Path, when: int
) -> None:
    with pytest.raises(Stopped):
        fit([make_run(EventfulView(view, when, signal.SIGTERM), tmp_path, eval_freq=10)])
    resume(view, tmp_path)
    assert_same_end(run_folder(tmp_path), unbroken)


def test_a_power_cut_within_an_epoch_costs_what_came_after_the_last_checkpoint(
    view: TransitionView, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    with pytest.raises(PowerCutError):
        fit([make_run(EventfulView(view, 7), tmp_path, eval_freq=10)])
    assert read_checkpoint(run_folder(tmp_path) / "model.pt")["progress"]["batch"] == 6
    resume(view, tmp_path)
    assert_same_end(run_folder(tmp_path), unbroken)


def test_a_row_logged_just_before_the_kill_is_not_logged_twice(
    view: TransitionView, unbroken: Path, tmp_path: Path
) -> None:
    with pytest.raises(Stopped):
        fit([make_run(EventfulView(view, 20, signal.SIGTERM), tmp_path, eval_freq=10)])
    # As if the log had got further than the checkpoint.
    header = (unbroken / "logs.csv").read_text().splitlines()[0]
    (run_folder(tmp_path) / "logs.csv").write_text(f"{header}\n1,9,9,9,9,9,9,9\n2,9,")
    resume(view, tmp_path)
    assert_same_end(run_folder(tmp_path), unbroken)


def test_the_signals_act_as_before_once_the_run_has_ended(
    view: TransitionView, tmp_path: Path
) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(Stopped):
        fit([make_run(EventfulView(view, 1, signal.SIGTERM), tmp_path)])
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
