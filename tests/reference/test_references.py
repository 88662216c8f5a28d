"""The references themselves: gradients against central differences, losses against hand work."""

from __future__ import annotations

from math import log

import numpy as np
import pytest

from tests.reference import bc, bcq, cql, iql, sequence_models
from tests.reference.finite_difference import finite_difference

BATCH, ACTIONS = 6, 4
TOLERANCE = {"rtol": 0.0, "atol": 1e-6}

# The batch of two that is worked by hand below. Logits [0, 0] and [0, log 3] make probabilities
# [1/2, 1/2] and [1/4, 3/4]; the second sample is terminal.
LOGITS = np.array([[0.0, 0.0], [0.0, log(3)]])
TAKEN = np.array([0, 1])
DONES = np.array([False, True])
# Online argmax at s' is action 1, whose target value is 3: y = [1/2 + 3/2, log 3 + 1/2], and with
# the logits above as Q-values the errors Q(s,a) - y are [-2, -1/2].
HAND = {
    "q_next_target": np.array([[10.0, 3.0], [7.0, 7.0]]),
    "actions": TAKEN,
    "rewards": np.array([0.5, log(3) + 0.5]),
    "dones": DONES,
    "gamma": 0.5,
}


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def transitions(rng: np.random.Generator) -> dict:
    return {
        "actions": rng.integers(ACTIONS, size=BATCH),
        "rewards": rng.normal(size=BATCH),
        "dones": np.array([False, True, False, False, True, False]),
        "gamma": 0.99,
    }


def matrix(rng: np.random.Generator) -> np.ndarray:
    return 2.0 * rng.normal(size=(BATCH, ACTIONS))


def test_the_difference_of_a_cubic_is_its_slope() -> None:
    x = np.array([[1.0, -2.0]])
    measured = finite_difference(lambda values: float((values**3).sum()), x)
    np.testing.assert_allclose(measured, [[3.0, 12.0]], rtol=1e-8)


def test_the_cloning_gradient_is_the_slope_of_its_loss(rng: np.random.Generator) -> None:
    logits, actions = matrix(rng), rng.integers(ACTIONS, size=BATCH)
    measured = finite_difference(lambda x: bc.loss(x, actions), logits)
    np.testing.assert_allclose(bc.gradient(logits, actions), measured, **TOLERANCE)


@pytest.mark.parametrize("alpha", [0.0, 0.1, 4.0])
def test_the_cql_gradient_is_the_slope_of_its_loss(rng: np.random.Generator, alpha: float) -> None:
    rest = {
        "q_next_online": matrix(rng),
        "q_next_target": matrix(rng),
        "alpha": alpha,
        **transitions(rng),
    }
    q = matrix(rng)
    measured = finite_difference(lambda x: cql.loss(x, **rest).total, q)
    np.testing.assert_allclose(cql.gradient(q, **rest), measured, **TOLERANCE)


def test_cql_agrees_with_hand_work() -> None:
    rest = {"q_next_online": np.array([[1.0, 2.0], [0.0, 0.0]]), "alpha": 4.0, **HAND}
    # Huber of errors 2 and 1/2 is 3/2 and 1/8; log 2 - 0 and log 4 - log 3 are the penalties.
    expected = (0.8125 + 2 * log(8 / 3), 0.8125, log(8 / 3) / 2)
    np.testing.assert_allclose(cql.loss(LOGITS, **rest), expected, rtol=1e-12)
    np.testing.assert_allclose(cql.gradient(LOGITS, **rest), [[-1.5, 1.0], [0.5, -0.75]])


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.9])
def test_the_bcq_gradients_are_the_slopes_of_its_loss(
    rng: np.random.Generator, threshold: float
) -> None:
    rest = {
        "q_next_online": matrix(rng),
        "q_next_target": matrix(rng),
        "imitation_logits_next": matrix(rng),
        "threshold": threshold,
        **transitions(rng),
    }
    q, logits = matrix(rng), matrix(rng)
    gradients = bcq.gradients(q, logits, **rest)
    by_q = finite_difference(lambda x: bcq.loss(x, logits, **rest).total, q)
    by_logits = finite_difference(lambda x: bcq.loss(q, x, **rest).total, logits)
    np.testing.assert_allclose(gradients.q, by_q, **TOLERANCE)
    np.testing.assert_allclose(gradients.imitation_logits, by_logits, **TOLERANCE)


def test_bcq_agrees_with_hand_work() -> None:
    # At s' the logits give probabilities 1/5 and 4/5: action 0, the best by Q, has ratio 1/4.
    rest = {
        "q_next_online": np.array([[5.0, 2.0], [0.0, 0.0]]),
        "imitation_logits_next": np.array([[0.0, log(4)], [0.0, 0.0]]),
        "threshold": 0.3,
        **HAND,
    }
    td, imitation, squares = 0.8125, log(8 / 3) / 2, log(3) ** 2 / 4
    expected = (td + imitation + 0.01 * squares, td, imitation, squares)
    np.testing.assert_allclose(bcq.loss(LOGITS, LOGITS, **rest), expected, rtol=1e-12)
    gradients = bcq.gradients(LOGITS, LOGITS, **rest)
    np.testing.assert_allclose(gradients.q, [[-0.5, 0.0], [0.0, -0.25]])
    by_logits = [[-0.25, 0.25], [0.125, -0.125 + 0.005 * log(3)]]
    np.testing.assert_allclose(gradients.imitation_logits, by_logits)


