"""Both sides of the training rows learn the same: the same losses from the same weights."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from benchmarks import ours, reference
from benchmarks.reference_data import WindowDataset
from benchmarks.reference_methods import TARGET_UPDATE_FREQ, PlainCQL
from benchmarks.reference_parts import NUM_ACTIONS, load_in_order
from benchmarks.sizes import METHOD_SETTINGS, WORKER_FLAGS, random_indices
from common.flags import parse_flags
from tests.data_fixtures import make_episode, write_game


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> argparse.Namespace:
    """Small batches of episodes that are shorter, as long as, and longer than a window."""
    folder = tmp_path_factory.mktemp("data")
    lengths = (2, 4, 9, 3)
    rewards = np.random.default_rng(0).normal(1.0, 3.0, max(lengths))
    write_game(
        folder / "miner", [make_episode(n, list(rewards[:size])) for n, size in enumerate(lengths)]
    )
    flags = [f"--data={folder}", "--env_name=miner", "--no_cuda=True", "--batch_size=4"]
    flags += ["--window_batch_size=4", "--context_length=4"]
    return parse_flags(WORKER_FLAGS, flags, "")


def set_apart(agent: torch.nn.Module) -> None:
    """Let targets differ from their networks, and answers of the networks from each other."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in agent.parameters():
            if weights.ndim > 1:
                noise = torch.randn(weights.shape, generator=generator)
                weights.add_(0.5 * weights.std() * noise)
                if weights.shape[0] == NUM_ACTIONS:
                    weights.mul_(5.0)


def learners(settings: argparse.Namespace, algo: str) -> tuple[Any, Any, Any, Any]:
    """Our view and agent, the plain data and method, with the same weights and no dropout."""
    view, agent = ours.learner(settings, algo, "fp32")
    dataset, method, _ = reference.LEARNERS[algo](settings)
    set_apart(agent)
    load_in_order(method, list(agent.parameters()))
    return view, agent.eval(), dataset, method.eval()


@pytest.mark.parametrize("algo", METHOD_SETTINGS)
def test_both_sides_have_the_same_losses(settings: argparse.Namespace, algo: str) -> None:
    # The second loss follows a step of the optimiser, which magnifies rounding.
    view, agent, dataset, method = learners(settings, algo)
    for number, tolerance in enumerate((1e-5, 1e-3)):
        indices = random_indices(settings.seed, number, len(view), 4)
        expected = method.update(default_collate([dataset[int(i)] for i in indices]))
        found = float(agent.update(view.batch(indices))["loss"])
        assert found == pytest.approx(expected, rel=tolerance)


def test_a_plain_window_is_padded_at_its_end(tmp_path: Path) -> None:
    episodes = [make_episode(number, [1.0, 0.0, 2.0]) for number in range(2)]
    dataset = WindowDataset(write_game(tmp_path / "miner", episodes), context_length=2)
    assert (len(dataset), dataset.max_length, dataset.largest_return) == (6, 3, 3.0)
    returns_to_go, frames, actions, time_steps, mask = dataset[3]
    assert returns_to_go.tolist() == [3.0, 0.0]
    assert frames.shape == (2, 3, 64, 64)
    np.testing.assert_allclose(frames[:, :, 0, 0] * 255, [[1, 0, 0], [0, 0, 0]], atol=1e-4)
    assert (actions.tolist(), time_steps.tolist()) == ([1, 0], [0, 0])
    assert mask.tolist() == [True, False]
    returns_to_go, _, actions, time_steps, mask = dataset[5]
    assert returns_to_go.tolist() == [2.0, 2.0]
    assert (actions.tolist(), time_steps.tolist()) == ([2, 3], [1, 2])
    assert mask.all()


def test_a_plain_target_is_copied_at_its_step_alone() -> None:
    method = PlainCQL()
    first, target = next(method.q_network.parameters()), next(method.target.parameters())
    first.data.add_(1.0)
    method.steps = TARGET_UPDATE_FREQ - 2
    method.renew((method.target, method.q_network))
    assert not torch.equal(target, first)
    method.renew((method.target, method.q_network))
    assert torch.equal(target, first)
