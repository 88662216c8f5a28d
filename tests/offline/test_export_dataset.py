from __future__ import annotations

import dataclasses
import json
import signal
from collections.abc import Sequence
from pathlib import Path

import minari
import numpy as np
import pytest

from common.episodes import Episode, list_episode_files, read_episode
from common.errors import ToolkitError
from offline.data.exporting import new_folder, selected_episodes, write_episodes
from offline.data.minari_format import inspect_minari, read_minari
from offline.data.packing import open_game
from offline.data.store import PackedStore, select_episodes
from offline.export_dataset import main
from tests.command_runs import run_python
from tests.data_fixtures import make_episode, raw_arrays, save_npz, write_game
from tests.offline_commands import GAME, end, error_line, flags, lines, run, start, wait_for

EXPORT = "offline.export_dataset"
MINARI_ID = f"procgen/{GAME}-v0"
EPISODES = [
    make_episode(1, [0.0, 1.0, 10.0], level_seed=5),
    make_episode(2, [2.5], level_seed=6),
    make_episode(3, [0.0, -1.5], level_seed=5, terminated=False),
]


def arguments(to: str, out: Path, *datasets: Path) -> list[str]:
    """The command's flags; packed stores stay beside `out`, so that datasets may be shared."""
    settings = {"to": to, "out": out, "env_name": GAME, "pack_dir": out.parent / "packs"}
    return [*flags(settings), *(f"--dataset={dataset}" for dataset in datasets)]


def export(to: str, out: Path, *datasets: Path, more: Sequence[str] = ()) -> None:
    """Run the command in this process; it must succeed."""
    assert main([*arguments(to, out, *datasets), *more]) == 0


