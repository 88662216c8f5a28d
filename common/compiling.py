"""Encoders compiled by `torch.compile`.

Offline they are for training alone: the batches of an evaluation shrink from step to step.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from common.encoders import PixelEncoder
from common.errors import UsageError


def compiles(choice: str) -> bool:
    """Whether `--compile choice` asks for it; `auto` does where it was measured to pay: nowhere.

    On a CPU a compiled step is slower (docs/speed.md), and a card has not been measured.
    """
    return choice == "on"


def require_compiler(choice: str, device: torch.device) -> None:
    """UsageError if `--compile choice` needs what is not installed: Triton, C and C++ compilers."""
    if not compiles(choice):
        return
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise UsageError("--compile on needs the package triton; --compile off does without")
    if device.type == "cuda":  # Triton compiles what starts its kernels
        compilers = [os.environ.get("CC", "gcc"), "clang"]
    else:
        compilers = [os.environ.get("CXX", "g++")]
    if not any(map(shutil.which, compilers)):
        raise UsageError(
            f"--compile on needs a compiler ({' or '.join(compilers)}); --compile off does without"
        )


def compile_encoders(network: nn.Module) -> None:
    """From its next call on every `PixelEncoder` in `network` is compiled, targets' included.

    Weights stay where they are and keep their names.
    """
    for module in network.modules():
        if isinstance(module, PixelEncoder):
            module.compile()


@contextmanager
def uncompiled(network: nn.Module) -> Iterator[None]:
    """The time in which compiled encoders of `network` run as if they were not."""
    # Not torch.compiler.set_stance, which PyTorch 2.5 lacks.
    compiled = {
        module: module._compiled_call_impl
        for module in network.modules()
        if isinstance(module, PixelEncoder)
    }
    try:
        for module in compiled:
            module._compiled_call_impl = None
        yield
    finally:
        for module, call in compiled.items():
            module._compiled_call_impl = call
