"""What an archive's stores hold, whose the episodes are, and what is done about bad ones."""

from __future__ import annotations

import json
import logging
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.episodes import Episode, EpisodeError, parse_name
from common.errors import ToolkitError, UsageError
from offline.data.packing import open_game
from offline.data.store import PackedStore, select_episodes
from offline.data.unpacking import extract_archive, pack_archive
from tests.data_fixtures import make_episode, raw_arrays, save_npy, save_npz, write_game
from tests.released_archives import PLAIN, archive_of, released_archive, released_members

MINER = [
    make_episode(1, [0.0, 1.0, 10.0], level_seed=5),
    make_episode(2, [2.5], level_seed=6),
    make_episode(3, [0.0, -1.5], level_seed=5, terminated=False),
]
COINRUN = [make_episode(4, [0.0, 10.0], level_seed=7)]
BAD = "miner/20230329T092246_9_3_5_1.00.npy"
Unpack = Callable[[Path, Path], list[str]]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A place for an archive whose name is no game."""
    return tmp_path / "data.tar.xz"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tmp_path / "dataset"


def pack(archive: Path, dataset: Path, **options: Any) -> list[str]:
    return pack_archive(archive, dataset, identity="1", **options)


def opened(dataset: Path, game: str) -> PackedStore:
    """As training opens it; no episode files are there."""
    return open_game(dataset, game, progress=False)


def folder_store(folder: Path, game: str, episodes: Sequence[Episode]) -> PackedStore:
    """The store of the same episodes as files in a folder."""
    write_game(folder / game, episodes)
    return open_game(folder, game, progress=False)


def assert_same_arrays(store: PackedStore, expected: PackedStore) -> None:
    """All is the same, but for the extensions of the files' names."""
    for name in ("frames", "actions", "rewards", "dones"):
        np.testing.assert_array_equal(getattr(store, name), getattr(expected, name))
        assert getattr(store, name).dtype == getattr(expected, name).dtype
    for field in ("start", "length", "level_seed", "return", "terminated"):
        np.testing.assert_array_equal(store.episodes[field], expected.episodes[field])
    names, expected_names = (
        [parse_name(os.fsdecode(source)) for source in each.episodes["source"]]
        for each in (store, expected)
    )
    assert names == expected_names
    counts = ("game", "rows", "episodes", "skipped", "version")
    assert [store.manifest[key] for key in counts] == [expected.manifest[key] for key in counts]


def left_over(dataset: Path) -> list[str]:
    """Whatever lies in the games' folders besides the lock."""
    return sorted(path.name for path in dataset.glob("*/*") if path.name != ".packed.lock")


# What the stores hold


@pytest.mark.parametrize("mode", ["w", "w:xz", "w:gz"])
def test_a_store_is_the_one_that_the_same_episodes_make_as_files(
    archive: Path, dataset: Path, tmp_path: Path, mode: str
) -> None:
    archive.write_bytes(released_archive({"miner": MINER}, mode))
    assert pack(archive, dataset) == ["miner"]
    expected = folder_store(tmp_path / "files", "miner", MINER)
    assert_same_arrays(opened(dataset, "miner"), expected)
    for name in ("frames", "actions", "rewards", "dones"):
        file, twin = (store / f"{name}.npy" for store in (dataset / "miner/packed", expected.path))
        assert file.read_bytes() == twin.read_bytes()
    assert left_over(dataset) == ["packed"]


def test_every_format_of_an_episode_is_read(archive: Path, dataset: Path, tmp_path: Path) -> None:
    names = [Path(path).stem for path in released_members({"miner": MINER})]
    arrays = [raw_arrays(episode) for episode in MINER]
    members = {
        f"miner/{names[0]}.npz": save_npz(tmp_path / "0", **arrays[0]).read_bytes(),
        f"miner/{names[1]}.npy": save_npy(tmp_path / "1", arrays[1]).read_bytes(),
        f"miner/{names[2]}": pickle.dumps(arrays[2]),
    }
    archive.write_bytes(archive_of(members))
    pack(archive, dataset)
    assert_same_arrays(opened(dataset, "miner"), folder_store(tmp_path / "files", "miner", MINER))


def test_recorded_order_is_that_of_the_names_whatever_that_of_the_archive(
    archive: Path, dataset: Path
) -> None:
    members = released_members({"miner": MINER})
    archive.write_bytes(archive_of(dict(reversed(members.items()))))
    pack(archive, dataset)
    store = opened(dataset, "miner")
    assert store.episodes["length"].tolist() == [episode.length for episode in MINER[::-1]]
    first = select_episodes([store], dataset_size=1, episode_order="recorded").episodes
    assert first["length"].tolist() == [MINER[0].length]
    assert first["level_seed"].tolist() == [MINER[0].level_seed]


