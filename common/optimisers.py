"""Adam and AdamW as PyTorch has them, but for its compiler, which theirs import at once.

To build or to step one of PyTorch's optimisers imports `torch._dynamo`, and with it as much again
as `import torch`: two seconds of processor time before a run does anything, for what only a
compiled optimiser needs. Here the same methods stand without the wrappers that import it.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch


class _Eager(torch.optim.Optimizer):
    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)


class Adam(_Eager, torch.optim.Adam):
    """`torch.optim.Adam` (Kingma and Ba 2015)."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


class AdamW(_Eager, torch.optim.AdamW):
    """`torch.optim.AdamW` (Loshchilov and Hutter 2019)."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


def load_optimiser(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Restore an optimiser's `state_dict`, but for the kernels that this process computes it with.

    Raises KeyError or ValueError for the state of other parameters.
    """
    fused = optimiser.defaults["fused"]
    groups = [{**group, "fused": fused} for group in state["param_groups"]]
    optimiser.load_state_dict({**state, "param_groups": groups})
