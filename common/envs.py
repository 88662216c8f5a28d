"""Vectorised Procgen as a gymnasium `VectorEnv`, and the one table of level splits."""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from common.errors import UsageError
from common.games import DISTRIBUTION_MODES, FRAME_SHAPE, GAMES, NUM_ACTIONS

NUM_VALIDATION_LEVELS = 50
MAX_LEVEL_SEED = 2**31 - 1

# Observations, rewards, terminations, truncations and infos, as gymnasium orders them.
Step = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]


class LevelSplit(NamedTuple):
    """A set of levels as Procgen takes it: seeds start_level .. start_level + num_levels - 1.

    `num_levels == 0` means all seeds 0 .. 2^31 - 1; Procgen then ignores `start_level`.
    """

    name: str
    start_level: int
    num_levels: int


def level_splits(num_levels: int, only_level: int | None = None) -> dict[str, LevelSplit]:
    """The protocol of the benchmark: levels seen, 50 held-out levels next to them, all levels.

    Source: Mediratta et al. 2024, section 3. The test split draws from all 2^31 seeds, so it
    contains the training levels with negligible probability (200 / 2^31). In the single-level
    study there is one split, the level with the seed `only_level`.
    """
    if only_level is not None:
        return {"train": LevelSplit("train", only_level, 1)}
    return {
        "train": LevelSplit("train", 0, num_levels),
        "validation": LevelSplit("validation", num_levels, NUM_VALIDATION_LEVELS),
        "test": LevelSplit("test", num_levels + NUM_VALIDATION_LEVELS, 0),
    }


class ProcgenVectorEnv(VectorEnv):
    """`num_envs` Procgen environments of one game stepped together by Procgen's own threads.

    Observations are uint8 (num_envs, 64, 64, 3); actions int (num_envs,) in 0..14; rewards float32
    (num_envs,), unscaled. Episodes restart by themselves in the same step: where `terminations` is
    set, the observation is the first frame of the next level. Procgen ends an episode that runs too
    long as it ends any other, so `truncations` is always False.

    Infos hold int32 arrays (num_envs,): `level_seed` (the level now being played),
    `prev_level_seed` (the level that just ended, where `terminations` is set) and
    `prev_level_complete`.

    The level that environment i plays as its k-th depends on `seed`, i and k alone.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        env_name: str,
        num_envs: int,
        start_level: int = 0,
        num_levels: int = 200,
        distribution_mode: str = "easy",
        seed: int = 0,
    ) -> None:
        if env_name not in GAMES:
            raise UsageError(f"unknown game {env_name!r}: choose one of {', '.join(GAMES)}")
        if distribution_mode not in DISTRIBUTION_MODES:
            raise UsageError(
                f"unknown distribution mode {distribution_mode!r}: "
                f"choose one of {', '.join(DISTRIBUTION_MODES)}"
            )
        if min(start_level, num_levels) < 0 or start_level + num_levels > MAX_LEVEL_SEED:
            raise UsageError(
                f"start_level {start_level}, num_levels {num_levels}: "
                f"level seeds are 0..{MAX_LEVEL_SEED}"
            )
        self.env_name = env_name
        self.num_envs = num_envs
        self._options: dict[str, Any] = {
            "start_level": start_level,
            "num_levels": num_levels,
            "distribution_mode": distribution_mode,
        }
        self.single_observation_space = gymnasium.spaces.Box(0, 255, FRAME_SHAPE, np.uint8)
        self.single_action_space = gymnasium.spaces.Discrete(NUM_ACTIONS)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._seed = seed
        self._fresh = True
        self._engine = self._build(num_envs)
        self._everyone_plays()
        _, _, self._last = self._observe()

    def _build(self, num: int) -> Any:
        _silence_gym_notice()
        from procgen import ProcgenGym3Env

        return ProcgenGym3Env(
            num=num,
            env_name=self.env_name,
            rand_seed=self._seed,
            # More threads than cores only add switching; one per environment is the limit.
            num_threads=max(1, min(num, os.cpu_count() or 1)),
            **self._options,
        )

    def _renew(self) -> None:
        self._engine.close()
        self._engine = self._build(self.num_envs)
        self._everyone_plays()

    def _everyone_plays(self) -> None:
        self._playing = np.ones(self.num_envs, bool)
        # The environments that the engine holds, in its order: all that play, maybe some others.
        self._held = np.arange(self.num_envs)

    def _observe(self) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Rewards, ends, and frames and infos by name, of those in the engine."""
        rewards, observations, firsts = self._engine.observe()  # which copies what it gives
        # gym3 would build one dict per environment and step; its buffers hold the same as arrays.
        infos = {key: values.copy() for key, values in self._engine._info.items()}
        return rewards, firsts, {**observations, **infos}

    def _observations_and_infos(self) -> tuple[np.ndarray, dict[str, Any]]:
        infos = dict(self._last)
        return infos.pop("rgb"), infos

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """First frames (num_envs, 64, 64, 3) uint8 and infos.

        Procgen cannot be reset, so a second call builds the environments anew: the same levels
        again, or those of another `seed`.
        """
        if isinstance(seed, list):
            raise UsageError("Procgen takes one seed for all environments, not a list")
        if seed is not None and seed != self._seed:
            self._seed, self._fresh = seed, False
        if not self._fresh:
            self._renew()
        self._fresh = False
        _, _, self._last = self._observe()
        return self._observations_and_infos()

    def step(self, actions: np.ndarray) -> Step:
        """Play one step; see the class for shapes and for what happens at an episode's end."""
        self.step_async(actions)
        return self.step_wait()

    def step_async(self, actions: np.ndarray) -> None:
        """Begin what `step` does; Procgen's threads go on while the caller does other things."""
        self._fresh = False
        if self._playing.any():
            self._engine.act(np.asarray(actions)[self._held])

    def step_wait(self) -> Step:
        """Wait for the step that `step_async` began."""
        rewards = np.zeros(self.num_envs, np.float32)
        terminations = np.zeros(self.num_envs, bool)
        if self._playing.any():
            rewards_held, firsts, seen = self._observe()
            if self._playing.all():
                rewards[:], terminations[:], self._last = rewards_held, firsts, seen
            else:
                playing = self._playing[self._held]
                rows = self._held[playing]
                rewards[rows], terminations[rows] = rewards_held[playing], firsts[playing]
                # Copies: the caller has the last ones.
                self._last = {key: values.copy() for key, values in self._last.items()}
                for key, values in seen.items():
                    self._last[key][rows] = values[playing]
        observations, infos = self._observations_and_infos()
        return observations, rewards, terminations, np.zeros_like(terminations), infos

    def retire(self, env_ids: np.ndarray) -> None:
        """Nobody looks at these environments any more: until a reset they stand still.

        They repeat their last observations, with rewards of 0 and no ends. The others play on as
        they would have.
        """
        self._fresh = False
        self._playing[env_ids] = False
        playing = self._playing[self._held]
        # Procgen steps all of an engine or none: half empty, it is worth a smaller one.
        if 0 < 2 * playing.sum() <= len(self._held):
            states = self._engine.get_state()
            self._engine.close()
            self._held = self._held[playing]
            self._engine = self._build(len(self._held))
            self._engine.set_state([states[i] for i in np.flatnonzero(playing)])

    def save_state(self) -> list[bytes]:
        """The whole state of every environment, level generators included.

        ValueError if some have retired.
        """
        if not self._playing.all():
            raise ValueError("the states of environments that have retired are not kept")
        states: list[bytes] = self._engine.get_state()
        return states

    def restore_state(self, states: list[bytes]) -> None:
        """Continue from `save_state()` of an environment made with the same arguments."""
        if not self._playing.all():
            self._renew()
        self._engine.set_state(states)
        self._fresh = False
        _, _, self._last = self._observe()

    def close_extras(self, **kwargs: Any) -> None:
        """Free Procgen's threads and memory; called once by `close()`."""
        self._engine.close()


