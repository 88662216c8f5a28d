"""Command files are read as a shell reads them, strictly, and fast enough for a study."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from common.errors import UsageError
from tests.offline_commands import EVALUATE, TRAIN
from train_scripts.command_file import Command, log_file, read_commands
from train_scripts.make_cmd import SINGLE_LEVEL, as_text

ONLINE, COLLECT = "online.trainer", "online.data_collector"


def read(folder: Path, text: str, module_name: str = "") -> list[Command]:
    path = folder / "sweep.txt"
    path.write_text(text)
    return read_commands([path], module_name)


def read_one(folder: Path, module: str, *flags: str, module_name: str = "") -> Command:
    [command] = read(folder, as_text(["python", "-m", module, *flags]), module_name)
    return command


def refusal(folder: Path, text: str, module_name: str = "") -> str:
    """What is said about the file, without the file's name, which must open it."""
    with pytest.raises(UsageError) as caught:
        read(folder, text, module_name)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{folder / 'sweep.txt'}: ")
    return message.removeprefix(f"{folder / 'sweep.txt'}: ")


# As a shell reads


def test_the_newest_run_is_no_run_of_a_sweep(tmp_path: Path) -> None:
    path = tmp_path / "commands.txt"
    path.write_text("python -m offline.evaluate_offline_agent --xpid=latest\n")
    with pytest.raises(UsageError, match="line 1: --xpid latest: which run that is changes"):
        read_commands([path])


def test_comments_and_empty_lines_say_nothing(tmp_path: Path) -> None:
    text = f"# a sweep\n\n  python -m {TRAIN} --seed=1  # the first\n\n\npython -m {TRAIN} --seed=2"
    commands = read(tmp_path, text)
    assert [command.words for command in commands] == [
        ("python", "-m", TRAIN, "--seed=1"),
        ("python", "-m", TRAIN, "--seed=2"),
    ]
    assert [command.settings.seed for command in commands] == [1, 2]


def test_a_backslash_at_a_lines_end_joins_the_lines(tmp_path: Path) -> None:
    text = f"python -m {TRAIN} \\\n--seed=1 \\\n  --xpid=a\\\nb\npython -m {TRAIN} --xpid 'c\\\nd'"
    first, second = read(tmp_path, text)
    assert first.words == ("python", "-m", TRAIN, "--seed=1", "--xpid=ab")
    assert second.words == ("python", "-m", TRAIN, "--xpid", "c\\\nd")


@pytest.mark.parametrize("end", ["", "\n", "\\", "\\\n", "  # the end"])
def test_the_last_command_is_read_however_the_file_ends(tmp_path: Path, end: str) -> None:
    [command] = read(tmp_path, f"python -m {TRAIN} --xpid=a{end}")
    assert command.run_id == "coinrun/a"


@pytest.mark.parametrize("new_line", [False, True])
@pytest.mark.parametrize(
    "value",
    ["a b", "it's", 'say "x"', "$HOME", "a=b", "`date`", "two\nlines", "back\\slash", "#1", "a#b"],
)
def test_values_survive_quoting(tmp_path: Path, value: str, new_line: bool) -> None:
    words = ["python", "-m", TRAIN, f"--save_path={value}", "--seed=3"]
    command, other = read(tmp_path, f"{as_text(words, new_line)}\npython -m {TRAIN} --seed=4")
    assert list(command.words) == words
    assert command.settings.save_path == value
    assert other.settings.seed == 4


def test_words_may_be_quoted_in_every_way_of_a_shell(tmp_path: Path) -> None:
    text = f"""python -m {TRAIN} --save_path="a 'b' \\"c\\""/'d "e"'\\ f --xpid ''"""
    [command] = read(tmp_path, text)
    assert command.words[3:] == ("""--save_path=a 'b' "c"/d "e" f""", "--xpid", "")


def test_a_backslash_between_double_quotes_stands_for_itself_unless_it_must_not(
    tmp_path: Path,
) -> None:
    value = r'"\$HOME \`date\` \\ \" \n'
    [command] = read(tmp_path, f'python -m {TRAIN} --save_path={value}\\\nb"')
    assert command.settings.save_path == r'$HOME `date` \ " \nb'


@pytest.mark.parametrize("value", ["a~b", "a#b", "'~/a'", r"\~", r"\$HOME", "'a'\"*?;\"", "a^!]}"])
def test_what_a_shell_takes_as_it_stands_is_taken(tmp_path: Path, value: str) -> None:
    shell = subprocess.run(
        ["bash", "-c", f"printf %s {value}"], capture_output=True, text=True, check=True
    )
    [command] = read(tmp_path, f"python -m {TRAIN} --save_path {value}")
    assert command.settings.save_path == shell.stdout


