"""Commands made from grids: how many, which, and that a shell reads them as meant."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from common.games import GAMES
from offline.arguments import TRAIN_FLAGS, parse_training
from offline.run_names import of_each_seed
from online.arguments import TRAINER_FLAGS
from tests.command_runs import ROOT, run_python, the_error
from train_scripts import make_cmd
from train_scripts.command_file import read_commands

SIZES = {
    "grids": {"bc": 96, "bcq": 256, "bct": 288, "cql": 2592, "dt": 192, "iql": 864},
    "final": {"bc": 16, "bcq": 16, "bct": 32, "cql": 16, "dt": 16, "iql": 16},
    "single": {"bc": 16, "bcq": 16, "bct": 32, "cql": 16, "dt": 16, "iql": 16},
}


def printed(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    assert make_cmd.main(flags) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    assert make_cmd.main(flags) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return the_error(captured.err)


def split(command: str) -> list[str]:
    # To a shell a backslash at a line's end joins the lines; shlex does not know that.
    return shlex.split(command.replace("\\\n", ""))


def arguments(command: str) -> dict[str, str]:
    words = split(command)
    assert words[:2] == ["python", "-m"]
    return dict(word.removeprefix("--").split("=", 1) for word in words[3:])


def write_grid(folder: Path, grid: dict[str, list[object]]) -> None:
    """A configs/ folder with this one grid, called g, and defaults that leave all to it."""
    (folder / "offline" / "grids").mkdir(parents=True)
    (folder / "offline" / "default.json").write_text("{}")
    (folder / "offline" / "grids" / "g.json").write_text(json.dumps({"grid": grid}))


@pytest.mark.parametrize(
    ("folder", "name", "size"),
    [(folder, name, size) for folder, sizes in SIZES.items() for name, size in sizes.items()],
)
def test_every_grid_has_as_many_commands_as_the_paper_has_runs(
    capsys: pytest.CaptureFixture[str], folder: str, name: str, size: int
) -> None:
    flags = [f"--dir={folder}", f"--grid_config={name}", "--count"]
    assert printed(capsys, *flags) == f"{size}\n"


@pytest.mark.parametrize("flag", ["--single", "--dir=single"])
def test_single_level_commands_run_the_single_level_module(
    capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    text = printed(capsys, flag, "--grid_config=bc")
    assert text.count("python -m offline.single_level_train_offline_agent ") == 16


def test_the_command_of_the_papers_readme_runs_as_written() -> None:
    words = "--base_config offline --dir grids --checkpoint --grid_config bc --num_trials 3"
    module = "offline.train_offline_agent"
    done = run_python(
        *("-m", "train_scripts.make_cmd", *words.split(), "--new_lin", "--module_name", module)
    )
    assert (done.returncode, done.stderr) == (0, "")
    commands = done.stdout.strip().split("\n\n")
    assert len(commands) == 3 * 96
    lines = commands[0].split("\n")
    assert lines[0] == f"python -m {module} \\"
    assert all(line.startswith("--") for line in lines[1:])
    assert all(line.endswith(" \\") for line in lines[:-1])
    assert lines[-1][-1] != "\\"
    assert [arguments(command)["seed"] for command in commands[:4]] == ["88", "89", "90", "88"]
    assert {arguments(command)["resume"] for command in commands} == {"True"}


def test_both_forms_are_the_same_commands_to_a_shell(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--dir=final", "--grid_config=dt")
    short = printed(capsys, *flags).strip().split("\n\n")
    long = printed(capsys, *flags, "--new_line").strip().split("\n\n")
    assert [split(command) for command in long] == [split(command) for command in short]
    assert all("\n" not in command for command in short)


def test_trials_may_start_later(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--dir=final", "--grid_config=bc", "--num_trials=2", "--start_index=3")
    commands = printed(capsys, *flags).strip().split("\n\n")
    assert len(commands) == 32
    assert [arguments(command)["seed"] for command in commands[:3]] == ["91", "92", "91"]
    assert {arguments(command)["env_name"] for command in commands[:2]} == {"bigfish"}


def test_commands_may_have_several_trials_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--dir=final", "--grid_config=bc", "--num_trials=5", "--start_index=1")
    alone = printed(capsys, *flags).strip().split("\n\n")
    shared = printed(capsys, *flags, "--seeds_per_run=2").strip().split("\n\n")
    seeds = [(arguments(c)["seed"], arguments(c)["num_seeds"]) for c in shared]
    assert seeds == [("89", "2"), ("91", "2"), ("93", "1")] * 16
    names = [
        [one.xpid for c in commands for one in of_each_seed(parse_training(split(c)[3:], ""))]
        for commands in (alone, shared)
    ]
    assert names[0] == names[1]
    assert len(names[0]) == 5 * 16
    (tmp_path / "commands.txt").write_text("\n".join(shared))
    assert len(read_commands([tmp_path / "commands.txt"])) == 3 * 16


def test_a_grid_over_seed_may_start_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_grid(tmp_path, {"seed": [10, 20]})
    monkeypatch.setattr(make_cmd, "CONFIGS", tmp_path)
    text = printed(capsys, "--grid_config=g", "--num_trials=1", "--start_index=1")
    assert [arguments(command)["seed"] for command in text.strip().split("\n\n")] == ["11", "21"]


def test_a_grid_over_the_number_of_seeds_has_no_trials(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_grid(tmp_path, {"num_seeds": [4]})
    monkeypatch.setattr(make_cmd, "CONFIGS", tmp_path)
    assert arguments(printed(capsys, "--grid_config=g"))["num_seeds"] == "4"
    for flags in (["--num_trials=2"], ["--seeds_per_run=2"]):
        assert "the grid has num_seeds" in refused(capsys, "--grid_config=g", *flags)


def test_a_later_trial_with_a_seed_out_of_range_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_grid(tmp_path, {"seed": [2**31 - 2]})
    monkeypatch.setattr(make_cmd, "CONFIGS", tmp_path)
    assert arguments(printed(capsys, "--grid_config=g", "--start_index=1"))["seed"] == "2147483647"
    message = refused(capsys, "--grid_config=g", "--start_index=2")
    assert message == "error: --seed 2147483648: must be at most 2.14748e+09"


def test_a_missing_grid_of_another_folder_is_named_without_detours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_grid(tmp_path / "configs", {})
    monkeypatch.setattr(make_cmd, "CONFIGS", tmp_path / "configs")
    message = refused(capsys, "--dir=../../mine", "--grid_config=bc")
    assert message.startswith(f"error: {tmp_path / 'mine' / 'bc.json'}: no such file")


def test_checkpoint_lets_commands_continue_where_the_grid_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_grid(tmp_path, {"resume": [False]})
    monkeypatch.setattr(make_cmd, "CONFIGS", tmp_path)
    assert arguments(printed(capsys, "--grid_config=g"))["resume"] == "False"
    assert arguments(printed(capsys, "--grid_config=g", "--checkpoint"))["resume"] == "True"


def test_settings_given_by_hand_replace_those_of_the_grid(
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ("--grid_config=small", "--set", "epochs=5", "lr=1e-4", "save_path=a=b c")
    (command,) = printed(capsys, *flags).strip().split("\n\n")
    shown = {"algo": "bc", "epochs": "5", "lr": "0.0001", "eval_freq": "1", "save_path": "a=b c"}
    assert arguments(command).items() >= shown.items()


def test_a_flag_of_many_values_is_given_by_hand_one_value_at_a_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ("--dir=final", "--grid_config=bc", "--set", "dataset=b", "--set", "dataset=a")
    command = printed(capsys, *flags).partition("\n")[0]
    assert parse_training(split(command)[3:], "").dataset == ["b", "a"]


def test_a_shell_gives_back_whatever_the_values_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = ["a b", "it's", 'say "x"', "$HOME", "a=b", "`date`", "two\nlines", "back\\slash", "*"]
    write_grid(tmp_path, {"save_path": [*folders]})
    monkeypatch.setattr(make_cmd, "CONFIGS", tmp_path)
    for form in ([], ["--new_line"]):
        text = printed(capsys, "--grid_config=g", *form)
        show = "import json, sys; print(json.dumps(sys.argv))"
        function = f'python() {{ "{sys.executable}" -c "{show}" "$@"; }}'
        done = subprocess.run(
            ["bash", "-c", f"{function}\n{text}"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        got = [json.loads(line)[3:] for line in done.stdout.splitlines()]
        assert [parse_training(words, "").save_path for words in got] == folders


def test_online_commands_train_every_game_as_the_paper_did(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = printed(capsys, "--base_config=online", "--grid_config=ppo", "--num_trials=5")
    commands = text.strip().split("\n\n")
    assert len(commands) == 16 * 5
    assert commands[0].startswith("python -m online.trainer ")
    assert {arguments(command)["env_name"] for command in commands} == set(GAMES)
    shown = {"num_env_steps": "25000000", "ppo_epoch": "3", "lr": "0.0005", "num_steps": "256"}
    assert arguments(commands[0]).items() >= shown.items()


def test_the_defaults_of_online_runs_are_those_of_the_code() -> None:
    document = json.loads((ROOT / "configs" / "online" / "default.json").read_text())
    assert document == {flag.name: flag.default for flag in TRAINER_FLAGS}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--grid_config: name a grid, for instance bc"),
        (["--grid_config=xyz"], "no such file (there: bc, bcq, bct, cql, dt, iql"),
        (["--grid_config=bc", "--module_name=online.trainer"], "--base_config offline is for"),
        (
            ["--grid_config=bc", "--single", "--module_name=offline.train_offline_agent"],
            "single-level runs are of offline.single_level_train_offline_agent",
        ),
        (
            ["--grid_config=bc", "--dir=single", "--module_name=offline.train_offline_agent"],
            "single-level runs are of offline.single_level_train_offline_agent",
        ),
        (["--grid_config=bc", "--n=3"], "ambiguous option: --n"),
        (
            ["--base_config=online", "--grid_config=ppo", "--num_trials=2", "--seeds_per_run=2"],
            "--seeds_per_run 2: online.trainer has no --num_seeds",
        ),
        (["--grid_config=bc", "--seeds_per_run=0"], "--seeds_per_run 0: must be at least 1"),
        (["--grid_config=bc", "--num_trials=0"], "--num_trials 0: must be at least 1"),
        (["--grid_config=bc", "--set=epochs"], "--set epochs: write name=value"),
        (["--grid_config=bc", "--set=epoch=3"], "--set: no flag is called epoch: did you mean"),
        (["--grid_config=bc", "--set=epochs=0"], "--epochs 0: must be at least 1"),
        (["--grid_config=bc", "--set=cql_alpha=4"], "algo bc does not use it"),
    ],
)
def test_what_cannot_be_expanded_is_one_line(
    capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert message in refused(capsys, *flags)


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f'"{sys.executable}" -m train_scripts.make_cmd --grid_config cql | head -1'
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout.startswith("python -m offline.train_offline_agent")


def test_the_commands_of_one_grid_have_names_of_their_own() -> None:
    flags = make_cmd.parse_flags(make_cmd.FLAGS, ["--grid_config=bc", "--num_trials=3"], "")
    commands = make_cmd.make_commands(flags)
    runs = [parse_training(words[3:], "") for words in commands]
    assert len({(run.env_name, run.xpid) for run in runs}) == len(runs) == 288
    assert {flag.name for flag in TRAIN_FLAGS} >= {"xpid", "env_name"}
