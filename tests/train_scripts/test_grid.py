"""Configurations are read strictly, and expand into exactly the runs that they describe."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from common.errors import UsageError
from common.flags import Flag, parse_flags
from train_scripts.grid import Settings, expand, read_base, read_grid, to_arguments

FLAGS = (
    Flag("algo", str, "bc", "Algorithm.", choices=("bc", "cql", "iql")),
    Flag("env_name", str, "coinrun", "Game.", choices=("coinrun", "miner")),
    Flag("seed", int, 88, "Seed.", minimum=0, maximum=100),
    Flag("lr", float, 1e-3, "Learning rate.", above=0),
    Flag("offset", float, 0.0, "Without a range."),
    Flag("epochs", int, 10, "Epochs.", minimum=1),
    Flag("resume", bool, False, "Continue."),
    Flag("dataset", str, (), "Folders.", many=True),
    Flag("levels", int, (), "Level seeds.", many=True, minimum=0),
    Flag("xpid", str, "", "Name of the run."),
    Flag("cql_alpha", float, 0.1, "Weight.", algorithms=("cql",)),
    Flag("tau", float, 0.005, "Polyak step.", algorithms=("cql", "iql")),
)
BASE: Settings = {flag.name: [] if flag.many else flag.default for flag in FLAGS}


def write(folder: Path, content: Any) -> Path:
    """`content` as a file: text as it stands, anything else as JSON."""
    path = folder / "sweep.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def grid_refusal(folder: Path, content: Any) -> str:
    """What is said about the file, without the file's name, which must open it."""
    path = write(folder, content)
    with pytest.raises(UsageError) as caught:
        read_grid(path, FLAGS)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def expansion_refusal(grid: dict[str, list[Any]], num_trials: int = 1, **base: Any) -> str:
    with pytest.raises(UsageError) as caught:
        expand(BASE | base, grid, num_trials, FLAGS)
    return str(caught.value)


def parsed(settings: Settings) -> Settings:
    namespace = vars(parse_flags(FLAGS, to_arguments(settings), ""))
    assert set(settings) <= namespace["given"] | {n for n, v in settings.items() if v == []}
    return {name: namespace[name] for name in settings}


# Reading


def test_a_grid_is_read_in_the_order_of_its_file(tmp_path: Path) -> None:
    grid = {"lr": [0.01, 0.001], "env_name": ["miner", "coinrun"], "resume": [True]}
    read = read_grid(write(tmp_path, {"grid": grid}), FLAGS)
    assert list(read.items()) == list(grid.items())


def test_values_get_the_types_of_their_flags(tmp_path: Path) -> None:
    path = write(tmp_path, '{"grid": {"epochs": [1e2, 5.0], "lr": [1], "levels": [[3, 17], 4]}}')
    read = read_grid(path, FLAGS)
    assert read == {"epochs": [100, 5], "lr": [1.0], "levels": [[3, 17], [4]]}
    assert [type(value) for value in read["epochs"] + read["lr"]] == [int, int, float]


def test_a_base_may_state_some_flags_only(tmp_path: Path) -> None:
    path = write(tmp_path, {"lr": 0.5, "dataset": "a", "levels": [1, 2], "resume": True})
    expected = {"lr": 0.5, "dataset": ["a"], "levels": [1, 2], "resume": True}
    assert read_base(path, FLAGS) == expected


def test_a_flag_with_a_type_of_its_own_takes_what_the_type_takes(tmp_path: Path) -> None:
    flags = (Flag("folder", Path, Path(), "Folder."),)
    base = read_base(write(tmp_path, {"folder": "data"}), flags)
    assert base == {"folder": Path("data")}
    assert to_arguments(base) == ["--folder=data"]
    with pytest.raises(UsageError, match="folder: null: write one value"):
        read_base(write(tmp_path, {"folder": None}), flags)


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("", 1, 1),
        ('{"grid": {"lr": [0.1 0.2]}}', 1, 22),
        ('{\n  "grid": {\n    "lr": [0.1]\n    "epochs": [1]\n  }\n}', 4, 5),
        ("{'grid': {}}", 1, 2),
    ],
)
def test_malformed_json_is_refused_with_line_and_column(
    text: str, line: int, column: int, tmp_path: Path
) -> None:
    assert grid_refusal(tmp_path, text).startswith(f"line {line}, column {column}: not JSON: ")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sweep.json"
    path.write_bytes(b'{"grid": {"xpid": ["\xff"]}}')
    with pytest.raises(UsageError, match="utf-8"):
        read_grid(path, FLAGS)


def test_a_missing_file_is_refused_with_the_names_of_those_there(tmp_path: Path) -> None:
    for name in ("bc", "cql"):
        (tmp_path / f"{name}.json").write_text("{}")
    with pytest.raises(UsageError) as caught:
        read_grid(tmp_path / "bcc.json", FLAGS)
    assert str(caught.value) == f"{tmp_path / 'bcc.json'}: no such file (there: bc, cql)"


