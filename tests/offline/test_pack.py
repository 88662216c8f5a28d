"""python -m offline.pack, as users run it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from common.episodes import Episode
from common.errors import UsageError
from offline.data.packing import open_game
from offline.data.store import PackedStore
from offline.data.writing import lock_store
from offline.pack import main
from tests.command_runs import run_python, start_python, the_error
from tests.data_fixtures import make_episode, write_game
from tests.released_archives import PLAIN, released_archive

MINER = [make_episode(1, [0.0, 1.0], level_seed=5), make_episode(2, [2.5], level_seed=6)]
COINRUN = [make_episode(3, [0.0, 0.0, 10.0])]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tmp_path / "dataset"


def pack(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run_python("-m", "offline.pack", *map(str, arguments))


def assert_packs(dataset: Path, *arguments: object, **expected: list[Episode]) -> None:
    """The command is done, names what it made, and training finds the episodes of each game."""
    done = pack(*arguments)
    assert done.returncode == 0, done.stderr
    lines = []
    for game, episodes in sorted(expected.items()):
        store = open_game(dataset, game, progress=False)
        assert store.path == dataset / game / "packed"
        lengths = [episode.length for episode in episodes]
        assert store.episodes["length"].tolist() == lengths
        assert store.frames[0].tolist() == episodes[0].observations[0].tolist()
        lines.append(f"{store.path}: {len(episodes)} episodes, {sum(lengths)} frames")
    assert sorted(done.stdout.splitlines()) == lines


def refused(code: int, *arguments: object) -> str:
    """The last line on stderr, behind the progress, of a command that ends with this code."""
    done = pack(*arguments)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    line = done.stderr.replace("\r", "\n").splitlines()[-1]
    assert line.startswith("error: ")
    assert "Traceback" not in done.stderr
    return line


# What it packs


def test_an_archive_is_packed_and_a_second_run_leaves_it_alone(
    tmp_path: Path, dataset: Path
) -> None:
    archive = tmp_path / "level_1.tar.xz"
    archive.write_bytes(released_archive({"miner": MINER, "coinrun": COINRUN}))
    assert_packs(dataset, archive, dataset, miner=MINER, coinrun=COINRUN)
    before = (dataset / "miner" / "packed").stat().st_ino
    assert_packs(dataset, archive, dataset, miner=MINER, coinrun=COINRUN)
    assert (dataset / "miner" / "packed").stat().st_ino == before
    archive.write_bytes(released_archive({"miner": MINER[1:]}))
    assert "holds episodes of another source" in refused(2, archive, dataset)
    shutil.rmtree(dataset / "miner")
    assert_packs(dataset, archive, dataset, miner=MINER[1:])


def test_the_store_of_an_archive_is_never_packed_over(tmp_path: Path, dataset: Path) -> None:
    archive = tmp_path / "level_1.tar.xz"
    archive.write_bytes(released_archive({"miner": MINER}))
    assert_packs(dataset, archive, dataset, miner=MINER)
    write_game(dataset / "miner", COINRUN)
    refusal = (
        f"{dataset}/miner holds episode files, and {dataset}/miner/packed a store that was made of "
        "none of them: move one of the two into another dataset folder"
    )
    with pytest.raises(UsageError) as refused_to_training:
        open_game(dataset, "miner", progress=False)
    assert str(refused_to_training.value) == refusal
    assert refused(2, dataset, dataset) == f"error: {refusal}"
    assert len(PackedStore.open(dataset / "miner" / "packed").episodes) == len(MINER)


def test_a_folder_with_episode_files_of_its_own_takes_no_store_of_others(
    tmp_path: Path, dataset: Path
) -> None:
    write_game(tmp_path / "episodes" / "miner", MINER)
    write_game(dataset / "miner", COINRUN)
    line = refused(2, tmp_path / "episodes", dataset)
    assert line.startswith(f"error: {dataset}/miner holds episode files, which training packs by")
    assert not (dataset / "miner" / "packed").exists()


def test_env_name_says_whose_the_episodes_of_an_archive_are(tmp_path: Path, dataset: Path) -> None:
    archive = tmp_path / "mine.tar"
    archive.write_bytes(released_archive({"mine": MINER}, PLAIN))
    assert "give --env_name" in refused(2, archive, dataset)
    assert not dataset.exists()
    assert_packs(dataset, archive, dataset, "--env_name=miner", miner=MINER)


def test_a_folder_called_like_a_game_is_packed_and_a_second_run_leaves_it_alone(
    tmp_path: Path, dataset: Path
) -> None:
    write_game(tmp_path / "episodes" / "miner", MINER)
    source = tmp_path / "episodes" / "miner"
    assert_packs(dataset, source, dataset, miner=MINER)
    before = (dataset / "miner" / "packed").stat().st_ino
    assert_packs(dataset, source, dataset, miner=MINER)
    assert (dataset / "miner" / "packed").stat().st_ino == before


def test_env_name_says_whose_the_episodes_of_a_folder_are(tmp_path: Path, dataset: Path) -> None:
    write_game(tmp_path / "episodes", MINER)
    line = refused(2, tmp_path / "episodes", dataset)
    assert line == f"error: {tmp_path}/episodes is not called like a game: give --env_name"
    assert_packs(dataset, tmp_path / "episodes", dataset, "--env_name=heist", heist=MINER)


def test_the_folder_that_one_stands_in_is_packed_by_its_name(
    tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_game(tmp_path / "miner", MINER)
    monkeypatch.chdir(tmp_path / "miner")
    assert main([".", str(dataset)]) == 0
    assert len(open_game(dataset, "miner").episodes) == 2


def test_every_game_of_a_dataset_folder_is_packed_or_the_one_that_is_asked_for(
    tmp_path: Path, dataset: Path
) -> None:
    source = tmp_path / "episodes"
    write_game(source / "miner", MINER)
    write_game(source / "coinrun", COINRUN)
    write_game(source / "no game", MINER)
    (source / "heist").mkdir()
    assert_packs(dataset, source, dataset, "--env_name", "coinrun", coinrun=COINRUN)
    assert [path.name for path in dataset.iterdir()] == ["coinrun"]
    assert_packs(dataset, source, dataset, miner=MINER, coinrun=COINRUN)


def test_a_dataset_folder_is_packed_in_its_place(dataset: Path) -> None:
    write_game(dataset / "miner", MINER)
    assert_packs(dataset, dataset, dataset, miner=MINER)


def test_bad_episodes_are_refused_or_skipped_when_asked(tmp_path: Path, dataset: Path) -> None:
    source = tmp_path / "miner"
    write_game(source, MINER)
    (source / "broken.npz").write_bytes(b"PK")
    assert f"{source}/broken.npz: " in refused(1, source, dataset)
    assert not (dataset / "miner" / "packed").exists()
    done = pack(source, dataset, "--skip_bad_episodes", "True")
    assert done.returncode == 0
    assert "skipped 1 of 3 episode files" in done.stderr
    assert done.stdout == f"{dataset}/miner/packed: 2 episodes, 3 frames\n"


def test_ctrl_c_ends_it_in_one_line_even_while_it_waits(tmp_path: Path, dataset: Path) -> None:
    write_game(tmp_path / "miner", MINER)
    with lock_store(dataset / "miner" / "packed"):
        process = start_python("-m", "offline.pack", str(tmp_path / "miner"), str(dataset))
        assert process.stderr is not None
        assert "waiting for another process" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert the_error(err) == "error: stopped by Ctrl-C"
    assert not (dataset / "miner" / "packed").exists()


# What it refuses


def test_what_is_missing_or_empty_or_unknown_is_a_wrong_argument(
    tmp_path: Path, dataset: Path
) -> None:
    (tmp_path / "empty").mkdir()
    write_game(tmp_path / "games" / "miner", MINER)
    assert refused(2, tmp_path / "none", dataset) == f"error: {tmp_path}/none does not exist"
    assert "empty: no episode files there" in refused(2, tmp_path / "empty", dataset)
    assert "games: no episode files there" in refused(
        2, tmp_path / "games", dataset, "--env_name=maze"
    )
    assert "Did you mean miner?" in refused(2, tmp_path / "games", dataset, "--env_name=mine")
    assert "<folder>" in refused(2, tmp_path / "games")
    assert "unexpected argument 'more'" in refused(2, tmp_path / "games", dataset, "more")
    assert not dataset.exists()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (released_archive({"miner": MINER})[:-100], "cut short"),
        (b"<!DOCTYPE html><html>sign in</html>", "it is a web page"),
        (b"", "it is empty"),
    ],
    ids=["cut short", "a web page", "empty"],
)
def test_what_is_no_whole_archive_fails_in_one_line(
    tmp_path: Path, dataset: Path, data: bytes, reason: str
) -> None:
    archive = tmp_path / "miner.tar.xz"
    archive.write_bytes(data)
    line = refused(1, archive, dataset)
    assert line.startswith(f"error: {archive}: ")
    assert reason in line
    assert not (dataset / "miner" / "packed").exists()


@pytest.mark.parametrize("is_archive", [True, False])
def test_a_file_where_the_folder_should_be_fails_in_one_line(
    tmp_path: Path, dataset: Path, is_archive: bool
) -> None:
    dataset.write_text("in the way")
    source = tmp_path / "miner"
    if is_archive:
        source.write_bytes(released_archive({"miner": MINER}))
    else:
        write_game(source, MINER)
    assert f"cannot pack {source} into {dataset}" in refused(1, source, dataset)
    assert dataset.read_text() == "in the way"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to read-only folders")
def test_a_folder_that_cannot_be_written_fails_in_one_line(tmp_path: Path, dataset: Path) -> None:
    write_game(tmp_path / "miner", MINER)
    dataset.mkdir(mode=0o555)
    assert "choose a folder that can be written" in refused(1, tmp_path / "miner", dataset)


def test_help_tells_of_both_arguments() -> None:
    done = pack("--help")
    assert done.returncode == 0
    for word in ("<source>", "<folder>", "--env_name", "--skip_bad_episodes", "12.3 GB"):
        assert word in done.stdout
