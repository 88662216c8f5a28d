"""Our optimisers do what PyTorch's do, without its compiler."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from common.optimisers import Adam, AdamW, load_optimiser

PAIRS = [(Adam, torch.optim.Adam), (AdamW, torch.optim.AdamW)]


def weights_after(kind: type[torch.optim.Optimizer], steps: int, *, moved: bool) -> torch.Tensor:
    """The weights after some steps; if `moved`, another optimiser continues after the third."""
    generator = torch.Generator().manual_seed(5)
    weights = torch.rand((7, 3), generator=generator).requires_grad_()
    options = {"lr": 0.01, "weight_decay": 0.1, "fused": True}
    optimiser = kind([weights], **options)
    for step in range(steps):
        if moved and step == 3:
            state = optimiser.state_dict()
            optimiser = kind([weights], **options)
            load_optimiser(optimiser, state)
        optimiser.zero_grad()
        (weights * torch.rand((7, 3), generator=generator)).square().sum().backward()
        optimiser.step()
    return weights.detach()


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
@pytest.mark.parametrize("moved", [False, True])
def test_steps_are_those_of_pytorch_to_the_bit(
    ours: type[torch.optim.Optimizer], theirs: type[torch.optim.Optimizer], moved: bool
) -> None:
    assert torch.equal(weights_after(ours, 6, moved=moved), weights_after(theirs, 6, moved=False))
    assert not torch.equal(weights_after(ours, 5, moved=moved), weights_after(ours, 6, moved=moved))


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_a_state_of_pytorch_is_continued(
    ours: type[torch.optim.Optimizer], theirs: type[torch.optim.Optimizer]
) -> None:
    weights = torch.ones(3, requires_grad=True)
    old = theirs([weights], lr=0.25, fused=True)
    weights.sum().backward()
    old.step()
    new = ours([weights], lr=1.0, fused=True)
    load_optimiser(new, old.state_dict())
    assert new.param_groups[0]["lr"] == 0.25
    assert new.state_dict()["state"][0]["step"] == 1
    assert new.state_dict().keys() == old.state_dict().keys()


def test_neither_building_nor_stepping_imports_the_compiler() -> None:
    script = (
        "import sys, torch\n"
        "from common.optimisers import Adam, AdamW, load_optimiser\n"
        "for kind in (Adam, AdamW):\n"
        "    weights = torch.ones(3, requires_grad=True)\n"
        "    optimiser = kind([weights], fused=True)\n"
        "    optimiser.zero_grad()\n"
        "    weights.sum().backward()\n"
        "    optimiser.step()\n"
        "    load_optimiser(optimiser, optimiser.state_dict())\n"
        "print('torch._dynamo' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