def test_bcq_takes_the_best_action_once_the_threshold_lets_it() -> None:
    q_next = np.array([[5.0, 2.0]])
    logits_next = np.array([[0.0, log(4)]])
    for threshold, action in ((0.3, 1), (0.2, 0), (0.0, 0)):
        allowed = bcq.allowed_actions(logits_next, threshold)
        assert bcq.constrained_argmax(q_next, allowed).tolist() == [action]


def test_bcq_refuses_a_threshold_that_allows_nothing() -> None:
    with pytest.raises(ValueError, match=r"1\.0"):
        bcq.allowed_actions(LOGITS, 1.0)


@pytest.mark.parametrize(("tau", "beta"), [(0.5, 0.1), (0.8, 3.0), (0.9, 50.0)])
def test_the_iql_gradients_are_the_slopes_of_each_networks_own_loss(
    rng: np.random.Generator, tau: float, beta: float
) -> None:
    names = ("v", "v_next", "q1", "q2", "target_q1", "target_q2")
    given = {name: rng.normal(size=BATCH) for name in names}
    given |= {"logits": matrix(rng), "tau": tau, "beta": beta, **transitions(rng)}
    gradients = iql.gradients(**given)
    for output, part in (("v", "value"), ("q1", "q1"), ("q2", "q2"), ("logits", "actor")):
        measured = finite_difference(
            lambda x, output=output, part=part: getattr(iql.loss(**(given | {output: x})), part),
            given[output],
        )
        np.testing.assert_allclose(getattr(gradients, output), measured, **TOLERANCE)


IQL_HAND = {
    # min(Qbar1, Qbar2) - V is [1, -1]; y is [1/2 + 1/2 * 2, 1].
    "v": np.array([1.0, 3.0]),
    "target_q1": np.array([2.0, 5.0]),
    "target_q2": np.array([4.0, 2.0]),
    "v_next": np.array([2.0, 9.0]),
    "q1": np.array([1.5, 2.0]),
    "q2": np.array([2.5, 1.0]),
    "logits": LOGITS,
    "actions": TAKEN,
    "rewards": np.array([0.5, 1.0]),
    "dones": DONES,
    "gamma": 0.5,
    "tau": 0.8,
}


def test_iql_agrees_with_hand_work() -> None:
    # With beta = log 2 the actor's weights are 2 and 1/2.
    actor = (2 * log(2) + log(4 / 3) / 2) / 2
    computed = iql.loss(**IQL_HAND, beta=log(2))
    np.testing.assert_allclose(computed, (1.5 + actor, 0.5, 0.5, 0.5, actor), rtol=1e-12)
    gradients = iql.gradients(**IQL_HAND, beta=log(2))
    np.testing.assert_allclose(gradients.v, [-0.8, 0.2])
    np.testing.assert_allclose(gradients.q1, [0.0, 1.0])
    np.testing.assert_allclose(gradients.q2, [1.0, 0.0])
    np.testing.assert_allclose(gradients.logits, [[-0.5, 0.5], [0.0625, -0.0625]])


def test_iql_caps_the_actors_weight_at_100() -> None:
    # At beta = 1000 the weights are 100 and exp(-1000) = 0.
    assert iql.loss(**IQL_HAND, beta=1000.0).actor == pytest.approx(50 * log(2))
    assert iql.actor_weight(1.0, log(99)) == pytest.approx(99.0)


def test_the_sequence_gradient_is_the_slope_of_its_loss(rng: np.random.Generator) -> None:
    logits = rng.normal(size=(3, 4, ACTIONS))
    actions = rng.integers(ACTIONS, size=(3, 4))
    mask = np.array([[1, 1, 1, 1], [0, 0, 1, 1], [1, 0, 0, 0]], bool)
    computed = sequence_models.gradient(logits, actions, mask)
    measured = finite_difference(lambda x: sequence_models.loss(x, actions, mask), logits)
    np.testing.assert_allclose(computed, measured, **TOLERANCE)
    assert not computed[~mask].any()


def test_the_sequence_loss_agrees_with_hand_work() -> None:
    logits = np.stack([LOGITS, LOGITS])
    actions = np.array([[0, 1], [0, 0]])
    mask = np.array([[True, True], [False, True]])
    # -log 1/2, -log 3/4 and -log 1/4, over three real steps.
    expected = log(2 * 4 / 3 * 4) / 3
    assert sequence_models.loss(logits, actions, mask) == pytest.approx(expected)


def test_returns_to_go_end_with_their_episode() -> None:
    rewards = np.array([1.0, 0.0, 2.0, 10.0, 5.0])
    dones = np.array([False, False, True, False, True])
    expected = [3.0, 2.0, 2.0, 15.0, 5.0]
    assert sequence_models.returns_to_go(rewards, dones).tolist() == expected