def refusal(argv: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code and the error of a command that must fail."""
    capsys.readouterr()
    code = main(argv)
    last = lines(capsys.readouterr().err)[-1]
    assert last.startswith("error: "), last
    return code, last.removeprefix("error: ")


def packed(dataset: Path, out: Path) -> PackedStore:
    return open_game(dataset, GAME, out / "packs", progress=False)


def own_frames(store: PackedStore) -> list[Episode]:
    """The episodes of a store, their last frame standing once more behind the last step."""
    return [
        Episode(
            store.frames[
                [*range(r["start"], r["start"] + r["length"]), r["start"] + r["length"] - 1]
            ],
            *(
                getattr(store, name)[r["start"] : r["start"] + r["length"]]
                for name in ("actions", "rewards", "dones")
            ),
            level_seed=int(r["level_seed"]),
        )
        for r in store.episodes
    ]


def assert_same_episodes(mine: Sequence[Episode], theirs: Sequence[Episode]) -> None:
    for one, other in zip(mine, theirs, strict=True):
        for field in dataclasses.fields(Episode):
            np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))


def assert_same_store(mine: PackedStore, theirs: PackedStore) -> None:
    for name in ("frames", "actions", "rewards", "dones", "episodes"):
        np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
    assert mine.manifest["procgen"] == theirs.manifest["procgen"]


def without_end(episode: Episode) -> Episode:
    """The episode as a store gives it back: it does not know the frame after the last step."""
    frames = episode.observations[:-1]
    return dataclasses.replace(episode, observations=np.concatenate([frames, frames[-1:]]))


def minari_episodes(out: Path, dataset_id: str = MINARI_ID) -> tuple[list[str], list[Episode]]:
    names, episodes = zip(*read_minari(out / dataset_id), strict=True)
    return list(names), list(episodes)


def test_real_episodes_exported_as_files_pack_into_an_equal_store(
    tmp_path: Path, dataset: Path
) -> None:
    process = run(EXPORT, *arguments("episodes", tmp_path / "out", dataset))
    assert process.returncode == 0, process.stderr
    assert_same_store(packed(tmp_path / "out", tmp_path), packed(dataset, tmp_path))


def test_real_frames_come_out_of_minari_as_they_went_in(
    tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export("minari", tmp_path / "out", dataset)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "out"))
    assert list(minari.list_local_datasets()) == [MINARI_ID]
    loaded = minari.load_dataset(MINARI_ID)
    expected = own_frames(packed(dataset, tmp_path))
    assert loaded.total_steps == sum(episode.length for episode in expected)
    facts = loaded.storage.get_episode_metadata(range(len(expected)))
    for data, fact, episode in zip(loaded, facts, expected, strict=True):
        frames = episode.observations.transpose(0, 3, 1, 2)
        assert loaded.observation_space.contains(data.observations[0])
        np.testing.assert_array_equal(data.observations, frames)
        np.testing.assert_array_equal(data.actions, episode.actions)
        np.testing.assert_array_equal(data.rewards, episode.rewards)
        np.testing.assert_array_equal(data.terminations, episode.dones)
        assert not data.truncations.any()
        assert data.infos["level_seed"].tolist() == [episode.level_seed] * (episode.length + 1)
        assert (fact["seed"], fact["return"]) == (episode.level_seed, episode.episode_return)


def test_a_minari_dataset_is_read_as_it_was_written(tmp_path: Path, dataset: Path) -> None:
    export("minari", tmp_path / "out", dataset)
    store = packed(dataset, tmp_path)
    names, episodes = minari_episodes(tmp_path / "out")
    assert_same_episodes(episodes, own_frames(store))
    assert [f"{name}.npz".encode() for name in names] == store.episodes["source"].tolist()


def test_a_minari_dataset_packs_into_an_equal_store(tmp_path: Path, dataset: Path) -> None:
    export("minari", tmp_path / "out", dataset)
    for _ in range(2):
        process = run("offline.pack", str(tmp_path / "out" / MINARI_ID), str(tmp_path / "again"))
        assert process.returncode == 0, process.stderr
    again, original = packed(tmp_path / "again", tmp_path), packed(dataset, tmp_path)
    names = [f"{source.decode()}.npz".encode() for source in again.episodes["source"]]
    assert names == original.episodes["source"].tolist()
    fields = [name for name in again.episodes.dtype.names if name != "source"]
    np.testing.assert_array_equal(again.episodes[fields], original.episodes[fields])
    for name in ("frames", "actions", "rewards", "dones"):
        np.testing.assert_array_equal(getattr(again, name), getattr(original, name))
    assert again.manifest["procgen"] == original.manifest["procgen"]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A dataset of three made episodes; the last one was cut off."""
    write_game(tmp_path / "small" / GAME, EPISODES)
    return tmp_path / "small"


def test_an_episode_that_was_cut_off_stays_so_in_files(tmp_path: Path, small: Path) -> None:
    export("episodes", tmp_path / "out", small)
    files = list_episode_files(tmp_path / "out" / GAME)
    assert_same_episodes([read_episode(file) for file in files], [*map(without_end, EPISODES)])


def test_an_episode_that_was_cut_off_is_truncated_in_minari(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export("minari", tmp_path / "out", small)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "out"))
    ends = [
        (d.terminations.tolist(), d.truncations.tolist()) for d in minari.load_dataset(MINARI_ID)
    ]
    assert ends == [
        ([False, False, True], [False, False, False]),
        ([True], [False]),
        ([False, False], [False, True]),
    ]
    assert_same_episodes(minari_episodes(tmp_path / "out")[1], [*map(without_end, EPISODES)])


def test_datasets_whose_names_collide_are_exported_one_after_the_other(
    tmp_path: Path, small: Path
) -> None:
    others = [make_episode(4, [1.0], level_seed=7), make_episode(5, [3.0], level_seed=-1)]
    write_game(tmp_path / "others" / GAME, others)
    both = [*map(without_end, EPISODES + others)]
    datasets = (small, tmp_path / "others")
    export("episodes", tmp_path / "files", *datasets)
    files = list_episode_files(tmp_path / "files" / GAME)
    assert_same_episodes([read_episode(file) for file in files], both)
    export("minari", tmp_path / "minari", *datasets)
    names, episodes = minari_episodes(tmp_path / "minari")
    assert_same_episodes(episodes, both)
    assert [name.split("_")[1] for name in names] == ["0", "1", "2", "3", "4"]


