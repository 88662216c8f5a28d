"""Draws `docs/images/procgen_games.png`: one frame of each of the 16 games, as the agents see it.

Run from the repository root: `python -m docs.procgen_games`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from common.envs import FRAME_SHAPE, GAMES, NUM_ACTIONS, ProcgenVectorEnv

IMAGE = Path(__file__).parent / "images" / "procgen_games.png"
COLUMNS, ROWS = 8, 2
SCALE = 3  # screen pixels per pixel of the game
GAP, LABEL = 16, 44  # pixels between tiles, and below each tile for its name
DPI = 100


def game_frame(env_name: str, steps: int = 40, level: int = 7) -> np.ndarray:
    """The uint8 (64, 64, 3) frame after `steps` random actions on one level, always the same."""
    env = ProcgenVectorEnv(env_name, num_envs=1, start_level=level, num_levels=1, seed=0)
    actions = np.random.default_rng(0).integers(NUM_ACTIONS, size=(steps, 1))
    frame = env.reset()[0][0]
    for action in actions:
        observations, _, terminations, _, _ = env.step(action)
        if terminations[0]:
            # The next frame would be the start of a new episode: the last one shows more.
            break
        frame = observations[0]
    env.close()
    return frame


def contact_sheet(frames: Mapping[str, np.ndarray], path: Path) -> None:
    """Save named uint8 (64, 64, 3) frames as a PNG of `ROWS` x `COLUMNS` tiles, pixel by pixel."""
    from matplotlib.figure import Figure

    tile = FRAME_SHAPE[0] * SCALE
    width = COLUMNS * (tile + GAP) + GAP
    height = ROWS * (tile + LABEL) + GAP
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    for i, (name, frame) in enumerate(frames.items()):
        row, column = divmod(i, COLUMNS)
        left = GAP + column * (tile + GAP)
        top = GAP + row * (tile + LABEL)
        # repeat() is nearest-neighbour scaling; figimage() then copies pixels unsmoothed.
        pixels = frame.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
        figure.figimage(pixels, xo=left, yo=height - top - tile, origin="upper")
        figure.text(
            (left + tile / 2) / width,
            (height - top - tile - 8) / height,
            name,
            ha="center",
            va="top",
            fontsize=16,
            color="#222222",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        figure.savefig(unfinished, format="png")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the picture and say where it is."""
    parser = argparse.ArgumentParser(prog="python -m docs.procgen_games", description=__doc__)
    parser.add_argument("--output", type=Path, default=IMAGE, help="PNG to write")
    output = parser.parse_args(argv).output
    contact_sheet({game: game_frame(game) for game in GAMES}, output)
    print(f"{output}: {output.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
