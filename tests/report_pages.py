"""A small study with all that a report's page shows, and its page as the command writes it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from PIL import Image

from offline.results.figure_files import FigureFile
from offline.results.recording_video import find_ffmpeg
from tests.offline_commands import run
from tests.synthetic_runs import constant_returns, write_run, write_study

STUDY = {"games": ("coinrun", "maze"), "methods": ("bc", "cql"), "seeds": (1, 2)}
STUDIED = 8  # runs
FIGURE = FigureFile(
    name="iqm",
    title="Scores & <intervals>",
    caption='A red square, "as drawn" by hand',
    svg='<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 20">'
    '<rect width="10" height="10" style="fill: #f00"/></svg>',
)
# If anything of this were taken for HTML, the browser would note it.
HOSTILE = '"><img src=x onerror="window.hacked=1"><b>'


def write_films(run_folder: Path) -> None:
    """A GIF of training levels, an MP4 of test levels and a file that is no PNG."""
    play = run_folder / "play"
    play.mkdir()
    write_gif(play / "train.gif")
    ffmpeg = [find_ffmpeg(), "-loglevel", "error", "-f", "lavfi"]
    picture = ["-i", "testsrc=duration=1:size=64x64", "-pix_fmt", "yuv420p"]
    subprocess.run([*ffmpeg, *picture, str(play / "test.mp4")], check=True)
    (play / "train_levels.png").write_bytes(b"<html>")


def write_gif(path: Path) -> None:
    """Two frames, red and blue."""
    frames = [Image.new("RGB", (48, 32), colour) for colour in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100, loop=0)


def write_page_of_study(folder: Path) -> Path:
    """The page of a study with films, a hostile run, and runs that do not count."""
    runs = folder / "runs"
    assert write_study(runs, **STUDY, episodes=20) == STUDIED
    (filmed,) = runs.glob("coinrun/*-bc-*_1")
    write_films(filmed)
    write_run(
        runs,
        constant_returns(9.0, 7.0, 6.0),
        env_name="miner",
        xpid="unfinished",
        epochs=3,
        meta={"epochs": 100},
    )
    (runs / "miner" / "unfinished" / "final_model.pt").unlink()
    write_run(runs, None, env_name="miner", xpid="not_evaluated")
    told = {"agent_model": HOSTILE, "dataset": [f"</script><script>window.hacked=1{HOSTILE}"]}
    hostile = write_run(runs, constant_returns(12.0, 11.0, 10.5), xpid="hostile", meta=told)
    # Together they are an end tag: <runs>/.../<//script><img ...>
    (runs / "<").mkdir()
    hostile.rename(runs / "<" / f"script>{HOSTILE}")
    done = run("offline.report", f"--save_path={runs}", f"--out={folder / 'report'}")
    assert done.returncode == 0, done.stderr
    return folder / "report" / "index.html"
