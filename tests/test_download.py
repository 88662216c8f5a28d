"""What download.py brings, and what it finds there already."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from pathlib import Path

import pytest

from common.episodes import list_episode_files
from tests.archive_server import ArchiveServer
from tests.download_runs import (
    ARCHIVE,
    CATEGORY,
    COINRUN,
    HEAD_BYTES,
    MAZE,
    PATH,
    SECOND_PATH,
    archive_file,
    assert_holds,
    run,
    run_here,
)
from tests.released_archives import PLAIN, released_archive, released_members

# What comes


def test_the_folder_holds_exactly_the_episodes_served(
    server: ArchiveServer, tmp_path: Path
) -> None:
    server.serve(PATH, ARCHIVE)
    code, out, err = run(server, tmp_path)
    assert (code, out) == (0, f"done: coinrun; train with --dataset {tmp_path / CATEGORY}\n")
    assert "Traceback" not in err
    assert_holds(tmp_path, "coinrun", COINRUN)
    assert archive_file(tmp_path).read_bytes() == ARCHIVE


def test_the_record_tells_address_size_and_sha256(server: ArchiveServer, tmp_path: Path) -> None:
    file = server.serve(PATH, ARCHIVE)
    assert run_here(server, tmp_path) == 0
    contents = json.loads((tmp_path / CATEGORY / "download.json").read_text())
    record = contents["archives"]["coinrun.tar.xz"]
    assert record["source"] == {
        "address": f"{server.url}/{PATH}",
        "size": len(ARCHIVE),
        "etag": file.validators()["ETag"],
        "last_modified": "Wed, 29 Mar 2023 09:22:46 GMT",
    }
    assert record["sha256"] == hashlib.sha256(ARCHIVE).hexdigest()
    assert list(record["unpacked"]["packed"]) == ["coinrun"]


@pytest.mark.parametrize("status", [403, 404])
def test_the_second_layout_is_followed(server: ArchiveServer, tmp_path: Path, status: int) -> None:
    server.serve(PATH, b"", statuses=[status])
    server.serve(SECOND_PATH, ARCHIVE)
    assert run_here(server, tmp_path, f"--base_url={server.url}/") == 0
    assert_holds(tmp_path, "coinrun", COINRUN)
    assert server.sent(SECOND_PATH) == HEAD_BYTES + len(ARCHIVE)


def test_one_archive_for_all_games_fills_a_folder_for_each(
    server: ArchiveServer, tmp_path: Path
) -> None:
    both = released_archive({"coinrun": COINRUN, "maze": MAZE}, PLAIN)
    server.serve("100k_procgen_dataset_40.tar", both, content_type="application/x-tar")
    assert run_here(server, tmp_path, "--category_name=level_40_E", games="maze coinrun") == 0
    assert_holds(tmp_path, "coinrun", COINRUN, "level_40_E")
    assert_holds(tmp_path, "maze", MAZE, "level_40_E")


@pytest.mark.parametrize("form", ["packed", "episodes"])
def test_only_the_games_asked_for_are_kept_of_the_archive_of_all(
    server: ArchiveServer, tmp_path: Path, form: str
) -> None:
    both = released_archive({"coinrun": COINRUN, "maze": MAZE}, PLAIN)
    server.serve("100k_procgen_dataset_40.tar", both, content_type="application/x-tar")
    flags = ("--category_name=level_40_E", f"--format={form}")
    assert run_here(server, tmp_path, *flags, games="maze") == 0
    assert (tmp_path / "level_40_E" / "maze").is_dir()
    assert not (tmp_path / "level_40_E" / "coinrun").exists()
    sent = len(server.requests)
    assert run_here(server, tmp_path, *flags, games="maze") == 0
    assert len(server.requests) == sent


def test_a_single_level_comes_from_an_archive_per_game_where_there_is_no_other(
    server: ArchiveServer, tmp_path: Path
) -> None:
    folder = "Procgen/Datasets/Compressed/100k/level_1/suboptimal"
    server.serve(f"{folder}/coinrun.tar.xz", ARCHIVE)
    server.serve(f"{folder}/maze.tar.xz", released_archive({"maze": MAZE}))
    for requests in (5, 0):  # at first one for what is missing, two heads, two archives
        server.requests.clear()
        assert run_here(server, tmp_path, "--category_name=level_1_S", games="coinrun maze") == 0
        assert len(server.requests) == requests
        assert_holds(tmp_path, "coinrun", COINRUN, "level_1_S")
        assert_holds(tmp_path, "maze", MAZE, "level_1_S")


def test_episodes_come_as_they_were_released(server: ArchiveServer, tmp_path: Path) -> None:
    server.serve(PATH, ARCHIVE)
    assert run_here(server, tmp_path, "--format=episodes") == 0
    files = list_episode_files(tmp_path / CATEGORY / "coinrun")
    found = {f"coinrun/{file.name}": file.read_bytes() for file in files}
    assert found == released_members({"coinrun": COINRUN})


def test_breaks_at_random_bytes_cost_no_byte_twice(server: ArchiveServer, tmp_path: Path) -> None:
    breaks = [random.Random(7).randint(1_000, 20_000) for _ in range(12)]
    server.serve(PATH, ARCHIVE, breaks=breaks)
    code, _, err = run(server, tmp_path)
    assert code == 0, err
    assert_holds(tmp_path, "coinrun", COINRUN)
    assert len(server.requests) > 8
    assert server.sent(PATH) == HEAD_BYTES + len(ARCHIVE)


def test_a_busy_server_is_waited_for(server: ArchiveServer, tmp_path: Path) -> None:
    server.serve(PATH, ARCHIVE, statuses=[500, 416, 429, 503])
    assert run_here(server, tmp_path) == 0
    assert_holds(tmp_path, "coinrun", COINRUN)


def test_no_more_archives_are_fetched_at_a_time_than_asked_for(
    server: ArchiveServer, tmp_path: Path
) -> None:
    games = ("bigfish", "chaser", "coinrun", "maze", "miner")
    for game in games:
        server.serve(f"1M/expert/{game}.tar.xz", released_archive({game: COINRUN}), pause=0.002)
    assert run_here(server, tmp_path, "--n_download_workers=2", games=" ".join(games)) == 0
    assert server.most_bodies == 2
    for game in games:
        assert_holds(tmp_path, game, COINRUN)


# What is there already


def test_a_second_run_asks_the_server_for_nothing(
    server: ArchiveServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.serve(PATH, ARCHIVE)
    assert run_here(server, tmp_path) == 0
    server.requests.clear()
    assert run_here(server, tmp_path) == 0
    assert server.requests == []
    assert capsys.readouterr().out.splitlines()[-1].startswith("there already: coinrun")


def test_cleared_archives_leave_stores_that_are_not_downloaded_again(
    server: ArchiveServer, tmp_path: Path
) -> None:
    server.serve(PATH, ARCHIVE)
    for _ in range(2):
        assert run_here(server, tmp_path, "--clear_archives_after_unpacking") == 0
        assert not archive_file(tmp_path).parent.exists()
        assert_holds(tmp_path, "coinrun", COINRUN)
        assert server.sent(PATH) == HEAD_BYTES + len(ARCHIVE)


def test_a_kept_archive_can_be_cleared_later(server: ArchiveServer, tmp_path: Path) -> None:
    server.serve(PATH, ARCHIVE)
    assert run_here(server, tmp_path) == 0
    assert run_here(server, tmp_path, "--clear_archives_after_unpacking") == 0
    assert not archive_file(tmp_path).exists()
    assert server.sent(PATH) == HEAD_BYTES + len(ARCHIVE)


def test_a_lost_store_is_packed_from_the_archive_that_is_there(
    server: ArchiveServer, tmp_path: Path
) -> None:
    server.serve(PATH, ARCHIVE)
    assert run_here(server, tmp_path) == 0
    frames = tmp_path / CATEGORY / "coinrun" / "packed" / "frames.npy"
    os.truncate(frames, 1_000)
    assert run_here(server, tmp_path) == 0
    assert_holds(tmp_path, "coinrun", COINRUN)
    assert server.sent(PATH) == HEAD_BYTES + len(ARCHIVE)


def test_the_other_format_comes_from_the_archive_once_the_store_is_gone(
    server: ArchiveServer, tmp_path: Path
) -> None:
    server.serve(PATH, ARCHIVE)
    assert run_here(server, tmp_path) == 0
    shutil.rmtree(tmp_path / CATEGORY / "coinrun" / "packed")
    assert run_here(server, tmp_path, "--format=episodes") == 0
    assert len(list_episode_files(tmp_path / CATEGORY / "coinrun")) == len(COINRUN)
    assert server.sent(PATH) == HEAD_BYTES + len(ARCHIVE)


def test_a_damaged_episode_file_is_written_again_from_the_archive(
    server: ArchiveServer, tmp_path: Path
) -> None:
    server.serve(PATH, ARCHIVE)
    assert run_here(server, tmp_path, "--format=episodes") == 0
    os.truncate(list_episode_files(tmp_path / CATEGORY / "coinrun")[1], 1_000)
    assert run_here(server, tmp_path, "--format=episodes") == 0
    assert_holds(tmp_path, "coinrun", COINRUN)
    assert server.sent(PATH) == HEAD_BYTES + len(ARCHIVE)


def test_more_games_are_added_to_those_that_are_there(
    server: ArchiveServer, tmp_path: Path
) -> None:
    server.serve(PATH, ARCHIVE)
    server.serve("1M/expert/maze.tar.xz", released_archive({"maze": MAZE}))
    assert run_here(server, tmp_path) == 0
    assert run_here(server, tmp_path, games="coinrun maze") == 0
    assert_holds(tmp_path, "maze", MAZE)
    assert server.sent(PATH) == HEAD_BYTES + len(ARCHIVE)


@pytest.mark.parametrize("form", ["packed", "episodes"])
def test_the_record_remembers_games_that_came_one_after_the_other(
    server: ArchiveServer, tmp_path: Path, form: str
) -> None:
    both = released_archive({"coinrun": COINRUN, "maze": MAZE}, PLAIN)
    server.serve("100k_procgen_dataset_40.tar", both, content_type="application/x-tar")
    flags = ("--category_name=level_40_E", f"--format={form}", "--clear_archives_after_unpacking")
    asked = []
    for games in ("coinrun", "maze", "coinrun", "coinrun maze"):
        assert run_here(server, tmp_path, *flags, games=games) == 0
        asked.append(len(server.requests))
        server.requests.clear()
    assert asked == [2, 2, 0, 0]
    assert_holds(tmp_path, "coinrun", COINRUN, "level_40_E")
    assert_holds(tmp_path, "maze", MAZE, "level_40_E")


@pytest.mark.parametrize("form", ["packed", "episodes"])
def test_downloading_again_starts_over_and_mixes_nothing(
    server: ArchiveServer, tmp_path: Path, form: str
) -> None:
    server.serve(PATH, ARCHIVE)
    assert run_here(server, tmp_path, f"--format={form}") == 0
    for episodes in (COINRUN[::-1], COINRUN[:2]):
        server.serve(PATH, released_archive({"coinrun": episodes}))
        again = (f"--format={form}", "--redownload_existing_archives")
        assert run_here(server, tmp_path, *again) == 0
        assert_holds(tmp_path, "coinrun", episodes)
