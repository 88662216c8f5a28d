from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from common.encoders import make_encoder
from offline.agents.transformer import (
    Block,
    Sizes,
    WindowMemory,
    WindowTransformer,
    learning_rate,
    parameter_groups,
    total_tokens,
)
from tests.offline_commands import CPU
from tests.reference import sequence_models as reference
from tests.sequence_fixtures import make_windows


def as_linear(layer: nn.Linear) -> reference.Linear:
    return reference.Linear(layer.weight.detach().numpy(), layer.bias.detach().numpy())


def as_norm(layer: nn.LayerNorm) -> reference.LayerNorm:
    return reference.LayerNorm(layer.weight.detach().numpy(), layer.bias.detach().numpy())


def as_block(block: Block) -> reference.Block:
    """The reference's block with the weights of ours."""
    joined = as_linear(block.attention.query_key_value)
    parts = zip(np.split(joined.weight, 3), np.split(joined.bias, 3), strict=True)
    query, key, value = (reference.Linear(*part) for part in parts)
    return reference.Block(
        as_norm(block.attention_norm),
        reference.Attention(query, key, value, as_linear(block.attention.output)),
        as_norm(block.feed_forward_norm),
        as_linear(block.expand),
        as_linear(block.contract),
    )


def spread(module: nn.Module, seed: int = 0) -> None:
    """Weights large enough for every part to matter, biases and norms included."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter) + (parameter.ndim == 1))


def make_model(conditioned: bool = True, sizes: Sizes | None = None) -> WindowTransformer:
    torch.manual_seed(0)
    encoder = make_encoder("dqn", 2)
    sizes = sizes or Sizes(layers=2, heads=2, width=4)
    return WindowTransformer(encoder, 15, 3, 8, conditioned, sizes).double().eval()


# The network


def test_a_block_is_that_of_the_reference() -> None:
    block = Block(Sizes(heads=4, width=8)).double().eval()
    spread(block)
    tokens = torch.randn(3, 5, 8, dtype=torch.float64)
    expected = reference.block(as_block(block), 4, tokens.numpy(), np.ones((3, 5), bool))
    np.testing.assert_allclose(block(tokens).detach().numpy(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("conditioned", [True, False])
def test_the_logits_of_real_steps_are_those_worked_out_token_by_token(conditioned: bool) -> None:
    model = make_model(conditioned)
    spread(model)
    batch = make_windows([1, 2, 3])
    batch = batch._replace(time_steps=batch.time_steps * 2)  # some beyond the last of 8 times
    returns = batch.returns_to_go.double() / 10 if conditioned else None
    states = model.embed_windows(batch.observations, batch.mask)
    logits = model(states, batch.actions, batch.time_steps, returns).detach().numpy()

    per_step = model.tokens_per_step
    position = model.embed_position.weight.detach().numpy()
    features = model.encoder(batch.observations.flatten(0, 1)).detach().view(3, 3, -1).numpy()
    for window, real in enumerate((1, 2, 3)):
        tokens = []
        for t in range(3):
            time = model.embed_time.weight[min(int(batch.time_steps[window, t]), 7)]
            embedded = [
                reference.linear(as_linear(model.embed_state), features[window, t]),
                model.embed_action.weight[batch.actions[window, t]].detach().numpy(),
            ]
            if conditioned:
                assert returns is not None
                number = returns[window, t : t + 1].numpy()
                embedded.insert(0, reference.linear(as_linear(model.embed_return), number))
            tokens += [np.tanh(token) + time.detach().numpy() for token in embedded]
        x = np.array([token + position[i] for i, token in enumerate(tokens)])[None]
        mask = np.arange(len(tokens))[None] < real * per_step
        for block in model.blocks:
            assert isinstance(block, Block)
            x = reference.block(as_block(block), 2, x, mask)
        for t in range(real):
            of_state = x[0, t * per_step + per_step - 2]
            expected = reference.linear(
                as_linear(model.head), reference.layer_norm(as_norm(model.norm), of_state)
            )
            np.testing.assert_allclose(logits[window, t], expected, rtol=0, atol=1e-9)


def test_no_step_sees_a_later_one_nor_its_own_action() -> None:
    model = make_model()
    spread(model)
    batch = make_windows([3, 3])
    states = model.embed_windows(batch.observations, batch.mask)
    returns = batch.returns_to_go.double()
    before = model(states, batch.actions, batch.time_steps, returns)
    actions, later = batch.actions.clone(), states.clone()
    actions[:, 1] = (actions[:, 1] + 1) % 15
    later[:, 2] += 1.0
    after = model(later, actions, batch.time_steps, returns)
    assert torch.equal(after[:, :2], before[:, :2])
    assert (after[:, 2] != before[:, 2]).all()


def test_the_default_size_is_that_of_the_paper() -> None:
    model = WindowTransformer(make_encoder("dqn", 64), 15, 10, 8, True, Sizes())
    # Per block: two norms, query, key, value and output, 128 -> 512 -> 128, each with biases.
    block = 2 * 2 * 128 + 4 * (128 * 128 + 128) + (128 * 512 + 512) + (512 * 128 + 128)
    assert sum(p.numel() for p in model.blocks.parameters()) == 6 * block
    assert Sizes() == (6, 8, 128, 0.1)


def test_dropout_works_while_training_alone() -> None:
    block = Block(Sizes(heads=2, width=8, dropout=0.5))
    tokens = torch.randn(2, 5, 8)
    assert not torch.equal(block(tokens), block(tokens))
    block.eval()
    assert torch.equal(block(tokens), block(tokens))


def test_padded_frames_are_not_encoded_on_a_cpu() -> None:
    model = make_model()
    seen = []
    model.encoder.register_forward_hook(lambda module, inputs, features: seen.append(len(features)))
    batch = make_windows([1, 2, 3])
    states = model.embed_windows(batch.observations, batch.mask)
    assert seen == [6]
    torch.testing.assert_close(states[2], model.embed_frames(batch.observations[2]))
    torch.testing.assert_close(states[0, 0], model.embed_frames(batch.observations[0, :1])[0])


# Weight decay


def test_only_matrices_and_convolution_kernels_decay() -> None:
    model = WindowTransformer(make_encoder("dqn", 2), 15, 3, 8, True, Sizes(layers=1))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, kept = parameter_groups(model, 0.3)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.3, 0.0)
    assert {names[id(p)] for p in decayed["params"]} == {
        "encoder.layers.0.weight",
        "encoder.layers.2.weight",
        "encoder.layers.4.weight",
        "embed_state.weight",
        "embed_return.weight",
        "blocks.0.attention.query_key_value.weight",
        "blocks.0.attention.output.weight",
        "blocks.0.expand.weight",
        "blocks.0.contract.weight",
        "head.weight",
    }
    others = {names[id(p)] for p in kept["params"]}
    assert {"embed_action.weight", "embed_position.weight", "embed_time.weight"} < others
    assert {"norm.weight", "norm.bias", "head.bias", "encoder.layers.0.bias"} < others
    assert len(decayed["params"]) + len(kept["params"]) == len(names)


# The schedule


@pytest.mark.parametrize("warmup", [0, 1, 400, 2000])
def test_the_learning_rate_is_that_of_the_reference(warmup: int) -> None:
    for tokens in (0, 1, 200, 399, 400, 401, 700, 999, 1000, 1001, 1999, 2000, 5000):
        expected = reference.learning_rate(0.01, tokens, warmup, 1000)
        assert learning_rate(0.01, tokens, warmup, 1000) == pytest.approx(expected, rel=1e-12)


def test_the_learning_rate_goes_through_the_worked_points() -> None:
    # Half of the warm-up; its end; half of the cosine, between 1 and 0.1; the end; long after.
    points = {50: 0.5, 100: 1.0, 550: 0.55, 1000: 0.1, 10_000: 0.1}
    for tokens, share in points.items():
        assert learning_rate(2.0, tokens, 100, 1000) == pytest.approx(2.0 * share)


def test_without_decay_the_rate_stays_after_the_warm_up() -> None:
    rates = [learning_rate(2.0, tokens, 100, 1000, decay=False) for tokens in (50, 100, 550, 9999)]
    assert rates == [1.0, 2.0, 2.0, 2.0]


def test_the_schedule_ends_at_two_passes_of_three_tokens_per_step() -> None:
    assert total_tokens(100, 10) == 6000 == reference.total_tokens(100, 10)


# The memory


def observe(
    memory: WindowMemory,
    env_ids: list[int],
    number: float,
    action: int,
    reward: float,
    done: bool = False,
) -> None:
    """One step of these environments, whose frames are embedded as `number`."""
    ids = np.array(env_ids)
    memory.begin_step(torch.full((len(ids), 2), number), ids)
    rewards = np.full(len(ids), reward, np.float32)
    memory.end_step(np.full(len(ids), action), rewards, np.full(len(ids), done), ids)


def test_a_window_holds_the_last_steps_oldest_first() -> None:
    memory = WindowMemory(2, 3, 2, 10.0, CPU)
    for t in range(5):
        observe(memory, [0, 1], number=t, action=t + 1, reward=1.0)
    memory.begin_step(torch.full((1, 2), 5.0), np.array([1]))
    window = memory.windows(np.array([1]))
    assert window.states[0, :, 0].tolist() == [3.0, 4.0, 5.0]
    assert window.actions.tolist() == [[4, 5, 0]]
    assert window.time_steps.tolist() == [[3, 4, 5]]
    assert window.returns_to_go.tolist() == [[7.0, 6.0, 5.0]]
    assert window.last.tolist() == [2]


def test_an_episodes_end_empties_the_window_of_its_environment_alone() -> None:
    memory = WindowMemory(2, 3, 2, 10.0, CPU)
    observe(memory, [0, 1], number=1, action=7, reward=2.0)
    observe(memory, [0], number=2, action=8, reward=3.0, done=True)
    observe(memory, [1], number=2, action=8, reward=3.0)
    memory.begin_step(torch.full((2, 2), 9.0), np.array([0, 1]))
    window = memory.windows(np.array([0, 1]))
    assert window.time_steps.tolist() == [[0, 0, 0], [0, 1, 2]]
    assert window.last.tolist() == [0, 2]
    assert window.actions.tolist() == [[0, 0, 0], [7, 8, 0]]
    assert window.returns_to_go.tolist() == [[10.0, 0.0, 0.0], [10.0, 8.0, 5.0]]
    assert window.states[0, 0].tolist() == [9.0, 9.0]


def test_a_window_is_no_longer_than_the_longest_that_is_asked_for() -> None:
    memory = WindowMemory(2, 100, 2, 0.0, CPU)
    observe(memory, [1], number=1, action=7, reward=0.0)
    memory.begin_step(torch.zeros(2, 2), np.array([0, 1]))
    assert memory.windows(np.array([0])).time_steps.shape == (1, 1)
    assert memory.windows(np.array([0, 1])).time_steps.shape == (2, 2)
