"""Files that are no episode, or would do more than hold one, are refused by name."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.episodes import EpisodeError, read_episode
from tests.data_fixtures import make_episode, raw_arrays, save_npy, save_npz, save_pickle

EPISODE = make_episode(7, [0.0, 2.5, -1.0], level_seed=45)


def refusal(path: Path) -> str:
    with pytest.raises(EpisodeError) as caught:
        read_episode(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


class _Shell:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("save", [save_npy, save_pickle])
def test_a_pickle_that_runs_a_command_is_refused_and_not_run(tmp_path: Path, save: Any) -> None:
    victim = tmp_path / "victim"
    path = save(tmp_path / "a.npy", {**raw_arrays(EPISODE), "dones": _Shell(f"touch {victim}")})
    assert "system" in refusal(path)
    assert not victim.exists()


def test_a_pickle_that_names_a_builtin_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"cbuiltins\neval\n(S'1+1'\ntR.")
    assert "builtins.eval" in refusal(tmp_path / "a.npy")


@pytest.mark.parametrize("opcode", [b"(cnumpy\ndtype\no.", b"(inumpy\ndtype\n.", b"Pid\n."])
def test_a_pickle_with_an_opcode_that_plain_values_do_not_need_is_refused(
    tmp_path: Path, opcode: bytes
) -> None:
    (tmp_path / "a.npy").write_bytes(opcode)
    assert "opcode" in refusal(tmp_path / "a.npy")


def test_an_array_of_objects_inside_a_pickle_is_refused(tmp_path: Path) -> None:
    arrays = raw_arrays(EPISODE)
    arrays["actions"] = arrays["actions"].astype(object)
    assert "Python objects" in refusal(save_npy(tmp_path / "a.npy", arrays))


def test_an_array_type_with_hidden_objects_is_refused(tmp_path: Path) -> None:
    arrays = {**raw_arrays(EPISODE), "actions": np.zeros(3, [("a", "O")])}
    assert "refused pickle" in refusal(save_pickle(tmp_path / "a.npy", arrays))


def test_an_archive_with_an_array_of_objects_is_refused(tmp_path: Path) -> None:
    arrays = {**raw_arrays(EPISODE), "actions": np.array([{}, {}, {}], object)}
    assert "actions is an array of object" in refusal(save_npz(tmp_path / "a.npz", **arrays))


def test_a_pickle_that_claims_a_terabyte_is_refused(tmp_path: Path) -> None:
    claim = (10**12).to_bytes(8, "little")
    (tmp_path / "a.npy").write_bytes(b"\x80\x04\x8e" + claim + b"abc.")
    assert "longer than the file" in refusal(tmp_path / "a.npy")


def test_a_pickled_array_that_claims_a_terabyte_is_refused(tmp_path: Path) -> None:
    arrays = {**raw_arrays(EPISODE), "observations": np.zeros((4, 3), np.uint8)}
    data = pickle.dumps(arrays, protocol=0)
    assert data.count(b"I4\nI3\n") == 1
    (tmp_path / "a.npy").write_bytes(data.replace(b"I4\nI3\n", b"I1000000\nI1000000\n"))
    assert "12 bytes that claims shape (1000000, 1000000)" in refusal(tmp_path / "a.npy")


def test_an_archive_whose_header_claims_a_terabyte_is_refused(tmp_path: Path) -> None:
    arrays = raw_arrays(EPISODE)
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for key, array in arrays.items():
            member = io.BytesIO()
            np.save(member, array)
            content = member.getvalue()
            if key == "actions":
                shape = b"(125000000000, 1), }"  # of int64: 1 TB
                content = content.replace(b"(3, 1), }".ljust(len(shape)), shape)
                assert shape in content
            archive.writestr(f"{key}.npy", content)
    assert "1000000000000 bytes" in refusal(path)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").touch()
    assert "empty file" in refusal(tmp_path / "a.npz")


@pytest.mark.parametrize("save", [save_npz, save_npy, save_pickle])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, save: Any, share: float) -> None:
    arrays = raw_arrays(EPISODE)
    path = tmp_path / "a.npz"
    if save is save_npz:
        save_npz(path, **arrays)
    else:
        save(path, arrays)
    os.truncate(path, int(path.stat().st_size * share))
    refusal(path)


@pytest.mark.parametrize("save", [save_npz, save_npy])
def test_a_damaged_file_is_refused_or_read_but_never_crashes_the_reader(
    tmp_path: Path, save: Any
) -> None:
    arrays = raw_arrays(make_episode(3, [1.0]))
    path = tmp_path / "a.npz"
    if save is save_npz:
        save_npz(path, **arrays)
    else:
        save(path, arrays)
    healthy = path.read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(healthy)
        spots = generator.integers(0, min(len(healthy), 700), 3)
        if generator.random() < 0.5:
            spots = len(healthy) - 1 - spots
        for spot in spots:
            damaged[spot] = generator.integers(0, 256)
        path.write_bytes(damaged)
        try:
            read_episode(path)
        except EpisodeError as error:
            assert "\n" not in str(error)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_text("<html>404 not found</html>")
    refusal(tmp_path / "a.npz")


def test_a_bare_array_is_refused(tmp_path: Path) -> None:
    assert "bare int64 array" in refusal(save_npy(tmp_path / "a.npy", np.arange(3)))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "a.npz")


def test_missing_keys_are_named(tmp_path: Path) -> None:
    arrays = raw_arrays(EPISODE)
    del arrays["rewards"]
    assert "lacks rewards" in refusal(save_npz(tmp_path / "a.npz", **arrays))
    assert "lacks rewards" in refusal(save_npy(tmp_path / "b.npy", arrays))


BAD_VALUES: dict[str, tuple[str, Any, str]] = {
    "frames in height x width x channel": ("observations", EPISODE.observations, "(4, 64, 64, 3)"),
    "one frame too few": ("observations", np.zeros((3, 3, 64, 64), np.uint8), "(3, 3, 64, 64)"),
    "a pixel of 256": ("observations", np.full((4, 3, 64, 64), 256, np.int16), "256"),
    "a negative pixel": ("observations", np.full((4, 3, 64, 64), -1.0, np.float32), "-1.0"),
    "a pixel scaled to 0.5": ("observations", np.full((4, 3, 64, 64), 0.5, np.float32), "0.5"),
    "a NaN pixel": ("observations", np.full((4, 3, 64, 64), np.nan, np.float32), "nan"),
    "text for frames": ("observations", np.full((4, 3, 64, 64), "a"), "<U1"),
    "an action of 15": ("actions", np.array([[0], [15], [0]]), "15 at step 1"),
    "a negative action": ("actions", np.array([[0], [0], [-1]]), "-1 at step 2"),
    "half an action": ("actions", np.array([0.0, 0.5, 1.0]), "0.5 at step 1"),
    "two actions per step": ("actions", np.zeros((3, 2), np.int64), "(3, 2)"),
    "a NaN reward": ("rewards", np.array([0.0, np.nan, 0.0]), "nan at step 1"),
    "a reward beyond float32": ("rewards", np.array([0.0, 1e300, 0.0]), "1e+300 at step 1"),
    "one reward too few": ("rewards", np.zeros((2, 1), np.float32), "(2, 1)"),
    "dones of 2": ("dones", np.array([0, 0, 2]), "2 at step 2"),
    "a done before the last step": ("dones", np.array([0, 1, 1]), "step 1"),
    "one done too many": ("dones", np.zeros((4, 1), bool), "(4, 1)"),
}


@pytest.mark.parametrize("case", BAD_VALUES)
def test_impossible_contents_are_refused_with_the_value(tmp_path: Path, case: str) -> None:
    key, value, expected = BAD_VALUES[case]
    path = save_npz(tmp_path / "a.npz", **{**raw_arrays(EPISODE), key: value})
    message = refusal(path)
    assert key.removesuffix("s") in message
    assert expected in message


def test_an_episode_without_steps_is_refused(tmp_path: Path) -> None:
    arrays = {key: array[:1] for key, array in raw_arrays(EPISODE).items()}
    for key in ("actions", "rewards", "dones"):
        arrays[key] = arrays[key][:0]
    assert "no steps" in refusal(save_npz(tmp_path / "a.npz", **arrays))
    assert "no steps" in refusal(save_npy(tmp_path / "b.npy", arrays))


def test_a_name_that_says_another_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "20230329T092246_0_4_45_1.50.npz"
    assert "4 steps, it holds 3" in refusal(save_npz(path, **raw_arrays(EPISODE)))
