"""What all methods keep: exact resumption, checkpoints that stand alone, fair acting."""

from __future__ import annotations

import copy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.interrupts import Stopped
from common.run_logger import RunFolder
from common.seeding import seed_everything
from offline import evaluate_offline_agent, train_offline_agent, training
from offline.agents import agent_class, make_agent
from offline.agents.base import DatasetFacts
from offline.arguments import ALGORITHMS, parse_training
from offline.data.packing import open_game
from offline.data.placement import place_frames
from offline.data.store import select_episodes
from offline.data.views import View, make_view
from offline.lockstep import fit
from offline.training import Run
from tests.eventful_view import Eventful, be_terminated
from tests.method_fixtures import play, talkative
from tests.offline_commands import (
    CPU,
    EVALUATE,
    GAME,
    ROOT,
    TINY,
    TRAIN,
    assert_same,
    assert_same_end,
    end,
    flags,
    read_checkpoint,
    run,
    run_folder,
    start,
    wait_for,
)
from tests.sequence_fixtures import TINY_AGENTS

every_method = pytest.mark.parametrize("algo", ALGORITHMS)
CONTEXT = 3
# Settings under which all that a method changes while it learns does change.
RENEWED = {"target_update_freq": 3}
POLYAK = {**RENEWED, "perform_polyak_update": True, "tau": 0.5}
LIVELY: dict[str, dict[str, Any]] = {
    "bc": {},
    "bcq": RENEWED,
    "bct": {"dt_context_length": CONTEXT, "warmup_tokens": 500},
    "cql": RENEWED,
    "dt": {"dt_context_length": CONTEXT, "warmup_tokens": 500, "dt_rtg_noise_prob": 0.5},
    "iql": RENEWED,
}
LIVELY_AND_POLYAK = [
    *LIVELY.items(),
    *((algo, POLYAK) for algo in ("bcq", "cql", "iql")),
]


@pytest.fixture(scope="module")
def views(dataset: Path) -> dict[str, View]:
    """The view of each method, on two real episodes."""
    selection = select_episodes([open_game(dataset, GAME, progress=False)], dataset_size=90)
    frames = place_frames(selection, CPU)
    return {
        algo: make_view(agent_class(algo).view, selection, frames, CONTEXT, CPU)
        for algo in ALGORITHMS
    }


# Resumption


class PowerCutError(Exception):
    """Nothing catches it and nothing is saved because of it."""


def cut_power() -> None:
    raise PowerCutError


def begin(algo: str, view: View, save_path: Path, changes: dict[str, Any]) -> Run:
    """The run that the training command makes; transformers are smaller than the benchmark's."""
    shown = {**TINY, "hidden_size": 8, "batch_size": 16, "epochs": 2, "eval_freq": 10}
    shown |= {"num_final_episodes": 0, "algo": algo, "xpid": "run", "save_path": save_path}
    settings = parse_training(flags(shown, **changes), "")
    facts = DatasetFacts(
        num_actions=15, max_return=4.0, min_return=-4.0, num_samples=len(view), max_length=200
    )
    seed_everything(settings.seed)
    make = TINY_AGENTS.get(algo, make_agent)
    return Run(make(vars(settings), facts, CPU), view, settings, RunFolder(save_path, GAME, "run"))


