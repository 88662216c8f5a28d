"""Recorded play as a GIF or an MP4."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from common.errors import ToolkitError
from offline.results.recording import RecordedEpisode
from offline.results.recording_pictures import HEIGHT, WIDTH, Artist, Moment, beside, moments

STEPS_PER_SECOND = 15  # as Procgen plays for people
FINAL_PICTURES = 15  # how often each episode's last picture, with its whole return, stands
_PIECES, _PIECE = 6, 3  # how many pieces of a GIF its size is guessed by, pictures of each
_COLOURS = 128  # of a GIF


class Video(NamedTuple):
    """An encoded file; only every `every`-th step of an episode is in it."""

    data: bytes
    every: int


def encode_gif(
    artist: Artist,
    episodes: Sequence[RecordedEpisode],
    *,
    largest: int = 3_000_000,
    progress: bool = False,
) -> Video:
    """A GIF that runs in a loop, all pictures in the same 128 colours.

    Steps are left out where the file would have more than `largest` bytes with all of them, or
    seems to: that is guessed, up to a fifth too high, as to try takes long. The first and the end
    of each episode never are.
    """
    palette = _palette(artist, episodes)
    longest = max(len(episode.play.actions) for episode in episodes)
    every = min(longest, math.ceil(_guessed_size(artist, episodes, palette) / largest))
    while True:
        data = _gif(artist, moments(episodes, every), palette, progress)
        size = len(data)
        if size <= largest or every >= longest:
            return Video(data, every)
        every = min(longest, max(every + 1, math.ceil(every * size / largest)))


def _guessed_size(
    artist: Artist, episodes: Sequence[RecordedEpisode], palette: Image.Image
) -> float:
    """About how many bytes a GIF of every step would have, by short pieces of it.

    Pieces, as a picture takes up what differs from the one before.
    """
    whole = moments(episodes)
    first, more = 0, 0
    for start in np.linspace(0, max(0, len(whole) - _PIECE), _PIECES).astype(int):
        piece = whole[start : start + _PIECE]
        size = len(_gif(artist, piece[:1], palette))
        first += size
        more += len(_gif(artist, piece, palette)) - size
    return first / _PIECES + more / _PIECES / (_PIECE - 1) * len(whole)


def _gif(
    artist: Artist, shown: Sequence[Moment], palette: Image.Image, progress: bool = False
) -> bytes:
    bar = tqdm(shown, "drawing", unit="picture", disable=not progress, leave=False)
    pictures = _in_palette(artist, bar, palette)
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
    return buffer.getvalue()


def _palette(artist: Artist, episodes: Sequence[RecordedEpisode]) -> Image.Image:
    """An image whose palette has the colours of the panel, then those that suit the game best."""
    frames = [frame for episode in episodes for frame in episode.play.frames]
    sample = [frames[i] for i in np.linspace(0, len(frames) - 1, 64).astype(int)]
    game = Image.fromarray(np.concatenate(sample)).quantize(_COLOURS - len(artist.colours))
    image = Image.new("P", (1, 1))
    image.putpalette([*artist.colours.flat, *(game.getpalette() or [])][: 3 * _COLOURS])
    return image


def _in_palette(
    artist: Artist, shown: Iterable[Moment], palette: Image.Image
) -> Iterator[Image.Image]:
    """Pictures of this palette. A frame's colours are chosen before it is enlarged."""
    colours = palette.getpalette() or []
    for moment, panel in artist.with_panels(shown):
        frame = Image.fromarray(moment.episode.play.frames[moment.step])
        game = np.asarray(frame.quantize(palette=palette, dither=Image.Dither.NONE))
        picture = Image.fromarray(beside(game, panel))
        picture.putpalette(colours)
        yield picture


def encode_mp4(
    artist: Artist, episodes: Sequence[RecordedEpisode], *, progress: bool = False
) -> Video:
    """An H.264 video of every step, which every browser plays.

    Raises ToolkitError if there is no ffmpeg, or with what it has to say.
    """
    program = find_ffmpeg()
    pictures = f"-f rawvideo -pix_fmt rgb24 -s {WIDTH}x{HEIGHT} -r {STEPS_PER_SECOND} -i -"
    video = "-c:v libx264 -preset superfast -crf 20 -pix_fmt yuv420p -movflags +faststart"
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
                    for _ in range(FINAL_PICTURES if moment.over else 1):
                        process.stdin.write(picture.data)
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
