"""What `python -m benchmarks.profile` prints: two tables and how their numbers came about."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.rows import Pair, rate, ratios
from benchmarks.worker import Sample

Read = Callable[[Sample], float]
_PHASES = ("data", "forward", "backward", "optimiser", "host")
_HEADER = (
    "method",
    "batch",
    "samples/s",
    "ratio to plain",
    "in CPU time",
    *_PHASES,
    "memory",
    "operations per sample",
    "of a matrix product's rate",
    "of a convolution's rate",
    "of the memory's bandwidth",
)
_HOW = """\
Medians of {repeats} repeats; ours and plain take turns, each in its own process, and the ratios \
are the medians of those of the pairs. A sample is a transition, of DT and BCT a window of \
{context_length} steps. Shares are of the time of profiled steps (`torch.profiler`), whose \
batches stay whole (`common.parts`), not of those that the samples per second are taken from: a \
phase has the time in which the device computes for it, **host** the rest, when Python prepares \
or logs and the device waits. **forward** holds \
everything of an update but the backward pass and the optimiser: losses, target networks and the \
passes of them too. **memory** is the most of the training process, interpreter, libraries and \
mapped frames included; GPU: the most that PyTorch's tensors took. Operations are those of matrix \
products, convolutions and attention (`torch.utils.flop_counter`), a multiplication and an \
addition counted as two; bytes those that all operations of an update read and write one by one, \
which caches may save. Their rates stand over the best of a large matrix product, a large 3x3 \
convolution of 256 channels and a large copy, measured in the same process and precision after \
each repeat; on a CPU both are per second of processor time, that is of one core: {limits}."""


def operations_per_second(sample: Sample) -> float:
    """Floating-point operations per second of a training, timed as its limits are."""
    return float(sample.details["work"]["operations"]) * sample.details["steps"] / _seconds(sample)


def bytes_per_second(sample: Sample) -> float:
    """Bytes per second that the operations of a training read and write, timed likewise."""
    return float(sample.details["work"]["bytes"]) * sample.details["steps"] / _seconds(sample)


def _seconds(sample: Sample) -> float:
    """Seconds as `measure_limits` counts them: of processor time on a CPU."""
    return sample.cpu_seconds if sample.details["device"] == "cpu" else sample.seconds


def profile_tables(
    measured: Mapping[str, Sequence[Pair]],
    settings: argparse.Namespace,
    facts: Mapping[str, object],
) -> str:
    """The methods measured as Markdown: the table, how it came about, a step in detail, machine."""
    lines = [_row(_HEADER), _row(["---"] * len(_HEADER))]
    lines += [_row(_cells(algo, pairs)) for algo, pairs in measured.items()]
    samples = [pair.ours for pairs in measured.values() for pair in pairs]
    how = _HOW.format(**vars(settings), limits=_limits(samples))
    first = next(iter(measured))
    shown = ", ".join(f"{name} {value}" for name, value in facts.items())
    precision = samples[0].details["precision"]
    return "\n".join(
        [
            *lines,
            "",
            how,
            "",
            f"One step of {first.upper()}, the operators that take the most time, of the last "
            "repeat:",
            "",
            *_operators(measured[first][-1].ours),
            "",
            f"Machine: {shown}. Precision of our side: {precision}.",
            "",
        ]
    )


def _cells(algo: str, pairs: Sequence[Pair]) -> list[str]:
    def median(read: Read) -> float:
        return statistics.median(read(pair.ours) for pair in pairs)

    def over(read: Read, limit: str) -> float:
        return median(lambda sample: read(sample) / sample.details["limits"][limit])

    details = pairs[0].ours.details
    batch = pairs[0].ours.amount / details["steps"]
    memory = details["memory"]
    return [
        algo.upper(),
        f"{batch:.0f}",
        f"{median(rate):,.0f}",
        f"{statistics.median(ratios(pairs)):.2f}x",
        f"{statistics.median(ratios(pairs, cpu=True)):.2f}x",
        *(f"{median(_share(phase)):.1%}" for phase in _PHASES),
        ", ".join(f"{place} {size / 1e9:.2f} GB" for place, size in memory.items()),
        f"{details['work']['operations'] / batch / 1e9:.2f} G",
        f"{over(operations_per_second, 'matrix_product'):.0%}",
        f"{over(operations_per_second, 'convolution'):.0%}",
        f"{over(bytes_per_second, 'bandwidth'):.0%}",
    ]


def _share(phase: str) -> Read:
    return lambda sample: float(sample.details["shares"][phase])


def _limits(samples: Sequence[Sample]) -> str:
    """The best of each over all repeats."""
    best = {
        name: max(sample.details["limits"][name] for sample in samples)
        for name in ("matrix_product", "convolution", "bandwidth")
    }
    return (
        f"at best {best['matrix_product'] / 1e9:,.0f} and {best['convolution'] / 1e9:,.0f} billion "
        f"operations and {best['bandwidth'] / 1e9:,.1f} GB per second"
    )


def _operators(sample: Sample) -> list[str]:
    listed: Sequence[Any] = sample.details["operators"]
    profiled = max(1, sample.details["steps"] // 2)
    rows = [
        _row([f"`{name}`", f"{calls / profiled:g}", f"{share:.1%}"])
        for name, calls, share in listed
    ]
    return [_row(["operator", "calls", "share of the time"]), _row(["---"] * 3), *rows]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
