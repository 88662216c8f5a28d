"""Contact sheets: frames side by side, each with its name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from offline.results.figures import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

COLUMNS = 8
_TILE = 0.9  # inches
SHEET_WIDTH = COLUMNS * _TILE


def sheet_height(count: int) -> float:
    """Inches that `count` frames take, a title above them included."""
    return 0.35 + 1.02 * -(-count // COLUMNS)


def draw_sheet(
    sheet: Figure | SubFigure,
    frames: Sequence[np.ndarray],
    names: Sequence[str],
    columns: int = COLUMNS,
) -> None:
    """Draw frames (64, 64, 3) uint8, so many to a row."""
    tiles = sheet.subplots(-(-len(frames) // columns), columns, squeeze=False).ravel()
    for tile in tiles:
        tile.set_axis_off()
    for tile, frame, name in zip(tiles, frames, names, strict=False):
        tile.imshow(frame)
        tile.set_title(name, fontsize=7, weight="normal", loc="center", pad=2)


def contact_sheet(
    frames: Sequence[np.ndarray], names: Sequence[str], title: str, path: Path
) -> list[Path]:
    """Save a sheet of its own. Returns the files written, `<path>.png` and `<path>.svg`.

    Raises ToolkitError if a file cannot be written.
    """
    columns = min(max(3, len(frames)), COLUMNS)  # room for the title
    with new_figure(width=columns * _TILE, height=sheet_height(len(frames))) as figure:
        draw_sheet(figure, frames, names, columns)
        figure.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=9)
        return save_figure(figure, path)
