"""Choosing actions by logits or values, one stream of random numbers per environment."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class ActionSampler:
    """Samples categorical or epsilon-greedy actions; takes the best when `deterministic`.

    Every environment has its own generator, so the actions taken in a batch of environments are
    those taken in each environment alone, whichever others are still playing.
    """

    _BLOCK = 256

    def __init__(self, deterministic: bool = False) -> None:
        self.deterministic = deterministic
        self._chosen_by: tuple[Tensor, float | None]  # logits or values, and epsilon if values

    def reset(self, num_envs: int, seed: int) -> None:
        """Start the streams of `num_envs` environments."""
        self._generators = [np.random.default_rng([seed, i]) for i in range(num_envs)]
        self._numbers = np.empty((num_envs, self._BLOCK))
        self._used = np.full(num_envs, self._BLOCK)

    def uniforms(self, env_ids: np.ndarray) -> np.ndarray:
        """The next number in [0, 1) of each environment in `env_ids` (n,) int; (n,) float64."""
        for i in env_ids[self._used[env_ids] == self._BLOCK]:
            self._numbers[i] = self._generators[i].random(self._BLOCK)
            self._used[i] = 0
        numbers: np.ndarray = self._numbers[env_ids, self._used[env_ids]]
        self._used[env_ids] += 1
        return numbers

    def actions(self, logits: Tensor, env_ids: np.ndarray) -> np.ndarray:
        """Actions (n,) int64 for `logits` (n, num_actions) of the environments `env_ids` (n,)."""
        self._chosen_by = logits, None
        if self.deterministic:
            likeliest: np.ndarray = logits.argmax(-1).cpu().numpy()
            return likeliest
        # The first action whose cumulative probability exceeds the draw. Scaling the draw by the
        # last entry keeps a sum of probabilities just below one from giving an action too many.
        cumulative = torch.softmax(logits.double(), -1).cumsum(-1).cpu().numpy()
        draws = self.uniforms(env_ids)[:, None] * cumulative[:, -1:]
        sampled: np.ndarray = (draws >= cumulative).sum(-1)
        return sampled

    def epsilon_greedy(self, values: Tensor, env_ids: np.ndarray, epsilon: float) -> np.ndarray:
        """The best actions (n,) int64 by `values` (n, num_actions), with chance `epsilon` any one.

        Each environment uses two numbers per step, whether or not it explores, so its stream does
        not depend on the past.
        """
        self._chosen_by = values, 0.0 if self.deterministic else epsilon
        best: np.ndarray = values.argmax(-1).cpu().numpy()
        if self.deterministic:
            return best
        explores = self.uniforms(env_ids) < epsilon
        any_one = (self.uniforms(env_ids) * values.shape[-1]).astype(np.int64)
        return np.where(explores, any_one, best)

    def probabilities(self) -> np.ndarray:
        """The policy that the last actions are of: (n, num_actions) float64, rows sum to 1.

        For logits their softmax, also where only the likeliest action is taken; for values what
        the epsilon-greedy draws follow, all on the best where there are no draws.
        """
        scores, epsilon = self._chosen_by
        if epsilon is None:
            softmax: np.ndarray = torch.softmax(scores.double(), -1).cpu().numpy()
            return softmax
        num_actions = scores.shape[-1]
        best = np.eye(num_actions)[scores.argmax(-1).cpu().numpy()]
        return (1.0 - epsilon) * best + epsilon / num_actions
