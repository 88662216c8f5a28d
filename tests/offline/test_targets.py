"""Target networks, and what the three methods that have them share."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from common.errors import ToolkitError
from offline.agents.targets import OutputLayer, TargetNetwork, following_frames
from offline.data.views import TransitionBatch
from tests.offline_commands import assert_same
from tests.value_agents import make_transitions, make_value_agent, targets_of, weights_of

ALGORITHMS = ("bcq", "cql", "iql")
HARD = {"target_update_freq": 3, "perform_polyak_update": False, "tau": 0.25}
POLYAK = {**HARD, "perform_polyak_update": True}


def shift(online: nn.Module) -> None:
    """A gradient step that moves every weight by 1."""
    with torch.no_grad():
        for weights in online.parameters():
            weights += 1.0


def followed(settings: dict[str, Any], steps: int) -> list[float]:
    """The weight of a target that starts at 0, as the online one goes 1, 2, 3, ..."""
    online = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(online.weight)
    target = TargetNetwork(online, settings)
    seen = []
    for _ in range(steps):
        shift(online)
        target.follow(online)
        seen.append(float(weights_of(target)))
    return seen


# How targets move


def test_a_hard_target_is_a_copy_of_every_third_step() -> None:
    assert followed(HARD, 7) == [0, 0, 3, 3, 3, 6, 6]


def test_a_polyak_target_moves_by_tau_at_every_third_step() -> None:
    # 0 + 0.25 (3 - 0), then 0.75 + 0.25 (6 - 0.75).
    assert followed(POLYAK, 7) == [0, 0, 0.75, 0.75, 0.75, 2.0625, 2.0625]


def test_a_polyak_target_moves_at_every_step_when_told_so() -> None:
    # 0.25, 0.25 + 0.25 (2 - 0.25), 0.6875 + 0.25 (3 - 0.6875).
    assert followed({**POLYAK, "target_update_freq": 1}, 3) == [0.25, 0.6875, 1.265625]


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_hard_targets_change_only_every_target_update_freq_steps(algo: str) -> None:
    agent = make_value_agent(algo, target_update_freq=3)
    changed = []
    for step in range(1, 7):
        before = [weights_of(target) for target in targets_of(agent)]
        agent.update(make_transitions(4, seed=step))
        after = [weights_of(target) for target in targets_of(agent)]
        changed.append([not torch.equal(a, b) for a, b in zip(before, after, strict=True)])
    assert [any(each) for each in changed] == [False, False, True] * 2
    assert [all(each) for each in changed] == [False, False, True] * 2


@pytest.mark.parametrize(
    ("algo", "online"), [("bcq", ("encoder", "q_head")), ("cql", ("q_network",)), ("iql", ("q1",))]
)
def test_targets_follow_the_networks_that_they_copy(algo: str, online: tuple[str, ...]) -> None:
    def weights() -> torch.Tensor:
        return torch.cat([weights_of(agent.get_submodule(name)) for name in online])

    agent = make_value_agent(algo, target_update_freq=2, perform_polyak_update=True, tau=0.25)
    target = targets_of(agent)[0]
    start = weights_of(target)
    assert torch.equal(start, weights())
    for step in range(2):
        agent.update(make_transitions(4, seed=step))
    torch.testing.assert_close(weights_of(target), start + 0.25 * (weights() - start))
    assert not torch.equal(weights_of(target), start)


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_no_optimiser_holds_a_target_and_every_other_weight_has_one(algo: str) -> None:
    agent = make_value_agent(algo)
    held = Counter(
        id(weights)
        for optimiser in agent.optimisers.values()
        for group in optimiser.param_groups
        for weights in group["params"]
    )
    in_targets = {id(w) for target in targets_of(agent) for w in target.parameters()}
    assert in_targets
    assert held == Counter(id(w) for w in agent.parameters() if id(w) not in in_targets)


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_targets_need_no_gradient_and_stay_in_evaluation_mode(algo: str) -> None:
    agent = make_value_agent(algo)
    agent.train()
    agent.update(make_transitions(4))
    for target in targets_of(agent):
        assert not any(module.training for module in target.modules())
        assert not any(w.requires_grad or w.grad is not None for w in target.parameters())
        assert not target(make_transitions(2).observations).requires_grad


def test_a_target_keeps_its_weights_channels_last() -> None:
    target = targets_of(make_value_agent("cql"))[0]
    kernels = [m.weight for m in target.modules() if isinstance(m, nn.Conv2d)]
    assert kernels
    assert all(k.is_contiguous(memory_format=torch.channels_last) for k in kernels)


# Precision


def test_an_output_layer_is_not_rounded_to_bfloat16() -> None:
    layer = OutputLayer(8, 3)
    features = torch.rand(4, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(features.bfloat16())
    assert found.dtype == torch.float32
    expected = nn.functional.linear(features.bfloat16().float(), layer.weight, layer.bias)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_an_output_layer_passes_gradients_on_in_bfloat16() -> None:
    layer, features = OutputLayer(8, 3), torch.rand(4, 8, dtype=torch.bfloat16, requires_grad=True)
    layer(features).sum().backward()
    assert features.grad is not None
    assert features.grad.dtype == torch.bfloat16
    assert layer.weight.grad is not None


# What the three methods share


def test_a_batch_without_next_observations_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a batch of the view 'transitions'"):
        following_frames(make_transitions(2)._replace(next_observations=None))


def after_updates(algo: str, **changes: Any) -> torch.Tensor:
    """All weights after three updates, from the same start on the same batches."""
    agent = make_value_agent(algo, scale_pixels=False, **changes)
    for seed in range(3):
        agent.update(make_transitions(6, seed))
    return weights_of(agent)


OWN_FLAGS = [
    *((algo, {}, {"gamma": 0.5}) for algo in ALGORITHMS),
    *((algo, {}, {"target_update_freq": 2}) for algo in ALGORITHMS),
    *(
        (algo, {"target_update_freq": 2}, {"target_update_freq": 2, "perform_polyak_update": True})
        for algo in ALGORITHMS
    ),
    *(
        (algo, {**POLYAK, "target_update_freq": 1}, {**POLYAK, "target_update_freq": 1, "tau": 0.5})
        for algo in ALGORITHMS
    ),
    *((algo, {}, {"lr": 0.01}) for algo in ALGORITHMS),
    ("cql", {}, {"cql_alpha": 1.0}),
    ("bcq", {}, {"bcq_threshold": 0.9}),
    ("iql", {}, {"iql_temperature": 3.0}),
    ("iql", {}, {"iql_expectile": 0.5}),
]


@pytest.mark.parametrize(("algo", "one", "other"), OWN_FLAGS)
def test_a_flag_changes_what_is_learned(
    algo: str, one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert not torch.equal(after_updates(algo, **one), after_updates(algo, **other))


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_the_same_flags_learn_the_same(algo: str) -> None:
    assert torch.equal(after_updates(algo), after_updates(algo))


@pytest.mark.parametrize("algo", ALGORITHMS)
@pytest.mark.parametrize("polyak", [False, True])
def test_a_restored_agent_goes_on_as_the_saved_one(tmp_path: Path, algo: str, polyak: bool) -> None:
    changes = {"target_update_freq": 3, "perform_polyak_update": polyak}
    saved, restored = (make_value_agent(algo, seed, **changes) for seed in (1, 2))
    for seed in range(4):  # so that the next renewal is two steps away
        saved.update(make_transitions(4, seed))
    path = tmp_path / "state.pt"
    torch.save(saved.state(), path)
    restored.restore(torch.load(path, weights_only=True), path)
    assert_same(restored.state(), saved.state())
    for seed in range(4, 8):
        batch = make_transitions(4, seed)
        assert_same(restored.update(batch), saved.update(batch))
    assert_same(restored.state(), saved.state())


def test_the_weights_of_another_method_are_refused_by_name(tmp_path: Path) -> None:
    agents = [make_value_agent(algo) for algo in ALGORITHMS]
    for agent in agents:
        for other in agents:
            if other is not agent:
                with pytest.raises(ToolkitError, match=r"model\.pt holds another architecture"):
                    agent.restore(other.state(), tmp_path / "model.pt")


@pytest.mark.parametrize("algo", ALGORITHMS)
@pytest.mark.parametrize("eval_eps", [0.001, 0.5])
def test_acting_in_a_batch_gives_the_actions_of_acting_alone(algo: str, eval_eps: float) -> None:
    agent = make_value_agent(algo, eval_eps=eval_eps, scale_pixels=False)
    steps = [make_transitions(4, seed).observations.numpy() for seed in range(6)]
    # Environment 1 is done after three steps and leaves the batch.
    playing = [np.arange(4)] * 3 + [np.array([0, 2, 3])] * 3
    agent.reset(4, seed=9)
    together = [agent.act(frames[ids], ids) for frames, ids in zip(steps, playing, strict=True)]
    for env in range(4):
        agent.reset(4, seed=9)
        ids = np.array([env])
        for frames, actions, there in zip(steps, together, playing, strict=True):
            if env in there:
                assert agent.act(frames[ids], ids) == actions[there == env]


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_actions_have_the_promised_type(algo: str) -> None:
    for deterministic in (True, False):
        agent = make_value_agent(algo, deterministic=deterministic)
        agent.reset(3, seed=0)
        actions = agent.act(make_transitions(2).observations.numpy(), np.array([0, 2]))
        assert (actions.shape, actions.dtype) == ((2,), np.int64)


# Waiting for the device


class HostReads(TorchDispatchMode):
    """Counts the reads of a tensor's value by the host; on a GPU each would wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        names = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal")
        self.count += func.overloadpacket.__name__ in names
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_an_update_reads_nothing_back(algo: str) -> None:
    agent = make_value_agent(algo, target_update_freq=1)
    batch = make_transitions(4)
    with HostReads() as reads:
        metrics = agent.update(batch)
        assert reads.count == 0
        float(metrics["loss"])
    assert reads.count == 1  # the count works


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_an_update_never_waits_for_a_cuda_device(algo: str) -> None:
    device = torch.device("cuda")
    agent = make_value_agent(algo, target_update_freq=1)
    agent = type(agent)(agent.settings, agent.facts, device)
    on_device = [tensor.to(device) for tensor in make_transitions(8) if tensor is not None]
    batch = TransitionBatch(*on_device)
    agent.update(batch)  # Adam makes its state, cuDNN chooses its algorithms
    torch.cuda.set_sync_debug_mode("error")
    try:
        agent.update(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
