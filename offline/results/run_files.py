"""One run of an offline method, read from the files in its folder."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.errors import ToolkitError
from common.evaluation import Origin, read_episodes, read_origin
from common.files import readable
from common.rollout import EpisodeResult
from offline.results.comparable import Setting, complete_settings, setting_of
from offline.results.statistics import SPLITS, TRAIN, SplitSummary, score_range, summarise

SAMPLED, DETERMINISTIC = "sampled", "deterministic"
AS_TRAINED = "as trained"  # whichever of the two a run was trained to act in
FINAL, UNKNOWN = "final", "unknown"
RETURN_COLUMNS = {
    "train": "train_rets_mean",
    "validation": "val_rets_mean",
    "test": "test_rets_mean",
}
_MEAN_COLUMNS = {
    "train": "final_train_ret",
    "validation": "final_val_ret",
    "test": "final_test_ret",
}
_END_OF_TRAINING = "final_test_eval.csv"


class Evaluation(NamedTuple):
    """How an agent did, acting in one mode; by split, where only one level has only "train".

    `checkpoint` is what evaluate.json says. Where it is missing, as beside files of older versions,
    it is FINAL if the numbers repeat those of the end of training, else UNKNOWN.
    """

    mode: str
    checkpoint: str
    summaries: Mapping[str, SplitSummary]
    episodes: Mapping[str, Sequence[EpisodeResult]]


class LearningCurve(NamedTuple):
    """The rows of logs.csv: epochs (n,), training losses (n,), mean returns by split (n,)."""

    epochs: NDArray[np.float64]
    losses: NDArray[np.float64]
    returns: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class CollectedRun:
    """One run that is finished and evaluated.

    `settings` are all of them, by flag; `evaluations` are by acting mode, and hold `trained_mode`,
    that of evaluate.csv. `curve` is None where logs.csv cannot be read. `broken` are files that it
    does without: name and reason.
    """

    folder: Path
    game: str
    seed: int
    setting: Setting
    settings: Mapping[str, Any]
    trained_mode: str
    evaluations: Mapping[str, Evaluation]
    curve: LearningCurve | None
    broken: Mapping[str, str]

    @property
    def method(self) -> str:
        return self.setting.method


def read_run(folder: Path, names: Collection[str]) -> CollectedRun:
    """The run in `folder`, which holds files of these names.

    Raises ToolkitError, without the folder's name, if the run is not finished, not evaluated, not
    of an offline method or broken.
    """
    settings = _read_settings(folder, names)
    curve, broken = None, {}
    try:
        curve = read_curve(folder / "logs.csv")
    except ToolkitError as error:
        broken["logs.csv"] = str(error)
    _require_finished(names, settings, curve)
    if "evaluate.csv" not in names:
        raise ToolkitError("not evaluated: give its flags to offline.evaluate_offline_agent")
    trained_mode = _trained_mode(folder, settings, names)
    evaluations = {trained_mode: _read_evaluation(folder, "evaluate", trained_mode, settings)}
    for mode in (SAMPLED, DETERMINISTIC):
        stem = f"evaluate_{mode}"
        if mode != trained_mode and f"{stem}.csv" in names:
            try:
                evaluations[mode] = _read_evaluation(folder, stem, mode, settings)
            except ToolkitError as error:
                broken[f"{stem}.csv"] = str(error)
    return CollectedRun(
        folder=folder,
        game=settings["env_name"],
        seed=settings["seed"],
        setting=setting_of(settings),
        settings=settings,
        trained_mode=trained_mode,
        evaluations=evaluations,
        curve=curve,
        broken=broken,
    )


def read_curve(path: Path) -> LearningCurve:
    """The rows of a run's logs.csv.

    Raises ToolkitError, without the folder's name, if it is missing, empty or broken.
    """
    columns = ["epoch", "train_loss", *RETURN_COLUMNS.values()]
    rows = _read_rows(path, columns)
    values = {column: np.array([row[column] for row in rows]) for column in columns}
    if not np.isfinite(values["epoch"]).all():
        raise ToolkitError(f"{path.name} has a row without an epoch")
    returns = {split: values[column] for split, column in RETURN_COLUMNS.items()}
    return LearningCurve(values["epoch"], values["train_loss"], returns)


def _read_settings(folder: Path, names: Collection[str]) -> dict[str, Any]:
    if "meta.json" not in names:
        raise ToolkitError("no meta.json, so nothing tells its settings")
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ToolkitError(f"meta.json is broken: {error}") from error
    if not isinstance(meta, dict) or not isinstance(meta.get("settings"), dict):
        raise ToolkitError("meta.json is broken: it holds no settings")
    if "algo" not in meta["settings"]:
        raise ToolkitError("no run of an offline method: its settings have no --algo")
    settings = complete_settings(
        {readable(name): _as_text(value) for name, value in meta["settings"].items()}
    )
    try:
        score_range(settings["env_name"], settings["distribution_mode"])
    except ValueError as error:
        raise ToolkitError(str(error)) from error
    return settings


def _as_text(value: Any) -> Any:
    """A setting's value in which names of folders can be written anywhere."""
    if isinstance(value, list):
        return [_as_text(one) for one in value]
    return readable(value) if isinstance(value, str) else value


