"""The one loop that plays episodes: evaluation, collection and PPO's own tests all use it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from common.envs import JoinedVectorEnv, ProcgenVectorEnv


class Policy(Protocol):
    """What plays. Memory of past steps, if any, lives behind these three methods.

    `env_ids` (n,) int names the environments that the rows of the other arrays belong to: those
    that have finished their share leave the batch, and the memory of the others stays in place.
    """

    def reset(self, num_envs: int, seed: int) -> None:
        """Forget everything; `num_envs` environments start, random choices follow `seed`."""

    def act(self, observations: np.ndarray, env_ids: np.ndarray) -> np.ndarray:
        """Actions (n,) int64 for frames (n, 64, 64, 3) uint8."""

    def observe(
        self, actions: np.ndarray, rewards: np.ndarray, dones: np.ndarray, env_ids: np.ndarray
    ) -> None:
        """What became of the actions: rewards (n,) float32, dones (n,) bool."""


class StepListener(Protocol):
    """Sees every step of every environment, for instance to record episodes.

    Those that have played their share stand still: see `ProcgenVectorEnv.retire`.
    """

    def begin(self, observations: np.ndarray, level_seeds: np.ndarray) -> None: ...

    def step(
        self,
        actions: np.ndarray,
        rewards: np.ndarray,
        dones: np.ndarray,
        next_observations: np.ndarray,
        level_seeds: np.ndarray,
    ) -> object: ...


class EpisodeResult(NamedTuple):
    """One finished episode: its level, undiscounted raw return and number of steps."""

    level_seed: int
    episode_return: float
    length: int


def fair_shares(num_episodes: int, num_envs: int) -> np.ndarray:
    """Episodes for each environment (num_envs,) int64, the first ones one more where needed."""
    shares = np.full(num_envs, num_episodes // num_envs)
    shares[: num_episodes % num_envs] += 1
    return shares


def rollout(
    env: ProcgenVectorEnv | JoinedVectorEnv,
    policy: Policy,
    *,
    seed: int,
    num_episodes: int | np.ndarray | None = None,
    listener: StepListener | None = None,
    keep_going: Callable[[int], bool] | None = None,
    before_step: Callable[[], None] | None = None,
    on_episode: Callable[[EpisodeResult], None] | None = None,
) -> list[EpisodeResult]:
    """Play whole episodes and return their results, environment by environment.

    With `num_episodes` every environment plays a fixed number of episodes and then leaves the
    policy's batch: its `fair_shares`, or its entry of an array (num_envs,). Counting the first
    `num_episodes` to finish instead would favour short episodes. Without it all environments
    play while `keep_going(steps so far)` is true. `before_step` may raise to leave early.

    Raises ValueError when neither end is given.
    """
    if (num_episodes is None) == (keep_going is None):
        raise ValueError("give either num_episodes or keep_going")
    num_envs = env.num_envs
    if num_episodes is None:
        quota = np.full(num_envs, np.iinfo(np.int64).max)
    elif isinstance(num_episodes, int):
        quota = fair_shares(num_episodes, num_envs)
    else:
        quota = num_episodes.copy()
    results: list[list[EpisodeResult]] = [[] for _ in range(num_envs)]
    returns = np.zeros(num_envs, dtype=np.float64)
    lengths = np.zeros(num_envs, dtype=np.int64)
    # `step` takes an action for every environment: those that are done repeat their last one, those
    # that never play get "stand still".
    actions = np.full(num_envs, 4, dtype=np.int64)

    observations, infos = env.reset()
    policy.reset(num_envs, seed)
    env.retire(np.flatnonzero(quota == 0))
    if listener is not None:
        listener.begin(observations, infos["level_seed"])
    active = np.flatnonzero(quota > 0)
    steps = 0
    while active.size and (keep_going is None or keep_going(steps)):
        if before_step is not None:
            before_step()
        actions[active] = policy.act(observations[active], active)
        observations, rewards, dones, _, infos = env.step(actions)
        policy.observe(actions[active], rewards[active], dones[active], active)
        if listener is not None:
            listener.step(actions, rewards, dones, observations, infos["level_seed"])
        returns += rewards
        lengths += 1
        steps += num_envs
        ended = active[dones[active]]
        for i in ended:
            result = EpisodeResult(
                int(infos["prev_level_seed"][i]), float(returns[i]), int(lengths[i])
            )
            results[i].append(result)
            if on_episode is not None:
                on_episode(result)
        quota[ended] -= 1
        returns[dones] = 0.0
        lengths[dones] = 0
        if ended.size:
            active = np.flatnonzero(quota > 0)
            env.retire(ended[quota[ended] == 0])
    return [result for per_env in results for result in per_env]
