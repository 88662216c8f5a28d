"""Where the networks run, and in which precision."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from common.device import autocast, choose_device, has_bf16, has_tf32, resolve_precision
from common.errors import UsageError
from tests.command_runs import ROOT

CPU = torch.device("cpu")


def test_no_cuda_stays_on_the_cpu() -> None:
    assert choose_device(no_cuda=True) == CPU


def test_a_cuda_card_is_used_where_there_is_one() -> None:
    assert choose_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.skipif(
    not Path("/proc/cpuinfo").exists() or os.uname().machine != "x86_64",
    reason="reads the flags of an x86 processor from /proc/cpuinfo",
)
def test_bf16_needs_a_processor_that_computes_it() -> None:
    flags = set(Path("/proc/cpuinfo").read_text().split())
    assert has_bf16(CPU) == bool(flags & {"avx512_bf16", "amx_bf16"})


def test_auto_is_bf16_where_the_hardware_has_it_and_fp32_elsewhere() -> None:
    assert resolve_precision("auto", CPU) == ("bf16" if has_bf16(CPU) else "fp32")


def test_fp32_can_be_had_anywhere() -> None:
    assert resolve_precision("fp32", CPU) == "fp32"


@pytest.mark.skipif(has_bf16(CPU), reason="this processor computes bf16")
def test_bf16_is_refused_where_it_would_be_slow() -> None:
    with pytest.raises(UsageError, match="--precision bf16"):
        resolve_precision("bf16", CPU)


def test_an_unknown_precision_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"--precision fp16: .*auto, fp32, tf32, bf16"):
        resolve_precision("fp16", CPU)


def test_tf32_is_refused_where_there_is_none() -> None:
    with pytest.raises(UsageError, match="--precision tf32: this cpu device has none"):
        resolve_precision("tf32", CPU)


# What a card answers is imitated here: these show what is made of the answers, no more.
CARD = torch.device("cuda")


@pytest.fixture
def old_card(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A card from before Ampere; PyTorch's switches stay as they were."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32, products.allow_tf32
    yield
    convolutions.allow_tf32, products.allow_tf32 = before


@pytest.mark.usefixtures("old_card")
def test_a_card_without_bf16_gets_fp32_and_one_line(caplog: pytest.LogCaptureFixture) -> None:
    assert resolve_precision("auto", CARD) == "fp32"
    assert caplog.messages == ["this card has no bfloat16: --precision auto is fp32"]


@pytest.mark.usefixtures("old_card")
@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_what_a_card_has_not_is_refused(precision: str) -> None:
    with pytest.raises(UsageError, match=f"--precision {precision}: this cuda device"):
        resolve_precision(precision, CARD)


@pytest.mark.usefixtures("old_card")
def test_what_bf16_leaves_in_fp32_is_rounded_as_pytorch_does_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert resolve_precision("auto", CARD) == "bf16"
    assert torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.usefixtures("old_card")
def test_fp32_on_a_card_is_fp32_in_convolutions_too() -> None:
    assert resolve_precision("fp32", CARD) == "fp32"
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_a_cpu_without_bf16_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    resolve_precision("auto", CPU)
    assert caplog.messages == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tf32_rounds_products_and_fp32_does_not() -> None:
    if not has_tf32(CARD):
        pytest.skip("this card has no TF32")
    numbers = torch.full((256, 256), 1.0 + 2.0**-13, device=CARD)  # TF32 keeps 10 bits
    for precision, exact in (("fp32", True), ("tf32", False)):
        resolve_precision(precision, CARD)
        product = numbers @ torch.eye(256, device=CARD)
        assert torch.equal(product, numbers) == exact


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_autocast_sets_the_type_of_matrix_products(precision: str, dtype: torch.dtype) -> None:
    layer = torch.nn.Linear(4, 2)
    with autocast(CPU, precision):
        assert layer(torch.zeros(3, 4)).dtype == dtype
    assert layer(torch.zeros(3, 4)).dtype == torch.float32
    assert layer.weight.dtype == torch.float32


PAGE_FAULTS = """
import resource, sys
import numpy as np
from common.device import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for round in range(10):
    if round == 5:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(4_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif("glibc" not in str(os.confstr("CS_GNU_LIBC_VERSION")), reason="needs glibc")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    faults = {}
    for mode in ("keep", "default"):
        done = subprocess.run(
            [sys.executable, "-c", PAGE_FAULTS, mode],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        faults[mode] = int(done.stdout)
    # With huge pages there are few faults either way, so the two are compared.
    assert faults["keep"] <= faults["default"] / 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_autocast_works_on_a_cuda_device() -> None:
    device = torch.device("cuda")
    layer = torch.nn.Linear(4, 2, device=device)
    context = autocast(device, resolve_precision("auto", device))
    with context if has_bf16(device) else contextlib.nullcontext():
        out = layer(torch.zeros(3, 4, device=device))
    assert out.dtype == (torch.bfloat16 if has_bf16(device) else torch.float32)