@pytest.mark.parametrize(
    ("tokens", "rate"),
    [(0, 0.0), (50, 0.2), (100, 0.4), (350, 0.22), (600, 0.04), (1000, 0.04)],
)
def test_the_rate_warms_up_then_falls_to_a_tenth(tokens: int, rate: float) -> None:
    final = sequence_models.total_tokens(windows=10, context=10)
    assert final == 600
    assert sequence_models.learning_rate(0.4, tokens, 100, final) == pytest.approx(rate)


def random_block(rng: np.random.Generator, width: int, hidden: int) -> sequence_models.Block:
    def linear(outputs: int, inputs: int) -> sequence_models.Linear:
        return sequence_models.Linear(rng.normal(size=(outputs, inputs)), rng.normal(size=outputs))

    def norm() -> sequence_models.LayerNorm:
        return sequence_models.LayerNorm(rng.normal(size=width), rng.normal(size=width))

    attention = sequence_models.Attention(*(linear(width, width) for _ in range(4)))
    return sequence_models.Block(
        norm(), attention, norm(), linear(hidden, width), linear(width, hidden)
    )


def test_layer_norm_agrees_with_hand_work() -> None:
    layer = sequence_models.LayerNorm(np.array([2.0, 3.0]), np.array([0.5, -1.0]))
    computed = sequence_models.layer_norm(layer, np.array([1.0, 3.0]))
    np.testing.assert_allclose(computed, [0.5 - 2.0, 3.0 - 1.0], atol=2e-5)


def test_attention_with_equal_scores_is_the_mean_of_the_visible_values() -> None:
    zero = sequence_models.Linear(np.zeros((2, 2)), np.zeros(2))
    identity = sequence_models.Linear(np.eye(2), np.zeros(2))
    layer = sequence_models.Attention(zero, zero, identity, identity)
    tokens = np.array([[8.0, 8.0], [2.0, 0.0], [4.0, 6.0]])
    computed = sequence_models.causal_self_attention(
        layer, 2, tokens, np.array([False, True, True])
    )
    np.testing.assert_allclose(computed, [[0.0, 0.0], [2.0, 0.0], [3.0, 3.0]])


def test_each_head_weighs_by_its_own_features() -> None:
    # Head 0 scores 1 * log 3 against token 1 and 0 against token 0; head 1 scores 0 on both.
    query = sequence_models.Linear(np.zeros((2, 2)), np.array([1.0, 0.0]))
    key = sequence_models.Linear(np.diag([log(3), 1.0]), np.zeros(2))
    identity = sequence_models.Linear(np.eye(2), np.zeros(2))
    layer = sequence_models.Attention(query, key, identity, identity)
    tokens = np.array([[0.0, 6.0], [1.0, 2.0]])
    computed = sequence_models.causal_self_attention(layer, 2, tokens, np.array([True, True]))
    np.testing.assert_allclose(computed, [[0.0, 6.0], [0.75, 4.0]])


def test_padding_before_a_sequence_changes_nothing(rng: np.random.Generator) -> None:
    layer = random_block(rng, width=4, hidden=6)
    tokens = rng.normal(size=(1, 3, 4))
    padded = np.concatenate([rng.normal(size=(1, 2, 4)), tokens], axis=1)
    alone = sequence_models.block(layer, 2, tokens, np.ones((1, 3), bool))
    after = sequence_models.block(layer, 2, padded, np.array([[0, 0, 1, 1, 1]], bool))
    np.testing.assert_allclose(after[:, 2:], alone, rtol=1e-12)


def test_the_block_is_the_library_layer_with_the_same_weights(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    width, hidden, heads = 4, 6, 2
    layer = random_block(rng, width, hidden)
    library = torch.nn.TransformerEncoderLayer(
        width, heads, hidden, 0.0, "gelu", batch_first=True, norm_first=True
    ).double()
    attention = layer.attention
    projections = (attention.query, attention.key, attention.value)
    weights = {
        "self_attn.in_proj_weight": np.concatenate([part.weight for part in projections]),
        "self_attn.in_proj_bias": np.concatenate([part.bias for part in projections]),
    }
    for name, part in (
        ("self_attn.out_proj", attention.output),
        ("linear1", layer.expand),
        ("linear2", layer.contract),
        ("norm1", layer.attention_norm),
        ("norm2", layer.feed_forward_norm),
    ):
        weights |= {f"{name}.weight": part.weight, f"{name}.bias": part.bias}
    library.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    tokens = rng.normal(size=(2, 5, width))
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], bool)
    expected = library(
        torch.from_numpy(tokens),
        src_mask=torch.ones(5, 5, dtype=torch.bool).triu(1),
        src_key_padding_mask=torch.from_numpy(~mask),
    )
    computed = sequence_models.block(layer, heads, tokens, mask)
    np.testing.assert_allclose(computed[mask], expected.detach().numpy()[mask], rtol=1e-9)