class JoinedVectorEnv:
    """Several `ProcgenVectorEnv`s, of different levels, stepped as one batch.

    Their environments are numbered through, and arrays are as those of `ProcgenVectorEnv`.
    """

    def __init__(self, envs: Sequence[ProcgenVectorEnv]) -> None:
        self._envs = list(envs)
        ends = np.cumsum([env.num_envs for env in self._envs]).tolist()
        self._rows = [slice(a, b) for a, b in itertools.pairwise([0, *ends])]
        self.num_envs = ends[-1]

    def reset(self) -> tuple[np.ndarray, dict[str, Any]]:
        """First frames of all and infos; everyone plays again."""
        observations, infos = zip(*(env.reset() for env in self._envs), strict=True)
        return np.concatenate(observations), _joined(infos)

    def step(self, actions: np.ndarray) -> Step:
        """Play one step with `actions` (num_envs,), all environments at a time."""
        for env, rows in zip(self._envs, self._rows, strict=True):
            env.step_async(actions[rows])
        *arrays, infos = zip(*(env.step_wait() for env in self._envs), strict=True)
        observations, rewards, terminations, truncations = map(np.concatenate, arrays)
        return observations, rewards, terminations, truncations, _joined(infos)

    def retire(self, env_ids: np.ndarray) -> None:
        """Nobody looks at these environments any more: see `ProcgenVectorEnv.retire`."""
        for env, rows in zip(self._envs, self._rows, strict=True):
            env.retire(env_ids[(rows.start <= env_ids) & (env_ids < rows.stop)] - rows.start)

    def close(self) -> None:
        """Close all of them."""
        for env in self._envs:
            env.close()


def _joined(infos: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {key: np.concatenate([info[key] for info in infos]) for key in infos[0]}


def _silence_gym_notice() -> None:
    """Procgen imports the old `gym`, which prints a notice that users cannot act on."""
    try:
        import gym_notices.notices as notices
    except ImportError:
        return
    notices.notices.clear()


def procgen_build() -> dict[str, str]:
    """Which Procgen draws here: package, version and the Qt it renders with."""
    for package in ("procgen-mirror", "procgen"):
        try:
            distribution = importlib.metadata.distribution(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        qt = [f.name for f in distribution.files or [] if f.name.startswith("libQt5Gui")]
        return {
            "package": package,
            "version": distribution.version,
            "qt": qt[0] if qt else "system",
        }
    return {"package": "none", "version": "none", "qt": "none"}


def frame_fingerprint(env_name: str, distribution_mode: str = "easy") -> str:
    """A short hash of the first frames of levels 0 to 3.

    Builds of Procgen agree in dynamics but not in every pixel; two builds that draw alike give the
    same fingerprint.
    """
    digest = hashlib.sha256()
    for level in range(4):
        env = ProcgenVectorEnv(
            env_name, 1, start_level=level, num_levels=1, distribution_mode=distribution_mode
        )
        digest.update(env.reset()[0].tobytes())
        env.close()
    return digest.hexdigest()[:16]
