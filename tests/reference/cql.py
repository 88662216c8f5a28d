"""Discrete conservative Q-learning on Double DQN, sample by sample in float64.

Kumar et al. 2020, "Conservative Q-Learning for Offline Reinforcement Learning", equation 4
(CQL(H)); the target is van Hasselt et al. 2016, "Deep Reinforcement Learning with Double
Q-learning".
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tests.reference.bc import log_softmax


class Loss(NamedTuple):
    """`total` = `td` + alpha * `penalty`; the parts are means over the batch, without alpha."""

    total: float
    td: float
    penalty: float


def huber(error: float) -> float:
    """Huber 1964 with delta 1: error^2 / 2 where |error| <= 1, |error| - 1/2 beyond."""
    if abs(error) <= 1.0:
        return 0.5 * error * error
    return abs(error) - 0.5


def huber_slope(error: float) -> float:
    """Derivative of `huber`: the error, held within [-1, 1]."""
    return min(max(error, -1.0), 1.0)


def log_sum_exp(values: np.ndarray) -> float:
    """log sum_a exp(x_a) of one row (A,), shifted by the largest entry."""
    largest = max(float(value) for value in values)
    return largest + float(np.log(sum(np.exp(float(value) - largest) for value in values)))


def double_dqn_targets(
    q_next_online: np.ndarray,
    q_next_target: np.ndarray,
    rewards: np.ndarray,
    dones: np.ndarray,
    gamma: float,
) -> np.ndarray:
    """y = r + gamma (1 - d) Qbar(s', argmax_a' Q(s', a')), a constant of the loss.

    Q-values (B, A), rewards and dones (B,), result (B,). The first of equal maxima counts.
    """
    targets = np.zeros(len(rewards), np.float64)
    for row in range(len(rewards)):
        best = 0
        for action in range(q_next_online.shape[1]):
            if q_next_online[row, action] > q_next_online[row, best]:
                best = action
        following = float(q_next_target[row, best])
        targets[row] = float(rewards[row]) + gamma * (1.0 - float(dones[row])) * following
    return targets


def loss(
    q: np.ndarray,
    q_next_online: np.ndarray,
    q_next_target: np.ndarray,
    actions: np.ndarray,
    rewards: np.ndarray,
    dones: np.ndarray,
    gamma: float,
    alpha: float,
) -> Loss:
    """mean[huber(Q(s,a) - y)] + alpha mean[log sum_a' exp Q(s,a') - Q(s,a)].

    `q` (B, A) is the online network at s, `q_next_online` and `q_next_target` (B, A) the two
    networks at s'; actions, rewards and dones (B,). Both means are over the batch.
    """
    targets = double_dqn_targets(q_next_online, q_next_target, rewards, dones, gamma)
    td, penalty = 0.0, 0.0
    for row, action in enumerate(actions):
        chosen = float(q[row, action])
        td += huber(chosen - targets[row])
        penalty += log_sum_exp(q[row]) - chosen
    td, penalty = td / len(actions), penalty / len(actions)
    return Loss(td + alpha * penalty, td, penalty)


def gradient(
    q: np.ndarray,
    q_next_online: np.ndarray,
    q_next_target: np.ndarray,
    actions: np.ndarray,
    rewards: np.ndarray,
    dones: np.ndarray,
    gamma: float,
    alpha: float,
) -> np.ndarray:
    """Derivative of `loss(...).total` by `q` (B, A); the bootstrap y is not differentiated.

    ([a' = a] huber'(Q(s,a) - y) + alpha (softmax_a' Q(s,.) - [a' = a])) / B
    """
    targets = double_dqn_targets(q_next_online, q_next_target, rewards, dones, gamma)
    probabilities = np.exp(log_softmax(q))
    result = np.zeros(q.shape, np.float64)
    for row, taken in enumerate(actions):
        for action in range(q.shape[1]):
            is_taken = 1.0 if action == taken else 0.0
            slope = is_taken * huber_slope(float(q[row, action]) - targets[row])
            result[row, action] = slope + alpha * (probabilities[row, action] - is_taken)
    return result / len(actions)
