"""No method lets the host wait for the device: neither its view's batches nor its updates.

Without a GPU nothing waits, so what would wait is looked for: reads of a tensor's values by the
host, shapes that depend on values, and moves to a device that are not `non_blocking`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from offline.agents import agent_class
from offline.agents.base import OfflineAgent
from offline.arguments import ALGORITHMS
from offline.data.frames import ResidentFrames
from offline.data.packing import open_game
from offline.data.store import select_episodes
from offline.data.views import View, make_view
from offline.training import FiniteCheck, Progress
from tests.data_fixtures import make_episode, write_game
from tests.offline_commands import CPU, GAME
from tests.sequence_fixtures import TINY_AGENTS, tiny_agent
from tests.value_agents import make_value_agent

every_method = pytest.mark.parametrize("algo", ALGORITHMS)
# Operations whose result, or the size of it, the host must know before it can go on.
WAITING = set(
    "_local_scalar_dense item is_nonzero nonzero equal allclose masked_select argwhere bincount "
    "unique_consecutive _unique _unique2 unique_dim".split()
)
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
# The settings under which the most happens in an update.
BUSY: dict[str, dict[str, Any]] = {
    "bc": {},
    "bcq": {"target_update_freq": 1, "perform_polyak_update": True},
    "bct": {},
    "cql": {"target_update_freq": 1},
    "dt": {"dt_rtg_noise_prob": 0.5},
    "iql": {"target_update_freq": 1, "perform_polyak_update": True},
}


class _Operations(TorchDispatchMode):
    """Notes what torch does below Python, the backward pass included."""

    def __init__(self, found: list[str], known_to_the_host: set[int]) -> None:
        super().__init__()
        self.found = found
        self.known_to_the_host = known_to_the_host

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        name = func.overloadpacket.__name__
        if name in WAITING and args[0].data_ptr() not in self.known_to_the_host:
            self.found.append(name)
        if name in INDEXING and any(i is not None and i.dtype == torch.bool for i in args[1]):
            self.found.append(f"{name} by a mask")
        if name == "repeat_interleave" and (kwargs or {}).get("output_size") is None:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


class _Calls(TorchFunctionMode):
    """Notes what Python asks of torch, and answers that tensors are on a GPU."""

    def __init__(self, found: list[str], moves: bool) -> None:
        super().__init__()
        self.found = found
        self.moves = moves

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        kwargs = kwargs or {}
        if func == Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            return True
        name = getattr(func, "__name__", "")
        moves = func is Tensor.to and any(
            isinstance(value, torch.device | str) for value in (*args, *kwargs.values())
        )
        if self.moves and moves and not kwargs.get("non_blocking", False):
            self.found.append("a blocking move to a device")
        if func in (Tensor.cpu, Tensor.numpy, Tensor.tolist, torch.tensor, torch.as_tensor):
            self.found.append(name)
        return func(*args, **kwargs)


class Waits(ExitStack):
    """Within it, everything for which the host would wait for a GPU is added to `found`.

    An update has everything on its device, and a move to where a tensor is waits for nothing: with
    an `agent`, moves do not count.
    """

    def __init__(self, agent: OfflineAgent[Any] | None = None) -> None:
        super().__init__()
        self.moves = agent is None
        self.found: list[str] = []
        # Adam counts its steps on the host, except where one kernel does the whole step.
        self.counters = {
            state["step"].data_ptr()
            for optimiser in (agent.optimisers.values() if agent else ())
            if not optimiser.defaults.get("fused")
            for state in optimiser.state.values()
        }

    def __enter__(self) -> Waits:
        super().__enter__()
        self.enter_context(_Operations(self.found, self.counters))
        self.enter_context(_Calls(self.found, self.moves))
        return self


VALUES = torch.tensor([0.0, 1.0, 2.0])


def assign_by_mask() -> None:
    torch.zeros(3)[VALUES > 0.5] = VALUES[1:]


@pytest.mark.parametrize(
    "wait",
    [
        lambda: VALUES.sum().item(),
        lambda: float(VALUES[0]),
        lambda: bool(VALUES.any()),
        lambda: VALUES[0] > 0 and None,
        lambda: VALUES[VALUES > 0],
        assign_by_mask,
        lambda: VALUES.nonzero(),
        lambda: torch.where(VALUES > 0),
        lambda: torch.equal(VALUES, VALUES),
        lambda: torch.allclose(VALUES, VALUES),
        lambda: VALUES.unique(),
        lambda: VALUES.repeat_interleave(torch.tensor([1, 2, 0])),
        lambda: torch.masked_select(VALUES, VALUES > 0),
        lambda: VALUES.tolist(),
        lambda: VALUES.cpu(),
        lambda: VALUES.numpy(),
        lambda: VALUES.to(CPU),
        lambda: VALUES.to(device="cpu"),
        lambda: torch.tensor(1.0, device=CPU),
        lambda: torch.nn.utils.clip_grad_norm_(
            [with_gradient()], max_norm=1.0, error_if_nonfinite=True
        ),
    ],
)
def test_what_waits_is_found(wait: Callable[[], object]) -> None:
    with Waits() as waits:
        wait()
    assert waits.found


def with_gradient() -> Tensor:
    weights = torch.zeros(3, requires_grad=True)
    weights.grad = torch.ones_like(weights)
    return weights


def test_a_wait_within_the_backward_pass_is_found() -> None:
    weights = with_gradient()

    class Reading(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.sum()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return torch.full((3,), float(gradient))

    with Waits() as waits:
        Reading.apply(weights).backward()
    assert waits.found


@pytest.mark.parametrize(
    "work",
    [
        lambda: VALUES.to(torch.float64).sum(),
        lambda: VALUES.to(CPU, non_blocking=True),
        lambda: VALUES[torch.arange(2)],
        lambda: VALUES.masked_fill(VALUES > 0, 0.0),
    ],
)
def test_what_does_not_wait_is_not_found(work: Callable[[], object]) -> None:
    with Waits() as waits:
        work()
    assert waits.found == []


# The methods


def make_learner(algo: str) -> OfflineAgent[Any]:
    make = tiny_agent if algo in TINY_AGENTS else make_value_agent
    agent: OfflineAgent[Any] = make(algo, **BUSY[algo])
    return agent


def make_own_view(algo: str, folder: Path, device: torch.device) -> View:
    """Ten transitions of two episodes in the way the method wants them, frames on the device."""
    write_game(folder / GAME, [make_episode(1, [0.0] * 4), make_episode(2, [1.0] * 6)])
    selection = select_episodes([open_game(folder, GAME, progress=False)])
    rows = torch.zeros(selection.num_rows, 64, 64, 3, dtype=torch.uint8, device=device)
    return make_view(agent_class(algo).view, selection, ResidentFrames(rows, ""), 3, device)


@every_method
def test_a_batch_never_waits(algo: str, tmp_path: Path) -> None:
    view = make_own_view(algo, tmp_path, CPU)
    with Waits() as waits:
        view.batch(np.array([0, 3, 4, 9]))
    assert waits.found == []


@every_method
def test_an_update_never_waits(algo: str, tmp_path: Path) -> None:
    view, agent = make_own_view(algo, tmp_path, CPU), make_learner(algo)
    batches = [view.batch(np.arange(start, start + 4)) for start in (0, 3, 6)]
    agent.update(batches[0])  # the optimisers make their state
    progress, finite = Progress(), FiniteCheck(CPU)
    with Waits(agent) as waits:
        for step, batch in enumerate(batches[1:], 1):
            metrics = agent.update(batch)
            finite.note(metrics["loss"], step)
            progress.add(metrics)
    assert waits.found == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_method
def test_a_gpu_is_never_waited_for(algo: str, tmp_path: Path) -> None:
    device = torch.device("cuda")
    made = make_learner(algo)
    agent = type(made)(made.settings, made.facts, device)
    view = make_own_view(algo, tmp_path, device)
    progress, finite = Progress(), FiniteCheck(device)
    for step in range(3):
        if step == 1:  # the optimisers have their state, cuDNN has chosen its algorithms
            torch.cuda.set_sync_debug_mode("error")
        try:
            metrics = agent.update(view.batch(np.arange(step, step + 4)))
            finite.note(metrics["loss"], step)
            progress.add(metrics)
        finally:
            torch.cuda.set_sync_debug_mode("default")
