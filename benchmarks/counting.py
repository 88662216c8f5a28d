"""How much work a gradient step is, counted from what PyTorch is asked to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from common.parts import whole_batches


class Work(NamedTuple):
    """Floating-point operations of matrix products, convolutions and attention; bytes moved."""

    operations: int
    bytes: int


def count_work(step: Callable[[], object]) -> Work:
    """The work of `step`, which is called twice.

    Bytes are those that the operations read and write one by one, as if nothing stayed in a cache:
    what fused kernels and large caches save is seen as a bandwidth beyond the memory's.
    """
    with whole_batches(), FlopCounterMode(display=False) as operations:
        step()
    with whole_batches(), ByteCounter() as traffic:
        step()
    return Work(operations.get_total_flops(), traffic.bytes)


class ByteCounter(TorchDispatchMode):
    """Adds up the sizes of what every operation reads and writes; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not _only_looks(func):
            self.bytes += sum(map(_size, tree_leaves((args, kwargs, result))))
        return result


def _only_looks(func: Any) -> bool:
    """Whether the operation gives a view, an empty tensor or a tensor's facts: no data move."""
    if func.overloadpacket.__name__ in ("empty", "empty_like", "empty_strided", "detach"):
        return True
    returns = [value.alias_info for value in func._schema.returns]
    return any(info is not None and not info.is_write for info in returns)


def _size(leaf: object) -> int:
    """Bytes of a tensor, of one that repeats itself (`expand`) only those that are there."""
    if not isinstance(leaf, torch.Tensor):
        return 0
    return min(leaf.numel() * leaf.element_size(), leaf.untyped_storage().nbytes())
