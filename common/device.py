"""Where and in which precision the networks run, and how a host's memory is kept warm for them."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import sys
from contextlib import AbstractContextManager

import torch

from common.errors import UsageError

logger = logging.getLogger(__name__)

PRECISIONS = ("auto", "fp32", "tf32", "bf16")


def choose_device(no_cuda: bool = False) -> torch.device:
    """CUDA where there is a card and `no_cuda` does not forbid it, else the CPU."""
    device = torch.device("cuda" if torch.cuda.is_available() and not no_cuda else "cpu")
    if device.type == "cpu":
        keep_freed_memory()
    return device


def keep_freed_memory() -> None:
    """Tell glibc to reuse freed activations instead of returning them to the kernel.

    A training step frees and allocates tens of megabytes; by default each time anew, and the page
    faults cost more than a third of the step on two cores (`python -m benchmarks.throughput`).
    Does nothing where the C library has no `mallopt`.
    """
    if not sys.platform.startswith("linux"):
        return
    trim_threshold, mmap_threshold, mmap_max, arena_max = -1, -3, -4, -8  # M_... in malloc.h
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(trim_threshold, 2**31 - 1)
        # Some versions refuse so high a threshold (0): they are told never to use mmap instead.
        if not libc.mallopt(mmap_threshold, 1 << 30):
            libc.mallopt(mmap_max, 0)
        # Other threads would have arenas of 64 MB, which go back to the kernel all the same.
        libc.mallopt(arena_max, 1)


def has_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is computed in hardware: Ampere cards on, AVX512-BF16 or AMX on a CPU."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # oneDNN's own answer is also yes where AVX512 emulates bf16, slower than fp32.
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    native = any(getattr(torch.cpu, check, bool)() for check in checks)
    return native and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def has_tf32(device: torch.device) -> bool:
    """Whether fp32 products may be rounded to TF32's 10 bits: Ampere cards on."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def resolve_precision(precision: str, device: torch.device) -> str:
    """`auto` becomes bf16 where the hardware has it, else fp32; what it has not is refused.

    On a card this decides for the whole process whether what runs in fp32 is rounded to TF32:
    everything with `tf32`, nothing with `fp32`; with bf16 convolutions outside of `autocast`, as
    PyTorch by itself does. fp16, whose range is too small to train in without
    scaling the loss, is never used; a card without bf16 is told of in one line.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"--precision {precision}: choose one of {', '.join(PRECISIONS)}")
    if precision == "auto":
        precision = "bf16" if has_bf16(device) else "fp32"
        if precision == "fp32" and device.type == "cuda":
            logger.warning("this card has no bfloat16: --precision auto is fp32")
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.allow_tf32 = precision != "fp32"
    if precision == "tf32" and not has_tf32(device):
        raise UsageError(f"--precision tf32: this {device.type} device has none; choose fp32")
    if precision == "bf16" and not has_bf16(device):
        raise UsageError(
            f"--precision bf16: this {device.type} device computes it only slowly; fp32?"
        )
    return precision


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Context in which matrix products and convolutions run in `precision` (fp32, tf32 or bf16)."""
    if precision in ("fp32", "tf32"):
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
