"""One command from a grid to a list, a file or a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command_runs import run_python, the_error
from train_scripts import cmd_generator, make_cmd
from train_scripts.command_file import read_commands

PPO = ["--base_config=online", "--grid_config=ppo", "--num_trials=5"]
BC = ["--base_config=offline", "--dir=final", "--grid_config=bc"]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own as the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *flags: str, code: int = 2) -> str:
    assert cmd_generator.main(flags) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    return the_error(captured.err)


def test_the_command_of_the_paper_prints_the_commands_of_the_policies() -> None:
    words = "--base_config online --grid_config ppo --num_trials 5 --action PRINT"
    done = run_python("-m", "train_scripts.cmd_generator", *words.split())
    assert (done.returncode, done.stderr) == (0, "")
    commands = done.stdout.strip().split("\n\n")
    assert len(commands) == 16 * 5
    assert all(command.startswith("python -m online.trainer ") for command in commands)


@pytest.mark.parametrize("flags", [PPO, [*BC, "--checkpoint", "--start_index=2", "--new_line"]])
def test_the_commands_are_those_of_make_cmd(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert make_cmd.main(flags) == 0
    expected = capsys.readouterr().out
    assert cmd_generator.main(flags) == 0
    assert capsys.readouterr().out == expected


def test_save_writes_a_file_of_commands(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cmd_generator.main([*PPO, "--action=SAVE"]) == 0
    assert capsys.readouterr().out == ""
    commands = read_commands([elsewhere / "ppo_commands.txt"], "online")
    assert len(commands) == 80
    assert sorted({command.settings.seed for command in commands}) == [88, 89, 90, 91, 92]


def test_save_says_how_many_commands_are_where(tmp_path: Path) -> None:
    out = tmp_path / "bc.txt"
    done = run_python("-m", "train_scripts.cmd_generator", *BC, "--action=SAVE", f"--out={out}")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"16 commands in {out}\n"


def test_a_file_that_holds_something_else_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bc.txt"
    out.write_text("python -m my.own\n")
    for action in ("SAVE", "SLURM"):
        message = refused(capsys, *BC, f"--action={action}", f"--out={out}")
        assert message == f"error: {out} holds something else: delete it, or give --out"
    assert out.read_text() == "python -m my.own\n"


def test_the_same_file_may_be_saved_again(tmp_path: Path) -> None:
    out = tmp_path / "bc.txt"
    for _ in range(2):
        assert cmd_generator.main([*BC, "--action=SAVE", f"--out={out}"]) == 0
    assert len(read_commands([out])) == 16


def test_a_dry_run_gives_slurm_the_commands_and_its_own_flags_and_writes_nothing(
    tmp_path: Path,
) -> None:
    out = tmp_path / "ppo.txt"
    flags = [*PPO, "--action=SLURM", f"--out={out}", "--partition=short run", "--time=2:00:00"]
    done = run_python(
        *("-m", "train_scripts.cmd_generator", *flags, "--name=x", "--dry_run=True"),
        *("--setup=module load cuda", "--setup=echo a", f"--log_dir={tmp_path / 'logs'}"),
    )
    assert done.returncode == 0, done.stderr
    options = [line for line in done.stdout.splitlines() if line.startswith("#SBATCH --")]
    shown = {"--partition='short run'", "--time=120", "--job-name=x"}
    assert shown <= {option.removeprefix("#SBATCH ").replace('"', "'") for option in options}
    assert "module load cuda\necho a\n" in done.stdout
    assert done.stdout.count("python -m online.trainer ") == 80
    assert not out.exists()  # nothing is done


def test_a_dry_run_refuses_a_file_as_the_submission_would(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bc.txt"
    out.write_text("python -m my.own\n")
    flags = [*BC, "--action=SLURM", f"--out={out}", "--cluster=debug", "--dry_run=True"]
    assert cmd_generator.main(flags) == 2
    assert "holds something else" in the_error(capsys.readouterr().err)
    assert out.read_text() == "python -m my.own\n"


def test_commands_of_evaluations_are_submitted_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = "offline.evaluate_offline_agent"
    flags = [*BC, f"--module_name={module}", f"--out={tmp_path / 'eval.txt'}"]
    assert cmd_generator.main([*flags, "--action=SLURM", "--cluster=debug", "--dry_run=True"]) == 0
    assert capsys.readouterr().out.count(f"python -m {module} ") == 16


def test_without_slurm_the_commands_are_saved_and_the_way_to_run_them_here_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    out = tmp_path / "bc.txt"
    assert cmd_generator.main([*BC, "--action=SLURM", f"--out={out}"]) == 1
    assert "--cluster local" in the_error(capsys.readouterr().err)
    assert len(read_commands([out])) == 16


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([*BC, "--partition=short"], "--partition: --action PRINT submits nothing"),
        ([*BC, "--action=SAVE", "--jobs=2"], "--jobs: --action SAVE submits nothing"),
        ([*BC, "--out=x.txt"], "--out x.txt: --action SAVE writes a file"),
        ([*BC, "--action=RUN"], "--action RUN: choose one of PRINT, SAVE, SLURM"),
        (["--action=SAVE"], "--grid_config: name a grid, for instance bc"),
        ([*BC, "--module_name=online.trainer"], "--base_config offline is for"),
        ([*BC, "--base_config=both"], "--base_config both: choose one of offline, online"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    flags: list[str], message: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, *flags)
    assert list(elsewhere.iterdir()) == []


def test_a_file_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "bc.txt"
    message = refused(capsys, *BC, "--action=SAVE", f"--out={out}", code=1)
    assert str(out) in message
