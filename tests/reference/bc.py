"""Behavioural cloning's loss and its gradient, worked out entry by entry in float64."""

from __future__ import annotations

import math

import numpy as np


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """log of exp(x_i) / sum_j exp(x_j) for each row of `logits` (B, A)."""
    result = np.empty(logits.shape, np.float64)
    for row, values in enumerate(logits.astype(np.float64)):
        largest = max(values)
        total = math.log(sum(math.exp(value - largest) for value in values)) + largest
        for column, value in enumerate(values):
            result[row, column] = value - total
    return result


def loss(logits: np.ndarray, actions: np.ndarray) -> float:
    """Mean over the batch of -log pi(a|s), for `logits` (B, A) and `actions` (B,)."""
    log_probabilities = log_softmax(logits)
    terms = [-log_probabilities[row, action] for row, action in enumerate(actions)]
    return float(sum(terms) / len(terms))


def gradient(logits: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """Derivative of `loss` by each logit (B, A): (pi(a'|s) - [a' = a]) / B."""
    result = np.exp(log_softmax(logits))
    for row, action in enumerate(actions):
        result[row, action] -= 1.0
    return result / len(actions)
