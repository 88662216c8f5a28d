"""What films show, picture by picture: the game enlarged, and beside it a panel on what was done.

The panel tells the level, the step, the return so far and the policy's probability of each action,
the chosen one in colour. It is drawn in a palette of its own, by index: a GIF takes it as it is,
and to fill bytes is many times faster than to draw in colours.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from common.games import ACTION_BUTTONS, FRAME_SHAPE
from offline.results.figures import COLOURS
from offline.results.recording import RecordedEpisode

SCALE = 5  # screen pixels per pixel of the game
PLAY = FRAME_SHAPE[0] * SCALE
PANEL = 220
WIDTH, HEIGHT = PLAY + PANEL, PLAY  # of a picture, in pixels; x264 needs both even

# Places in the panel, in pixels.
_LEFT, _BARS, _RIGHT, _TOP, _ROW = 14, 92, PANEL - 6, 92, 15
_BAR = 84  # a probability of 1

_SHADES = 4  # of each ink, from its own colour nearly to that of the paper: edges of letters
_PLAIN_COLOURS = ("#FFFFFF", "#EEEEEE", "#A8B0B8")
_PAPER, _TRACK, _OTHER = range(3)  # their indices
_INK, _FAINT, _ACCENT = (3 + ink * _SHADES for ink in range(3))  # index of the darkest of each
_INKS = ("#222222", "#777777")  # the accent is the split's


class Moment(NamedTuple):
    """A step of an episode, or `over`, the end of the last one."""

    episode: RecordedEpisode
    step: int
    over: bool = False


def moments(episodes: Sequence[RecordedEpisode], every: int = 1) -> list[Moment]:
    """Every `every`-th step of each episode from its first on, and its end."""
    return [
        moment
        for episode in episodes
        for length in (len(episode.play.actions),)
        for moment in (
            *(Moment(episode, step) for step in range(0, length, every)),
            Moment(episode, length - 1, over=True),
        )
    ]


class Artist:
    """Draws moments; `colours` (n, 3) uint8 are the red, green and blue of panels."""

    def __init__(self, player: str, split: str) -> None:
        """`player` is a line of text on who plays what; `split` names the levels."""
        self._player = player
        self._levels = {"train": "training"}.get(split, split)
        plain = [ImageColor.getrgb(colour) for colour in _PLAIN_COLOURS]
        inks = [
            np.linspace(ImageColor.getrgb(ink), plain[_PAPER], _SHADES, endpoint=False)
            for ink in (*_INKS, COLOURS[split])
        ]
        self.colours = np.concatenate([plain, *inks]).round().astype(np.uint8)

    def pictures(self, moments: Iterable[Moment]) -> Iterator[np.ndarray]:
        """Pictures (HEIGHT, WIDTH, 3) uint8 in full colour: the game at the left."""
        for moment, panel in self.with_panels(moments):
            colours = np.take(self.colours, panel, axis=0)  # three times as fast as by brackets
            yield beside(moment.episode.play.frames[moment.step], colours)

    def with_panels(self, moments: Iterable[Moment]) -> Iterator[tuple[Moment, np.ndarray]]:
        """Each moment and its panel (HEIGHT, PANEL) uint8, indices of `colours`."""
        for episode, shown in itertools.groupby(moments, key=lambda moment: moment.episode):
            background = self._background(episode)
            returns = [0.0, *np.cumsum(episode.play.rewards)]
            for moment in shown:
                yield moment, _panel(background, moment, returns[moment.step + moment.over])

    def _background(self, episode: RecordedEpisode) -> np.ndarray:
        """What all panels of an episode have in common."""
        panel = np.full((HEIGHT, PANEL), _PAPER, np.uint8)
        title = f"{self._levels} level {episode.level_seed}"
        _write(panel, (_LEFT, 6), _lettering(title, bold=True), _ACCENT)
        _write(panel, (_LEFT, 24), _lettering(self._player), _FAINT)
        _write(panel, (_LEFT, 42), _lettering(episode.caption), _INK)
        for row, buttons in enumerate(ACTION_BUTTONS):
            _write(panel, (_LEFT, _TOP + row * _ROW), _lettering(buttons, size=11), _FAINT)
            _draw_bar(panel, row, 1.0, _TRACK)
        return panel


def beside(frame: np.ndarray, panel: np.ndarray) -> np.ndarray:
    """A frame (64, 64, ...) enlarged, and at its right a panel (HEIGHT, PANEL, ...)."""
    enlarged = frame.repeat(SCALE, axis=1).repeat(SCALE, axis=0)
    return np.concatenate([enlarged, panel], axis=1)


def _panel(background: np.ndarray, moment: Moment, return_so_far: float) -> np.ndarray:
    play, step = moment.episode.play, moment.step
    chosen, probabilities = play.actions[step], play.probabilities[step]
    panel = background.copy()
    # In two parts: letters are slow to draw, and most parts have been drawn before.
    parts = (
        f"step {step + moment.over}",
        f" of {len(play.actions)}   return {return_so_far:.4g}",
    )
    letterings = [_lettering(part, bold=moment.over) for part in parts]
    if sum(lettering.shape[1] for lettering in letterings) > _RIGHT - _LEFT:
        letterings = [_lettering(part) for part in parts]
    x = _LEFT
    for lettering in letterings:
        _write(panel, (x, 60), lettering, _INK)
        x += lettering.shape[1] - 1
    for row, probability in enumerate(probabilities):
        _draw_bar(panel, row, probability, _ACCENT if row == chosen else _OTHER)
    line = _TOP + chosen * _ROW
    _write(panel, (_LEFT, line), _lettering(ACTION_BUTTONS[chosen], size=11), _ACCENT)
    share = _lettering(f"{probabilities[chosen]:.0%}", size=11)
    _write(panel, (_RIGHT - share.shape[1], line), share, _ACCENT)
    return panel


def _draw_bar(panel: np.ndarray, row: int, probability: float, colour: int) -> None:
    top = _TOP + row * _ROW + 2
    panel[top : top + _ROW - 4, _BARS : _BARS + round(_BAR * probability)] = colour


def _write(panel: np.ndarray, place: tuple[int, int], lettering: np.ndarray, ink: int) -> None:
    """Put a text with its upper left corner at `place` (x, y), in the shades of `ink`."""
    x, y = place
    lettering = lettering[:, : PANEL - x]
    area = panel[y : y + lettering.shape[0], x : x + lettering.shape[1]]
    np.copyto(area, lettering + np.uint8(ink), where=lettering < _SHADES)


@functools.lru_cache(maxsize=4096)
def _lettering(text: str, bold: bool = False, size: int = 12) -> np.ndarray:
    """A text as (height, width) uint8: 0 where it is inked fully, _SHADES where not at all."""
    font = _font(bold, size)
    width = round(font.getlength(text)) + 1
    image = Image.new("L", (width, sum(font.getmetrics())))
    ImageDraw.Draw(image).text((0, 0), text, 255, font)
    bare = 255 - np.asarray(image)
    return np.rint(bare * (_SHADES / 255)).astype(np.uint8)


@functools.cache
def _font(bold: bool, size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(fonts / f"DejaVuSans{'-Bold' if bold else ''}.ttf", size)
