"""Batches for learning, as index arithmetic over a selection: no loop over samples, one gather.

A sample is a transition. `TransitionView` gives it as (s, a, r, s', done), `WindowView` gives the
last K steps up to it, for sequence models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import torch

from offline.data.frames import Frames
from offline.data.store import Selection

ViewKind = Literal["state_actions", "transitions", "windows"]


class TransitionBatch(NamedTuple):
    """B transitions."""

    observations: torch.Tensor  # (B, 64, 64, 3) uint8
    actions: torch.Tensor  # (B,) int64
    rewards: torch.Tensor  # (B,) float32, raw
    next_observations: torch.Tensor | None  # (B, 64, 64, 3) uint8; the own frame where done
    dones: torch.Tensor  # (B,) float32, 1 where the episode ended


class WindowBatch(NamedTuple):
    """B windows of K steps, oldest first; where the mask is False a window is padded at its end."""

    returns_to_go: torch.Tensor  # (B, K) float32, undiscounted, raw; 0 in padding
    observations: torch.Tensor  # (B, K, 64, 64, 3) uint8; the last real frame in padding
    actions: torch.Tensor  # (B, K) int64; 0 in padding
    time_steps: torch.Tensor  # (B, K) int64, 0 at an episode's first step; 0 in padding
    mask: torch.Tensor  # (B, K) bool, True at real steps


Batch = TypeVar("Batch", TransitionBatch, WindowBatch)


class View(Protocol):
    """What the training loop knows of a view; `batches_ahead` as its frames have it.

    `gather` gives a batch where the frames are, `batch` the same one on the view's device. Where
    the frames are on a GPU, `leave_gpu` puts them elsewhere and says in one line where.
    """

    batches_ahead: int
    leave_gpu: Callable[[], str] | None

    def __len__(self) -> int: ...

    def gather(self, indices: np.ndarray) -> TransitionBatch | WindowBatch: ...

    def batch(self, indices: np.ndarray) -> TransitionBatch | WindowBatch: ...


class TransitionView:
    """Transitions (s, a, r, s', done) of a selection, on `device`.

    Without `next_observations` half the frames are gathered and the field is None.
    """

    leave_gpu: Callable[[], str] | None = None

    def __init__(
        self,
        selection: Selection,
        frames: Frames,
        device: torch.device,
        next_observations: bool = True,
    ) -> None:
        self._selection = selection
        self._device = device
        self._next_observations = next_observations
        self.place(frames)

    def place(self, frames: Frames) -> None:
        """Take the frames from there from now on."""
        self.batches_ahead = frames.batches_ahead
        self._frames = frames
        selection = self._selection
        rows = _transition_rows(selection)
        self._rows = _tensor(rows, frames)
        self._actions = _tensor(selection.column("actions")[rows], frames)
        self._rewards = _tensor(selection.column("rewards")[rows], frames)
        self._dones = _tensor(selection.column("dones")[rows], frames)

    def __len__(self) -> int:
        """Number of transitions."""
        return len(self._rows)

    def batch(self, indices: np.ndarray) -> TransitionBatch:
        """The transitions of these numbers (B,), in 0 .. len - 1."""
        return move_batch(self.gather(indices), self._device)

    def gather(self, indices: np.ndarray) -> TransitionBatch:
        """The same, on the device of the frames."""
        samples = _tensor(indices, self._frames)
        rows = self._rows[samples]
        dones = self._dones[samples]
        following = None
        if self._next_observations:
            # The row after a terminal one belongs to another episode: a terminal row stays put.
            both = self._frames.gather(torch.cat([rows, rows + ~dones]))
            observations, following = both.split(len(rows))
        else:
            observations = self._frames.gather(rows)
        return TransitionBatch(
            observations=observations,
            actions=self._actions[samples].long(),
            rewards=self._rewards[samples],
            next_observations=following,
            dones=dones.float(),
        )


class WindowView:
    """For each transition, the window of the last `context_length` = K steps that ends with it.

    Near an episode's start a window has fewer real steps. They come first and the padding last, so
    that under a causal mask no real step sees padding, and the model meets short histories as the
    acting agent does. A window never reaches into another episode.
    """

    leave_gpu: Callable[[], str] | None = None

    def __init__(
        self, selection: Selection, frames: Frames, device: torch.device, context_length: int
    ) -> None:
        if context_length < 1:
            raise ValueError(f"context_length {context_length}: expected at least 1")
        self._selection = selection
        self._device = device
        self._context_length = context_length
        self.place(frames)

    def place(self, frames: Frames) -> None:
        """Take the frames from there from now on."""
        self.batches_ahead = frames.batches_ahead
        self._frames = frames
        selection = self._selection
        lengths, starts = selection.lengths, selection.starts
        time_steps = np.arange(selection.num_rows) - np.repeat(starts, lengths)
        self._last_rows = _tensor(_transition_rows(selection), frames)
        self._actions = _tensor(selection.column("actions"), frames)
        self._returns_to_go = _tensor(_returns_to_go(selection), frames)
        self._time_steps = _tensor(time_steps.astype(np.int32), frames)

    def __len__(self) -> int:
        """Number of windows: one per transition."""
        return len(self._last_rows)

    def batch(self, indices: np.ndarray) -> WindowBatch:
        """The windows that end with the transitions of these numbers (B,), in 0 .. len - 1."""
        return move_batch(self.gather(indices), self._device)

    def gather(self, indices: np.ndarray) -> WindowBatch:
        """The same, on the device of the frames."""
        last = self._last_rows[_tensor(indices, self._frames)][:, None]  # (B, 1)
        before = self._time_steps[last].clamp(max=self._context_length - 1)  # (B, 1)
        offsets = torch.arange(self._context_length, device=last.device)  # (K,)
        mask = offsets <= before  # (B, K)
        rows = torch.minimum(last - before + offsets, last)  # (B, K)
        frames = self._frames.gather(rows.flatten())
        return WindowBatch(
            returns_to_go=self._returns_to_go[rows] * mask,
            observations=frames.view(*rows.shape, *frames.shape[1:]),
            actions=self._actions[rows].long() * mask,
            time_steps=self._time_steps[rows].long() * mask,
            mask=mask,
        )


def make_view(
    kind: ViewKind,
    selection: Selection,
    frames: Frames,
    context_length: int,
    device: torch.device,
) -> TransitionView | WindowView:
    """The view an agent names: `state_actions` is `transitions` without next observations.

    `context_length` matters to `windows` alone. Raises ValueError for another kind.
    """
    if kind == "windows":
        return WindowView(selection, frames, device, context_length)
    if kind in ("state_actions", "transitions"):
        return TransitionView(selection, frames, device, next_observations=kind == "transitions")
    raise ValueError(f"view {kind!r}: choose one of state_actions, transitions, windows")


def epoch_batches(
    num_samples: int, batch_size: int, seed: int, epoch: int, start_batch: int = 0
) -> Iterator[np.ndarray]:
    """Index arrays (batch_size,) int64 that visit every sample once, uniformly shuffled.

    The order depends on `seed` and `epoch` alone; `start_batch` leaves out the first batches, to
    resume. The last batch is shorter where `batch_size` does not divide `num_samples`.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size}: expected at least 1")
    order = np.random.default_rng([seed, epoch]).permutation(num_samples)
    for start in range(start_batch * batch_size, num_samples, batch_size):
        yield order[start : start + batch_size]


def _transition_rows(selection: Selection) -> np.ndarray:
    """Rows (transitions,) int64 that are transitions: all but the last of a cut-off episode."""
    is_transition = np.ones(selection.num_rows, bool)
    ends = selection.starts + selection.lengths
    is_transition[ends[~selection.episodes["terminated"]] - 1] = False
    return np.flatnonzero(is_transition)


def _returns_to_go(selection: Selection) -> np.ndarray:
    """Sum of raw rewards from each row to its episode's end (num_rows,) float32."""
    rewards = selection.column("rewards").astype(np.float64)
    summed = np.concatenate([[0.0], np.cumsum(rewards)])
    ends = np.repeat(selection.starts + selection.lengths, selection.lengths)
    return np.asarray(summed[ends] - summed[:-1], np.float32)


def _tensor(array: np.ndarray, frames: Frames) -> torch.Tensor:
    """The array as a tensor where the frames are indexed; the host does not wait for the copy."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(frames.device, non_blocking=True)


def move_batch(batch: Batch, device: torch.device) -> Batch:
    """The batch on `device`; the host does not wait for copies of what is pinned."""
    fields: list[Any] = [f if f is None else f.to(device, non_blocking=True) for f in batch]
    return type(batch)(*fields)
