"""The plain side of the benchmark: what one writes first, without a thought for speed.

Everything is fp32 in PyTorch's default layout; frames are channels-first; a sample is made by one
Python call; environments play one at a time. Nothing of the toolkit's networks, data or loops is
used, so that the two sides check each other. A worker of `python -m benchmarks.throughput`; see
`benchmarks.worker`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, default_collate

from benchmarks.reference_parts import (
    NUM_ACTIONS,
    load_in_order,
    procgen,
    reference_device,
    reference_policy,
)
from benchmarks.reference_ppo import ppo
from benchmarks.sizes import LEARNING_RATE, NUM_LEVELS, random_indices
from benchmarks.worker import Build, Repeat, Sample, Stopwatch, serve
from common.flags import run_command


class EpisodeDataset(Dataset[tuple[Any, ...]]):
    """Transitions of a folder of episode files, kept as channels-first uint8 in memory.

    `dataset[i]` converts its frames to float pixels in [0, 1]: (s, a), or (s, a, r, s', done).
    """

    def __init__(self, folder: Path, next_observations: bool) -> None:
        self.next_observations = next_observations
        self.episodes = []
        for path in sorted(folder.glob("*.npz"), key=lambda path: int(path.stem.split("_")[1])):
            with np.load(path) as file:
                self.episodes.append({key: file[key] for key in file.files})
        self.samples = [
            (episode, step) for episode in self.episodes for step in range(len(episode["actions"]))
        ]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        episode, step = self.samples[index]
        observation = self._pixels(episode["observations"][step])
        action = int(episode["actions"][step, 0])
        if not self.next_observations:
            return observation, action
        reward = float(episode["rewards"][step, 0])
        following = self._pixels(episode["observations"][step + 1])
        return observation, action, reward, following, float(episode["dones"][step, 0])

    def _pixels(self, frame: np.ndarray) -> Tensor:
        return torch.from_numpy(frame.astype(np.float32) / 255.0)


def _dataset(settings: argparse.Namespace, next_observations: bool) -> EpisodeDataset:
    return EpisodeDataset(Path(settings.data) / settings.env_name, next_observations)


def _forever(dataset: EpisodeDataset, batch_size: int) -> Iterator[list[Tensor]]:
    loader = DataLoader(dataset, batch_size, shuffle=True, num_workers=0, drop_last=True)
    while True:
        yield from loader


def _shared_policy(settings: argparse.Namespace) -> nn.Sequential:
    """The plain network with the weights that our side has written."""
    network = reference_policy()
    load_in_order(network, torch.load(Path(settings.data) / "weights.pt", weights_only=True))
    return network.to(reference_device(settings))


def _train_step(
    network: nn.Module, optimiser: torch.optim.Optimizer, pixels: Tensor, actions: Tensor
) -> float:
    loss = functional.cross_entropy(network(pixels), actions)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()


def bc(settings: argparse.Namespace) -> Repeat:
    """Training: a shuffled DataLoader, Adam, one step per batch; in samples."""
    device = reference_device(settings)
    loader = _forever(_dataset(settings, next_observations=False), settings.batch_size)
    network = reference_policy().to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)

    def train(batches: int) -> None:
        for _ in range(batches):
            pixels, actions = next(loader)
            _train_step(network, optimiser, pixels.to(device), actions.to(device))

    def repeat() -> Sample:
        with Stopwatch() as watch:
            train(settings.bc_batches)
        return watch.sample(settings.bc_batches * settings.batch_size)

    train(2)
    return repeat


def loss(settings: argparse.Namespace) -> Repeat:
    """The losses of a short training from our side's weights on its batches; in samples.

    `reordered` are the losses with the samples of each batch in reverse: the same mathematics, so
    what differs is rounding, and how far training carries it.
    """
    device = reference_device(settings)
    dataset = _dataset(settings, next_observations=False)

    def train(step: int = 1) -> list[float]:
        network = _shared_policy(settings)
        optimiser = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
        losses = []
        for number in range(settings.loss_batches):
            indices = random_indices(settings, len(dataset), number)[::step]
            pixels, actions = default_collate([dataset[int(i)] for i in indices])
            losses.append(_train_step(network, optimiser, pixels.to(device), actions.to(device)))
        return losses

    reordered = train(step=-1)

    def repeat() -> Sample:
        with Stopwatch() as watch:
            losses = train()
        amount = settings.loss_batches * settings.batch_size
        return watch.sample(amount, losses=losses, reordered=reordered)

    return repeat


def batches(settings: argparse.Namespace) -> Repeat:
    """Random batches (s, a, r, s', done) from a DataLoader; in batches."""
    device = reference_device(settings)
    loader = _forever(_dataset(settings, next_observations=True), settings.batch_size)

    def repeat() -> Sample:
        with Stopwatch() as watch:
            for _ in range(settings.batches):
                [field.to(device) for field in next(loader)]
        return watch.sample(settings.batches)

    repeat()
    return repeat


def environment(settings: argparse.Namespace) -> Repeat:
    """Random steps of one environment; in environment steps."""
    env = procgen(settings.env_name, 1, 0, NUM_LEVELS, settings.seed)
    actions = np.random.default_rng(settings.seed).integers(
        NUM_ACTIONS, size=(settings.env_steps, 1)
    )

    def repeat() -> Sample:
        with Stopwatch() as watch:
            for action in actions:
                env.act(action)
                env.observe()
        return watch.sample(settings.env_steps)

    repeat()
    return repeat


@torch.no_grad()
def play_episode(env: Any, network: nn.Module, device: torch.device) -> int:
    """Play one episode to its end with sampled actions; its number of steps."""
    steps = 0
    _, observation, _ = env.observe()
    while True:
        frame = observation["rgb"][0].transpose(2, 0, 1).astype(np.float32) / 255.0
        logits = network(torch.from_numpy(frame)[None].to(device))
        action = torch.distributions.Categorical(logits=logits).sample()
        env.act(action.cpu().numpy())
        _, observation, first = env.observe()
        steps += 1
        if first[0]:
            return steps


def evaluation(settings: argparse.Namespace) -> Repeat:
    """Our side's agent on the three splits of levels, one episode after the other; in steps."""
    device = reference_device(settings)
    network = _shared_policy(settings)
    network.eval()
    splits = ((0, NUM_LEVELS), (NUM_LEVELS, 50), (NUM_LEVELS + 50, 0))

    def repeat() -> Sample:
        steps = 0
        with Stopwatch() as watch:
            for start_level, num_levels in splits:
                env = procgen(settings.env_name, 1, start_level, num_levels, settings.seed)
                for _ in range(settings.plain_episodes):
                    steps += play_episode(env, network, device)
                env.close()
        return watch.sample(steps)

    play_episode(procgen(settings.env_name, 1, 0, 1, 0), network, device)
    return repeat


ROWS: dict[str, Build] = {
    build.__name__: build for build in (bc, loss, batches, ppo, environment, evaluation)
}


def facts(settings: argparse.Namespace) -> dict[str, Any]:
    """What must be equal on both sides."""
    return {"threads": torch.get_num_threads()}


def main(argv: Sequence[str] | None = None) -> int:
    """Serve as a worker; the exit code is 0 done, 1 failed, 2 bad arguments."""
    return run_command(lambda flags: serve(ROWS, facts, flags, __doc__ or ""), argv)


if __name__ == "__main__":
    sys.exit(main())
