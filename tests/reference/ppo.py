"""PPO's equations in NumPy float64, each as it stands in the papers: slow and obvious."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


def generalised_advantages(
    rewards: np.ndarray,
    values: np.ndarray,
    dones: np.ndarray,
    last_values: np.ndarray,
    gamma: float,
    lam: float,
) -> np.ndarray:
    """Schulman et al. 2016, equation 16: A_t = sum_l (gamma lam)^l delta_{t+l}, term by term.

    Rewards, values and dones (T, N); last_values (N,). A sum ends with its episode.
    """
    steps, num_envs = rewards.shape
    advantages = np.zeros((steps, num_envs))
    for env in range(num_envs):
        for start in range(steps):
            for t in range(start, steps):
                following = last_values[env] if t + 1 == steps else values[t + 1, env]
                if dones[t, env]:
                    following = 0.0
                delta = rewards[t, env] + gamma * following - values[t, env]
                advantages[start, env] += (gamma * lam) ** (t - start) * delta
                if dones[t, env]:
                    break
    return advantages


class Loss(NamedTuple):
    policy_loss: float
    value_loss: float
    entropy: float


def loss(
    logits: np.ndarray,
    values: np.ndarray,
    actions: np.ndarray,
    old_log_probs: np.ndarray,
    old_values: np.ndarray,
    advantages: np.ndarray,
    returns: np.ndarray,
    clip: float,
) -> Loss:
    """Schulman et al. 2017, equations 7 and 9, sample by sample; the value is clipped alike.

    Logits (B, A), all else (B,). The entropy is the policy's, not yet negated.
    """
    policy_losses, value_losses, entropies = [], [], []
    for i in range(len(actions)):
        probabilities = np.exp(logits[i]) / np.exp(logits[i]).sum()
        ratio = probabilities[actions[i]] / np.exp(old_log_probs[i])
        clipped = min(max(ratio, 1 - clip), 1 + clip)
        policy_losses.append(-min(ratio * advantages[i], clipped * advantages[i]))
        moved = min(max(values[i] - old_values[i], -clip), clip)
        errors = (values[i] - returns[i]) ** 2, (old_values[i] + moved - returns[i]) ** 2
        value_losses.append(0.5 * max(errors))
        entropies.append(-(probabilities * np.log(probabilities)).sum())
    return Loss(
        float(np.mean(policy_losses)), float(np.mean(value_losses)), float(np.mean(entropies))
    )


def scaled_rewards(rewards: np.ndarray, dones: np.ndarray, gamma: float) -> np.ndarray:
    """Rewards (T, N) over the standard deviation of all discounted returns seen so far.

    The return of an environment starts again after each episode.
    """
    steps, num_envs = rewards.shape
    discounted = np.zeros((steps, num_envs))
    for env in range(num_envs):
        running = 0.0
        for t in range(steps):
            running = gamma * running + rewards[t, env]
            discounted[t, env] = running
            if dones[t, env]:
                running = 0.0
    scaled = np.zeros((steps, num_envs))
    for t in range(steps):
        scaled[t] = rewards[t] / discounted[: t + 1].std()
    return np.clip(scaled, -10.0, 10.0)
