"""What sets BCT apart from DT; what they share is tested for both with DT."""

from __future__ import annotations

import pytest
import torch

from common.errors import UsageError
from offline.agents.base import WindowBatch
from offline.arguments import parse_training
from tests.offline_commands import flags
from tests.sequence_fixtures import BASE, BATCH, gradients, make_windows, tiny_agent


def with_other_returns(batch: WindowBatch) -> WindowBatch:
    return batch._replace(returns_to_go=100.0 - 3.0 * batch.returns_to_go)


def test_the_return_changes_no_answer_and_no_gradient() -> None:
    agent = tiny_agent("bct")
    mine, theirs = gradients(agent, BATCH), gradients(agent, with_other_returns(BATCH))
    for name, gradient in mine.items():
        assert torch.equal(gradient, theirs[name]), name
    agent.eval()
    assert torch.equal(agent.logits(BATCH), agent.logits(with_other_returns(BATCH)))


def test_it_has_no_weights_for_returns_and_two_tokens_per_step() -> None:
    agent = tiny_agent("bct")
    assert not [name for name, _ in agent.named_parameters() if "return" in name]
    assert agent.model.tokens_per_step == 2


@pytest.mark.parametrize(("name", "value"), [("dt_eval_ret", 5.0), ("dt_rtg_noise_prob", 0.5)])
def test_what_concerns_returns_is_refused(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"--{name} {value}: --algo bct does not use it"):
        parse_training(flags({**BASE, "algo": "bct", name: value}), "")


def test_updates_lower_the_loss_of_eight_windows_to_nearly_nothing() -> None:
    agent = tiny_agent("bct", lr=0.01, lr_decay=False)
    batch = make_windows([1, 2, 3, 3, 3, 2, 3, 3])
    for _ in range(80):
        agent.update(batch)
    agent.eval()
    assert float(agent.loss(batch).detach()) < 0.1  # guessing: log 15 = 2.7
