"""Discrete batch-constrained Q-learning, sample by sample in float64.

Fujimoto et al. 2019, "Benchmarking Batch Deep Reinforcement Learning Algorithms" (discrete BCQ).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tests.reference.bc import log_softmax
from tests.reference.cql import huber, huber_slope

LOGIT_PENALTY = 0.01


class Loss(NamedTuple):
    """`total` = `td` + `imitation` + 0.01 * `logit_penalty`, which is mean(i^2) alone."""

    total: float
    td: float
    imitation: float
    logit_penalty: float


class Gradients(NamedTuple):
    """Derivatives of the total by the online Q-values and by the imitation logits, both (B, A)."""

    q: np.ndarray
    imitation_logits: np.ndarray


def allowed_actions(imitation_logits: np.ndarray, threshold: float) -> np.ndarray:
    """Whether G(a|s) / max_a' G(a'|s) > threshold, G the softmax of the logits: bool (B, A).

    At a threshold of 1 or more nothing is allowed, so it must lie in [0, 1).
    """
    if not 0.0 <= threshold < 1.0:
        raise ValueError(f"threshold {threshold} is not in [0, 1)")
    probabilities = np.exp(log_softmax(imitation_logits))
    allowed = np.zeros(imitation_logits.shape, bool)
    for row in range(len(probabilities)):
        largest = max(probabilities[row])
        for action, probability in enumerate(probabilities[row]):
            allowed[row, action] = probability / largest > threshold
    return allowed


def constrained_argmax(q: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """The action of the largest Q-value (B, A) among the allowed ones (B, A): int (B,).

    The first of equal maxima counts.
    """
    result = np.zeros(len(q), np.int64)
    for row in range(len(q)):
        candidates = [action for action in range(q.shape[1]) if allowed[row, action]]
        best = candidates[0]
        for action in candidates:
            if q[row, action] > q[row, best]:
                best = action
        result[row] = best
    return result


def constrained_targets(
    q_next_online: np.ndarray,
    q_next_target: np.ndarray,
    imitation_logits_next: np.ndarray,
    rewards: np.ndarray,
    dones: np.ndarray,
    gamma: float,
    threshold: float,
) -> np.ndarray:
    """y = r + gamma (1 - d) Qbar(s', argmax over the actions allowed at s' of Q(s', .)).

    The first three are (B, A), rewards and dones (B,), the result (B,). Both the Q of the argmax
    and the logits of the constraint are the online network's.
    """
    allowed = allowed_actions(imitation_logits_next, threshold)
    best = constrained_argmax(q_next_online, allowed)
    targets = np.zeros(len(rewards), np.float64)
    for row in range(len(rewards)):
        following = float(q_next_target[row, best[row]])
        targets[row] = float(rewards[row]) + gamma * (1.0 - float(dones[row])) * following
    return targets


def loss(
    q: np.ndarray,
    imitation_logits: np.ndarray,
    q_next_online: np.ndarray,
    q_next_target: np.ndarray,
    imitation_logits_next: np.ndarray,
    actions: np.ndarray,
    rewards: np.ndarray,
    dones: np.ndarray,
    gamma: float,
    threshold: float,
) -> Loss:
    """mean[huber(Q(s,a) - y)] + mean[-log G(a|s)] + 0.01 mean[i^2].

    `q` and `imitation_logits` i (B, A) are the online network's at s, the `next` ones (B, A) at
    s'; actions, rewards and dones (B,). The first two means are over the batch, the last over
    batch and actions.
    """
    targets = constrained_targets(
        q_next_online, q_next_target, imitation_logits_next, rewards, dones, gamma, threshold
    )
    log_probabilities = log_softmax(imitation_logits)
    td, imitation, squares = 0.0, 0.0, 0.0
    for row, action in enumerate(actions):
        td += huber(float(q[row, action]) - targets[row])
        imitation -= log_probabilities[row, action]
        for logit in imitation_logits[row]:
            squares += float(logit) ** 2
    td, imitation = td / len(actions), imitation / len(actions)
    logit_penalty = squares / imitation_logits.size
    total = td + imitation + LOGIT_PENALTY * logit_penalty
    return Loss(float(total), float(td), float(imitation), float(logit_penalty))


def gradients(
    q: np.ndarray,
    imitation_logits: np.ndarray,
    q_next_online: np.ndarray,
    q_next_target: np.ndarray,
    imitation_logits_next: np.ndarray,
    actions: np.ndarray,
    rewards: np.ndarray,
    dones: np.ndarray,
    gamma: float,
    threshold: float,
) -> Gradients:
    """Derivatives of `loss(...).total`; the bootstrap y is not differentiated.

    By q: [a' = a] huber'(Q(s,a) - y) / B.
    By i: (G(a'|s) - [a' = a]) / B + 0.02 i / (B A).
    """
    targets = constrained_targets(
        q_next_online, q_next_target, imitation_logits_next, rewards, dones, gamma, threshold
    )
    probabilities = np.exp(log_softmax(imitation_logits))
    by_q = np.zeros(q.shape, np.float64)
    by_logits = np.zeros(imitation_logits.shape, np.float64)
    for row, taken in enumerate(actions):
        by_q[row, taken] = huber_slope(float(q[row, taken]) - targets[row]) / len(actions)
        for action in range(imitation_logits.shape[1]):
            is_taken = 1.0 if action == taken else 0.0
            cloning = (probabilities[row, action] - is_taken) / len(actions)
            logit = float(imitation_logits[row, action])
            shrinking = LOGIT_PENALTY * 2.0 * logit / imitation_logits.size
            by_logits[row, action] = cloning + shrinking
    return Gradients(by_q, by_logits)