def test_several_seeds_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = refusal([*arguments("episodes", tmp_path), "--num_seeds=3"], capsys)
    assert code == 2
    assert line.startswith("unknown flag --num_seeds")


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (["--levels=6"], [1]),
        (["--dataset_size=3"], [0]),
        (["--dataset_size=1", "--episode_order=best"], [0]),
        (["--percentile=0.7"], [0, 1]),
        (["--dataset_size=4"], [0, 1]),
    ],
)
def test_only_the_chosen_episodes_are_exported(
    tmp_path: Path, small: Path, chosen: list[str], expected: list[int]
) -> None:
    export("episodes", tmp_path / "out", small, more=chosen)
    files = list_episode_files(tmp_path / "out" / GAME)
    assert [int(file.name.split("_")[1]) for file in files] == expected


def test_bad_episodes_are_left_out_when_asked(
    tmp_path: Path, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (small / GAME / "broken.npz").write_bytes(b"PK")
    code, error = refusal(arguments("minari", tmp_path / "out", small), capsys)
    assert (code, "broken.npz" in error) == (1, True)
    export("minari", tmp_path / "out", small, more=["--skip_bad_episodes"])
    assert inspect_minari(tmp_path / "out" / MINARI_ID).episodes == 3


def test_files_outside_the_grammar_get_names_that_sort_last(tmp_path: Path, small: Path) -> None:
    stranger = make_episode(9, [4.0])
    save_npz(small / GAME / "a stranger.npz", **raw_arrays(stranger))
    export("episodes", tmp_path / "out", small)
    files = list_episode_files(tmp_path / "out" / GAME)
    before = list_episode_files(small / GAME)
    assert [file.name for file in files[:3]] == [file.name for file in before[:3]]
    assert read_episode(files[3]).level_seed == -1
    np.testing.assert_array_equal(
        read_episode(files[3]).observations[:-1], stranger.observations[:-1]
    )


BUILD = {"build": {"package": "procgen", "version": "0.10.7"}}


def test_the_procgen_build_goes_along(tmp_path: Path, small: Path) -> None:
    (small / GAME / "build.json").write_text(json.dumps(BUILD))
    export("episodes", tmp_path / "files", small)
    assert json.loads((tmp_path / "files" / GAME / "build.json").read_text()) == BUILD
    export("minari", tmp_path / "minari", small)
    facts = inspect_minari(tmp_path / "minari" / MINARI_ID)
    assert (facts.env_name, facts.procgen) == (GAME, BUILD)


def test_of_two_notes_on_one_build_the_fuller_goes_along(tmp_path: Path, small: Path) -> None:
    fuller = {**BUILD, "distribution_mode": "easy"}  # which older versions did not note
    write_game(tmp_path / "other" / GAME, EPISODES)
    (small / GAME / "build.json").write_text(json.dumps(BUILD))
    (tmp_path / "other" / GAME / "build.json").write_text(json.dumps(fuller))
    export("episodes", tmp_path / "out", small, tmp_path / "other")
    assert json.loads((tmp_path / "out" / GAME / "build.json").read_text()) == fuller


def test_two_procgen_builds_are_warned_about_and_not_noted(
    tmp_path: Path, small: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_game(tmp_path / "other" / GAME, EPISODES)
    (small / GAME / "build.json").write_text(json.dumps(BUILD))
    export("episodes", tmp_path / "out", small, tmp_path / "other")
    assert "different Procgen builds" in caplog.text
    assert not (tmp_path / "out" / GAME / "build.json").exists()


def test_episodes_are_made_one_at_a_time(tmp_path: Path, small: Path) -> None:
    store = packed(small, tmp_path)
    episodes = selected_episodes(select_episodes([store]))
    name, first = next(episodes)
    assert name.split("_")[1:] == ["0", "3", "5", "11.00"]
    assert_same_episodes([first], [without_end(EPISODES[0])])


# What stops an export


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(("to", "place"), [("episodes", GAME), ("minari", MINARI_ID)])
def test_what_is_there_already_is_not_replaced(
    tmp_path: Path, small: Path, to: str, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (out / place).mkdir(parents=True)
    (out / place / "mine.txt").write_text("precious")
    code, error = refusal(arguments(to, out, small), capsys)
    assert code == 2
    assert f"{out / place} exists already" in error
    assert contents(out) == {f"{place}/mine.txt": b"precious"}


@pytest.mark.parametrize("to", ["episodes", "minari"])
def test_a_place_that_cannot_be_written_is_named(
    tmp_path: Path, small: Path, to: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    out = tmp_path / "file" / "out"
    code, error = refusal([*arguments(to, out, small), f"--pack_dir={tmp_path}"], capsys)
    assert code == 1
    assert f"cannot write {out}" in error
    assert (tmp_path / "file").read_text() == "no folder"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--to=minary", "--out=out"], "--to minary: choose one of minari, episodes. Did you mean"),
        (["--out=out"], "--to is needed"),
        (["--to=minari"], "--out is needed"),
        (["--to=minari", "--out=out", "--dataset_id=../../etc-v0"], "--dataset_id ../../etc-v0"),
        (["--to=minari", "--out=out", "--dataset_id=coinrun"], "--dataset_id coinrun: expected"),
        (["--to=episodes", "--out=out", "--dataset_id=a-v0"], "--dataset_id belongs to"),
        (["--to=minari", "--out=out", "--data_device=ram"], "unknown flag --data_device"),
        (["--to=minari", "--out=out", "--dataset=nowhere"], "nowhere does not exist"),
    ],
)
def test_wrong_flags_are_refused(
    given: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, error = refusal(given, capsys)
    assert code == 2
    assert expected in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["minari", "h5py"])
def test_without_minari_it_says_what_to_install(tmp_path: Path, small: Path, package: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from offline.export_dataset import main; sys.exit(main())"
    )
    process = run_python("-c", code, *arguments("minari", tmp_path / "out", small))
    assert process.returncode == 1
    assert "pip install 'minari[hdf5]'" in error_line(process)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["episodes", "minari"])
@pytest.mark.parametrize("limit", [3_000, 100_000])
def test_a_full_disk_leaves_nothing_that_looks_whole(
    tmp_path: Path, dataset: Path, to: str, limit: int
) -> None:
    out = tmp_path / "out"
    packed(dataset, tmp_path)  # so that only the export meets the limit
    process = run(EXPORT, *arguments(to, out, dataset), file_size_limit=limit)
    assert process.returncode == 1
    error = error_line(process)
    assert error.startswith("cannot write")
    assert "File too large" in error
    assert contents(out) == {}
    export(to, out, dataset)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_export_leaves_nothing(tmp_path: Path, dataset: Path, number: int) -> None:
    packed(dataset, tmp_path)
    process = start(EXPORT, *arguments("episodes", tmp_path / "out", *[dataset] * 10))
    wait_for(process, "exporting")
    process.send_signal(number)
    assert end(process) == 128 + number
    assert contents(tmp_path / "out") == {}


def test_an_export_that_was_killed_is_cleared_away_by_the_next(
    tmp_path: Path, dataset: Path
) -> None:
    packed(dataset, tmp_path)
    process = start(EXPORT, *arguments("minari", tmp_path / "out", *[dataset] * 10))
    wait_for(process, "exporting")
    process.send_signal(signal.SIGKILL)
    end(process)
    out = tmp_path / "out"
    assert not (out / MINARI_ID).exists()
    left = [path.name for path in (out / MINARI_ID).parent.iterdir()]
    assert left == [f".{GAME}-v0.partial"]
    export("minari", out, dataset)
    assert [path.name for path in (out / MINARI_ID).parent.iterdir()] == [f"{GAME}-v0"]
    assert_same_episodes(minari_episodes(out)[1], own_frames(packed(dataset, tmp_path)))


def test_two_processes_do_not_write_the_same_export(
    tmp_path: Path, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with new_folder(tmp_path / "out" / GAME) as mine:
        code, error = refusal(arguments("episodes", tmp_path / "out", small), capsys)
        assert code == 1
        assert "another process is writing" in error
        write_episodes(mine, [("20230329T092246_0_3_5_11.00", EPISODES[0])], None)
    assert len(list_episode_files(tmp_path / "out" / GAME)) == 1


def test_an_error_inside_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match="no more"), new_folder(tmp_path / "new") as folder:
        (folder / "file").touch()
        raise ToolkitError("no more")
    assert list(tmp_path.iterdir()) == []