@pytest.mark.parametrize(("algo", "changes"), LIVELY_AND_POLYAK)
def test_a_run_stopped_within_two_epochs_ends_as_an_unbroken_one(
    views: dict[str, View],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    algo: str,
    changes: dict[str, Any],
) -> None:
    view = views[algo]
    fit([begin(algo, view, tmp_path / "unbroken", changes)])
    broken = tmp_path / "broken"
    with pytest.raises(Stopped):
        fit([begin(algo, Eventful(view, 3, be_terminated), broken, changes)])
    assert read_checkpoint(run_folder(broken) / "model.pt")["progress"]["batch"] == 3
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    per_epoch = -(-len(view) // 16)
    # The fourth batch of the second epoch is under way, and lost.
    resumed = begin(algo, Eventful(view, per_epoch + 1, cut_power), broken, changes)
    resumed.restore()
    with pytest.raises(PowerCutError):
        fit([resumed])
    progress = read_checkpoint(run_folder(broken) / "model.pt")["progress"]
    assert (progress["epoch"], progress["batch"]) == (2, 3)
    resumed = begin(algo, view, broken, changes)
    resumed.restore()
    fit([resumed])
    assert_same_end(run_folder(broken), run_folder(tmp_path / "unbroken"))


# The real commands


def trained(algo: str, folder: Path, **changes: Any) -> tuple[dict[str, Any], Path]:
    """Settings and --save_path of a run of the benchmark's sizes, trained by the real command."""
    small = {"hidden_size": 8, "batch_size": 16, "dataset_size": 1, "epochs": 1, "eval_freq": 10}
    small["num_final_episodes"] = 1
    settings = {**TINY, **small, **LIVELY[algo], "algo": algo, "xpid": "run", **changes}
    assert train_offline_agent.main(flags(settings, save_path=folder)) == 0
    return settings, folder


@pytest.fixture(scope="module")
def finished(
    dataset: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[dict[str, Any], Path]]:
    """Of every method settings and --save_path of a finished run; their data are gone."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(dataset, folder / "data")
    runs = {algo: trained(algo, folder / algo, dataset=folder / "data") for algo in ALGORITHMS}
    shutil.rmtree(folder / "data")
    return runs


@pytest.mark.slow
@pytest.mark.parametrize(("algo", "number"), [("iql", signal.SIGKILL), ("dt", signal.SIGTERM)])
def test_a_process_ended_within_an_epoch_and_started_again_ends_as_an_unbroken_one(
    dataset: Path, tmp_path: Path, algo: str, number: signal.Signals
) -> None:
    # Small batches: an epoch takes long enough to be in the middle of it.
    changes = {"dataset": dataset, "dataset_size": 90, "batch_size": 2, "epochs": 2}
    changes["num_final_episodes"] = 0
    settings, unbroken = trained(algo, tmp_path / "unbroken", **changes)
    arguments = flags(settings, save_path=tmp_path / "broken", resume=True)
    process = start(TRAIN, *arguments)
    wait_for(process, "epoch 2/2")
    time.sleep(0.1)
    process.send_signal(number)
    assert end(process) == (-number if number == signal.SIGKILL else 128 + number)
    progress = read_checkpoint(run_folder(tmp_path / "broken") / "model.pt")["progress"]
    assert progress["epoch"] == 2
    assert not progress["finished"]
    assert (progress["batch"] > 1) == (number == signal.SIGTERM)
    done = run(TRAIN, *arguments)
    assert done.returncode == 0, done.stderr
    assert_same_end(run_folder(tmp_path / "broken"), run_folder(unbroken))


@pytest.mark.slow
def test_checkpoints_alone_repeat_the_evaluation_at_the_end_of_training(
    finished: dict[str, tuple[dict[str, Any], Path]], tmp_path: Path
) -> None:
    commands = []
    for algo, (settings, save_path) in finished.items():
        shutil.copytree(save_path, tmp_path / algo, symlinks=True)
        commands.append(flags(settings, save_path=tmp_path / algo))
    # One new process for all of them: it has seen no data and no training.
    code = f"import {EVALUATE} as c, sys; sys.exit(max(c.main(a) for a in {commands!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for algo, (settings, save_path) in finished.items():
        new = run_folder(tmp_path / algo)
        at_the_end = (run_folder(save_path) / "final_test_eval.csv").read_bytes()
        assert (new / "evaluate.csv").read_bytes() == at_the_end, algo
        first = (new / "evaluate_episodes.csv").read_bytes()
        assert len(first.splitlines()) == 1 + 3  # a header and an episode per split
        again = flags(settings, save_path=tmp_path / algo)
        assert evaluate_offline_agent.main(again) == 0
        assert (new / "evaluate_episodes.csv").read_bytes() == first, algo


# Acting and learning

GREEDY = {"deterministic": True}
SAMPLED: dict[str, dict[str, Any]] = {
    algo: {"eval_eps": 0.5} if algo in ("bcq", "cql") else {} for algo in ALGORITHMS
}
BOTH_WAYS = [(algo, changes) for algo in ALGORITHMS for changes in (SAMPLED[algo], GREEDY)]


@pytest.mark.parametrize(("algo", "changes"), BOTH_WAYS)
def test_acting_in_a_batch_gives_the_actions_of_acting_alone_and_gives_them_again(
    algo: str, changes: dict[str, Any]
) -> None:
    agent = talkative(algo, **changes)
    together = play(agent, [0, 1, 2, 3])
    assert len({action for actions in together.values() for action in actions}) > 1
    assert play(agent, [0, 1, 2, 3]) == together
    assert play(agent, [3, 1]) == {env: together[env] for env in (3, 1)}
    for env in range(4):
        assert play(agent, [env]) == {env: together[env]}


@every_method
@pytest.mark.parametrize("learning", [True, False])
def test_acting_leaves_weights_mode_and_torchs_generator_alone(algo: str, learning: bool) -> None:
    agent = talkative(algo)
    quiet = play(agent.eval(), [0, 1, 2, 3])
    agent.train(learning)
    modes = [module.training for module in agent.modules()]
    before = copy.deepcopy(agent.state())
    generator = torch.get_rng_state()
    assert play(agent, [0, 1, 2, 3]) == quiet
    assert [module.training for module in agent.modules()] == modes
    assert_same(agent.state(), before)
    # Dropout would have drawn from it.
    assert torch.equal(torch.get_rng_state(), generator)


@every_method
def test_metrics_are_scalars_without_graph_and_the_loss_is_among_them(
    views: dict[str, View], algo: str
) -> None:
    agent = talkative(algo)
    for _ in range(2):
        metrics = agent.update(views[algo].batch(np.arange(5)))
        assert "loss" in metrics
        for name, value in metrics.items():
            assert value.shape == (), name
            assert value.is_floating_point(), name
            assert value.grad_fn is None, name
            assert not value.requires_grad, name
            assert value.isfinite(), name
