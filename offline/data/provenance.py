"""Which build of Procgen drew a store's frames, and whether the one installed here draws alike.

Builds agree in dynamics but not in every pixel: an agent may learn from other frames than those it
is then evaluated on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from common.envs import MAX_LEVEL_SEED, ProcgenVectorEnv, frame_fingerprint, procgen_build
from offline.data.store import PackedStore

_LEVELS_TO_COMPARE = 4


def draw_first_frame(env_name: str, distribution_mode: str, level_seed: int) -> np.ndarray:
    """The first frame (64, 64, 3) uint8 of a level, as the installed Procgen draws it (2 ms)."""
    env = ProcgenVectorEnv(
        env_name, 1, start_level=level_seed, num_levels=1, distribution_mode=distribution_mode
    )
    observations, _ = env.reset()
    env.close()
    return np.asarray(observations[0])


def drawn_as_installed(store: PackedStore, env_name: str, distribution_mode: str) -> bool | None:
    """Whether the installed Procgen draws what the store holds; None if nothing tells.

    By the mode and the build that the collector noted, else by its fingerprint, else (the released
    data note nothing) by the first frames of a few levels.
    """
    noted = store.manifest["procgen"] or {}
    mode = noted.get("distribution_mode")
    if mode not in (None, distribution_mode):
        return False
    fingerprint = noted.get("fingerprint")
    # The same package draws the same frames; only another one, or a fingerprint of a mode that is
    # not told, is worth starting Procgen for.
    if noted.get("build") == procgen_build() and (mode or not fingerprint):
        return True
    if fingerprint:
        return bool(fingerprint == frame_fingerprint(env_name, distribution_mode))
    levels, first_episodes = np.unique(store.episodes["level_seed"], return_index=True)
    comparable = np.flatnonzero((levels >= 0) & (levels < MAX_LEVEL_SEED))[:_LEVELS_TO_COMPARE]
    if not len(comparable):
        return None
    starts = store.episodes["start"][first_episodes]
    return all(
        np.array_equal(
            store.frames[starts[i]], draw_first_frame(env_name, distribution_mode, int(levels[i]))
        )
        for i in comparable
    )


def drawn_differently(path: str, env_name: str, build: Mapping[str, Any] | None) -> str:
    """The sentence for a store that is not drawn as the installed Procgen draws."""
    made_by = json.dumps(build) if build else "build not noted"
    return (
        f"{path} was made by a Procgen build, or in a distribution mode, that draws {env_name} "
        f"differently from the one installed here ({made_by}): returns at evaluation may be lower "
        "than the data deserve"
    )