@pytest.mark.parametrize("content", [{}, {"lr": [0.1]}, {"grid": [1]}, {"grid": None}])
def test_a_file_without_a_grid_is_refused(content: Any, tmp_path: Path) -> None:
    assert grid_refusal(tmp_path, content).startswith("no grid: write ")


@pytest.mark.parametrize("content", [[], 3, "null", '"grid"'])
def test_a_file_that_holds_no_object_is_refused(content: Any, tmp_path: Path) -> None:
    assert grid_refusal(tmp_path, content) == "write an object: {...}"


def test_a_flag_beside_the_grid_is_refused(tmp_path: Path) -> None:
    message = grid_refusal(tmp_path, {"grid": {"lr": [0.1]}, "epochs": [1]})
    assert message.startswith('epochs stands beside "grid"')


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("batchsize", "no flag is called batchsize"),
        ("cql_alhpa", "no flag is called cql_alhpa: did you mean cql_alpha?"),
        ("--lr", "no flag is called --lr: did you mean lr?"),
        ("Epochs", "no flag is called Epochs: did you mean epochs?"),
    ],
)
def test_a_key_that_is_no_flag_is_refused_with_the_nearest(
    name: str, message: str, tmp_path: Path
) -> None:
    assert grid_refusal(tmp_path, {"grid": {"lr": [0.1], name: [1]}}) == message
    with pytest.raises(UsageError, match=message):
        read_base(write(tmp_path, {name: 1}), FLAGS)


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("lr", 0.1, "lr: write a list of values: [0.1]"),
        ("lr", [], "lr: the list is empty"),
        ("lr", [0.1, 0.2, 0.1], "lr: 0.1 stands there twice"),
        ("epochs", [10, 1e1], "epochs: 10 stands there twice"),
        ("lr", ["0.1"], 'lr: "0.1": write a number'),
        ("lr", [True], "lr: true: write a number"),
        ("lr", [None], "lr: null: write a number"),
        ("lr", [[0.1]], "lr: [0.1]: write a number"),
        ("lr", [0], "lr 0: must be above 0"),
        ("lr", [0.1, -1], "lr -1: must be above 0"),
        ("lr", [math.nan], "lr nan: must be above 0"),
        ("offset", [math.inf], "offset inf: must be a finite number"),
        ("offset", [10**400], "offset 1000"),
        ("epochs", [1.5], "epochs 1.5: write a whole number"),
        ("epochs", [0], "epochs 0: must be at least 1"),
        ("epochs", [True], "epochs: true: write a whole number"),
        ("epochs", ["10"], 'epochs: "10": write a whole number'),
        ("resume", [1], "resume: 1: write true or false"),
        ("resume", ["True"], 'resume: "True": write true or false'),
        ("algo", ["cqll"], "algo cqll: choose one of bc, cql, iql. Did you mean cql?"),
        ("env_name", [3], "env_name: 3: write a string"),
        ("levels", [[1, -1]], "levels -1: must be at least 0"),
        ("levels", [["one"]], 'levels: "one": write a whole number'),
    ],
)
def test_values_that_do_not_fit_are_refused_with_flag_and_value(
    name: str, values: Any, said: str, tmp_path: Path
) -> None:
    assert grid_refusal(tmp_path, {"grid": {name: values}}).startswith(said)


def test_a_base_with_a_value_out_of_range_is_refused_with_its_file(tmp_path: Path) -> None:
    path = write(tmp_path, {"epochs": 0})
    with pytest.raises(UsageError) as caught:
        read_base(path, FLAGS)
    assert str(caught.value) == f"{path}: epochs 0: must be at least 1"


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    assert grid_refusal(tmp_path, '{"grid": {"lr": [1], "lr": [2]}}') == "lr stands there 2 times"


# Expansion


def test_combinations_come_in_the_order_of_nested_loops_with_trials_innermost() -> None:
    runs = expand(BASE, {"lr": [0.1, 0.2], "env_name": ["miner", "coinrun"]}, 2, FLAGS)
    assert [(run["lr"], run["env_name"], run["seed"]) for run in runs] == [
        (0.1, "miner", 88),
        (0.1, "miner", 89),
        (0.1, "coinrun", 88),
        (0.1, "coinrun", 89),
        (0.2, "miner", 88),
        (0.2, "miner", 89),
        (0.2, "coinrun", 88),
        (0.2, "coinrun", 89),
    ]


def test_trials_count_from_the_seed_of_the_base_or_of_a_grid_with_one() -> None:
    assert [run["seed"] for run in expand(BASE | {"seed": 5}, {}, 3, FLAGS)] == [5, 6, 7]
    assert [run["seed"] for run in expand(BASE, {"seed": [5]}, 3, FLAGS)] == [5, 6, 7]
    assert [run["seed"] for run in expand({}, {}, 3, FLAGS)] == [88, 89, 90]


