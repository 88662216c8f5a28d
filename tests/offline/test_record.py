"""The command that films a run: what it writes, and what it refuses."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from offline import evaluate_offline_agent
from offline.record import main
from offline.results.recording_video import HEIGHT, WIDTH
from tests.offline_commands import (
    GAME,
    FinishedRun,
    error_line,
    flags,
    lines,
    read_checkpoint,
    read_rows,
    run,
    run_folder,
)

RECORD = "offline.record"
EPISODES = 4


def arguments(save_path: Path, **changes: Any) -> list[str]:
    """The command's flags for the run of the fixtures."""
    settings = {"save_path": save_path, "env_name": GAME, "xpid": "run", "no_cuda": True}
    return flags(settings, **changes)


def refusal(
    save_path: Path, capsys: pytest.CaptureFixture[str], code: int = 1, **changes: Any
) -> str:
    """The one line with which the command fails; it prints and writes nothing else."""
    before = {path for path in save_path.rglob("*") if path.name != "play"}
    capsys.readouterr()
    assert main(arguments(save_path, **changes)) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert {path for path in save_path.rglob("*") if path.name != "play"} == before
    (line,) = lines(captured.err)
    return line.removeprefix("error: ")


@pytest.fixture
def evaluated(finished_copy: FinishedRun) -> FinishedRun:
    """The finished run with its evaluate_episodes.csv."""
    command = flags(finished_copy.settings, save_path=finished_copy.save_path)
    assert evaluate_offline_agent.main([*command, f"--num_final_episodes={EPISODES}"]) == 0
    return finished_copy


def test_the_command_films_every_split_of_the_newest_run_and_says_what_it_wrote(
    finished_copy: FinishedRun,
) -> None:
    save_path = finished_copy.save_path
    done = run(RECORD, *flags({"save_path": save_path, "env_name": GAME, "episodes": 2}))
    assert done.returncode == 0, done.stderr
    play = save_path / GAME / "latest" / "play"
    printed = done.stdout.splitlines()
    assert [line.split(": ")[0] for line in printed] == [
        str(play / f"{split}.gif") for split in ("train", "val", "test")
    ]
    assert sorted(play.iterdir()) == sorted(play / f"{s}.gif" for s in ("train", "val", "test"))
    for line in printed:
        path = Path(line.split(": ")[0])
        megabytes = re.escape(f"{path.stat().st_size / 1e6:.2f} MB")
        assert re.fullmatch(rf".*: 2 episodes, (every step|one step of \d), {megabytes}", line)
        assert path.stat().st_size <= 3e6
        assert Image.open(path).size == (WIDTH, HEIGHT)


