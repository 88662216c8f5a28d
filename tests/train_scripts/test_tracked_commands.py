"""Commands of a grid whose runs are all sent to one project of W&B."""

from __future__ import annotations

import pytest

from offline.arguments import parse_training
from tests.command_runs import the_error
from train_scripts import make_cmd

PROJECT = ("--wandb_project=procgen sweep", "--wandb_entity=team")


def test_every_command_is_given_the_project_and_the_entity(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert make_cmd.main(["--grid_config=bc", "--dir=final", *PROJECT]) == 0
    commands = capsys.readouterr().out.strip().split("\n\n")
    assert len(commands) == 16
    for command in commands:
        assert "'--wandb_project=procgen sweep' --wandb_entity=team" in command


def test_the_runs_are_those_of_the_grid_without_a_project() -> None:
    words = []
    for project in (PROJECT, ()):
        settings = make_cmd.parse_flags(make_cmd.FLAGS, ["--grid_config=cql", *project], "")
        words.append([command[3:] for command in make_cmd.make_commands(settings)[::500]])
    tracked, plain = words
    assert tracked != plain
    assert [parse_training(run, "").xpid for run in tracked] == [
        parse_training(run, "").xpid for run in plain
    ]


def test_ppo_runs_are_sent_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert make_cmd.main(["--base_config=online", "--grid_config=ppo", "--wandb_project=p"]) == 0
    for command in capsys.readouterr().out.strip().split("\n\n"):
        assert command.split()[-3:] == [
            "--tensorboard=False",
            "--wandb_project=p",
            "--wandb_entity=",
        ]


def test_an_entity_without_a_project_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert make_cmd.main(["--grid_config=bc", "--wandb_entity=team"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert the_error(captured.err) == "error: --wandb_entity team: give --wandb_project too"
