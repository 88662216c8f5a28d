"""Runs that train in turn in one process: each is, to the bit, what it would have been alone."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import ToolkitError
from common.interrupts import Stopped
from common.run_logger import RunFolder
from common.seeding import seed_everything
from offline import training
from offline.agents import agent_class, make_agent
from offline.agents.base import DatasetFacts
from offline.arguments import ALGORITHMS, parse_training
from offline.data.packing import open_game
from offline.data.placement import DataDevice, place_frames
from offline.data.store import select_episodes
from offline.data.views import View, make_view
from offline.lockstep import fit
from offline.training import Run
from tests.eventful_view import Eventful, be_terminated
from tests.offline_commands import (
    CPU,
    GAME,
    TINY,
    assert_same_end,
    flags,
    read_checkpoint,
    read_rows,
)
from tests.sequence_fixtures import TINY_AGENTS

SEEDS = (88, 89, 90)
BATCH_SIZE = 16
# Settings under which all that a method draws or changes while it learns does so.
LIVELY: dict[str, dict[str, Any]] = {
    "bc": {},
    "bcq": {"target_update_freq": 3},
    "bct": {"dt_context_length": 3, "warmup_tokens": 500},
    "cql": {"target_update_freq": 3},
    "dt": {"dt_context_length": 3, "warmup_tokens": 500, "dt_rtg_noise_prob": 0.5},
    "iql": {"target_update_freq": 3},
}


def open_view(
    dataset: Path,
    algo: str,
    device: torch.device = CPU,
    data_device: DataDevice = "auto",
    size: int = 90,
) -> View:
    """The view of a method on the first real episodes."""
    selection = select_episodes([open_game(dataset, GAME, progress=False)], dataset_size=size)
    frames = place_frames(selection, device, data_device)
    return make_view(agent_class(algo).view, selection, frames, 3, device)


def begin(
    view: View,
    save_path: Path,
    seed: int,
    algo: str = "bc",
    device: torch.device = CPU,
    **changes: Any,
) -> Run:
    """The run that the training command makes; transformers are smaller than the benchmark's."""
    shown = {**TINY, "hidden_size": 8, "batch_size": BATCH_SIZE, "epochs": 2, "eval_freq": 10}
    shown |= {"num_final_episodes": 0, "algo": algo, "xpid": f"run_{seed}", "seed": seed}
    shown |= {"save_path": save_path, "precision": "fp32", **LIVELY[algo], **changes}
    settings = parse_training(flags(shown), "")
    facts = DatasetFacts(
        num_actions=15, max_return=4.0, min_return=-4.0, num_samples=len(view), max_length=200
    )
    seed_everything(seed)
    agent = TINY_AGENTS.get(algo, make_agent)(vars(settings), facts, device)
    folder = RunFolder(save_path, GAME, settings.xpid)
    return Run(agent, view, settings, folder, f"seed {seed}")


def folder_of(save_path: Path, seed: int) -> Path:
    return save_path / GAME / f"run_{seed}"


def train_alone(view: View, save_path: Path, algo: str = "bc", **changes: Any) -> Path:
    for seed in SEEDS:
        fit([begin(view, save_path, seed, algo, **changes)])
    return save_path


def assert_as_alone(together: Path, alone: Path, seeds: tuple[int, ...] = SEEDS) -> None:
    for seed in seeds:
        assert_same_end(folder_of(together, seed), folder_of(alone, seed))


@pytest.fixture(scope="module")
def view(dataset: Path) -> View:
    """About 90 transitions: six batches or more, the last one short."""
    return open_view(dataset, "bc")


