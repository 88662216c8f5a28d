"""How fast this machine can be: the arithmetic and the memory that a training step is held against.

Data sheets tell what a card does at a clock that it may not keep, and virtual processors have none;
so the limits are measured, with PyTorch, in the process and the precision of the training.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn import functional

from common.device import autocast

# Large enough that starting the work costs nothing beside it: matrix side, images, bytes.
_SIZES = {"cpu": (1536, 8, 1 << 27), "cuda": (8192, 256, 1 << 30)}
_CHANNELS, _SIDE = 256, 32


class Limits(NamedTuple):
    """What was reached: floating-point operations per second twice, bytes per second."""

    matrix_product: float
    convolution: float
    bandwidth: float


def measure_limits(device: torch.device, precision: str, repeats: int = 3) -> Limits:
    """The best of `repeats` of a square matrix product, a 3x3 convolution and a copy.

    On a CPU the seconds are of processor time, which other programs disturb less, so that the rates
    are those of one core.
    A multiplication and an addition are two operations; a copied byte is read and written.
    """
    side, images, size = _SIZES[device.type]
    left, right = torch.randn(2, side, side, device=device)
    pixels = torch.randn(images, _CHANNELS, _SIDE, _SIDE, device=device)
    weights = torch.randn(_CHANNELS, _CHANNELS, 3, 3, device=device)
    pixels, weights = (t.to(memory_format=torch.channels_last) for t in (pixels, weights))
    if precision == "bf16":  # cast beforehand, or the cast would be measured too
        left, right, pixels, weights = (t.bfloat16() for t in (left, right, pixels, weights))
    source = torch.ones(size, dtype=torch.uint8, device=device)
    destination = torch.empty_like(source)
    convolution_operations = 2 * images * _SIDE**2 * _CHANNELS**2 * 9
    with torch.no_grad(), autocast(device, precision):
        return Limits(
            2 * side**3 / _best(lambda: left @ right, device, repeats),
            convolution_operations
            / _best(lambda: functional.conv2d(pixels, weights, padding=1), device, repeats),
            2 * size / _best(lambda: destination.copy_(source), device, repeats),
        )


def _best(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Seconds of the fastest of `repeats`, after one that warms up."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    seconds = []
    for _ in range(repeats + 1):
        _wait(device)
        start = clock()
        work()
        _wait(device)
        seconds.append(clock() - start)
    return min(seconds[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
