"""Make a policy file to ship: weights and facts only, without the state of the training.

With --temperature below 1 the exported policy is sharper than the trained one: its logits are
divided by it, so sampled actions are closer to the likeliest. The file says so.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import UsageError
from common.flags import Flag, parse_flags, run_command

_FLAGS = (
    Flag("checkpoint_path", str, "", "Checkpoint of online.trainer."),
    Flag("out", str, "", "File to write, such as online/policies/coinrun.pt."),
    Flag("temperature", float, 1.0, "What the logits are divided by.", above=0),
)


def _export(argv: Sequence[str] | None) -> None:
    settings = parse_flags(_FLAGS, argv, __doc__ or "")
    for name in ("checkpoint_path", "out"):
        if not getattr(settings, name):
            raise UsageError(f"--{name} is needed")
    import torch

    from online.policy_files import load_policy, save_policy

    network, facts = load_policy(Path(settings.checkpoint_path), torch.device("cpu"))
    with torch.no_grad():
        network.policy_head.weight.div_(settings.temperature)
        network.policy_head.bias.div_(settings.temperature)
    kept = {
        name: value
        for name, value in facts.items()
        if name not in ("kind", "format_version", "training")
    }
    # An exported policy may be exported again: temperatures multiply.
    kept["temperature"] = settings.temperature * kept.get("temperature", 1.0)
    save_policy(Path(settings.out), network, kept)
    print(f"{settings.out}: {Path(settings.out).stat().st_size / 1e6:.1f} MB, {kept}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0 done, 1 failed, 2 bad arguments."""
    return run_command(_export, argv)


if __name__ == "__main__":
    sys.exit(main())
