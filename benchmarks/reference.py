"""The plain side of the benchmark: what one writes first, without a thought for speed.

Everything is fp32 in PyTorch's default layout; frames are channels-first; a sample is made by one
Python call; environments play one at a time. Nothing of the toolkit's networks, data or loops is
used, so that the two sides check each other. A worker of `python -m benchmarks.throughput`; see
`benchmarks.worker`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset, default_collate

from benchmarks.reference_data import EpisodeDataset, WindowDataset, forever
from benchmarks.reference_methods import PlainBC, PlainBCQ, PlainCQL, PlainIQL, PlainMethod
from benchmarks.reference_parts import (
    NUM_ACTIONS,
    load_in_order,
    procgen,
    reference_device,
    reference_policy,
)
from benchmarks.reference_ppo import ppo
from benchmarks.reference_transformer import PlainSequenceMethod
from benchmarks.sizes import NUM_LEVELS, gradient_steps, random_indices
from benchmarks.worker import Build, Repeat, Sample, Stopwatch, serve
from common.flags import run_command


class Learner(NamedTuple):
    """What a training row needs."""

    dataset: Dataset[tuple[Any, ...]]
    method: PlainMethod
    batch_size: int


def _folder(settings: argparse.Namespace) -> Path:
    return Path(settings.data) / settings.env_name


def _transitions(settings: argparse.Namespace, method: PlainMethod) -> Learner:
    dataset = EpisodeDataset(_folder(settings), next_observations=True)
    return Learner(dataset, method, settings.batch_size)


def _sequence(settings: argparse.Namespace, conditioned: bool) -> Learner:
    dataset = WindowDataset(_folder(settings), settings.context_length)
    size = settings.window_batch_size
    return Learner(dataset, PlainSequenceMethod(dataset, size, conditioned), size)


def _cloning(settings: argparse.Namespace) -> Learner:
    dataset = EpisodeDataset(_folder(settings), next_observations=False)
    return Learner(dataset, PlainBC(reference_policy()), settings.batch_size)


LEARNERS: dict[str, Callable[[argparse.Namespace], Learner]] = {
    "bc": _cloning,
    "cql": lambda settings: _transitions(settings, PlainCQL()),
    "bcq": lambda settings: _transitions(settings, PlainBCQ()),
    "iql": lambda settings: _transitions(settings, PlainIQL()),
    "dt": lambda settings: _sequence(settings, conditioned=True),
    "bct": lambda settings: _sequence(settings, conditioned=False),
}


def _shared_policy(settings: argparse.Namespace) -> nn.Sequential:
    """The plain network with the weights that our side has written."""
    network = reference_policy()
    load_in_order(network, torch.load(Path(settings.data) / "weights.pt", weights_only=True))
    return network.to(reference_device(settings))


def training(algo: str) -> Build:
    """Training: a shuffled DataLoader, one step per batch; in samples."""

    def build(settings: argparse.Namespace) -> Repeat:
        device = reference_device(settings)
        dataset, method, batch_size = LEARNERS[algo](settings)
        method.to(device)
        loader = forever(dataset, batch_size)
        steps = gradient_steps(settings, algo)

        def train(batches: int) -> None:
            for _ in range(batches):
                method.update([field.to(device) for field in next(loader)])

        def repeat() -> Sample:
            with Stopwatch() as watch:
                train(steps)
            return watch.sample(steps * batch_size)

        train(2)
        return repeat

    return build


def loss(settings: argparse.Namespace) -> Repeat:
    """The losses of a short training from our side's weights on its batches; in samples.

    `channels_last` are the losses of the same code with its memory laid out channels-last, which
    makes PyTorch take other convolution kernels: the mathematics is the same, so what differs is
    rounding, and how far training carries it.
    """
    device = reference_device(settings)
    dataset = EpisodeDataset(_folder(settings), next_observations=False)

    def train(layout: torch.memory_format = torch.contiguous_format) -> list[float]:
        network = _shared_policy(settings).to(memory_format=layout)  # type: ignore[call-overload]
        method = PlainBC(network)
        losses = []
        for number in range(settings.loss_batches):
            indices = random_indices(settings.seed, number, len(dataset), settings.batch_size)
            pixels, *rest = default_collate([dataset[int(i)] for i in indices])
            batch = [pixels.to(memory_format=layout), *rest]
            losses.append(method.update([field.to(device) for field in batch]))
        return losses

    channels_last = train(torch.channels_last)

    def repeat() -> Sample:
        with Stopwatch() as watch:
            losses = train()
        amount = settings.loss_batches * settings.batch_size
        return watch.sample(amount, losses=losses, channels_last=channels_last)

    return repeat


def batches(settings: argparse.Namespace) -> Repeat:
    """Random batches (s, a, r, s', done) from a DataLoader; in batches."""
    device = reference_device(settings)
    loader = forever(EpisodeDataset(_folder(settings), next_observations=True), settings.batch_size)

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


ROWS: dict[str, Build] = {algo: training(algo) for algo in LEARNERS} | {
    build.__name__: build for build in (loss, batches, ppo, environment, evaluation)
}


def facts(settings: argparse.Namespace) -> dict[str, Any]:
    """What must be equal on both sides."""
    return {"threads": torch.get_num_threads()}


def main(argv: Sequence[str] | None = None) -> int:
    """Serve as a worker; the exit code is 0 done, 1 failed, 2 bad arguments."""
    return run_command(lambda flags: serve(ROWS, facts, flags, __doc__ or ""), argv)


if __name__ == "__main__":
    sys.exit(main())
