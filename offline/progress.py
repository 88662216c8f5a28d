"""Where a run is, and whether what it learns is still finite: kept on the device in an epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from common.errors import ToolkitError


@dataclass
class Progress:
    """Where a run is: all that `model.pt` keeps beside the agent and the random state."""

    epoch: int = 1  # the epoch under way, from 1
    batch: int = 0  # batches of it that are done
    rows: int = 0  # rows in logs.csv
    epoch_seconds: float = 0.0
    best_validation: float = -math.inf
    stop_reference: float = -math.inf  # validation return that early stopping compares with
    evaluations_without_improvement: int = 0
    finished: bool = False  # training is over, the final evaluation may still be missing
    sums: dict[str, Tensor] = field(default_factory=dict)  # metrics of this epoch, on the device

    def add(self, metrics: dict[str, Tensor]) -> None:
        """Add one batch's metrics without looking at them."""
        for name, value in metrics.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()

    def means(self) -> dict[str, float]:
        """Metrics of the epoch, averaged over its batches; the host waits for them."""
        return {name: float(total) / max(self.batch, 1) for name, total in self.sums.items()}


class FiniteCheck:
    """Remembers on the device at which gradient step a loss first was not finite."""

    def __init__(self, device: torch.device) -> None:
        self._first_bad = torch.tensor(-1, device=device)

    def note(self, loss: Tensor, step: int) -> None:
        """Look at one loss, without waiting for it."""
        bad = ~torch.isfinite(loss) & (self._first_bad < 0)
        self._first_bad = torch.where(bad, step, self._first_bad)

    def demand(self, epoch: int, kept: Path) -> None:
        """Raise ToolkitError naming the step if any loss was not finite."""
        step = int(self._first_bad)
        if step >= 0:
            raise not_finite("the loss is not finite at", step, epoch, kept)


def not_finite(what: str, step: int, epoch: int, path: Path) -> ToolkitError:
    """The error for a loss or weights; `path` is where the last state was saved, if it was."""
    told = f"{what} step {step} of epoch {epoch}: try a smaller --lr; {what_is_kept(path)}"
    return ToolkitError(told)


def what_is_kept(path: Path) -> str:
    """Of a run that fails, where its last state was saved, if it was."""
    return f"{path} keeps the last good state" if path.exists() else "nothing was saved yet"
