"""Film a trained agent: python -m offline.record --save_path runs/offline --xpid latest

Plays an evaluation once more, levels and actions alike, from the run's checkpoint alone, and keeps
episodes of it: the first --episodes of every split, or with --from evaluate_episodes.csv the best,
the median and the worst of that evaluation. Each split becomes <run folder>/play/<split>.gif (or
.mp4): what the agent sees, enlarged, with level seed, step, return so far and the probability of
each action.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import ToolkitError, UsageError
from common.flags import Flag, parse_flags, run_command
from offline.arguments import CHECKPOINT_FLAG, TRAIN_FLAGS
from offline.run_names import checkpoint_in

if TYPE_CHECKING:
    from offline.results.recording import RecordedEpisode
    from offline.results.recording_video import Artist

_OF_TRAINING = ("save_path", "env_name", "no_cuda")
_SPLITS = {"train": "train", "val": "validation", "test": "test"}
_FLAGS = (
    *(flag for flag in TRAIN_FLAGS if flag.name in _OF_TRAINING),
    Flag("xpid", str, "latest", "Name of the run."),
    Flag("checkpoint", str, "final", "Which checkpoint plays.", choices=CHECKPOINT_FLAG.choices),
    Flag(
        "deterministic",
        bool,
        None,
        "True takes the likeliest action, False samples; none: as the run was trained to act.",
    ),
    Flag(
        "split",
        str,
        (),
        "Levels to show; none: all splits there are.",
        choices=(*_SPLITS,),
        many=True,
    ),
    Flag(
        "episodes",
        int,
        3,
        "Episodes per split, those of an evaluation with --num_final_episodes as many. Each step "
        "takes 12 kB of memory.",
        minimum=1,
        maximum=100,
    ),
    Flag(
        "from",
        str,
        "",
        "Episodes of an evaluation, of which the best, median and worst of each split are shown: a "
        "file in the run's folder, such as evaluate_episodes.csv, or the path of one.",
    ),
    Flag("format", str, "gif", "Kind of file.", choices=("gif", "mp4")),
    Flag(
        "gif_megabytes",
        float,
        3.0,
        "Largest size of a GIF, in MB: where all steps would take more, some are left out.",
        above=0,
    ),
    Flag("contact_sheet", bool, False, "Also the first frames of the levels as a picture."),
    Flag("out", str, "", "Folder to write into; empty: play/ in the run's folder."),
)


def _record(argv: Sequence[str] | None) -> None:
    settings = parse_flags(_FLAGS, argv, __doc__ or "")
    evaluated = vars(settings)["from"]
    if evaluated and "episodes" in settings.given:
        raise UsageError("--episodes: --from shows the best, the median and the worst one")
    if settings.format != "gif" and "gif_megabytes" in settings.given:
        raise UsageError("--gif_megabytes belongs to --format gif")
    run = Path(settings.save_path) / settings.env_name / settings.xpid
    checkpoint = checkpoint_in(run, settings.checkpoint)
    out = Path(settings.out) if settings.out else run / "play"
    _require_writable(out)

    from common.device import choose_device
    from offline.agents import load_agent
    from offline.results import recording
    from offline.results.figures import SPLIT_LABELS
    from offline.results.recording_video import Artist, find_ffmpeg

    if settings.format == "mp4":
        find_ffmpeg()
    acting = {} if settings.deterministic is None else {"deterministic": settings.deterministic}
    agent, contents = load_agent(checkpoint, choose_device(settings.no_cuda), acting)
    agent.eval()
    trained = contents["settings"]
    there = recording.evaluated_splits(trained)
    names = _names(settings.split, there)
    if evaluated:
        path = Path(evaluated) if Path(evaluated).name != evaluated else run / evaluated
        evaluation = recording.read_evaluation(path, there)
        num_episodes = len(evaluation["train"])
        chosen = {split: recording.best_median_and_worst(evaluation[split]) for split in names}
    else:
        num_episodes = settings.episodes
        captions = {i: f"episode {i + 1} of {num_episodes}" for i in range(num_episodes)}
        chosen = dict.fromkeys(names, captions)
    results, recorded = recording.record(agent, trained, num_episodes, chosen, progress=True)
    if evaluated:
        recording.require_same(evaluation, results, path)

    game = trained["env_name"]
    acts = "deterministic" if agent.sampler.deterministic else "sampled"
    for split, name in names.items():
        artist = Artist(f"{game}, {trained['algo']}, {acts}", split)
        stem = out / (f"{name}_best_median_worst" if evaluated else name)
        _write_video(stem, artist, recorded[split], settings)
        if settings.contact_sheet:
            _write_sheet(stem, f"{game}, {SPLIT_LABELS[split]}", recorded[split])


def _write_video(
    stem: Path, artist: Artist, episodes: Sequence[RecordedEpisode], settings: argparse.Namespace
) -> None:
    """Write `<stem>.gif` or `<stem>.mp4`, and print what is in it."""
    from common.files import write_atomically
    from offline.results.recording_video import encode_gif, encode_mp4

    if settings.format == "gif":
        largest = max(1, int(1e6 * settings.gif_megabytes))
        video = encode_gif(artist, episodes, largest=largest, progress=True)
    else:
        video = encode_mp4(artist, episodes, progress=True)
    path = stem.with_name(f"{stem.name}.{settings.format}")
    write_atomically(path, video.data)
    count = "1 episode" if len(episodes) == 1 else f"{len(episodes)} episodes"
    shown = "every step" if video.every == 1 else f"one step of {video.every}"
    print(f"{path}: {count}, {shown}, {len(video.data) / 1e6:.2f} MB")


def _write_sheet(stem: Path, title: str, episodes: Sequence[RecordedEpisode]) -> None:
    """Write the first frames as `<stem>_levels.png` and `.svg`, and print these."""
    from offline.results.contact_sheet import contact_sheet

    frames = [episode.play.frames[0] for episode in episodes]
    levels = [f"level {episode.level_seed}" for episode in episodes]
    for path in contact_sheet(frames, levels, title, stem.with_name(f"{stem.name}_levels")):
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


def _require_writable(folder: Path) -> None:
    """Fail before minutes of play, not after them; ToolkitError naming the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ToolkitError(f"cannot write to {folder}: {error.strerror}") from error


def _names(wanted: Sequence[str], there: Sequence[str]) -> dict[str, str]:
    """The names that files get, by split; UsageError for one that the run does not have."""
    for name in wanted:
        if _SPLITS[name] not in there:
            raise UsageError(f"--split {name}: the run was trained on one level, its train split")
    return {
        split: name
        for name, split in _SPLITS.items()
        if name in (wanted or _SPLITS) and split in there
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0 done, 1 failed, 2 bad arguments."""
    return run_command(_record, argv)


if __name__ == "__main__":
    sys.exit(main())
