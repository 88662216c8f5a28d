from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import ToolkitError
from offline.results.figures import evaluation_figure, learning_curve_figure
from offline.results.statistics import SplitSummary

ROWS = {
    "BC": {
        "train": SplitSummary("train", 100, 7.3, 0.44, 0.46),
        "validation": SplitSummary("validation", 100, 6.6, 0.47, 0.32),
        "test": SplitSummary("test", 100, 6.9, float("nan"), 0.38),
    },
    "PPO": {"train": SplitSummary("train", 100, 8.1, 0.39, 0.62)},
}
LOGS = """epoch,train_loss,train_rets_mean,val_rets_mean,test_rets_mean
1,2.5,3.0,2.0,2.5
2,1.5,5.0,,
3,1.0,6.0,4.0,4.5
"""


def test_the_evaluation_figure_is_saved_as_png_and_svg_with_every_number(tmp_path: Path) -> None:
    files = evaluation_figure(
        ROWS, "BC on coinrun", tmp_path / "new" / "v1.5", env_name="coinrun", behaviour_policy="PPO"
    )
    assert [path.name for path in files] == ["v1.5.png", "v1.5.svg"]
    assert files[0].read_bytes().startswith(b"\x89PNG")
    # matplotlib draws letters as paths and keeps each text in a comment.
    text = files[1].read_text()
    labels = ("BC on coinrun", "7.3", "6.6", "6.9", "8.1", "100 episodes per bar")
    assert [label for label in labels if f"<!-- {label}" not in text] == []


def test_the_behaviour_policy_stands_first(tmp_path: Path) -> None:
    _, svg = evaluation_figure(
        ROWS, "t", tmp_path / "f.svg", env_name="coinrun", behaviour_policy="PPO"
    )
    text = svg.read_text()
    assert text.index("<!-- PPO") < text.index("<!-- BC -->")


def test_the_same_numbers_give_the_same_file(tmp_path: Path) -> None:
    first, second = (
        evaluation_figure(ROWS, "t", tmp_path / name, env_name="coinrun") for name in ("a", "b")
    )
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_negative_returns_are_drawn_within_the_axis(tmp_path: Path) -> None:
    rows = {"CQL": {"train": SplitSummary("train", 5, -3.0, 1.0, -0.04)}}
    _, svg = evaluation_figure(rows, "t", tmp_path / "f", env_name="fruitbot")
    assert "<!-- -3.0 -->" in svg.read_text()


def test_a_figure_without_methods_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one method"):
        evaluation_figure({}, "t", tmp_path / "f", env_name="coinrun")


def test_an_unwritable_folder_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ToolkitError, match="cannot be written"):
        evaluation_figure(ROWS, "t", tmp_path / "file" / "f", env_name="coinrun")
    (tmp_path / "f.png").mkdir()
    with pytest.raises(ToolkitError, match=r"f\.png: cannot be written"):
        evaluation_figure(ROWS, "t", tmp_path / "f", env_name="coinrun")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.png", "file"]


def test_the_learning_curve_is_drawn_from_the_runs_log(tmp_path: Path) -> None:
    (tmp_path / "logs.csv").write_text(LOGS)
    png, svg = learning_curve_figure(tmp_path / "logs.csv", "BC", tmp_path / "curve.png")
    assert png.read_bytes().startswith(b"\x89PNG")
    text = svg.read_text()
    assert all(label in text for label in ("training loss", "epoch", "mean return per episode"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("epoch,train_loss\n", "no row yet"),
        ("epoch,train_rets_mean,val_rets_mean,test_rets_mean\n1,2,3,4\n", "train_loss"),
        (LOGS.replace("1.5", "x"), "could not convert"),
    ],
)
def test_a_log_that_cannot_be_drawn_is_refused_by_name(
    tmp_path: Path, content: str | None, message: str
) -> None:
    log = tmp_path / "logs.csv"
    if content is not None:
        log.write_text(content)
    with pytest.raises(ToolkitError, match=rf"logs\.csv: .*{message}"):
        learning_curve_figure(log, "t", tmp_path / "curve")


def test_importing_the_figures_does_not_import_matplotlib() -> None:
    code = "import sys, offline.results.figures; print('matplotlib' in sys.modules)"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