def _require_finished(
    names: Collection[str], settings: Mapping[str, Any], curve: LearningCurve | None
) -> None:
    last = int(curve.epochs[-1]) if curve else 0
    # Weights may have been deleted to save space, so they are not the only mark.
    marks = {"final_model.pt", _END_OF_TRAINING} & set(names)
    if not marks and last != settings["epochs"]:
        raise ToolkitError(f"not finished: epoch {last} of {settings['epochs']} is the last logged")


def _trained_mode(folder: Path, settings: Mapping[str, Any], names: Collection[str]) -> str:
    """How the agent acted for evaluate.csv.

    Where evaluate.json does not say, one with --eval_eps 0 is certain without --deterministic,
    except where both modes were asked for: the certain one then has a file of its own.
    """
    origin = _origin(folder, "evaluate")
    if origin is not None and origin.acting in (SAMPLED, DETERMINISTIC):
        return origin.acting
    certain = settings["eval_eps"] == 0 and "evaluate_deterministic.csv" not in names
    return DETERMINISTIC if settings["deterministic"] or certain else SAMPLED


def _read_evaluation(folder: Path, stem: str, mode: str, settings: Mapping[str, Any]) -> Evaluation:
    """`<stem>.csv` and `<stem>_episodes.csv`; ToolkitError if they are broken or disagree."""
    means_file, episodes_file = f"{stem}.csv", f"{stem}_episodes.csv"
    means = _read_rows(folder / means_file, [*_MEAN_COLUMNS.values()])[-1]
    try:
        episodes = read_episodes(folder / episodes_file)
    except FileNotFoundError as error:
        raise ToolkitError(f"{episodes_file} is missing: evaluate the run again") from error
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise ToolkitError(f"{episodes_file} has a broken row: {error}") from error
    if not episodes or not set(episodes) <= set(SPLITS):
        raise ToolkitError(f"{episodes_file} has no row, or one of an unknown split")
    returns = {s: [e.episode_return for e in episodes[s]] for s in SPLITS if s in episodes}
    for split, values in returns.items():
        # Not close is nan, too.
        if not math.isclose(np.mean(values), means[_MEAN_COLUMNS[split]], abs_tol=1e-6):
            raise ToolkitError(
                f"{means_file} and {episodes_file} are of two evaluations: evaluate the run again"
            )
    played = SPLITS if settings["level"] is None else (TRAIN,)
    if absent := [split for split in played if split not in returns]:
        raise ToolkitError(
            f"{episodes_file} has no episode on {' and '.join(absent)} levels: "
            "evaluate the run again"
        )
    summaries = summarise(returns, settings["env_name"], settings["distribution_mode"])
    origin = _origin(folder, stem)
    checkpoint = origin.checkpoint if origin else _checkpoint(folder, means)
    return Evaluation(mode, checkpoint, summaries, episodes)


def _origin(folder: Path, stem: str) -> Origin | None:
    """What `<stem>.json` says of `<stem>.csv`, if it is of the same evaluation."""
    try:
        means = _read_rows(folder / f"{stem}.csv", [*_MEAN_COLUMNS.values()])[-1]
    except ToolkitError:
        return None
    return read_origin(
        folder / f"{stem}.json", {s: means[column] for s, column in _MEAN_COLUMNS.items()}
    )


def _checkpoint(folder: Path, means: Mapping[str, float]) -> str:
    """FINAL if these are the means at the end of training, whose episodes have the same seed."""
    try:
        end = _read_rows(folder / _END_OF_TRAINING, [*_MEAN_COLUMNS.values()])[-1]
    except ToolkitError:
        return UNKNOWN
    return FINAL if end == means else UNKNOWN


def _read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, float]]:
    """`columns` of a CSV file, one dict per row, at least one; an empty cell is nan."""
    rows: list[dict[str, float]] = []
    try:
        with open(path, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if None in row.values():
                    raise ToolkitError(f"{path.name} is cut off in row {len(rows) + 1}")
                rows.append({column: float(row[column] or "nan") for column in columns})
    except FileNotFoundError as error:
        raise ToolkitError(f"{path.name} is missing") from error
    except KeyError as error:
        raise ToolkitError(f"{path.name} lacks the column {error.args[0]}") from error
    except (ValueError, csv.Error) as error:
        raise ToolkitError(f"{path.name} is broken in row {len(rows) + 1}: {error}") from error
    if not rows:
        raise ToolkitError(f"{path.name} has no row")
    return rows