def test_episodes_stand_in_the_order_of_the_archive(archive: Path, dataset: Path) -> None:
    members = released_members({"miner": MINER})
    archive.write_bytes(archive_of(dict(reversed(members.items()))))
    pack(archive, dataset)
    assert opened(dataset, "miner").episodes["length"].tolist() == [2, 1, 3]


def test_two_games_in_one_archive_go_to_a_folder_each(
    archive: Path, dataset: Path, tmp_path: Path
) -> None:
    miner, coinrun = (
        list(released_members({game: episodes}).items())
        for game, episodes in (("miner", MINER), ("coinrun", COINRUN))
    )
    archive.write_bytes(archive_of(dict([miner[0], coinrun[0], *miner[1:]]), PLAIN))
    assert pack(archive, dataset) == ["coinrun", "miner"]
    for game, episodes in (("miner", MINER), ("coinrun", COINRUN)):
        assert_same_arrays(opened(dataset, game), folder_store(tmp_path / "files", game, episodes))


def test_archives_inside_an_archive_go_to_a_folder_each(archive: Path, dataset: Path) -> None:
    inner = {
        "level/miner.tar.xz": archive_of(
            {Path(path).name: data for path, data in released_members({"miner": MINER}).items()}
        ),
        "level/coinrun.tar.xz": released_archive({"coinrun": COINRUN}),
    }
    archive.write_bytes(archive_of(inner, PLAIN))
    assert pack(archive, dataset) == ["coinrun", "miner"]
    assert opened(dataset, "miner").num_rows == 6
    assert opened(dataset, "coinrun").num_rows == 2


def test_the_procgen_build_in_an_archive_is_kept(archive: Path, dataset: Path) -> None:
    build = {"build": {"package": "procgen"}, "fingerprint": "abc"}
    members = {**released_members({"miner": MINER}), "miner/build.json": json.dumps(build).encode()}
    archive.write_bytes(archive_of(members))
    pack(archive, dataset)
    assert opened(dataset, "miner").manifest["procgen"] == build


@pytest.mark.parametrize(
    "data",
    [b"{", b"[]", b"[" * 100_000, b'"' + b"x" * 2**21 + b'"', b"\xff"],
    ids=["broken", "no object", "deep", "long", "no text"],
)
def test_a_broken_note_of_the_build_is_refused_in_one_line(
    archive: Path, dataset: Path, data: bytes
) -> None:
    archive.write_bytes(archive_of({"miner/build.json": data}))
    with pytest.raises(ToolkitError, match=r"^miner/build\.json .*: repair or delete it$"):
        pack(archive, dataset)


# Whose the episodes are


def flat(episodes: Sequence[Episode]) -> bytes:
    """An archive without folders."""
    members = released_members({"miner": episodes})
    return archive_of({Path(path).name: data for path, data in members.items()})


@pytest.mark.parametrize(
    ("name", "game", "expected"),
    [
        ("miner.tar.xz", None, "miner"),
        ("data.tar.xz", "coinrun", "coinrun"),
        ("miner.tar.xz", "coinrun", "coinrun"),
        ("chaser.tar.xz.part", None, "chaser"),
    ],
)
def test_episodes_without_a_folder_are_of_the_game_that_is_told_or_the_archives(
    tmp_path: Path, dataset: Path, name: str, game: str | None, expected: str
) -> None:
    (tmp_path / name).write_bytes(flat(MINER))
    assert pack(tmp_path / name, dataset, game=game) == [expected]


@pytest.mark.parametrize("folder", ["miner", "coinrun/miner", "miner/expert", "./miner/level_1"])
def test_the_last_folder_that_is_called_like_a_game_counts(
    archive: Path, dataset: Path, folder: str
) -> None:
    ((path, data),) = released_members({"miner": COINRUN}).items()
    archive.write_bytes(archive_of({f"{folder}/{Path(path).name}": data}))
    assert pack(archive, dataset, game="coinrun") == ["miner"]


@pytest.mark.parametrize("unpack", [pack, extract_archive])
def test_a_game_that_cannot_be_told_asks_for_env_name(
    archive: Path, dataset: Path, unpack: Unpack
) -> None:
    archive.write_bytes(flat(MINER))
    with pytest.raises(UsageError, match="give --env_name") as caught:
        unpack(archive, dataset)
    assert str(archive) in str(caught.value)
    assert not dataset.exists()


