"""Every rule of the command line: how flags are written, what is refused, how a command ends."""

from __future__ import annotations

import argparse
import math
import textwrap
from collections.abc import Sequence

import pytest

from common.errors import ToolkitError, UsageError
from common.flags import Flag, parse_flags, run_command
from tests.command_runs import run_python, the_error

FLAGS = (
    Flag("lr", float, 1e-3, "Learning rate.", above=0),
    Flag("gamma", float, 0.99, "Discount.", minimum=0, maximum=1),
    Flag("dropout", float, 0.1, "Share dropped.", minimum=0, below=1),
    Flag("temperature", float, 1.0, "Without a range."),
    Flag("epochs", int, 10, "Epochs.", minimum=1),
    Flag("algo", str, "bc", "Algorithm.", choices=("bc", "cql", "iql")),
    Flag("dataset", str, ("a",), "Folders.", many=True),
    Flag("levels", int, (), "Level seeds.", many=True, minimum=0),
    Flag("resume", bool, False, "Continue."),
    Flag("xpid", str, "", "100% the name of the run."),
    Flag("cql_alpha", float, 0.1, "Weight.", algorithms=("cql",)),
)


def parse(*argv: str) -> argparse.Namespace:
    return parse_flags(FLAGS, argv, "A command.")


def refusal(*argv: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse(*argv)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


# How flags are written


def test_without_arguments_every_flag_has_its_default() -> None:
    settings = parse()
    values = {flag.name: getattr(settings, flag.name) for flag in FLAGS}
    assert values == {
        "lr": 1e-3,
        "gamma": 0.99,
        "dropout": 0.1,
        "temperature": 1.0,
        "epochs": 10,
        "algo": "bc",
        "dataset": ["a"],
        "levels": [],
        "resume": False,
        "xpid": "",
        "cql_alpha": 0.1,
    }
    assert settings.given == frozenset()


@pytest.mark.parametrize("argv", [("--lr=0.5",), ("--lr", "0.5")])
def test_a_value_stands_behind_an_equals_sign_or_a_space(argv: tuple[str, ...]) -> None:
    assert parse(*argv).lr == 0.5


def test_every_way_to_write_a_command_gives_the_same_settings() -> None:
    equals = ("--lr=0.5", "--levels=3", "--levels=4", "--resume=True", "--xpid=", "--epochs=2")
    spaces = ("--lr", "0.5", "--levels", "3", "4", "--resume", "--xpid", "", "--epochs", "2")
    assert parse(*equals) == parse(*spaces)


def test_what_stood_on_the_command_line_is_remembered() -> None:
    assert parse("--lr=0.001", "--epochs=3").given == {"lr", "epochs"}


def test_the_last_of_two_values_counts() -> None:
    assert parse("--lr=1", "--lr=2").lr == 2.0


@pytest.mark.parametrize(
    ("text", "value"),
    [("True", True), ("False", False), ("true", True), ("FALSE", False), ("1", True), ("0", False)],
)
def test_booleans_are_written_true_and_false(text: str, value: bool) -> None:
    assert parse(f"--resume={text}").resume is value


def test_a_bare_boolean_means_true() -> None:
    assert parse("--resume", "--lr=1").resume is True


@pytest.mark.parametrize("text", ["yes", "2", "", "None"])
def test_other_words_for_booleans_are_refused(text: str) -> None:
    assert refusal(f"--resume={text}") == f"--resume {text}: write True or False"


@pytest.mark.parametrize(
    "argv",
    [
        ("--dataset", "x", "y"),
        ("--dataset=x", "--dataset=y"),
        ("--dataset", "x", "--lr=1", "--dataset", "y"),
    ],
)
def test_several_values_are_listed_or_repeated(argv: tuple[str, ...]) -> None:
    assert parse(*argv).dataset == ["x", "y"]


def test_several_values_are_typed_and_checked_one_by_one() -> None:
    assert parse("--levels", "3", "1e2").levels == [3, 100]
    assert "--levels -1: must be at least 0" in refusal("--levels=3", "--levels=-1")


def test_the_list_of_one_call_does_not_grow_into_the_next() -> None:
    parse("--dataset", "x").dataset.append("z")
    parse().dataset.append("z")
    assert parse().dataset == ["a"]


# Numbers


@pytest.mark.parametrize(("text", "value"), [("7", 7), ("1e6", 1_000_000), ("25e6", 25_000_000)])
def test_whole_numbers_may_be_written_with_an_exponent(text: str, value: int) -> None:
    epochs = parse(f"--epochs={text}").epochs
    assert epochs == value
    assert type(epochs) is int


@pytest.mark.parametrize("text", ["1.5", "1e-1", "nan", "inf", "ten", ""])
def test_what_is_no_whole_number_is_refused_for_one(text: str) -> None:
    assert refusal(f"--epochs={text}") == f"--epochs {text}: write a whole number"


def test_a_whole_number_of_any_length_is_taken() -> None:
    assert parse("--epochs=" + "9" * 400).epochs == 10**400 - 1


def test_what_is_no_number_is_refused() -> None:
    assert refusal("--lr=fast") == "--lr fast: write a number"


@pytest.mark.parametrize("flag", ["lr", "gamma", "dropout", "temperature"])
@pytest.mark.parametrize("text", ["nan", "NaN", "inf", "-inf", "1e999"])
def test_numbers_that_are_not_finite_are_refused(flag: str, text: str) -> None:
    assert f"--{flag} {text}: must be" in refusal(f"--{flag}={text}")


def test_a_number_without_a_range_may_be_negative() -> None:
    assert parse("--temperature=-2.5").temperature == -2.5
    assert parse("--temperature", "-2.5").temperature == -2.5


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("--lr=0", "--lr 0: must be above 0"),
        ("--lr=-1e-3", "--lr -1e-3: must be above 0"),
        ("--gamma=-0.01", "--gamma -0.01: must be at least 0"),
        ("--gamma=1.01", "--gamma 1.01: must be at most 1"),
        ("--dropout=1", "--dropout 1: must be below 1"),
        ("--epochs=0", "--epochs 0: must be at least 1"),
    ],
)
def test_a_value_out_of_range_is_refused_with_the_bound(argument: str, reason: str) -> None:
    assert refusal(argument) == reason