def test_a_split_and_a_folder_may_be_named_and_the_first_frames_asked_for(
    finished_copy: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "films" / "new"
    changes = {"split": "val", "episodes": 2, "contact_sheet": True, "out": out, "format": "mp4"}
    assert main(arguments(finished_copy.save_path, **changes)) == 0
    names = ["val.mp4", "val_levels.png", "val_levels.svg"]
    assert sorted(path.name for path in out.iterdir()) == names
    printed = capsys.readouterr().out.splitlines()
    assert [Path(line.split(": ")[0]) for line in printed] == [out / name for name in names]
    assert not (finished_copy.folder / "play").exists()
    sheet = (out / "val_levels.svg").read_text()
    assert sheet.count("<!-- level 2") == 2  # validation levels are 200 to 249
    assert f"<!-- {GAME}, validation levels -->" in sheet
    assert sheet.count("<image ") == 2


def test_a_gif_stays_below_the_size_asked_for(
    finished_copy: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"episodes": 1, "split": "train", "gif_megabytes": 0.4}
    assert main(arguments(finished_copy.save_path, **changes)) == 0
    assert (finished_copy.folder / "play" / "train.gif").stat().st_size < 4e5
    assert re.search(r": 1 episode, one step of \d+, 0\.[1-4]\d MB$", capsys.readouterr().out)


def test_the_best_the_median_and_the_worst_of_an_evaluation_are_filmed(
    evaluated: FinishedRun,
) -> None:
    rows = [
        row
        for row in read_rows(evaluated.folder / "evaluate_episodes.csv")
        if row["split"] == "test"
    ]
    ranked = sorted(rows, key=lambda row: -float(row["return"]))
    changes = {"from": "evaluate_episodes.csv", "split": "test"}
    assert main(arguments(evaluated.save_path, contact_sheet=True, **changes)) == 0
    play = evaluated.folder / "play"
    assert Image.open(play / "test_best_median_worst.gif").size == (WIDTH, HEIGHT)
    shown = [ranked[0], ranked[2], ranked[3]]
    sheet = (play / "test_best_median_worst_levels.svg").read_text()
    places = [sheet.index(f"<!-- level {row['level_seed']} -->") for row in shown]
    assert places == sorted(places)


def test_another_mode_of_acting_is_filmed_from_its_own_evaluation(
    finished_copy: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    command = flags(finished_copy.settings, save_path=finished_copy.save_path)
    both = ["--deterministic=both", f"--num_final_episodes={EPISODES}"]
    assert evaluate_offline_agent.main([*command, *both]) == 0
    changes = {"from": "evaluate_deterministic_episodes.csv", "split": "train"}
    line = refusal(finished_copy.save_path, capsys, **changes)
    assert "(--checkpoint, --deterministic, --no_cuda)" in line
    assert main(arguments(finished_copy.save_path, deterministic=True, **changes)) == 0


def test_a_run_on_one_level_has_that_level_alone(
    finished_copy: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    path = finished_copy.folder / "final_model.pt"
    contents = read_checkpoint(path)
    torch.save({**contents, "settings": {**contents["settings"], "level": 31}}, path)
    line = refusal(finished_copy.save_path, capsys, code=2, split="test")
    assert line == "--split test: the run was trained on one level, its train split"
    assert main(arguments(finished_copy.save_path, episodes=1, contact_sheet=True)) == 0
    play = finished_copy.folder / "play"
    assert {path.stem for path in play.iterdir()} == {"train", "train_levels"}
    assert "<!-- level 31 -->" in (play / "train_levels.svg").read_text()


# What is refused


def test_a_run_that_is_not_there_is_named(
    finished_copy: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finished_copy.save_path / GAME / "other"
    line = refusal(finished_copy.save_path, capsys, xpid="other")
    assert line == f"no run at {folder}: name it by --save_path, --env_name and --xpid"
    assert not folder.exists()


def test_a_run_that_is_not_finished_is_refused(
    unfinished_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(unfinished_copy, capsys)
    assert line.startswith(f"no final_model.pt in {run_folder(unfinished_copy)}")
    assert "--resume True" in line


def test_a_broken_checkpoint_is_refused(
    finished_copy: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    path = finished_copy.folder / "final_model.pt"
    path.write_bytes(path.read_bytes()[:1000])
    line = refusal(finished_copy.save_path, capsys)
    assert line.startswith(f"{path} is no readable checkpoint")


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        ({"split": "validate"}, "--split validate: choose one of train, val, test."),
        ({"format": "webm"}, "--format webm: choose one of gif, mp4."),
        ({"episodes": 0}, "--episodes 0: must be at least 1"),
        ({"episodes": 101}, "--episodes 101: must be at most 100"),
        ({"checkpoint": "first"}, "--checkpoint first: choose one of final, best."),
        ({"episodes": 3, "from": "evaluate_episodes.csv"}, "--episodes: --from shows"),
        ({"gif_megabytes": 0}, "--gif_megabytes 0: must be above 0"),
        ({"gif_megabytes": 1, "format": "mp4"}, "--gif_megabytes belongs to --format gif"),
        ({"dataset": "data"}, "unknown flag --dataset"),
    ],
)
def test_a_wrong_flag_is_named(
    finished_run: FinishedRun,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    start: str,
) -> None:
    assert refusal(finished_run.save_path, capsys, code=2, **changes).startswith(start)


def test_a_folder_that_cannot_be_written_is_named_before_anything_is_played(
    finished_copy: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "films"
    line = refusal(finished_copy.save_path, capsys, out=out)
    assert line == f"cannot write to {out}: Not a directory"


def test_a_full_disk_leaves_the_film_that_was_there(finished_copy: FinishedRun) -> None:
    gif = finished_copy.folder / "play" / "train.gif"
    gif.parent.mkdir()
    gif.write_bytes(b"an old film")
    done = run(RECORD, *arguments(finished_copy.save_path, episodes=1), file_size_limit=1000)
    assert done.returncode == 1
    assert error_line(done) == f"cannot write {gif}: File too large"
    assert [(path.name, path.read_bytes()) for path in gif.parent.iterdir()] == [
        ("train.gif", b"an old film")
    ]


def test_an_mp4_without_ffmpeg_is_refused_before_anything_is_played(
    finished_copy: FinishedRun,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    line = refusal(finished_copy.save_path, capsys, format="mp4")
    assert line == "--format mp4 needs ffmpeg: install it, or take --format gif"


def test_an_evaluation_that_is_not_there_is_named(
    finished_copy: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inside = finished_copy.folder / "evaluate_episodes.csv"
    line = refusal(finished_copy.save_path, capsys, **{"from": inside.name})
    assert line.startswith(f"no evaluation at {inside}: ")
    outside = tmp_path / "evaluate_episodes.csv"
    line = refusal(finished_copy.save_path, capsys, **{"from": outside})
    assert line.startswith(f"no evaluation at {outside}: ")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: "", "is not of this run, or cut off"),
        (lambda text: text.rsplit("\n", 2)[0] + "\n", "is not of this run, or cut off"),
        (lambda text: text.replace("validation", "evaluation"), "is not of this run, or cut off"),
        (lambda text: text[:-8], "is no list of evaluated episodes"),
        (lambda text: text.replace("return", "score"), "is no list of evaluated episodes"),
        (lambda text: text.replace("test,", "test,x"), "is no list of evaluated episodes"),
        (lambda text: "\ufffd\0" + text, "is no list of evaluated episodes"),
    ],
)
def test_a_broken_evaluation_is_refused(
    evaluated: FinishedRun, capsys: pytest.CaptureFixture[str], change: Any, words: str
) -> None:
    path = evaluated.folder / "evaluate_episodes.csv"
    path.write_bytes(change(path.read_bytes().decode().replace("\r\n", "\n")).encode())
    line = refusal(evaluated.save_path, capsys, **{"from": path.name})
    assert line.startswith(f"{path} {words}")


def test_an_evaluation_of_another_run_is_refused_with_the_first_episode_that_differs(
    evaluated: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "evaluate_episodes.csv"
    rows = read_rows(evaluated.folder / path.name)
    first = rows[EPISODES + 1]  # the second episode of the next split
    assert first["split"] == "validation"
    text = [",".join(first)]
    text += [",".join(({**r, "return": "77.0"} if r is first else r).values()) for r in rows]
    path.write_text("\n".join(text))
    line = refusal(evaluated.save_path, capsys, **{"from": path})
    assert line == (
        f"{path} is of another run, checkpoint or way of acting (--checkpoint, --deterministic, "
        f"--no_cuda): validation episode 2 was level {first['level_seed']} with return 77 in "
        f"{first['length']} steps, is level {first['level_seed']} with return "
        f"{float(first['return']):g} in {first['length']} steps when played again"
    )
