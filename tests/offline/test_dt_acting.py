"""How DT and BCT act, are saved and are evaluated."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import ToolkitError
from common.seeding import restore_torch_random_state, torch_random_state
from offline import evaluate_offline_agent
from offline.acting import ways_to_act
from offline.agents import dt, load_agent
from offline.agents.transformer import Sizes
from offline.arguments import parse_evaluation
from offline.data.packing import open_game
from offline.data.placement import place_frames
from offline.data.store import select_episodes
from offline.data.views import WindowView
from tests.data_fixtures import make_episode, write_game
from tests.method_fixtures import FRAMES, play
from tests.offline_commands import (
    CPU,
    EVALUATE,
    TINY,
    TRAIN,
    FinishedRun,
    assert_same,
    flags,
    read_checkpoint,
    run,
)
from tests.sequence_fixtures import (
    BATCH,
    FACTS,
    loud,
    make_windows,
    tiny_agent,
)

both = pytest.mark.parametrize("algo", ["dt", "bct"])


@both
def test_acting_sees_the_windows_of_learning(algo: str, tmp_path: Path) -> None:
    episode = make_episode(3, [0.0, 2.0, 0.0, 1.0, 0.0, 0.0, 4.0], level_seed=1)
    write_game(tmp_path / "miner", [episode])
    selection = select_episodes([open_game(tmp_path, "miner", progress=False)])
    view = WindowView(selection, place_frames(selection, CPU), CPU, 3)
    facts = dataclasses.replace(FACTS, max_return=7.0)
    changes: dict[str, Any] = {"dt_eval_ret": 1} if algo == "dt" else {}
    agent = loud(algo, facts=facts, **changes)
    seen: list[torch.Tensor] = []
    hook = agent.model.register_forward_hook(lambda module, inputs, logits: seen.append(logits))
    agent.reset(2, seed=0)
    ids = np.array([1])
    for t in range(7):
        agent.act(episode.observations[t : t + 1], ids)
        done = np.array([t == 6])
        agent.observe(episode.actions[t : t + 1], episode.rewards[t : t + 1], done, ids)
    hook.remove()
    expected = agent.logits(view.batch(np.arange(7)))
    for t in range(7):
        last = min(t, 2)
        torch.testing.assert_close(seen[t][0, last], expected[t, last], rtol=1e-4, atol=1e-4)


@both
@pytest.mark.parametrize("deterministic", [True, False])
def test_acting_in_a_batch_gives_the_actions_of_acting_alone(
    algo: str, deterministic: bool
) -> None:
    agent = loud(algo, deterministic=deterministic)
    together = play(agent, [0, 1, 2, 3])
    assert len({action for actions in together.values() for action in actions}) > 3
    for env in range(4):
        assert play(agent, [env]) == {env: together[env]}
    assert play(agent, [3, 1]) == {env: together[env] for env in (3, 1)}


@both
def test_after_its_end_an_environment_plays_as_if_new_and_the_others_go_on(algo: str) -> None:
    changes: dict[str, Any] = {"dt_eval_ret": 1} if algo == "dt" else {}
    agent = loud(algo, deterministic=True, **changes)
    seen: list[torch.Tensor] = []
    agent.model.register_forward_hook(lambda module, inputs, logits: seen.append(logits))
    runs: list[list[torch.Tensor]] = []
    for ending, first in ((True, 0), (False, 0), (False, 1)):
        seen.clear()
        agent.reset(2, seed=0)
        for t in range(first, 3):
            ids = np.arange(2)
            actions = agent.act(FRAMES[:2, t], ids)
            dones = np.array([ending and t == 0, False])
            agent.observe(actions, np.ones(2, np.float32), dones, ids)
        runs.append(list(seen))
    ended, unended, new = runs
    for t in (1, 2):  # without an end the window holds t + 1 steps, after one t
        torch.testing.assert_close(ended[t][0, t - 1], new[t - 1][0, t - 1])
        assert not torch.allclose(ended[t][0, t - 1], unended[t][0, t])
        torch.testing.assert_close(ended[t][1, t], unended[t][1, t])


def test_the_target_changes_what_is_played() -> None:
    played = []
    for target in (0, 1, 5):
        agent = loud(dt_eval_ret=target)
        played.append(tuple(tuple(actions) for actions in play(agent, [0, 1, 2, 3]).values()))
    assert len(set(played)) == 3


@both
def test_sampling_follows_the_seed_and_the_likeliest_action_does_not(algo: str) -> None:
    ids = np.arange(64)
    frames = np.repeat(FRAMES[:, 0], 16, 0)
    for deterministic in (True, False):
        agent, drawn = tiny_agent(algo, deterministic=deterministic).eval(), []
        for seed in (1, 1, 2):
            agent.reset(64, seed)
            drawn.append(agent.act(frames, ids).tolist())
        assert drawn[0] == drawn[1]
        assert (drawn[0] == drawn[2]) == deterministic


@both
def test_acting_has_no_dropout_and_learning_goes_on_with_it(algo: str) -> None:
    agent = loud(algo)
    assert torch.equal(agent.logits(BATCH), agent.logits(BATCH))
    quiet = play(agent, [0, 1, 2, 3])
    agent.train()
    assert play(agent, [0, 1, 2, 3]) == quiet
    assert not torch.equal(agent.logits(BATCH), agent.logits(BATCH))


def test_each_frame_is_encoded_once() -> None:
    agent, seen = loud(dt_context_length=8), []
    agent.model.encoder.register_forward_hook(
        lambda module, x, features: seen.append(len(features))
    )
    play(agent, [0, 1, 2, 3])
    assert seen == [4] * 5 + [3] * 3


@both
def test_a_context_longer_than_any_episode_is_padded_with_one_warning(
    algo: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        tiny_agent(algo, dt_context_length=FACTS.max_length)
        assert caplog.messages == []
        agent = tiny_agent(algo, dt_context_length=FACTS.max_length + 5)
        agent.update(make_windows([4, 20], context_length=FACTS.max_length + 5))
    (message,) = caplog.messages
    assert "--dt_context_length 25" in message
    assert "20 steps" in message
    play(agent, [0, 1])


# Saving


@both
def test_a_restored_agent_goes_on_as_the_saved_one(algo: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"dt_rtg_noise_prob": 0.5} if algo == "dt" else {}
    saved = tiny_agent(algo, seed=1, warmup_tokens=100, **changes)
    restored = tiny_agent(algo, seed=2, warmup_tokens=100, **changes)
    for i in range(3):
        saved.update(make_windows([1, 2, 3], seed=i))
    path = tmp_path / "state.pt"
    torch.save({"agent": saved.state(), "random": torch_random_state()}, path)
    ends = []
    for agent in (saved, restored):
        contents = torch.load(path, weights_only=True)
        agent.restore(contents["agent"], path)
        restore_torch_random_state(contents["random"])
        losses = [agent.update(make_windows([1, 2, 3], seed=9 + i))["loss"] for i in range(3)]
        ends.append((losses, agent.state()))
    assert_same(ends[1], ends[0])


def test_a_state_that_counts_no_tokens_is_refused_by_name(tmp_path: Path) -> None:
    agent = tiny_agent()
    state = agent.state()
    del state["tokens"]
    with pytest.raises(ToolkitError, match=r"model\.pt is of another agent"):
        agent.restore(state, tmp_path / "model.pt")


def test_a_state_of_another_context_length_is_refused_by_name(tmp_path: Path) -> None:
    state = tiny_agent(dt_context_length=4).state()
    with pytest.raises(ToolkitError, match=r"model\.pt holds another architecture"):
        tiny_agent().restore(state, tmp_path / "model.pt")


# The real commands


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A run of the benchmark's transformer, of a few batches. Not to be changed."""
    save_path = tmp_path_factory.mktemp("dt")
    changes = {"algo": "dt", "epochs": 1, "dataset_size": 64, "batch_size": 64}
    changes |= {"dt_context_length": 2, "num_final_episodes": 1}
    settings = {**TINY, **changes, "dataset": dataset, "xpid": "run"}
    process = run(TRAIN, *flags(settings, save_path=save_path))
    assert process.returncode == 0, process.stderr
    return FinishedRun(settings, save_path, process)


