"""Which runs are comparable: the same method at the same setting, on the same data and levels.

Runs of one `Setting` differ in nothing but seed and game. The part of a setting that says what was
learned from and where it is measured is its `Condition`: methods are compared, and the best setting
of a method is chosen, within one condition.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from common.errors import ToolkitError
from common.flags import short_number
from offline.arguments import TRAIN_FLAGS
from offline.run_names import NOT_IN_NAME

# What a run must say of itself. Any other flag that it lacks is newer than the run, which then was
# at its default.
_REQUIRED: dict[str, type] = {"algo": str, "env_name": str, "distribution_mode": str, "seed": int}
_TYPES = {**_REQUIRED, "num_levels": int, "dataset_size": int, "dataset": list}
_WHOLE_LOG = "25M"  # all that PPO saw while it learnt; the other released data are of one policy
BUILT_IN, NONE = "built-in data", "none"


class Condition(NamedTuple):
    """The data and the levels, by the flags of the same names; as text but for the numbers."""

    distribution_mode: str
    num_levels: int
    dataset: tuple[str, ...]
    dataset_size: int
    episode_order: str
    levels: str
    level: str

    def describe(self) -> str:
        """Such as `easy, 200 levels, data/1M_E, up to 1,000,000 transitions`."""
        return ", ".join(self.parts())

    def parts(self) -> list[str]:
        """What is told of it, a fact each."""
        parts = [
            self.distribution_mode,
            f"{self.num_levels:,} levels",
            " + ".join(self.dataset) or BUILT_IN,
            f"up to {self.dataset_size:,} transitions",
        ]
        if self.episode_order != "recorded":
            parts.append(f"{self.episode_order} episodes first")
        if self.level != NONE:
            parts.append(f"level {self.level} alone")
        elif self.levels:
            parts.append(f"data of levels {self.levels}")
        return parts


def shared_parts(conditions: Sequence[Condition]) -> str:
    """What is told of all of them; of data in several folders, whether they are suboptimal."""
    first, *others = conditions
    parts = [part for part in first.parts() if all(part in other.parts() for other in others)]
    if is_suboptimal(first) and any(first.dataset != other.dataset for other in others):
        parts.append("suboptimal data")
    return ", ".join(parts)


class Setting(NamedTuple):
    """All that shapes a run but its seed and game; `values` are (flag, text), in order of flags."""

    method: str
    condition: Condition
    values: tuple[tuple[str, str], ...]


_NOT_OF_SETTING = {*NOT_IN_NAME, *Condition._fields, "algo", "env_name", "seed"}
_DEFAULTS = {f.name: list(f.default) if f.many else f.default for f in TRAIN_FLAGS}


def complete_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run's meta.json, defaults filled in.

    Raises ToolkitError naming what is missing or of the wrong type.
    """
    complete = {**_DEFAULTS, **dict.fromkeys(_REQUIRED), "level": None, **settings}
    for name, kind in _TYPES.items():
        if type(complete[name]) is not kind:
            raise ToolkitError(f"its settings have no usable --{name}: {complete[name]!r}")
    return complete


def setting_of(settings: Mapping[str, Any]) -> Setting:
    """The setting that a run with these `complete_settings` belongs to."""
    condition = Condition(
        distribution_mode=settings["distribution_mode"],
        num_levels=settings["num_levels"],
        dataset=tuple(str(PurePath(str(path))) for path in settings["dataset"]),
        dataset_size=settings["dataset_size"],
        episode_order=setting_text(settings["episode_order"]),
        levels=setting_text(settings["levels"]),
        level=setting_text(settings["level"]),
    )
    values = tuple(
        (name, setting_text(value))
        for name, value in sorted(settings.items())
        if name not in _NOT_OF_SETTING
    )
    return Setting(settings["algo"], condition, values)


def differences(settings: Collection[Setting]) -> dict[Setting, str]:
    """What sets each setting apart from the others of its method in its condition, in order.

    Such as `lr 0.0005, batch_size 256`: the flags in which those settings differ. Empty where the
    method has one setting.
    """
    families: dict[tuple[str, Condition], list[Setting]] = {}
    for setting in sorted(settings):
        families.setdefault((setting.method, setting.condition), []).append(setting)
    texts = {}
    for family in families.values():
        rivals = [dict(setting.values) for setting in family]
        names = {name for rival in rivals for name in rival}
        varying = {name for name in names if len({rival.get(name) for rival in rivals}) > 1}
        for setting in family:
            values = (f"{name} {value}" for name, value in setting.values if name in varying)
            texts[setting] = ", ".join(values)
    return texts


class Axis(NamedTuple):
    """What studies vary in their data: a flag with numbers, and what must be alike beside it.

    With `own_data` every number must have data of its own: --num_levels alone changes only what an
    evaluation plays, not what was learned from.
    """

    flag: str
    label: str
    alike: Callable[[Condition], tuple[Any, ...]]
    own_data: bool

    def value(self, condition: Condition) -> int:
        """Where runs in this condition stand."""
        number: int = getattr(condition, self.flag)
        return number


def data_of(condition: Condition) -> tuple[tuple[str, ...], str]:
    """Which episodes are to be had: the folders, and the levels chosen from them."""
    return condition.dataset, condition.levels


def _of_one_size(c: Condition) -> tuple[Any, ...]:
    return c.distribution_mode, c.dataset_size, c.episode_order, *_kinds(c)


def _of_the_same_levels(c: Condition) -> tuple[Any, ...]:
    return c.distribution_mode, c.num_levels, c.levels, c.episode_order, *_kinds(c)


BY_LEVELS = Axis("num_levels", "number of training levels", _of_one_size, own_data=True)
BY_SIZE = Axis("dataset_size", "transitions of data", _of_the_same_levels, own_data=False)


def is_suboptimal(condition: Condition) -> bool:
    """By the names of the folders, which are the categories of the released data."""
    return any(name.endswith("_S") or "suboptimal" in name for name in _folders(condition))


def _kinds(condition: Condition) -> tuple[bool, bool]:
    """Of which policies the data are, which must not differ where only their size does."""
    whole_log = _WHOLE_LOG in _folders(condition)
    return is_suboptimal(condition), whole_log


def _folders(condition: Condition) -> list[str]:
    return [PurePath(path).name for path in condition.dataset]


def setting_text(value: Any) -> str:
    """A setting's value so that equal ones read equal: 0 and 0.0, a list and a tuple."""
    if value is None:
        return NONE
    if isinstance(value, list | tuple):
        return " ".join(map(setting_text, value))
    return short_number(value) if isinstance(value, float) else str(value)
