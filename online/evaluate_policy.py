"""Measure a PPO policy on training, validation and test levels.

Plays --num_episodes whole episodes per split and prints mean returns with standard errors. The
training levels are those that the policy was trained on. With the same --seed it plays the levels
that offline.evaluate_offline_agent plays.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import UsageError
from common.flags import parse_flags, run_command
from online.arguments import EVALUATION_FLAGS

logger = logging.getLogger(__name__)


def _evaluate(argv: Sequence[str] | None) -> None:
    settings = parse_flags(EVALUATION_FLAGS, argv, __doc__ or "")
    import numpy as np

    from common.evaluation import evaluate, returns_by_split, write_episodes, write_evaluation
    from common.seeding import derive_seed
    from online.collection import open_player, require_trained_with
    from online.policy_files import named_or_bundled

    checkpoint = named_or_bundled(settings.checkpoint_path, settings.env_name)
    player = open_player(checkpoint, settings, settings.deterministic)
    trained = {"distribution_mode": "easy", "num_levels": 200, "start_level": 0, **player.facts}
    given = [name for name in ("distribution_mode", "num_levels") if name in settings.given]
    require_trained_with(given, trained, checkpoint, settings)
    if trained["start_level"]:
        raise UsageError(
            f"{checkpoint} was trained on levels from {trained['start_level']} on, and the splits "
            "are of policies that were trained on levels from 0 on"
        )
    if not trained["num_levels"]:
        logger.warning("%s was trained on all levels: no split holds unseen ones", checkpoint)
    results = evaluate(
        player.policy,
        env_name=settings.env_name,
        distribution_mode=trained["distribution_mode"],
        num_levels=trained["num_levels"],
        num_episodes=settings.num_episodes,
        seed=derive_seed(settings.seed, "final"),
        progress=True,
    )
    for split, returns in returns_by_split(results).items():
        error = np.std(returns, ddof=1) / np.sqrt(len(returns)) if len(returns) > 1 else np.nan
        print(f"{split:>10}: {np.mean(returns):6.2f} ± {error:.2f} ({len(returns)} episodes)")
    if settings.out:
        write_evaluation(Path(settings.out) / "evaluate.csv", results)
        write_episodes(Path(settings.out) / "evaluate_episodes.csv", results)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0 done, 1 failed, 2 bad arguments."""
    return run_command(_evaluate, argv)


if __name__ == "__main__":
    sys.exit(main())