def test_a_grid_of_seeds_gives_one_run_each() -> None:
    assert [run["seed"] for run in expand(BASE, {"seed": [5, 2]}, 1, FLAGS)] == [5, 2]


def test_the_values_of_the_grid_replace_those_of_the_base() -> None:
    (run,) = expand({"lr": 0.5, "epochs": 3}, {"lr": [0.1]}, 1, FLAGS)
    assert run == {"algo": "bc", "seed": 88, "lr": 0.1, "epochs": 3}


def test_flags_of_the_base_that_the_algorithm_does_not_use_are_left_out() -> None:
    bc, cql, iql = expand(BASE | {"tau": 0.5}, {"algo": ["bc", "cql", "iql"]}, 1, FLAGS)
    assert {"cql_alpha", "tau"} & bc.keys() == set()
    assert (cql["cql_alpha"], cql["tau"]) == (0.1, 0.5)
    assert "cql_alpha" not in iql
    assert iql["tau"] == 0.5


def test_a_grid_that_asks_for_another_algorithms_flag_is_refused() -> None:
    message = expansion_refusal({"algo": ["cql", "iql"], "cql_alpha": [4.0]})
    assert message == "cql_alpha 4 in the grid: algo iql does not use it (used by cql)"
    assert expand(BASE, {"algo": ["iql"], "cql_alpha": [0.1]}, 1, FLAGS)[0].get("cql_alpha") is None


def test_expansion_leaves_base_and_grid_as_they_were() -> None:
    base, grid = dict(BASE), {"lr": [0.1, 0.2]}
    expand(base, grid, 3, FLAGS)
    assert (base, grid) == (BASE, {"lr": [0.1, 0.2]})


def test_seeds_beyond_their_range_are_refused() -> None:
    assert expand(BASE, {}, 13, FLAGS)[-1]["seed"] == 100
    assert expansion_refusal({}, num_trials=14) == "--seed 101: must be at most 100"


def test_trials_that_would_repeat_seeds_are_refused() -> None:
    assert "keep one of them" in expansion_refusal({"seed": [1, 2]}, num_trials=2)


def test_less_than_one_trial_is_refused() -> None:
    assert expansion_refusal({}, num_trials=0) == "0 trials: give at least 1"


def test_one_name_for_several_runs_of_a_game_is_refused() -> None:
    assert "xpid mine would name 3 runs" in expansion_refusal({}, num_trials=3, xpid="mine")
    assert "xpid mine would name 2 runs" in expansion_refusal({"xpid": ["mine"], "lr": [1.0, 2.0]})
    # Runs of different games have different folders.
    games = {"xpid": ["mine"], "env_name": ["coinrun", "miner"]}
    assert len(expand(BASE, games, 1, FLAGS)) == 2


# Arguments


def test_settings_are_written_as_the_command_line_takes_them() -> None:
    settings = {
        "algo": "cql",
        "lr": 5e-4,
        "offset": -1.0,
        "cql_alpha": 5e-05,
        "epochs": 1_000_000,
        "resume": True,
        "dataset": ["data/a b", "c"],
        "levels": [],
        "xpid": "",
    }
    assert to_arguments(settings) == [
        "--algo=cql",
        "--lr=0.0005",
        "--offset=-1",
        "--cql_alpha=5e-05",
        "--epochs=1000000",
        "--resume=True",
        "--dataset=data/a b",
        "--dataset=c",
        "--xpid=",
    ]


SAME_EVERYWHERE = examples(derandomize=True, deadline=None)
# Arguments of a process hold no NUL, and no text that UTF-8 cannot.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "env_name": st.sampled_from(["coinrun", "miner"]),
    "lr": st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    "offset": st.floats(allow_nan=False, allow_infinity=False),
    "epochs": st.integers(min_value=1),
    "resume": st.booleans(),
    "dataset": st.lists(TEXT, max_size=3),
    "levels": st.lists(st.integers(min_value=0), max_size=3),
    "xpid": TEXT,
}


@SAME_EVERYWHERE
@given(st.fixed_dictionaries({}, optional=VALUES))
def test_arguments_parse_back_to_the_settings(settings: Settings) -> None:
    assert parsed(settings) == settings


@SAME_EVERYWHERE
@given(
    grid=st.fixed_dictionaries(
        {},
        optional={
            name: st.lists(VALUES[name], min_size=1, max_size=2, unique_by=repr)
            for name in ("env_name", "lr", "epochs", "resume", "levels")
        },
    ),
    num_trials=st.integers(1, 3),
)
def test_the_product_has_one_run_per_combination_and_trial(
    grid: dict[str, list[Any]], num_trials: int
) -> None:
    runs = expand(BASE, grid, num_trials, FLAGS)
    assert len(runs) == num_trials * math.prod(len(values) for values in grid.values())
    assert len({json.dumps(run) for run in runs}) == len(runs)
    assert runs == expand(BASE, grid, num_trials, FLAGS)
    for run in runs:
        assert parsed(run) == run
        assert all(run[name] in values for name, values in grid.items())
