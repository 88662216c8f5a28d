from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from common.errors import ToolkitError
from common.evaluation import evaluate, mean_returns
from common.seeding import derive_seed
from offline.agents.base import DatasetFacts, OfflineAgent, TransitionBatch
from offline.data.packing import open_game
from offline.data.placement import place_frames
from offline.data.store import select_episodes
from offline.data.views import TransitionView, make_view
from offline.lockstep import fit
from tests.data_fixtures import make_episode, write_game
from tests.offline_commands import (
    CPU,
    GAME,
    make_run,
    read_checkpoint,
    read_rows,
    run_folder,
)


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> TransitionView:
    """20 transitions."""
    folder = tmp_path_factory.mktemp("data")
    write_game(folder / GAME, [make_episode(1, [0.0] * 12), make_episode(2, [1.0] * 8)])
    selection = select_episodes([open_game(folder, GAME, progress=False)])
    made = make_view("state_actions", selection, place_frames(selection, CPU), 1, CPU)
    assert isinstance(made, TransitionView)
    return made


class RecordingView:
    """Passes batches on and remembers which samples were in them."""

    def __init__(self, view: TransitionView) -> None:
        self.view = view
        self.batches: list[list[int]] = []

    batches_ahead = 0
    leave_gpu = None

    def gather(self, indices: np.ndarray) -> TransitionBatch:
        raise AssertionError("batches are wanted on a CPU")

    def __len__(self) -> int:
        return len(self.view)

    def batch(self, indices: np.ndarray) -> TransitionBatch:
        self.batches.append(indices.tolist())
        return self.view.batch(indices)


class ButtonPresser(OfflineAgent[TransitionBatch]):
    """Holds one button all through an evaluation, another in the next one: returns are known.

    Its only weight counts its updates.
    """

    view = "state_actions"
    buttons: tuple[int, ...] = (0,)  # per evaluation; the last one stays

    def __init__(
        self, settings: Mapping[str, Any], facts: DatasetFacts, device: torch.device
    ) -> None:
        super().__init__(settings, facts, device)
        self.updates = torch.nn.Parameter(torch.zeros(()))
        self.resets = 0

    def update(self, batch: TransitionBatch) -> dict[str, Tensor]:
        with torch.no_grad():
            self.updates += 1
        loss = self.updates.detach().clone()
        return {"loss": loss, "twice": 2 * loss}

    def reset(self, num_envs: int, seed: int) -> None:
        self.resets += 1

    def act(self, observations: np.ndarray, env_ids: np.ndarray) -> np.ndarray:
        evaluation = min(self.resets, len(self.buttons))  # one reset each
        return np.full(len(env_ids), self.buttons[evaluation - 1])


def presser(*buttons: int) -> type[ButtonPresser]:
    return type("Presser", (ButtonPresser,), {"buttons": buttons})


@pytest.fixture(scope="module")
def buttons() -> dict[str, int]:
    """Buttons that give a low, a middle and a high return on the validation levels."""
    returns: dict[float, int] = {}
    settings = {"precision": "fp32", "deterministic": False, "eval_eps": 0.001}
    for button in range(15):
        results = evaluate(
            presser(button)(
                settings,
                DatasetFacts(
                    num_actions=15, max_return=0.0, min_return=0.0, num_samples=1, max_length=1
                ),
                CPU,
            ),
            env_name=GAME,
            distribution_mode="easy",
            num_levels=200,
            num_episodes=2,
            seed=derive_seed(88, "training"),
        )
        returns[mean_returns(results)["validation"]] = button
        if len(returns) == 3:
            break
    low, middle, high = sorted(returns)
    return {"low": returns[low], "middle": returns[middle], "high": returns[high]}


class Glutton(ButtonPresser):
    """Asks the host for more memory than there is."""

    def update(self, batch: Any) -> dict[str, torch.Tensor]:
        return {"loss": torch.empty(1 << 60, dtype=torch.uint8)}


def test_a_host_without_memory_left_is_one_line(tmp_path: Path, view: TransitionView) -> None:
    run = make_run(view, tmp_path, Glutton)
    with pytest.raises(ToolkitError, match="out of memory in epoch 1: try a smaller --batch_size"):
        fit([run])


# When what happens


def test_each_epoch_visits_every_transition_once_in_an_order_of_its_own(
    tmp_path: Path, view: TransitionView
) -> None:
    recording = RecordingView(view)
    fit([make_run(recording, tmp_path, epochs=3, num_final_episodes=0)])
    assert [len(batch) for batch in recording.batches] == [8, 8, 4] * 3
    visited = [sample for batch in recording.batches for sample in batch]
    epochs = [visited[i : i + 20] for i in (0, 20, 40)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(20))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_evaluations_come_every_eval_freq_epochs_and_after_the_last(
    tmp_path: Path, view: TransitionView
) -> None:
    fit([make_run(view, tmp_path, presser(0), epochs=5, eval_freq=2)])
    rows = read_rows(run_folder(tmp_path) / "logs.csv")
    assert [row["epoch"] for row in rows] == ["2", "4", "5"]


def test_checkpoints_are_kept_every_ckpt_freq_epochs(tmp_path: Path, view: TransitionView) -> None:
    fit([make_run(view, tmp_path, presser(0), epochs=7, eval_freq=10, ckpt_freq=3)])
    kept = run_folder(tmp_path).glob("model_*.pt")
    # Three batches, so three updates, per epoch.
    updates = {p.name: float(read_checkpoint(p)["agent"]["weights"]["updates"]) for p in kept}
    assert updates == {"model_3.pt": 9.0, "model_6.pt": 18.0}