@pytest.fixture(scope="module")
def alone(view: View, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The --save_path of three runs of bc, one after the other."""
    return train_alone(view, tmp_path_factory.mktemp("alone"))


# To the bit


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_three_seeds_in_one_process_end_as_three_runs_alone(
    dataset: Path, tmp_path: Path, algo: str
) -> None:
    view = open_view(dataset, algo)
    fit([begin(view, tmp_path / "together", seed, algo) for seed in SEEDS])
    assert_as_alone(tmp_path / "together", train_alone(view, tmp_path / "alone", algo))


def test_seeds_have_weights_of_their_own(alone: Path) -> None:
    weights = [
        torch.cat([w.flatten() for w in read_checkpoint(path)["agent"]["weights"].values()])
        for path in (folder_of(alone, seed) / "final_model.pt" for seed in SEEDS)
    ]
    assert not any(torch.equal(weights[i], weights[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize(("title", "is_swapped"), [("", False), ("seed 88", True)])
def test_torchs_generators_are_swapped_only_where_there_are_other_runs(
    view: View, tmp_path: Path, title: str, is_swapped: bool
) -> None:
    run = begin(view, tmp_path, 88)
    run.title = title
    with run.turn():
        mine = torch.get_rng_state()
    torch.manual_seed(1)
    others = torch.get_rng_state()
    with run.turn():
        assert torch.equal(torch.get_rng_state(), mine if is_swapped else others)


def test_several_runs_without_titles_are_refused(view: View, tmp_path: Path) -> None:
    runs = [begin(view, tmp_path, seed) for seed in SEEDS]
    runs[1].title = ""
    with pytest.raises(ValueError, match="several runs need titles"):
        fit(runs)


def test_seeds_that_read_ahead_from_files_end_as_those_whose_frames_are_in_memory(
    dataset: Path, alone: Path, tmp_path: Path
) -> None:
    view = open_view(dataset, "bc", data_device="mmap")
    assert view.batches_ahead > 0
    fit([begin(view, tmp_path, seed) for seed in SEEDS])
    assert_as_alone(tmp_path, alone)


def test_each_seed_evaluates_and_stops_early_by_its_own_returns(
    view: View, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "PATIENCE", 1)
    changes = {"epochs": 4, "eval_freq": 1, "early_stop": True, "num_eval_episodes": 3}
    changes |= {"num_final_episodes": 1}
    fit([begin(view, tmp_path / "together", seed, **changes) for seed in SEEDS])
    assert_as_alone(tmp_path / "together", train_alone(view, tmp_path / "alone", **changes))
    lengths = {len(read_rows(folder_of(tmp_path / "alone", s) / "logs.csv")) for s in SEEDS}
    assert len(lengths) > 1, "the seeds stopped at the same epoch, which shows nothing"


def test_batches_are_taken_in_turn(view: View, tmp_path: Path) -> None:
    made: list[int] = []

    class Noting(Eventful):
        def batch(self, indices: np.ndarray) -> Any:
            made.append(self.when)
            return self.view.batch(indices)

    fit([begin(Noting(view, seed, int), tmp_path, seed, epochs=1) for seed in SEEDS])
    assert made == list(SEEDS) * -(-len(view) // BATCH_SIZE)


# Stopped and continued


@pytest.mark.parametrize("when", [2, 8])
def test_a_signal_finds_every_seed_within_one_batch_of_its_checkpoint(
    view: View, alone: Path, tmp_path: Path, when: int
) -> None:
    stopping = Eventful(view, when, be_terminated)
    with pytest.raises(Stopped, match="continues 3 runs in") as stopped:
        fit([begin(stopping, tmp_path, seed) for seed in SEEDS])
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    assert stopping.made == when
    saved = [folder_of(tmp_path, seed) / "model.pt" for seed in SEEDS]
    batches = [read_checkpoint(p)["progress"]["batch"] if p.exists() else 0 for p in saved]
    # In turn, so the first seeds are one ahead of the last ones.
    assert batches == [(when + 2) // 3, (when + 1) // 3, when // 3]
    # One goes on alone, the others together.
    runs = [begin(view, tmp_path, seed) for seed in SEEDS]
    for run, batch in zip(runs, batches, strict=True):
        if batch:
            run.restore()
    fit(runs[:1])
    fit(runs[1:])
    assert_as_alone(tmp_path, alone)


def test_seeds_that_are_epochs_apart_go_on_together(
    view: View, alone: Path, tmp_path: Path
) -> None:
    # Six or seven batches are an epoch: the first seed is stopped in its second.
    per_epoch = -(-len(view) // BATCH_SIZE)
    with pytest.raises(Stopped):
        fit([begin(Eventful(view, per_epoch + 2, be_terminated), tmp_path, SEEDS[0])])
    runs = [begin(view, tmp_path, seed) for seed in SEEDS]
    runs[0].restore()
    assert (runs[0].progress.epoch, runs[0].progress.batch) == (2, 2)
    fit(runs)
    assert_as_alone(tmp_path, alone)


def test_a_signal_in_one_seeds_evaluation_loses_no_batch_of_the_others(
    view: View, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = training.evaluate

    def be_terminated_and_evaluate(*arguments: Any, **options: Any) -> Any:
        be_terminated()
        return evaluate(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(training, "evaluate", be_terminated_and_evaluate)
        with pytest.raises(Stopped):
            fit([begin(view, tmp_path, seed) for seed in SEEDS])
    runs = [begin(view, tmp_path, seed) for seed in SEEDS]
    per_epoch = -(-len(view) // BATCH_SIZE)
    for run in runs:
        run.restore()
        assert (run.progress.epoch, run.progress.batch) == (2, per_epoch)
    fit(runs)
    assert_as_alone(tmp_path, alone)


# One that fails


def test_a_seed_whose_loss_is_not_finite_ends_and_the_others_go_on(
    view: View, alone: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, third = (begin(view, tmp_path, seed) for seed in SEEDS)

    def spoil() -> None:
        with torch.no_grad():
            next(second.agent.parameters()).fill_(torch.nan)

    second.view = Eventful(view, 2, spoil)
    with pytest.raises(ToolkitError) as failed:
        fit([first, second, third])
    assert failed.value.exit_code == 1
    assert str(failed.value).startswith(
        "1 of 3 runs failed: seed 89: the loss is not finite at step 2 of epoch 1: "
    )
    assert "seed 89 failed: the loss is not finite" in caplog.text
    assert not list(folder_of(tmp_path, 89).glob("*.pt"))
    assert_as_alone(tmp_path, alone, (88, 90))


def test_a_seed_that_fails_as_all_are_stopped_does_not_keep_the_others_from_being_saved(
    view: View, tmp_path: Path
) -> None:
    runs = [begin(view, tmp_path, seed) for seed in SEEDS]

    def spoil_and_be_terminated() -> None:
        with torch.no_grad():
            next(runs[0].agent.parameters()).fill_(torch.nan)
        be_terminated()

    runs[2].view = Eventful(view, 1, spoil_and_be_terminated)
    with pytest.raises(Stopped, match="continues 2 runs in"):
        fit(runs)
    assert [(folder_of(tmp_path, seed) / "model.pt").exists() for seed in SEEDS] == [
        False,
        True,
        True,
    ]


# On a card


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("data_device", ["cuda", "ram", "mmap"])
@pytest.mark.parametrize("algo", ["iql", "dt"])
def test_seeds_on_streams_of_their_own_have_the_weights_of_runs_alone(
    dataset: Path, tmp_path: Path, algo: str, data_device: DataDevice
) -> None:
    device = torch.device("cuda")
    view = open_view(dataset, algo, device, data_device)

    def end(save_path: Path, seed: int) -> torch.Tensor:
        weights = read_checkpoint(folder_of(save_path, seed) / "final_model.pt")["agent"]["weights"]
        return torch.cat([w.flatten().double().cpu() for w in weights.values()])

    fit([begin(view, tmp_path / "together", seed, algo, device) for seed in SEEDS])
    train_alone(view, tmp_path / "alone", algo, device=device)
    for seed in SEEDS:
        mine, theirs = end(tmp_path / "together", seed), end(tmp_path / "alone", seed)
        # A card may add up in another order each time, which Adam's first steps enlarge. With other
        # batches or other dropout nearly every weight would be about a step of 1e-3 away.
        assert float((mine - theirs).abs().mean()) < 1e-4
