"""Each consumer of randomness has its own seed, and every state can be put back."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from common.seeding import (
    derive_seed,
    restore_torch_random_state,
    seed_everything,
    torch_random_state,
)
from tests.command_runs import ROOT


def test_derived_seeds_fit_into_31_bits() -> None:
    seeds = [derive_seed(seed, "levels") for seed in (0, 1, 88, 2**31 - 1, 2**40, -1)]
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert max(seeds) > 2**24  # and they use them


def test_purposes_and_seeds_have_different_seeds() -> None:
    seeds = [
        derive_seed(seed, *labels)
        for seed in (88, 89)
        for labels in (("a",), ("b",), ("a", "b"), ("b", "a"), (), ("ab",), (1,), (2,))
    ]
    assert len(set(seeds)) == len(seeds)


def test_consecutive_seeds_are_not_related() -> None:
    seeds = np.array([derive_seed(seed, "levels") for seed in range(200)])
    assert len(set(seeds.tolist())) == 200
    correlation = np.corrcoef(seeds[:-1], seeds[1:])[0, 1]
    assert abs(correlation) < 0.25  # 3.5 standard errors


def test_a_derived_seed_is_the_same_in_every_process() -> None:
    code = "from common.seeding import derive_seed; print(derive_seed(88, 'evaluation', 'test'))"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert printed == {f"{derive_seed(88, 'evaluation', 'test')}\n"}


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(torch.rand(()))  # noqa: NPY002


def test_seeding_fixes_python_numpy_and_torch() -> None:
    seed_everything(5)
    first = draws()
    seed_everything(5)
    assert draws() == first


def test_another_seed_changes_all_three() -> None:
    seed_everything(5)
    first = draws()
    seed_everything(6)
    assert all(a != b for a, b in zip(draws(), first, strict=True))


def test_the_state_of_torch_can_be_put_back() -> None:
    torch.rand(3)
    state = torch_random_state()
    expected = torch.rand(5)
    torch.rand(100)
    restore_torch_random_state(state)
    assert torch.equal(torch.rand(5), expected)


def test_the_state_of_torch_survives_a_checkpoint() -> None:
    buffer = io.BytesIO()
    torch.save(torch_random_state(), buffer)
    expected = torch.rand(5)
    buffer.seek(0)
    restore_torch_random_state(torch.load(buffer, weights_only=True))
    assert torch.equal(torch.rand(5), expected)


def test_states_of_cards_that_are_not_here_are_left_out() -> None:
    state = {**torch_random_state(), "cuda": [torch.zeros(16, dtype=torch.uint8)] * 64}
    expected = torch.rand(5)
    restore_torch_random_state(state)
    assert torch.equal(torch.rand(5), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_state_of_the_card_can_be_put_back() -> None:
    state = torch_random_state()
    expected = torch.rand(5, device="cuda")
    restore_torch_random_state(state)
    assert torch.equal(torch.rand(5, device="cuda"), expected)
