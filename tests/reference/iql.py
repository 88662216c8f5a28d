"""Implicit Q-learning with a categorical policy, sample by sample in float64.

Kostrikov et al. 2022, "Offline Reinforcement Learning with Implicit Q-Learning", equations 5
(value), 6 (Q) and 7 (actor); the cap on the actor's weight is that of the authors' experiments.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from tests.reference.bc import log_softmax

LARGEST_WEIGHT = 100.0


class Loss(NamedTuple):
    """Means over the batch, one per network; `total` is their plain sum.

    The networks share no weights, so minimising the sum is minimising each.
    """

    total: float
    value: float
    q1: float
    q2: float
    actor: float


class Gradients(NamedTuple):
    """Derivative of each network's own loss by its own output: (B,), (B,), (B,) and (B, A)."""

    v: np.ndarray
    q1: np.ndarray
    q2: np.ndarray
    logits: np.ndarray


def advantages(v: np.ndarray, target_q1: np.ndarray, target_q2: np.ndarray) -> np.ndarray:
    """u = min(Qbar1(s,a), Qbar2(s,a)) - V(s); all (B,)."""
    result = np.zeros(len(v), np.float64)
    for row in range(len(v)):
        result[row] = min(float(target_q1[row]), float(target_q2[row])) - float(v[row])
    return result


def expectile_weight(u: float, tau: float) -> float:
    """|tau - 1(u < 0)|: tau above the value, 1 - tau below it."""
    return abs(tau - (1.0 if u < 0 else 0.0))


def actor_weight(u: float, beta: float) -> float:
    """min(exp(beta u), 100), without overflow."""
    if beta * u > math.log(LARGEST_WEIGHT):
        return LARGEST_WEIGHT
    return math.exp(beta * u)


def q_targets(
    v_next: np.ndarray, rewards: np.ndarray, dones: np.ndarray, gamma: float
) -> np.ndarray:
    """y = r + gamma (1 - d) V(s'), with the online V; all (B,)."""
    targets = np.zeros(len(rewards), np.float64)
    for row in range(len(rewards)):
        following = float(v_next[row])
        targets[row] = float(rewards[row]) + gamma * (1.0 - float(dones[row])) * following
    return targets


def loss(
    v: np.ndarray,
    v_next: np.ndarray,
    q1: np.ndarray,
    q2: np.ndarray,
    target_q1: np.ndarray,
    target_q2: np.ndarray,
    logits: np.ndarray,
    actions: np.ndarray,
    rewards: np.ndarray,
    dones: np.ndarray,
    gamma: float,
    tau: float,
    beta: float,
) -> Loss:
    """The four losses, with u = min(Qbar1, Qbar2)(s,a) - V(s) and y = r + gamma (1 - d) V(s').

    value: mean[|tau - 1(u < 0)| u^2]; q1, q2: mean[(Q1 - y)^2], mean[(Q2 - y)^2], without a half
    and each on its own; actor: mean[-min(exp(beta u), 100) log pi(a|s)].
    `logits` (B, A), all other arrays (B,); the Q-values are those of the dataset's action at s.
    """
    u = advantages(v, target_q1, target_q2)
    y = q_targets(v_next, rewards, dones, gamma)
    log_probabilities = log_softmax(logits)
    value, first, second, actor = 0.0, 0.0, 0.0, 0.0
    for row, action in enumerate(actions):
        value += expectile_weight(u[row], tau) * u[row] ** 2
        first += (float(q1[row]) - y[row]) ** 2
        second += (float(q2[row]) - y[row]) ** 2
        actor -= actor_weight(u[row], beta) * log_probabilities[row, action]
    parts = [float(part / len(actions)) for part in (value, first, second, actor)]
    return Loss(sum(parts), *parts)


def gradients(
    v: np.ndarray,
    v_next: np.ndarray,
    q1: np.ndarray,
    q2: np.ndarray,
    target_q1: np.ndarray,
    target_q2: np.ndarray,
    logits: np.ndarray,
    actions: np.ndarray,
    rewards: np.ndarray,
    dones: np.ndarray,
    gamma: float,
    tau: float,
    beta: float,
) -> Gradients:
    """Each loss by its own network's output; y and the actor's weight are constants.

    v: -2 |tau - 1(u < 0)| u / B; q: 2 (Q - y) / B;
    logits: min(exp(beta u), 100) (pi(a'|s) - [a' = a]) / B.
    """
    u = advantages(v, target_q1, target_q2)
    y = q_targets(v_next, rewards, dones, gamma)
    probabilities = np.exp(log_softmax(logits))
    batch = len(actions)
    by_v, by_q1, by_q2 = np.zeros(batch), np.zeros(batch), np.zeros(batch)
    by_logits = np.zeros(logits.shape, np.float64)
    for row, taken in enumerate(actions):
        by_v[row] = -2.0 * expectile_weight(u[row], tau) * u[row] / batch
        by_q1[row] = 2.0 * (float(q1[row]) - y[row]) / batch
        by_q2[row] = 2.0 * (float(q2[row]) - y[row]) / batch
        for action in range(logits.shape[1]):
            error = probabilities[row, action] - (1.0 if action == taken else 0.0)
            by_logits[row, action] = actor_weight(u[row], beta) * error / batch
    return Gradients(by_v, by_q1, by_q2, by_logits)