@pytest.mark.parametrize("argument", ["--gamma=0", "--gamma=1", "--dropout=0", "--epochs=1"])
def test_inclusive_bounds_are_allowed(argument: str) -> None:
    parse(argument)


def test_exclusive_bounds_are_approached_as_closely_as_one_likes() -> None:
    assert parse("--dropout=0.999999").dropout == 0.999999
    assert parse(f"--lr={math.ulp(0.0)}").lr == math.ulp(0.0)


# Words


def test_a_choice_is_taken() -> None:
    assert parse("--algo=iql").algo == "iql"


def test_another_word_is_refused_with_the_choices_and_the_nearest() -> None:
    assert refusal("--algo=cgl") == "--algo cgl: choose one of bc, cql, iql. Did you mean cql?"


def test_a_word_like_no_choice_gets_no_suggestion() -> None:
    assert refusal("--algo=sarsa") == "--algo sarsa: choose one of bc, cql, iql."


def test_an_unknown_flag_suggests_the_nearest() -> None:
    assert refusal("--epoch=3") == "unknown flag --epoch: did you mean --epochs?"


def test_a_flag_like_no_other_is_refused_by_name() -> None:
    assert refusal("--wandb_project=x") == "unknown flag --wandb_project: see --help"


def test_an_abbreviation_is_not_guessed() -> None:
    assert "unknown flag --data: did you mean --dataset?" in refusal("--data=x")


def test_hyphens_are_not_underscores() -> None:
    assert "did you mean --cql_alpha?" in refusal("--cql-alpha=1")


def test_a_word_without_a_flag_is_refused() -> None:
    assert "unexpected argument 'coinrun'" in refusal("coinrun")


def test_a_flag_without_its_value_is_refused_by_name() -> None:
    assert "--lr" in refusal("--lr")
    assert "--dataset" in refusal("--dataset")


# Arguments without a name

COPY = (
    Flag("source", str, None, "Where from.", positional=True),
    Flag("copies", int, None, "How many.", minimum=1, positional=True),
    Flag("lr", float, 1e-3, "Learning rate."),
)


