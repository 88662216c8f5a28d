"""One fused kernel updates all weights, and does what Adam's equations say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from offline.arguments import ALGORITHMS
from tests.sequence_fixtures import TINY_AGENTS
from tests.value_agents import make_value_agent


@pytest.mark.parametrize("algo", sorted(set(ALGORITHMS) - set(TINY_AGENTS)))
def test_a_step_is_that_of_adam_written_out(algo: str) -> None:
    # Convolutions keep their weights channels-last: a kernel that runs over memory must find
    # weight, gradient and moments in the same order there.
    agent = make_value_agent(algo, agent_model="pporesnetbase", lr=0.25)
    for optimiser in agent.optimisers.values():
        parameters = optimiser.param_groups[0]["params"]
        before = [parameter.detach().clone() for parameter in parameters]
        first, second = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
        for step in (1, 2):
            torch.manual_seed(step)
            sum((p * torch.randn(p.shape)).sum() for p in parameters).backward()
            optimiser.step()
            for i, parameter in enumerate(parameters):
                gradient = parameter.grad
                first[i] = 0.9 * first[i] + 0.1 * gradient
                second[i] = 0.999 * second[i] + 0.001 * gradient**2
                rate = 0.25 * (1 - 0.999**step) ** 0.5 / (1 - 0.9**step)
                before[i] -= rate * first[i] / (second[i].sqrt() + 1e-8 * (1 - 0.999**step) ** 0.5)
                torch.testing.assert_close(parameter.detach(), before[i], rtol=1e-5, atol=1e-5)
            optimiser.zero_grad()


@pytest.mark.parametrize("algo", sorted(set(ALGORITHMS) - set(TINY_AGENTS)))
def test_every_optimiser_is_fused(algo: str) -> None:
    optimisers = make_value_agent(algo).optimisers.values()
    assert all(group["fused"] for optimiser in optimisers for group in optimiser.param_groups)


def test_a_checkpoint_of_another_kernel_is_continued_with_the_fused_one() -> None:
    agent = make_value_agent("iql")
    state = agent.state()
    for optimiser in state["optimisers"].values():
        optimiser["param_groups"][0].update(fused=None, lr=0.125)
    agent.restore(state, Path("old.pt"))
    for optimiser in agent.optimisers.values():
        (group,) = optimiser.param_groups
        assert group["fused"]
        assert group["lr"] == 0.125