@pytest.mark.parametrize(
    ("words", "character"),
    [
        ("--save_path=$HOME/runs", "$"),
        ('--save_path="$HOME/runs"', "$"),
        ("--xpid=`date`", "`"),
        ('--xpid="at `date`"', "`"),
        ("--xpid=a; ls", ";"),
        ("--xpid=a && ls", "&"),
        ("--xpid=a|tee log", "|"),
        ("< in", "<"),
        ("> out", ">"),
        ("2>&1", ">"),
        ("(ls", "("),
        ("ls)", ")"),
        ("--dataset data/*", "*"),
        ("--dataset data/1M_?", "?"),
        ("--dataset data/1M_[ES]", "["),
        ("--dataset data/1M_{E,S}", "{"),
        ("--save_path ~/runs", "~"),
    ],
)
def test_what_a_shell_would_expand_or_run_is_refused(
    tmp_path: Path, words: str, character: str
) -> None:
    text = f"# comment\n\npython -m {TRAIN} \\\n{words}\n"
    assert refusal(tmp_path, text) == (
        f"line 4: a shell would not take {character} as it stands, and a sweep expands nothing: "
        "write the value, or quote it in ''"
    )


def test_several_files_are_one_sweep(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(f"python3.11 -m {TRAIN} --xpid={name}\n")
    commands = read_commands([tmp_path / "a", tmp_path / "b"])
    assert [command.run_id for command in commands] == ["coinrun/a", "coinrun/b"]


# What a command is


def test_a_run_has_its_folder_its_name_and_its_log(tmp_path: Path) -> None:
    flags = ("--env_name=miner", "--save_path=x/y", "--xpid=run")
    command = read_one(tmp_path, TRAIN, *flags)
    assert command.folder == Path("x/y/miner/run")
    assert command.run_id == "miner/run"
    assert log_file("logs", "bc", command) == Path("logs/bc/miner/run.log")


def test_a_run_without_a_name_has_that_of_its_settings(tmp_path: Path) -> None:
    assert read_one(tmp_path, TRAIN, "--lr=0.1").folder == Path(
        "runs/offline/coinrun/coinrun-easy-200-d1M-bc-p1-lr0.1-bs64-dqn_88"
    )
    assert read_one(tmp_path, ONLINE, "--lr=0.1").folder == Path(
        "runs/online/coinrun/coinrun-easy-200-ppo-lr0.1-epoch3-mb8-v0.5-ha0.01_88"
    )


def test_a_collections_folder_is_that_of_its_episodes(tmp_path: Path) -> None:
    command = read_one(tmp_path, COLLECT, "--dataset_saving_dir=data/1M_E")
    assert command.folder == Path("data/1M_E/coinrun")
    assert command.run_id == "1M_E/coinrun"


def test_a_file_of_training_becomes_one_of_evaluation(tmp_path: Path) -> None:
    flags = ("--xpid=run", "--resume=True")
    command = read_one(tmp_path, TRAIN, *flags, module_name="eval")
    assert (command.words, command.module) == (("python", "-m", EVALUATE, *flags), EVALUATE)
    assert command.folder == Path("runs/offline/coinrun/run")


def test_an_evaluation_finds_the_run_that_was_trained_to_act_otherwise(tmp_path: Path) -> None:
    flags = (f"--save_path={tmp_path}", "--lr=0.1")
    trained = read_one(tmp_path, TRAIN, *flags).folder
    trained.mkdir(parents=True)
    found = read_one(tmp_path, EVALUATE, *flags, "--deterministic=both", "--eval_eps=0")
    assert found.folder == trained


@pytest.mark.parametrize(
    ("module", "flags", "folder", "marks"),
    [
        (TRAIN, ["--save_path"], "coinrun/run", ["final_model.pt"]),
        (EVALUATE, ["--save_path"], "coinrun/run", ["evaluate.csv"]),
        (SINGLE_LEVEL, ["--save_path"], "coinrun/run", ["final_model.pt", "evaluate.csv"]),
        (ONLINE, ["--model_saving_dir"], "coinrun/run", ["final/model_7.10.pt"]),
    ],
)
def test_a_run_is_finished_when_the_last_file_it_writes_is_there(
    tmp_path: Path, module: str, flags: list[str], folder: str, marks: list[str]
) -> None:
    command = read_one(tmp_path, module, *(f"{flag}={tmp_path}" for flag in flags), "--xpid=run")
    assert command.folder == tmp_path / folder
    for mark in ("model.pt", *marks):
        assert not command.finished
        (command.folder / mark).parent.mkdir(parents=True, exist_ok=True)
        (command.folder / mark).touch()
    assert command.finished


@pytest.mark.parametrize(("checkpoint", "finished"), [("final", True), ("best", False)])
def test_an_evaluation_of_another_checkpoint_is_not_that_of_a_sweep(
    tmp_path: Path, checkpoint: str, finished: bool
) -> None:
    command = read_one(tmp_path, EVALUATE, f"--save_path={tmp_path}", "--xpid=run")
    command.folder.mkdir(parents=True)
    (command.folder / "evaluate.csv").touch()
    (command.folder / "evaluate.json").write_text(json.dumps({"checkpoint": checkpoint}))
    assert command.finished == finished


def test_a_single_level_run_that_plays_no_last_episodes_is_finished_when_it_is_trained(
    tmp_path: Path,
) -> None:
    flags = (f"--save_path={tmp_path}", "--xpid=run", "--num_final_episodes=0")
    command = read_one(tmp_path, SINGLE_LEVEL, *flags)
    command.folder.mkdir(parents=True)
    (command.folder / "final_model.pt").touch()
    assert command.finished


def test_a_collection_is_finished_when_it_has_counted_its_episodes(tmp_path: Path) -> None:
    command = read_one(tmp_path, COLLECT, f"--dataset_saving_dir={tmp_path}", "--capacity=100")
    command.folder.mkdir()
    for name in ("20230329T092246_0_100_45_10.00.npz", "collection.json"):
        assert not command.finished
        (command.folder / name).touch()
    assert command.finished


# Several seeds


def test_a_command_of_several_seeds_has_a_run_for_each_and_one_log(tmp_path: Path) -> None:
    command = read_one(tmp_path, TRAIN, f"--save_path={tmp_path}", "--lr=0.1", "--num_seeds=3")
    name = "coinrun-easy-200-d1M-bc-p1-lr0.1-bs64-dqn"
    assert [run.folder for run in command.runs] == [
        tmp_path / "coinrun" / f"{name}_{seed}" for seed in (88, 89, 90)
    ]
    assert command.run_id == f"coinrun/{name}_88-90"
    for run in command.runs:
        assert log_file("logs", "bc", run) == Path(f"logs/bc/coinrun/{name}_88-90.log")


@pytest.mark.parametrize(
    ("module", "mark"), [(TRAIN, "final_model.pt"), (EVALUATE, "evaluate.csv")]
)
def test_a_command_of_several_seeds_is_finished_when_the_last_one_is(
    tmp_path: Path, module: str, mark: str
) -> None:
    flags = (f"--save_path={tmp_path}", "--xpid=run", "--num_seeds=2")
    command = read_one(tmp_path, module, *flags)
    for seed in (89, 88):
        assert not command.finished
        (tmp_path / "coinrun" / f"run_{seed}").mkdir(parents=True)
        (tmp_path / "coinrun" / f"run_{seed}" / mark).touch()
    assert command.finished
    assert all(run.finished for run in command.runs)


def test_a_seed_that_two_commands_train_is_refused(tmp_path: Path) -> None:
    text = f"python -m {TRAIN} --num_seeds=3\npython -m {TRAIN} --seed=90\n"
    name = "coinrun/coinrun-easy-200-d1M-bc-p1-lr0.001-bs64-dqn_90"
    assert refusal(tmp_path, text).startswith(f"line 2: {name} is the run of ")


def test_seeds_that_follow_each_other_in_two_commands_are_no_mistake(tmp_path: Path) -> None:
    text = "".join(f"python -m {TRAIN} --xpid=r --num_seeds=2 --seed={s}\n" for s in (88, 90))
    commands = read(tmp_path, text)
    assert [run.run_id for command in commands for run in command.runs] == [
        f"coinrun/r_{seed}" for seed in (88, 89, 90, 91)
    ]
    assert len({log_file("logs", "bc", command) for command in commands}) == 2


def test_a_command_is_made_to_continue_only_if_it_would_not(tmp_path: Path) -> None:
    for flags in ((), ("--resume=False",), ("--resume", "False")):
        command = read_one(tmp_path, TRAIN, *flags)
        assert command.continuing == (*command.words, "--resume=True")
        assert read(tmp_path, as_text(list(command.continuing)))[0].settings.resume
    for module, flags in (
        (TRAIN, ("--resume",)),
        (ONLINE, ("--resume=True",)),
        (COLLECT, ()),
        (EVALUATE, ()),
    ):
        command = read_one(tmp_path, module, *flags)
        assert command.continuing == command.words


# What is refused


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("echo hello", "no command python -m <module>: echo hello"),
        (f"python {TRAIN}", f"no command python -m <module>: python {TRAIN}"),
        ("python -m", "no command python -m <module>: python -m"),
        ("python -m pip install x", "pip is no module of a sweep (those are offline.train_"),
        (f"python -m {TRAIN} --lr=0", "--lr 0: must be above 0"),
        (f"python -m {TRAIN} --eopchs=3", "unknown flag --eopchs: did you mean --epochs?"),
        (f"python -m {TRAIN} --cql_alpha=9", "--cql_alpha 9.0: --algo bc does not use it"),
        (f"python -m {TRAIN} --help", "--help asks for help, and runs nothing"),
        (f"python -m {TRAIN} ls", "unexpected argument 'ls'"),
        (f"python -m {ONLINE} --num_mini_batch=100000", "--num_mini_batch 100000: more than the"),
        (f"python -m {ONLINE} --wandb_entity=x", "--wandb_entity x"),
        (f"python -m {ONLINE} --xpid=../../etc", "--xpid ../../etc: give the name of a new folder"),
        (f"python -m {COLLECT} --ratio=0.5", "--ratio 0.5 needs --ratio_checkpoint_dir"),
        (
            f"python -m {COLLECT} --ratio=0.5 --ratio_checkpoint_dir=x --ratio_dataset_dir=y",
            "--ratio 0.5 makes a collection of every run it will find, and a sweep must know its",
        ),
        (f"python -m {TRAIN} --xpid='a", "a quote that is not closed"),
        (f'python -m {TRAIN} --xpid="a', "a quote that is not closed"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    good = f"# comment\n\npython -m {TRAIN} \\\n--xpid='two\nlines'\n"
    assert refusal(tmp_path, f"{good}{line}\n").startswith(f"line 6: {message}")


def test_two_commands_of_one_run_are_refused_with_both_lines(tmp_path: Path) -> None:
    command = f"python -m {TRAIN} --lr=0.001 --xpid=a\n"
    message = refusal(tmp_path, f"{command}\npython -m {TRAIN}\n{command}")
    assert message == (
        f"line 4: coinrun/a is the run of {tmp_path / 'sweep.txt'}: line 1 too: delete one, or "
        "name one with --xpid"
    )


def test_two_files_with_one_run_are_refused_with_both_names(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(f"\npython -m {TRAIN} --xpid=run\n")
    with pytest.raises(UsageError) as caught:
        read_commands([tmp_path / "a", tmp_path / "b"])
    places = [f"{tmp_path / name}: line 2" for name in ("a", "b")]
    assert str(caught.value).startswith(f"{places[1]}: coinrun/run is the run of {places[0]} too: ")


def test_the_same_file_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sweep.txt"
    path.write_text(f"python -m {TRAIN}\n")
    with pytest.raises(UsageError, match=r"line 1: .* is the run of .* line 1 too"):
        read_commands([path, path])


@pytest.mark.parametrize(
    ("module", "module_name", "stands_for"),
    [
        (TRAIN, "online", ONLINE),
        (ONLINE, "offline", TRAIN),
        (TRAIN, "single", SINGLE_LEVEL),
        (SINGLE_LEVEL, "eval", EVALUATE),
        (ONLINE, "data_collection", COLLECT),
    ],
)
def test_a_file_of_another_module_is_refused(
    tmp_path: Path, module: str, module_name: str, stands_for: str
) -> None:
    assert refusal(tmp_path, f"python -m {module}\n", module_name) == (
        f"line 1: runs {module}, but --module_name {module_name} stands for {stands_for}"
    )


def test_files_without_commands_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no command in .*sweep\.txt"):
        read(tmp_path, "# nothing yet\n")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name, reason in (
        ("missing", "No such file or directory"),
        (".", "Is a directory"),
        ("binary", "no text: invalid start byte at byte 0"),
    ):
        path = tmp_path / name
        with pytest.raises(UsageError) as caught:
            read_commands([path])
        assert str(caught.value) == f"{path}: {reason}"
