"""A checkpoint is written whole or not at all, and nothing in it is trusted when it is read."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from common import checkpoints
from common.errors import ToolkitError
from common.files import write_atomically
from tests.command_runs import ROOT

CONTENTS: dict[str, Any] = {
    "weights": {"layer.weight": torch.arange(600.0).reshape(20, 30)},
    "step": 7,
    "state": {"big": 2**100, "names": ["a", "b"], "rate": 0.1},
}


def refusal(path: Path, kind: str = "bc") -> str:
    with pytest.raises(ToolkitError) as caught:
        checkpoints.load(path, kind)
    message = str(caught.value)
    assert str(path) in message
    assert len(message.splitlines()) == 1
    return message


def saved(folder: Path) -> Path:
    path = folder / "model.pt"
    checkpoints.save(path, "bc", CONTENTS)
    return path


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    contents = checkpoints.load(saved(tmp_path), "bc")
    assert torch.equal(contents["weights"]["layer.weight"], CONTENTS["weights"]["layer.weight"])
    assert contents["step"] == 7
    assert contents["state"] == CONTENTS["state"]


def test_folders_are_made_and_nothing_else_is_left_beside_the_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "a" / "b")
    checkpoints.save(path, "bc", {"step": 8})
    assert os.listdir(path.parent) == ["model.pt"]
    assert checkpoints.load(path, "bc")["step"] == 8


# Writing that fails

FULL_DISK = """
import resource, sys, torch
from pathlib import Path
from common import checkpoints
from common.errors import ToolkitError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoints.save(Path(sys.argv[1]), "bc", {"weights": torch.zeros(1_000_000)})
except ToolkitError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_previous_checkpoint_and_no_rest(tmp_path: Path) -> None:
    path = saved(tmp_path)
    before = path.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"cannot write {path}: File too large\n"
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.pt"]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ToolkitError, match=r"cannot write .*/file/model.pt: (Not a d|File ex)"):
        write_atomically(tmp_path / "file" / "model.pt", b"x")


def test_a_replacement_that_fails_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "model.pt").mkdir()
    with pytest.raises(ToolkitError, match="cannot write"):
        write_atomically(tmp_path / "model.pt", b"x")
    assert os.listdir(tmp_path) == ["model.pt"]


# Files that are refused


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "no checkpoint at" in refusal(tmp_path / "model.pt")


@pytest.mark.parametrize("kept", [0, 10, 1000, -30])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: int) -> None:
    path = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    assert "no readable checkpoint" in refusal(path)


def test_garbage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"these are no weights" * 50)
    assert "no readable checkpoint" in refusal(path)


def test_a_single_wrong_bit_in_the_weights_is_noticed(tmp_path: Path) -> None:
    path = saved(tmp_path)
    contents = bytearray(path.read_bytes())
    number = torch.tensor(599.0).numpy().tobytes()
    contents[contents.index(number)] ^= 1
    path.write_bytes(contents)
    assert "does not match its checksum" in refusal(path)


def test_damage_anywhere_is_refused_or_harmless(tmp_path: Path) -> None:
    path = saved(tmp_path)
    original = path.read_bytes()
    for position in range(0, len(original), 31):
        path.write_bytes(
            original[:position] + bytes([original[position] ^ 0xFF]) + original[position + 1 :]
        )
        try:
            contents = checkpoints.load(path, "bc")
        except ToolkitError:
            continue
        weights = contents["weights"]["layer.weight"]
        assert torch.equal(weights, CONTENTS["weights"]["layer.weight"])
        assert contents["state"] == CONTENTS["state"]


def test_a_checkpoint_of_another_kind_is_refused(tmp_path: Path) -> None:
    message = refusal(saved(tmp_path), kind="ppo")
    assert "kind 'ppo'" in message
    assert "found 'bc'" in message


def test_a_file_of_bare_weights_is_refused(tmp_path: Path) -> None:
    torch.save([torch.zeros(3)], tmp_path / "model.pt")
    assert "found 'list'" in refusal(tmp_path / "model.pt")


def test_a_checkpoint_of_a_newer_toolkit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    newer = checkpoints.FORMAT_VERSION + 1
    checkpoints.save(path, "bc", {"format_version": newer})
    assert "newer version" in refusal(path)


def test_a_checkpoint_without_a_version_is_refused(tmp_path: Path) -> None:
    torch.save({"kind": "bc"}, tmp_path / "model.pt")
    assert "format version None" in refusal(tmp_path / "model.pt")


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    path, proof = tmp_path / "model.pt", tmp_path / "ran"
    torch.save({"kind": "bc", "format_version": 1, "weights": Malicious(proof)}, path)
    assert "refused" in refusal(path)
    assert not proof.exists()


def test_code_in_a_bare_pickle_does_not_run(tmp_path: Path) -> None:
    path, proof = tmp_path / "model.pt", tmp_path / "ran"
    path.write_bytes(pickle.dumps(Malicious(proof)))
    refusal(path)
    assert not proof.exists()


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("notes.txt", "hello")
    (tmp_path / "model.pt").write_bytes(buffer.getvalue())
    assert "no readable checkpoint" in refusal(tmp_path / "model.pt")


# Weights into modules


def test_weights_are_put_into_a_module(tmp_path: Path) -> None:
    module = nn.Linear(2, 1)
    weights = {"weight": torch.tensor([[3.0, -1.0]]), "bias": torch.tensor([0.5])}
    checkpoints.load_weights(module, weights, tmp_path / "model.pt")
    assert module(torch.tensor([[1.0, 1.0]])).item() == 2.5


@pytest.mark.parametrize(
    "weights",
    [
        {"weight": torch.zeros(1, 3), "bias": torch.zeros(1)},
        {"weight": torch.zeros(1, 2)},
        {"weight": torch.zeros(1, 2), "bias": torch.zeros(1), "extra": torch.zeros(1)},
    ],
)
def test_weights_of_another_architecture_are_refused_in_one_line(
    tmp_path: Path, weights: dict[str, torch.Tensor]
) -> None:
    with pytest.raises(ToolkitError, match="another architecture") as caught:
        checkpoints.load_weights(nn.Linear(2, 1), weights, tmp_path / "model.pt")
    assert str(tmp_path / "model.pt") in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
