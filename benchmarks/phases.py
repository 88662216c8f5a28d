"""Where the time of a gradient step goes: data, forward, backward, optimiser or the host.

A worker of `python -m benchmarks.profile`; see `benchmarks.worker`. One definition serves both
kinds of device: a phase has the time in which the device computes for it (operators on a CPU,
kernels on a card), the host the rest, in which Python prepares and the device waits.
"""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.counting import count_work
from benchmarks.limits import measure_limits
from benchmarks.ours import facts, learner
from benchmarks.sizes import METHOD_SETTINGS, gradient_steps, random_indices
from benchmarks.worker import Build, Repeat, Sample, Stopwatch, serve
from common.flags import run_command
from common.parts import whole_batches
from offline.agents.base import BACKWARD, OPTIMISER
from offline.data.copies import batches_in_order, copies_to
from offline.progress import FiniteCheck, Progress

DATA, FORWARD, HOST = "data", "forward", "host"
# An operator belongs to the first of these whose time it falls into; a step's forward part is
# what is left of `update`.
SPANS = (DATA, BACKWARD, OPTIMISER, FORWARD)
PHASES = (DATA, FORWARD, BACKWARD, OPTIMISER, HOST)
LARGEST = 12  # operators that are listed


class Profile(NamedTuple):
    """Share of the time by phase, adding up to 1, and the operators that take the most of it."""

    shares: dict[str, float]
    operators: list[tuple[str, int, float]]  # name, calls, share of the time


def profile_steps(steps: Callable[[], object], device: torch.device) -> Profile:
    """Profile `steps`, which marks its phases with `record_function` and the names of `SPANS`."""
    activities = [ProfilerActivity.CPU]
    on_card = device.type == "cuda"
    if on_card:
        activities.append(ProfilerActivity.CUDA)
    with whole_batches(), profile(activities=activities) as profiler, record_function("whole"):
        steps()
        if on_card:
            torch.cuda.synchronize(device)
    # A card's operators are found where the host starts them, in whichever thread.
    events = [e for e in profiler.events() or [] if e.device_type == DeviceType.CPU]
    whole = next(e.time_range.elapsed_us() for e in events if e.name == "whole")
    spans = {
        name: [(e.time_range.start, e.time_range.end) for e in events if e.name == name]
        for name in SPANS
    }
    busy = dict.fromkeys(SPANS, 0.0)
    operators: dict[str, tuple[int, float]] = {}
    for event in events:
        if on_card:
            spent = event.self_device_time_total
        else:
            spent = event.self_cpu_time_total if event.name.startswith("aten::") else 0.0
        phase = _phase(spans, event.time_range.start)
        if not spent or phase is None:
            continue
        busy[phase] += spent
        calls, before = operators.get(event.name, (0, 0.0))
        operators[event.name] = calls + 1, before + spent
    # Copies on another stream may overlap: the device then was busy for longer than time passed.
    whole = max(whole, sum(busy.values()))
    shares = {name: spent / whole for name, spent in busy.items()}
    shares[HOST] = 1.0 - sum(shares.values())
    largest = sorted(operators.items(), key=lambda item: -item[1][1])[:LARGEST]
    return Profile(
        {name: shares[name] for name in PHASES},
        [(name, calls, spent / whole) for name, (calls, spent) in largest],
    )


def _phase(spans: dict[str, list[tuple[float, float]]], moment: float) -> str | None:
    for name in SPANS:
        if any(start <= moment <= end for start, end in spans[name]):
            return name
    return None


def training(algo: str) -> Build:
    """Training as `offline.training` does it; in samples, with everything the table tells."""

    def build(settings: argparse.Namespace) -> Repeat:
        view, agent = learner(settings, algo, settings.precision)
        batch_size = agent.settings["batch_size"]
        steps = gradient_steps(settings, algo)
        progress, finite = Progress(), FiniteCheck(agent.device)

        copies = copies_to(agent.device)

        def batches(count: int) -> Iterator[Any]:
            orders = (
                random_indices(settings.seed, number, len(view), batch_size)
                for number in range(count)
            )
            return batches_in_order(view, orders, copies)

        def train(count: int) -> None:
            made = batches(count)
            for number in range(count):
                with record_function(DATA):
                    samples = next(made)
                with record_function(FORWARD):
                    metrics = agent.update(samples)
                finite.note(metrics["loss"], number)
                progress.add(metrics)

        agent.train()
        train(2)
        memory = _peak_memory(agent.device)
        samples = next(batches(1))
        work = count_work(lambda: agent.update(samples))

        def repeat() -> Sample:
            with Stopwatch() as watch:
                train(steps)
            profiled = profile_steps(lambda: train(max(1, steps // 2)), agent.device)
            return watch.sample(
                steps * batch_size,
                precision=agent.precision,
                device=agent.device.type,
                steps=steps,
                memory=memory,
                work=work._asdict(),
                limits=measure_limits(agent.device, agent.precision)._asdict(),
                **profiled._asdict(),
            )

        return repeat

    return build


def _peak_memory(device: torch.device) -> dict[str, int]:
    """Most bytes so far: of this process on the host, of PyTorch's tensors on the card."""
    unit = 1024 if sys.platform == "linux" else 1
    memory = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if device.type == "cuda":
        memory["GPU"] = torch.cuda.max_memory_allocated(device)
    return memory


ROWS: dict[str, Build] = {algo: training(algo) for algo in METHOD_SETTINGS}


def main(argv: Sequence[str] | None = None) -> int:
    """Serve as a worker; the exit code is 0 done, 1 failed, 2 bad arguments."""
    return run_command(lambda flags: serve(ROWS, facts, flags, __doc__ or ""), argv)


if __name__ == "__main__":
    sys.exit(main())
