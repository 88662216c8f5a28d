"""Randomness as named streams: each consumer has its own seed, each state can be restored."""

from __future__ import annotations

import random
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, *labels: str | int) -> int:
    """A seed in [0, 2^31) for one purpose, independent of the seeds of other purposes.

    `derive_seed(88, "evaluation", "test")` never changes when another consumer is added, so
    evaluation plays the same levels whatever else a run draws.
    """
    words = [seed & 0xFFFFFFFF]
    words += [zlib.crc32(str(label).encode()) for label in labels]
    return int(np.random.SeedSequence(words).generate_state(1)[0] & 0x7FFFFFFF)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices); network initialisation follows from this."""
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def torch_random_state() -> dict[str, Any]:
    """The state of torch's global generators, to be put into a checkpoint."""
    import torch

    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_torch_random_state(state: dict[str, Any]) -> None:
    """Undo of `torch_random_state`; CUDA states are ignored on a machine with other cards."""
    import torch

    torch.set_rng_state(state["cpu"].cpu())
    cuda_states: list[torch.Tensor] = state.get("cuda", [])
    if torch.cuda.is_available() and len(cuda_states) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in cuda_states])
