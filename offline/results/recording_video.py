"""Recorded play as a GIF or an MP4: the agent's frames enlarged, beside them what it did.

A panel shows the level, the step, the return so far and the policy's probability of each action,
the chosen one in colour.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import itertools
import math
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont
from tqdm import tqdm

from common.errors import ToolkitError
from common.games import ACTION_BUTTONS, FRAME_SHAPE
from offline.results.figures import COLOURS
from offline.results.recording import RecordedEpisode

SCALE = 5  # screen pixels per pixel of the game
PLAY = FRAME_SHAPE[0] * SCALE
WIDTH, HEIGHT = PLAY + 220, PLAY  # of a picture, in pixels; x264 needs both even
STEPS_PER_SECOND = 15  # as Procgen plays for people
FINAL_PICTURES = 15  # how often each episode's last picture, with its whole return, stands
_PICTURE_BYTES = 10_000  # of a GIF, at least
_GAME_COLOURS, _SHADES = 113, 4  # of a GIF: with the 15 of the panel 128
_LEFT, _BARS, _TOP, _ROW = PLAY + 14, PLAY + 92, 92, 15
_BAR = 84  # pixels of a probability of 1
_INK, _FAINT, _PAPER, _TRACK, _OTHER = "#222222", "#777777", "#FFFFFF", "#EEEEEE", "#A8B0B8"


class Video(NamedTuple):
    """An encoded file; only every `every`-th step of an episode is in it."""

    data: bytes
    every: int


class Moment(NamedTuple):
    """A step of an episode, or `over`, the end of the last one."""

    episode: RecordedEpisode
    step: int
    over: bool = False


class Artist:
    """Draws moments as pictures of WIDTH x HEIGHT pixels."""

    def __init__(self, player: str, split: str) -> None:
        """`player` is a line of text on who plays what; `split` names the levels."""
        import matplotlib

        fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
        self._plain = ImageFont.truetype(fonts / "DejaVuSans.ttf", 12)
        self._small = ImageFont.truetype(fonts / "DejaVuSans.ttf", 11)
        self._bold = ImageFont.truetype(fonts / "DejaVuSans-Bold.ttf", 12)
        self._player = player
        self._levels = {"train": "training"}.get(split, split)
        self._accent = COLOURS[split]

    def pictures(self, moments: Iterable[Moment]) -> Iterator[Image.Image]:
        """The game at the left, the panel at the right."""
        for episode, shown in itertools.groupby(moments, key=lambda moment: moment.episode):
            background = self._background(episode)
            for moment in shown:
                yield self._picture(background, moment)

    def _background(self, episode: RecordedEpisode) -> Image.Image:
        """What all pictures of an episode have in common: text is slow to draw."""
        image = Image.new("RGB", (WIDTH, HEIGHT), _PAPER)
        draw = ImageDraw.Draw(image)
        title = f"{self._levels} level {episode.level_seed}"
        draw.text((_LEFT, 6), title, self._accent, self._bold)
        draw.text((_LEFT, 24), self._player, _FAINT, self._plain)
        draw.text((_LEFT, 42), episode.caption, _INK, self._plain)
        for row, buttons in enumerate(ACTION_BUTTONS):
            draw.text((_LEFT, _TOP + row * _ROW), buttons, _FAINT, self._small)
            self._draw_bar(draw, row, 1.0, _TRACK)
        return image

    def _picture(self, background: Image.Image, moment: Moment) -> Image.Image:
        play, step = moment.episode.play, moment.step
        chosen, probabilities = play.actions[step], play.probabilities[step]
        image = background.copy()
        frame = Image.fromarray(play.frames[step])
        image.paste(frame.resize((PLAY, PLAY), Image.Resampling.NEAREST))
        draw = ImageDraw.Draw(image)
        done = step + moment.over
        state = f"step {done} of {len(play.actions)}   return {sum(play.rewards[:done]):.4g}"
        draw.text((_LEFT, 60), state, _INK, self._bold if moment.over else self._plain)
        for row, probability in enumerate(probabilities):
            self._draw_bar(draw, row, probability, self._accent if row == chosen else _OTHER)
        line = _TOP + chosen * _ROW
        draw.text((_LEFT, line), ACTION_BUTTONS[chosen], self._accent, self._small)
        share = f"{probabilities[chosen]:.0%}"
        draw.text((WIDTH - 6, line), share, self._accent, self._small, anchor="ra")
        return image

    def panel_colours(self) -> list[int]:
        """Red, green and blue of each in turn; the edges of letters lie between ink and paper."""
        colours = [ImageColor.getrgb(colour) for colour in (_PAPER, _TRACK, _OTHER)]
        for ink in (_INK, _FAINT, self._accent):
            edges = np.linspace(ImageColor.getrgb(ink), colours[0], _SHADES, endpoint=False)
            colours += edges.round().astype(int).tolist()
        return [value for colour in colours for value in colour]

    def _draw_bar(
        self, draw: ImageDraw.ImageDraw, row: int, probability: float, colour: str
    ) -> None:
        top = _TOP + row * _ROW + 2
        width = round(_BAR * probability)
        if width:
            draw.rectangle((_BARS, top, _BARS + width - 1, top + _ROW - 5), colour)


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


def encode_gif(
    artist: Artist,
    episodes: Sequence[RecordedEpisode],
    *,
    largest: int = 3_000_000,
    progress: bool = False,
) -> Video:
    """A GIF that runs in a loop, all pictures in the same 128 colours.

    Steps are left out where the file would have more than `largest` bytes with all of them; the
    first and the end of each episode never are.
    """
    palette = _palette(artist, episodes)
    longest = max(len(episode.play.actions) for episode in episodes)
    every = min(longest, math.ceil(len(moments(episodes)) * _PICTURE_BYTES / largest))
    while True:
        shown = moments(episodes, every)
        bar = tqdm(shown, "drawing", unit="picture", disable=not progress, leave=False)
        pictures = (
            picture.quantize(palette=palette, dither=Image.Dither.NONE)
            for picture in artist.pictures(bar)
        )
        step = round(1000 / STEPS_PER_SECOND, -1)  # GIFs count hundredths of a second
        buffer = io.BytesIO()
        next(pictures).save(
            buffer,
            "GIF",
            save_all=True,
            append_images=pictures,
            duration=[step * (FINAL_PICTURES if moment.over else 1) for moment in shown],
            loop=0,
            optimize=False,  # it would save a fifth of the bytes and take twice the time
        )
        size = buffer.tell()
        if size <= largest or every >= longest:
            return Video(buffer.getvalue(), every)
        every = min(longest, max(every + 1, math.ceil(every * size / largest)))


def _palette(artist: Artist, episodes: Sequence[RecordedEpisode]) -> Image.Image:
    """An image whose palette suits game and panel."""
    frames = [frame for episode in episodes for frame in episode.play.frames]
    sample = [frames[i] for i in np.linspace(0, len(frames) - 1, 64).astype(int)]
    game = Image.fromarray(np.concatenate(sample)).quantize(_GAME_COLOURS)
    image = Image.new("P", (1, 1))
    image.putpalette([*artist.panel_colours(), *(game.getpalette() or [])[: 3 * _GAME_COLOURS]])
    return image


def encode_mp4(
    artist: Artist, episodes: Sequence[RecordedEpisode], *, progress: bool = False
) -> Video:
    """An H.264 video of every step, which every browser plays.

    Raises ToolkitError if there is no ffmpeg, or with what it has to say.
    """
    program = find_ffmpeg()
    pictures = f"-f rawvideo -pix_fmt rgb24 -s {WIDTH}x{HEIGHT} -r {STEPS_PER_SECOND} -i -"
    video = "-c:v libx264 -preset veryfast -crf 20 -pix_fmt yuv420p -movflags +faststart"
    shown = moments(episodes)
    bar = tqdm(shown, "drawing", unit="picture", disable=not progress, leave=False)
    # MP4 cannot be piped: its table of contents is written last and stands first.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        command = [program, "-loglevel", "error", *pictures.split(), *video.split(), str(path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it has ended, and said why
                for moment, picture in zip(shown, artist.pictures(bar), strict=True):
                    process.stdin.write(picture.tobytes() * (FINAL_PICTURES if moment.over else 1))
            errors = process.communicate()[1].decode(errors="replace").strip()
        if process.returncode != 0:
            raise ToolkitError(f"ffmpeg failed: {errors or process.returncode}")
        return Video(path.read_bytes(), every=1)


def find_ffmpeg() -> str:
    """The ffmpeg that comes with imageio-ffmpeg, else the system's; ToolkitError without either."""
    # Not by importing it: the version that Procgen asks for needs a part of setuptools that new
    # ones lack.
    spec = importlib.util.find_spec("imageio_ffmpeg")
    folders = (spec.submodule_search_locations if spec else None) or []
    shipped = [str(path) for folder in folders for path in Path(folder).glob("binaries/ffmpeg-*")]
    found = shipped[0] if shipped else shutil.which("ffmpeg")
    if found is None:
        raise ToolkitError("--format mp4 needs ffmpeg: install it, or take --format gif")
    return found
