"""A batch taken through layers in parts, one per core, on a CPU.

PyTorch spreads every operation over the cores and waits for the slowest after each, so that a core
which is lent to another process for a moment holds the others up at every layer. Here a core takes
its part of the batch through all layers, forward and backward, and waits once
(`python -m benchmarks.throughput --only bc`).
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

T = TypeVar("T")

SMALLEST_PART = 64  # samples; smaller ones are no faster than the whole
_MAX_PARTS = 4  # the cores are divided between them, and none is left over
_whole = False


def in_parts(layers: Callable[[Tensor], Tensor], module: nn.Module, x: Tensor) -> Tensor:
    """`layers(x)` for a batch x (B, ...) that needs no gradient itself.

    `layers` must treat every sample by itself and draw no random numbers; their weights are
    those of `module`. Gradients are those of the whole batch but for rounding, and the same every
    time.
    """
    count = _number_of_parts(x)
    if count == 1:
        return layers(x)
    learned = [weight for weight in module.parameters() if weight.requires_grad]
    if not (torch.is_grad_enabled() and learned):
        return torch.cat(_each(count, _forward(layers, False), x.tensor_split(count)))
    joined: Tensor = _InParts.apply(_forward(layers, True), count, x, *learned)
    return joined


@contextlib.contextmanager
def whole_batches() -> Iterator[None]:
    """Batches stay whole meanwhile: profilers see only the thread that they were started in."""
    global _whole
    before, _whole = _whole, True
    try:
        yield
    finally:
        _whole = before


def _number_of_parts(x: Tensor) -> int:
    if torch.compiler.is_compiling() or x.device.type != "cpu" or _whole:
        return 1
    threads, most = torch.get_num_threads(), min(_MAX_PARTS, len(x) // SMALLEST_PART)
    return max((count for count in range(1, most + 1) if threads % count == 0), default=1)


class _InParts(torch.autograd.Function):
    """Joins the outputs of the parts; each has a graph of its own, which backward goes through."""

    @staticmethod
    def forward(
        ctx: Any, forward: Callable[[Tensor], Tensor], count: int, x: Tensor, *weights: Tensor
    ) -> Tensor:
        ctx.weights = weights
        ctx.outputs = _each(count, forward, x.tensor_split(count))
        return torch.cat([output.detach() for output in ctx.outputs])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        outputs, ctx.outputs = ctx.outputs, None
        if outputs is None:
            raise RuntimeError("backward goes once through a batch in parts")
        (gradient,) = gradients

        def of_part(part: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
            return torch.autograd.grad(part[0], ctx.weights, part[1])

        pieces = gradient.split([len(output) for output in outputs])
        first, *others = _each(len(outputs), of_part, list(zip(outputs, pieces, strict=True)))
        for other in others:  # in order, so that rounding is always the same
            for total, more in zip(first, other, strict=True):
                total.add_(more)
        return (None, None, None, *first)


def _forward(layers: Callable[[Tensor], Tensor], graph: bool) -> Callable[[Tensor], Tensor]:
    """The layers in the precision of the calling thread; what a thread is set to is its own."""
    precision = torch.get_autocast_dtype("cpu")
    lowered = torch.is_autocast_enabled("cpu")

    def forward(part: Tensor) -> Tensor:
        with (
            torch.set_grad_enabled(graph),
            torch.autocast("cpu", precision, enabled=lowered, cache_enabled=False),
        ):
            return layers(part)

    return forward


def _each(count: int, work: Callable[[Any], T], parts: Sequence[Any]) -> list[T]:
    pool = _pool(os.getpid(), count, torch.get_num_threads())
    running = [pool.submit(work, part) for part in parts]
    wait(running)  # all, also where one fails: the others use what the caller may free then
    return [part.result() for part in running]


@functools.cache
def _pool(pid: int, count: int, threads: int) -> ThreadPoolExecutor:
    """`count` threads that divide `threads` cores; a forked process has none of its parent's."""
    begun = threading.Barrier(count + 1)

    def begin() -> None:
        torch.get_num_threads()  # or the first operation would set it, to what the others have
        torch.set_num_threads(threads // count)
        begun.wait()

    pool = ThreadPoolExecutor(count, "part", begin)
    try:
        for _ in range(count):
            pool.submit(int)
        begun.wait()
    except BaseException:
        begun.abort()  # or those that have begun would wait for ever for one that could not
        raise
    torch.set_num_threads(threads)  # threads to come take the number that was set last
    return pool
