"""How a trained agent is told to act when it is evaluated, and what the results are called then."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from offline.arguments import DEFAULT_EVAL_EPS

OWN_RESULTS = "evaluate"


def is_certain(settings: Mapping[str, Any]) -> bool:
    """Whether an agent of these settings takes the likeliest action always."""
    # The chance of a random action; bc and iql, which have none, sample unless it is 0.
    return bool(settings["deterministic"] or settings["eval_eps"] == 0)


def ways_to_act(settings: argparse.Namespace, trained: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The settings of training with those to act by, for every mode that an evaluation asks for.

    What was not given of `deterministic`, `eval_eps` and `dt_eval_ret` is as the run was trained.
    """
    acting = {**trained, "precision": settings.precision}
    for name in ("eval_eps", "dt_eval_ret"):
        if name in settings.given:
            acting[name] = getattr(settings, name)
    modes = (trained["deterministic"],)
    if "deterministic" in settings.given:
        modes = getattr(settings, "acting_modes", (settings.deterministic,))  # training has one
    ways = [{**acting, "deterministic": mode} for mode in modes]
    # With eval_eps 0 it would be certain all the same: where both modes are asked for, or the 0 is
    # not of this command, it samples as by default.
    if "deterministic" in settings.given and (len(ways) > 1 or "eval_eps" not in settings.given):
        for way in ways:
            if is_certain(way) and not way["deterministic"]:
                way["eval_eps"] = DEFAULT_EVAL_EPS
    return ways


def results_name(way: Mapping[str, Any], trained: Mapping[str, Any]) -> str:
    """What the files of an evaluation begin with: `evaluate` where it acts as it was trained to."""
    if is_certain(way) == is_certain(trained):
        return OWN_RESULTS
    return f"{OWN_RESULTS}_{'deterministic' if is_certain(way) else 'sampled'}"