def test_the_log_averages_every_metric_over_the_batches_of_its_epoch(
    tmp_path: Path, view: TransitionView
) -> None:
    fit([make_run(view, tmp_path, presser(0), epochs=2)])
    rows = read_rows(run_folder(tmp_path) / "logs.csv")
    # The presser's loss is the number of its updates: 1, 2, 3 and then 4, 5, 6.
    assert [float(row["train_loss"]) for row in rows] == [2.0, 5.0]
    assert [float(row["twice"]) for row in rows] == [4.0, 10.0]


def test_the_final_evaluation_can_be_left_out(tmp_path: Path, view: TransitionView) -> None:
    fit([make_run(view, tmp_path, presser(0), num_final_episodes=0)])
    assert (run_folder(tmp_path) / "final_model.pt").exists()
    assert not (run_folder(tmp_path) / "final_test_eval.csv").exists()


def test_the_best_model_is_that_of_the_best_validation_return(
    tmp_path: Path, view: TransitionView, buttons: dict[str, int]
) -> None:
    script = [buttons[name] for name in ("low", "high", "middle", "high")]
    fit([make_run(view, tmp_path, presser(*script), epochs=4, num_eval_episodes=2)])
    rows = read_rows(run_folder(tmp_path) / "logs.csv")
    returns = [float(row["val_rets_mean"]) for row in rows]
    assert returns[0] < returns[2] < returns[1] == returns[3]
    # Of equally good ones the first: three updates per epoch, the second epoch.
    best = read_checkpoint(run_folder(tmp_path) / "best_model.pt")
    assert float(best["agent"]["weights"]["updates"]) == 6.0


def test_early_stopping_waits_for_ten_evaluations_without_improvement(
    tmp_path: Path, view: TransitionView, buttons: dict[str, int]
) -> None:
    script = [buttons["low"]] * 3 + [buttons["middle"]] + [buttons["low"]]
    changes = {"epochs": 30, "early_stop": True, "num_eval_episodes": 2}
    fit([make_run(view, tmp_path, presser(*script), **changes)])
    # The best evaluation is that of epoch 4.
    assert len(read_rows(run_folder(tmp_path) / "logs.csv")) == 14
    assert (run_folder(tmp_path) / "final_model.pt").exists()


def test_patience_counts_evaluations_not_epochs(tmp_path: Path, view: TransitionView) -> None:
    fit([make_run(view, tmp_path, presser(0), epochs=40, eval_freq=2, early_stop=True)])
    rows = read_rows(run_folder(tmp_path) / "logs.csv")
    assert [row["epoch"] for row in rows][-1] == "22"


def test_without_early_stopping_a_run_goes_on(tmp_path: Path, view: TransitionView) -> None:
    fit([make_run(view, tmp_path, presser(0), epochs=13, early_stop=False)])
    assert len(read_rows(run_folder(tmp_path) / "logs.csv")) == 13


def test_a_rise_of_less_than_a_tenth_is_no_improvement_but_the_best_so_far(
    tmp_path: Path, view: TransitionView
) -> None:
    run = make_run(view, tmp_path, presser(0))
    counts = []
    for validation in (5.0, 5.05, 5.09, 5.125, 5.0):
        run._track(validation)
        counts.append(run.progress.evaluations_without_improvement)
    assert counts == [0, 1, 2, 0, 1]
    assert run.progress.best_validation == 5.125


# Losses that are not finite


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_epoch(
    tmp_path: Path, view: TransitionView
) -> None:
    # The first step with such a rate throws every weight far away.
    run = make_run(view, tmp_path, lr=1e30)
    with pytest.raises(ToolkitError, match=r"at step 2 of epoch 1: .*nothing was saved yet"):
        fit([run])
    assert not list(run_folder(tmp_path).glob("*.pt"))


def test_the_checkpoint_from_before_a_bad_loss_is_kept(
    tmp_path: Path, view: TransitionView
) -> None:
    run = make_run(view, tmp_path)

    class SpoiledFromEpochTwo(RecordingView):
        def batch(self, indices: np.ndarray) -> TransitionBatch:
            if len(self.batches) == 4:  # three batches are an epoch
                with torch.no_grad():
                    next(run.agent.parameters()).fill_(torch.nan)
            return super().batch(indices)

    run.view = SpoiledFromEpochTwo(view)
    with pytest.raises(ToolkitError, match=r"step 2 of epoch 2: .*model\.pt keeps the last good"):
        fit([run])
    kept = read_checkpoint(run_folder(tmp_path) / "model.pt")
    assert kept["progress"]["epoch"] == 2
    assert kept["progress"]["batch"] == 0
    assert all(weights.isfinite().all() for weights in kept["agent"]["weights"].values())


def test_weights_ruined_by_the_last_step_of_an_epoch_are_not_saved(
    tmp_path: Path, view: TransitionView
) -> None:
    run = make_run(view, tmp_path, epochs=1)
    steps: list[Tensor] = []

    def spoil_third(gradient: Tensor) -> Tensor:
        steps.append(gradient)
        return gradient * torch.nan if len(steps) == 3 else gradient

    next(run.agent.parameters()).register_hook(spoil_third)
    with pytest.raises(ToolkitError, match="weights are not finite after step 3 of epoch 1"):
        fit([run])
    assert not list(run_folder(tmp_path).glob("*.pt"))
