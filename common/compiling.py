"""Encoders compiled by `torch.compile`, for training alone.

Acting stays as it is: its batches shrink from step to step, and each size would be compiled anew.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from contextlib import AbstractContextManager

import torch
from torch import nn

from common.encoders import PixelEncoder
from common.errors import UsageError


def compiles(choice: str, device: torch.device) -> bool:
    """Whether `--compile choice` asks for it; `auto` does where it was measured to pay: nowhere.

    On a CPU a compiled step is slower (docs/speed.md), and a card has not been measured. Raises
    UsageError if what compiles for `device` is not installed.
    """
    if choice != "on":
        return False
    if device.type == "cuda":
        there, what = importlib.util.find_spec("triton") is not None, "the package triton"
    else:
        compiler = os.environ.get("CXX", "g++")
        there, what = shutil.which(compiler) is not None, f"a C++ compiler ({compiler})"
    if not there:
        raise UsageError(f"--compile on needs {what}; --compile off does without")
    return True


def compile_encoders(network: nn.Module) -> None:
    """From its next call on every `PixelEncoder` in `network` is compiled, copies too.

    Weights stay where they are and keep their names.
    """
    for module in network.modules():
        if isinstance(module, PixelEncoder):
            module.compile()


def uncompiled(network: nn.Module) -> AbstractContextManager[object]:
    """The context in which compiled encoders of `network` run as if they were not."""
    encoders = [
        module
        for module in network.modules()
        if isinstance(module, PixelEncoder) and module._compiled_call_impl is not None
    ]
    # Only then: what sets the stance takes seconds to import.
    return torch.compiler.set_stance("force_eager") if encoders else contextlib.nullcontext()