# What is no episode, and what is a bad one


def test_members_that_are_no_episodes_are_skipped_counted_and_named(
    archive: Path, dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    strangers = {f"miner/stranger {i}.txt": b"?" for i in range(6)} | {"miner/notes.npy": b"?"}
    archive.write_bytes(archive_of({**strangers, **released_members({"miner": MINER})}))
    pack(archive, dataset)
    store = opened(dataset, "miner")
    assert (len(store.episodes), store.manifest["skipped"]) == (3, [])
    ((_, level, message),) = caplog.record_tuples
    assert level == logging.WARNING
    assert "skipped 7 members that are no episodes: " in message
    assert "miner/stranger 0.txt, miner/stranger 1.txt" in message
    assert message.endswith(", ...")


@pytest.mark.parametrize("unpack", [pack, extract_archive])
def test_an_archive_without_an_episode_is_refused(
    archive: Path, dataset: Path, unpack: Unpack
) -> None:
    archive.write_bytes(archive_of({"miner/readme.txt": b"?", "miner/notes.txt": b""}))
    with pytest.raises(ToolkitError, match=f"{archive}: holds no episode"):
        unpack(archive, dataset)


def test_a_bad_episode_is_refused_by_name_and_nothing_is_left(archive: Path, dataset: Path) -> None:
    archive.write_bytes(archive_of({**released_members({"miner": MINER}), BAD: b"?"}))
    with pytest.raises(EpisodeError, match=f"{archive}: {BAD}: "):
        pack(archive, dataset)
    assert left_over(dataset) == []


def test_a_bad_episode_is_skipped_and_noted_when_asked(
    archive: Path, dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    archive.write_bytes(archive_of({BAD: b"", **released_members({"miner": MINER})}))
    pack(archive, dataset, skip_bad_episodes=True)
    assert "skipped 1 of 4 episode files" in caplog.text
    with pytest.raises(EpisodeError, match=f"{Path(BAD).name}: empty file .*skip_bad_episodes"):
        opened(dataset, "miner")
    store = open_game(dataset, "miner", skip_bad_episodes=True)
    assert store.manifest["skipped"] == [{"file": Path(BAD).name, "reason": "empty file"}]
    assert len(store.episodes) == 3


def test_a_game_of_bad_episodes_only_costs_no_other_game(archive: Path, dataset: Path) -> None:
    good = released_members({"coinrun": COINRUN, "miner": MINER})
    archive.write_bytes(archive_of({BAD.replace("miner", "bigfish"): b"", **good}))
    with pytest.raises(ToolkitError, match="none of 1 episode files can be used"):
        pack(archive, dataset, skip_bad_episodes=True)
    assert left_over(dataset) == ["packed", "packed"]
    assert len(opened(dataset, "miner").episodes) == len(MINER)


def test_a_file_that_only_ends_like_an_episode_needs_no_game(
    archive: Path, dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    archive = archive.with_name("level_1.tar")
    archive.write_bytes(archive_of({"meta.npy": b"x", **released_members({"miner": MINER})}))
    assert pack(archive, dataset) == ["miner"]
    assert "skipped 1 members that are no episodes: meta.npy" in caplog.text


def test_an_archive_of_bad_episodes_only_is_refused(archive: Path, dataset: Path) -> None:
    archive.write_bytes(archive_of({BAD: b""}))
    with pytest.raises(ToolkitError, match="none of 1 episode files can be used"):
        pack(archive, dataset, skip_bad_episodes=True)
    assert left_over(dataset) == []


class Hostile:
    """Unpickled by `pickle.load`, it would leave a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("skip", [False, True])
def test_a_hostile_pickle_never_runs(
    archive: Path, dataset: Path, tmp_path: Path, skip: bool
) -> None:
    mark = tmp_path / "it ran"
    hostile = [
        pickle.dumps(Hostile(mark)),
        save_npy(tmp_path / "1", {"observations": Hostile(mark)}).read_bytes(),
    ]
    names = (BAD, BAD.replace("_9_", "_8_"))
    members = {**dict(zip(names, hostile, strict=True)), **released_members({"miner": MINER})}
    archive.write_bytes(archive_of(members))
    if skip:
        pack(archive, dataset, skip_bad_episodes=True)
        assert len(open_game(dataset, "miner", skip_bad_episodes=True).episodes) == 3
    else:
        with pytest.raises(EpisodeError, match="refused pickle"):
            pack(archive, dataset)
    extract_archive(archive, tmp_path / "files")
    assert not mark.exists()
