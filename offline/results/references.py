"""Players that no run below --save_path is of, to stand beside those that are.

Each is told where its figures come from. A figure that nobody measured is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from offline.results.comparable import NONE, Condition
from offline.results.statistics import SPLITS, TEST, TRAIN, normalised_score

POLICIES = Path(__file__).resolve().parents[2] / "online" / "policies"

# Mean raw return on training and test levels of online PPO after 25M steps. Source: OpenAI's logs
# of 3 runs on 200 easy levels, published with Cobbe et al. 2020 (Procgen).
PPO_RETURNS = {
    "bigfish": (12.09, 4.78),
    "bossfight": (8.30, 7.63),
    "caveflyer": (7.22, 5.27),
    "chaser": (6.61, 5.87),
    "climber": (8.63, 5.86),
    "coinrun": (9.55, 8.67),
    "dodgeball": (5.05, 1.91),
    "fruitbot": (29.68, 26.53),
    "heist": (7.93, 2.75),
    "jumper": (8.60, 5.74),
    "leaper": (6.18, 5.82),
    "maze": (9.35, 5.53),
    "miner": (12.81, 9.39),
    "ninja": (7.68, 5.79),
    "plunder": (5.27, 4.63),
    "starpilot": (29.98, 23.79),
}
# With every button equally likely, on training, validation and test levels. Source: played here as
# benchmarks.learning plays it, 200 easy episodes per split, --seed 88.
RANDOM_RETURNS = {
    "bigfish": (0.85, 1.06, 0.91),
    "bossfight": (0.01, 0.03, 0.01),
    "caveflyer": (2.75, 2.05, 3.05),
    "chaser": (0.63, 0.68, 0.68),
    "climber": (1.93, 1.73, 2.54),
    "coinrun": (2.90, 1.65, 2.70),
    "dodgeball": (0.49, 0.83, 0.71),
    "fruitbot": (-2.09, -2.62, -2.49),
    "heist": (3.10, 2.35, 2.40),
    "jumper": (3.60, 2.30, 2.90),
    "leaper": (2.10, 2.80, 2.40),
    "maze": (4.25, 4.90, 3.90),
    "miner": (1.55, 1.35, 1.57),
    "ninja": (2.55, 1.90, 2.15),
    "plunder": (4.11, 4.02, 3.99),
    "starpilot": (1.69, 1.25, 1.77),
}
# A line of a policy's card: | train | 7.58 ± 0.10 | ...
_CARD_LINE = re.compile(rf"^\| ({'|'.join(SPLITS)}) \| (-?[\d.]+) ± [\d.]+ \|", re.MULTILINE)


class Reference(NamedTuple):
    """A player: mean raw returns by game and split, and where they come from."""

    name: str
    source: str
    returns: Mapping[str, Mapping[str, float]]

    def scores(self, split: str, games: Sequence[str], distribution_mode: str) -> list[float]:
        """Normalised returns of those games that have one on the split."""
        return [
            normalised_score(self.returns[game][split], game, distribution_mode)
            for game in games
            if split in self.returns.get(game, {})
        ]


def ppo(condition: Condition) -> Reference | None:
    """Online PPO; None but for the 200 easy levels that it was trained on."""
    if not _protocol_levels(condition):
        return None
    returns = {g: dict(zip((TRAIN, TEST), pair, strict=True)) for g, pair in PPO_RETURNS.items()}
    return Reference("online PPO", "OpenAI's logs, 25M steps, mean of 3 runs", returns)


def random(condition: Condition) -> Reference | None:
    """Every button equally likely; None but for the 200 easy levels it was played on."""
    if not _protocol_levels(condition):
        return None
    returns = {g: dict(zip(SPLITS, row, strict=True)) for g, row in RANDOM_RETURNS.items()}
    return Reference("random", "measured on 200 episodes per split", returns)


def behaviour(condition: Condition) -> Reference | None:
    """The bundled policy, from its cards; None where it did not make the data."""
    if condition.dataset or not _protocol_levels(condition):
        return None
    returns = {}
    for card in sorted(POLICIES.glob("*.md")):
        lines = _CARD_LINE.findall(card.read_text(encoding="utf-8"))
        returns[card.stem] = {split: float(figure) for split, figure in lines}
    return Reference("behaviour policy", "its card in online/policies/, sampled actions", returns)


REFERENCES: dict[str, Callable[[Condition], Reference | None]] = {
    "ppo": ppo,
    "random": random,
    "behaviour": behaviour,
}


def _protocol_levels(condition: Condition) -> bool:
    """Whether splits are those of the benchmark: 200 easy levels to train on."""
    facts = (condition.distribution_mode, condition.num_levels, condition.level)
    return facts == ("easy", 200, NONE)