def refusal_of_copy(*argv: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse_flags(COPY, argv, "A command.")
    return str(caught.value)


@pytest.mark.parametrize(
    "argv", [("a=b", "3", "--lr=2"), ("--lr", "2", "a=b", "3"), ("a=b", "--lr=2", "3")]
)
def test_arguments_stand_in_their_order_between_flags(argv: tuple[str, ...]) -> None:
    settings = parse_flags(COPY, argv, "A command.")
    assert (settings.source, settings.copies, settings.lr) == ("a=b", 3, 2.0)
    assert settings.given == {"source", "copies", "lr"}


def test_arguments_are_checked_like_flags() -> None:
    assert "copies 0: must be at least 1" in refusal_of_copy("a", "0")


def test_an_argument_that_is_missing_is_named() -> None:
    assert "<copies>" in refusal_of_copy("a", "--lr=2")
    assert "<source>" in refusal_of_copy()


def test_an_argument_too_many_is_refused() -> None:
    assert "unexpected argument 'b'" in refusal_of_copy("a", "3", "b")


def test_an_argument_is_no_flag() -> None:
    assert refusal_of_copy("a", "3", "--source=b") == "unknown flag --source: see --help"


def test_help_shows_arguments_without_a_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_flags(COPY, ["--help"], "A command.")
    text = " ".join(capsys.readouterr().out.split())
    assert "<source> <copies>" in text
    assert "<source> Where from. <copies> How many. options:" in text


# Help


DESCRIBED = """Pack a folder: python -m pack

The source is a folder. Sentences of a paragraph are one, wherever the lines that hold them in the
file may end.

results.csv    one row per run
tables/        one per game

Shares are in 0..1.
"""


@pytest.mark.parametrize(("columns", "width"), [("60", 58), ("300", 98)])
def test_help_keeps_paragraphs_and_columns_and_wraps_the_rest(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: str, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit):
        parse_flags([Flag("name", str, "", "Some words. " * 30)], ["--help"], DESCRIBED)
    shown = capsys.readouterr().out
    _, title, source, table, shares, _ = shown.split("\n\n")
    assert (title, shares) == ("Pack a folder: python -m pack", "Shares are in 0..1.")
    assert table == "results.csv    one row per run\ntables/        one per game"
    paragraph = " ".join(DESCRIBED.split("\n\n")[1].split())
    assert source.splitlines() == textwrap.wrap(paragraph, width)
    assert max(map(len, shown.splitlines())) <= width


def test_help_states_range_free_facts_once_and_ends_well(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "A command." in text
    assert "Algorithm. One of: bc, cql, iql. (default: bc)" in text
    assert "100% the name of the run. (default: none)" in text
    assert "Weight. [cql] (default: 0.1)" in text
    assert all(f"--{flag.name}" in text for flag in FLAGS)


def test_help_says_none_where_a_flag_of_many_values_has_none_by_default(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        parse_flags([Flag("levels", int, (), "Levels.", many=True)], ["--help"], "A command.")
    assert "Levels. (default: none)" in " ".join(capsys.readouterr().out.split())


# How a command ends


def ends(
    error: BaseException | None, capsys: pytest.CaptureFixture[str]
) -> tuple[int, list[str], str]:
    """Exit code, lines on stderr and stdout of a command that raises `error`."""

    def body(argv: Sequence[str] | None) -> None:
        if error is not None:
            raise error

    code = run_command(body, [])
    captured = capsys.readouterr()
    return code, captured.err.splitlines(), captured.out


def test_a_command_that_is_done_exits_with_zero(capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(None, capsys) == (0, [], "")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ToolkitError("the disk is full"), 1, "error: the disk is full"),
        (UsageError("--lr 0: must be above 0"), 2, "error: --lr 0: must be above 0"),
        (ToolkitError("two\nlines  here"), 1, "error: two lines here"),
        (FileNotFoundError(2, "No such file", "x.npz"), 1, "error: x.npz: No such file"),
        (OSError("no space"), 1, "error: no space"),
        (KeyboardInterrupt(), 130, "error: stopped by Ctrl-C"),
    ],
)
def test_what_users_can_mend_is_one_line_and_an_exit_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends(error, capsys) == (code, [line], "")


def test_the_exit_code_of_the_body_is_kept() -> None:
    assert run_command(lambda argv: 7, []) == 7


def test_our_own_bugs_keep_their_traceback() -> None:
    def body(argv: Sequence[str] | None) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command(body, [])


def test_a_real_command_refuses_a_flag_in_one_line_with_exit_code_two() -> None:
    done = run_python("-m", "online.trainer", "--env_nme=miner")
    assert (done.returncode, done.stdout) == (2, "")
    assert the_error(done.stderr) == "error: unknown flag --env_nme: did you mean --env_name?"