@pytest.mark.slow
def test_a_target_return_that_is_not_given_is_the_trained_one(trained: FinishedRun) -> None:
    given = flags(trained.settings, save_path=trained.save_path, dt_eval_ret=0.25)
    acting = {"dt_eval_ret": 1.0, "eval_eps": 0.001, "deterministic": False}
    settings = parse_evaluation(given, "")
    assert ways_to_act(settings, acting)[0]["dt_eval_ret"] == 0.25
    settings = parse_evaluation(flags(trained.settings, save_path=trained.save_path), "")
    assert ways_to_act(settings, acting)[0]["dt_eval_ret"] == 1.0


@pytest.mark.slow
def test_another_context_length_at_evaluation_is_refused_with_both_values(
    trained: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = flags(trained.settings, save_path=trained.save_path, dt_context_length=4)
    assert evaluate_offline_agent.main(changed) == 1
    path = trained.folder / "final_model.pt"
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: {path} was trained with --dt_context_length 2, not 4"


@pytest.mark.slow
def test_a_checkpoint_tells_what_the_agent_must_know_of_the_data(trained: FinishedRun) -> None:
    contents = read_checkpoint(trained.folder / "final_model.pt")
    assert contents["facts"]["num_samples"] == contents["samples"]
    assert contents["facts"]["max_length"] > 1
    agent, _ = load_agent(trained.folder / "final_model.pt", CPU)
    assert isinstance(agent, dt.Agent)
    assert agent.sizes == Sizes()
    assert agent.tokens == contents["samples"] * 2 * agent.model.tokens_per_step


@pytest.mark.slow
def test_evaluating_a_checkpoint_repeats_the_evaluation_at_the_end_of_training(
    trained: FinishedRun,
) -> None:
    process = run(EVALUATE, *flags(trained.settings, save_path=trained.save_path))
    assert process.returncode == 0, process.stderr
    name = "final_test_eval.csv"
    assert (trained.folder / "evaluate.csv").read_bytes() == (trained.folder / name).read_bytes()
