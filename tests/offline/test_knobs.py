"""Every knob changes what it says: no flag of the training command is without effect."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from common.seeding import seed_everything
from offline import train_offline_agent
from offline.agents import make_agent
from offline.arguments import ALGORITHMS, TRAIN_FLAGS, parse_training
from tests.data_fixtures import make_episode, write_game
from tests.method_fixtures import play, talkative
from tests.offline_commands import (
    CPU,
    GAME,
    ROOT,
    TIMES,
    TINY,
    flags,
    read_checkpoint,
    read_rows,
    run_folder,
)
from tests.sequence_fixtures import BASE, FACTS, TINY_AGENTS, make_windows
from tests.value_agents import SMALL, make_transitions, weights_of

VALUE_BASED = ("bcq", "cql", "iql")
TRANSFORMERS = ("bct", "dt")
# Of no consequence for what comes out, and why.
NO_EFFECT = {
    "save_path": "says where the run goes",
    "xpid": "says where the run goes",
    "pack_dir": "says where the store goes",
    "no_cuda": "says where the networks run",
    "data_device": "says where the frames are; batches are the same wherever that is",
    "memory_budget_gb": "says where the frames are; batches are the same wherever that is",
    "tensorboard": "shows what logs.csv holds",
    "wandb_project": "shows what logs.csv holds",
    "wandb_entity": "shows what logs.csv holds",
}
# Tests elsewhere that see the effect.
ELSEWHERE = {
    "algo": "tests/offline/test_targets.py::test_the_weights_of_another_method_are_refused_by_name",
    "compile": "tests/offline/test_compiling.py::test_a_run_trains_the_same_to_rounding",
    "early_stop": "tests/offline/test_training.py"
    "::test_early_stopping_waits_for_ten_evaluations_without_improvement",
    "num_seeds": "tests/offline/test_many_seeds.py::test_seeds_are_named_as_their_runs_alone_are",
    "precision": "tests/common/test_device.py::test_autocast_sets_the_type_of_matrix_products",
    "resume": "tests/offline/test_run_folder.py"
    "::test_an_unfinished_run_is_not_touched_without_resume",
}


class Knob(NamedTuple):
    """A flag turned to another value, all else being as in `base`."""

    flag: str
    algo: str
    value: Any
    base: dict[str, Any] = {}  # noqa: RUF012 - never changed

    def __str__(self) -> str:
        return f"{self.algo}-{self.flag}"


# What reaches the weights

# So large that the values of actions differ by more than rounding.
SPREAD = {"scale_pixels": False}
OFTEN = {"target_update_freq": 1}
POLYAK = {**OFTEN, "perform_polyak_update": True}
LEARNING = [
    *(Knob("lr", algo, 0.01) for algo in ALGORITHMS),
    *(Knob("agent_model", algo, "pporesnetbase") for algo in ALGORITHMS),
    *(Knob("hidden_size", algo, 6) for algo in ALGORITHMS),
    *(Knob("scale_pixels", algo, False) for algo in ALGORITHMS),
    *(Knob("gamma", algo, 0.5) for algo in VALUE_BASED),
    *(Knob("target_update_freq", algo, 2) for algo in VALUE_BASED),
    *(Knob("perform_polyak_update", algo, True, OFTEN) for algo in VALUE_BASED),
    *(Knob("tau", algo, 0.5, POLYAK) for algo in VALUE_BASED),
    Knob("cql_alpha", "cql", 1.0),
    Knob("bcq_threshold", "bcq", 0.9, SPREAD),
    Knob("iql_temperature", "iql", 3.0),
    Knob("iql_expectile", "iql", 0.5),
    *(Knob("dt_context_length", algo, 4) for algo in TRANSFORMERS),
    Knob("dt_rtg_noise_prob", "dt", 0.5),
    *(Knob("lr_decay", algo, False) for algo in TRANSFORMERS),
    *(Knob("warmup_tokens", algo, 1000) for algo in TRANSFORMERS),
    *(Knob("weight_decay", algo, 0.5) for algo in TRANSFORMERS),
    *(Knob("grad_norm_clip", algo, 0.01) for algo in TRANSFORMERS),
]


def learned(algo: str, settings: dict[str, Any]) -> torch.Tensor:
    """All weights after three updates, from the same start on the same batches."""
    small = BASE if algo in TINY_AGENTS else SMALL
    parsed = parse_training(flags({**small, "algo": algo}, **settings), "")
    seed_everything(parsed.seed)
    agent: Any = TINY_AGENTS.get(algo, make_agent)(vars(parsed), FACTS, CPU)
    for seed in range(3):
        if algo in TINY_AGENTS:
            steps = [1, 2, parsed.dt_context_length]
            agent.update(make_windows(steps, parsed.dt_context_length, seed))
        else:
            agent.update(make_transitions(6, seed))
    return weights_of(agent)


@pytest.mark.parametrize("knob", LEARNING, ids=str)
def test_a_knob_of_learning_changes_the_weights(knob: Knob) -> None:
    turned = {**knob.base, knob.flag: knob.value}
    assert not torch.equal(learned(knob.algo, turned), learned(knob.algo, knob.base))


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_the_same_settings_give_the_same_weights(algo: str) -> None:
    assert torch.equal(learned(algo, {}), learned(algo, {}))


@pytest.mark.parametrize(
    "knob",
    [
        *(Knob("tau", algo, 0.5, OFTEN) for algo in VALUE_BASED),  # without Polyak updates
        *(Knob("target_update_freq", algo, 4) for algo in VALUE_BASED),  # after three updates
        *(Knob("eval_eps", algo, 0.5) for algo in ("bc", *VALUE_BASED)),
        *(Knob("deterministic", algo, True) for algo in ALGORITHMS),
        Knob("dt_eval_ret", "dt", 5),
    ],
    ids=str,
)
def test_where_it_has_no_say_a_knob_changes_no_weight(knob: Knob) -> None:
    turned = {**knob.base, knob.flag: knob.value}
    assert torch.equal(learned(knob.algo, turned), learned(knob.algo, knob.base))


# What reaches the actions

ACTING = [
    *(Knob("deterministic", algo, True) for algo in ("bc", "iql", *TRANSFORMERS)),
    *(Knob("deterministic", algo, True, {"eval_eps": 0.5}) for algo in ("bcq", "cql")),
    *(Knob("eval_eps", algo, 0.5) for algo in ("bcq", "cql")),
    *(Knob("eval_eps", algo, 0.0) for algo in ("bc", "iql")),
    *(Knob("dt_context_length", algo, 5) for algo in TRANSFORMERS),
    Knob("dt_eval_ret", "dt", 5),
    Knob("bcq_threshold", "bcq", 0.99),
]


def played(algo: str, settings: dict[str, Any]) -> dict[int, list[int]]:
    return play(talkative(algo, **settings), [0, 1, 2, 3])


@pytest.mark.parametrize("knob", ACTING, ids=str)
def test_a_knob_of_acting_changes_the_actions(knob: Knob) -> None:
    plain = played(knob.algo, knob.base)
    assert played(knob.algo, knob.base) == plain
    assert played(knob.algo, {**knob.base, knob.flag: knob.value}) != plain


# What acts outside the agents, of which neither the loop nor the data know the name

COMMAND = [
    Knob(flag, "bc", value)
    for flag, value in {
        "env_name": "coinrun",
        "distribution_mode": "hard",
        "num_levels": 1,
        "seed": 3,
        "dataset": "other",
        "dataset_size": 6,
        "percentile": 0.5,
        "levels": 7,
        "batch_size": 5,
        "epochs": 3,
        "eval_freq": 1,
        "ckpt_freq": 1,
        "num_eval_episodes": 3,
        "num_final_episodes": 1,
    }.items()
]
COMMAND += [Knob("episode_order", "bc", order, {"dataset_size": 6}) for order in ("best", "random")]
COMMAND.append(Knob("skip_bad_episodes", "bc", True, {"dataset": "spoilt"}))


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three datasets, of two games and more than one level each."""
    folder = tmp_path_factory.mktemp("datasets")
    for first, name in enumerate(("plain", "other", "spoilt")):
        for game in (GAME, "coinrun"):
            episodes = [
                make_episode(10 * first + i, [float(reward)] * 6, level_seed=7 + i)
                for i, reward in enumerate((1, 3, 2, 0))
            ]
            write_game(folder / name / game, episodes)
    (folder / "spoilt" / GAME / "20230329T092246_9_6_9_1.00.npz").write_bytes(b"nothing")
    return folder


def ended(datasets: Path, save_path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """All that the training command leaves, but for times."""
    shown: dict[str, Any] = {
        **TINY,
        "hidden_size": 8,
        "xpid": "run",
        "dataset": "plain",
        "epochs": 2,
    }
    shown |= {"eval_freq": 2, "num_final_episodes": 0, "precision": "fp32", **settings}
    shown["dataset"] = datasets / shown["dataset"]
    code = train_offline_agent.main(flags(shown, save_path=save_path))
    if code:
        return {"code": code}
    folder = save_path / shown["env_name"] / run_folder(save_path).name
    rows = read_rows(folder / "logs.csv")
    weights = read_checkpoint(folder / "final_model.pt")["agent"]["weights"]
    return {
        "rows": [{name: row[name] for name in row if name not in TIMES} for row in rows],
        "weights": [tensor.tolist() for tensor in weights.values()],
        "files": sorted(path.name for path in folder.iterdir()),
    }


@pytest.fixture(scope="module")
def plain_end(datasets: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return ended(datasets, tmp_path_factory.mktemp("plain"), {})


def test_the_same_command_leaves_the_same(
    datasets: Path, plain_end: dict[str, Any], tmp_path: Path
) -> None:
    assert ended(datasets, tmp_path, {}) == plain_end


@pytest.mark.parametrize("knob", COMMAND, ids=str)
def test_a_knob_of_the_command_changes_what_it_leaves(
    knob: Knob, datasets: Path, plain_end: dict[str, Any], tmp_path: Path
) -> None:
    without = ended(datasets, tmp_path / "a", knob.base) if knob.base else plain_end
    turned = {**knob.base, knob.flag: knob.value}
    assert ended(datasets, tmp_path / "b", turned) != without


# Nothing is left out


def test_every_flag_is_turned_here_or_elsewhere_or_has_no_effect_for_a_reason() -> None:
    here = {knob.flag for knob in (*LEARNING, *ACTING, *COMMAND)}
    groups = (here, set(NO_EFFECT), set(ELSEWHERE))
    assert set.union(*groups) == {flag.name for flag in TRAIN_FLAGS}
    assert sum(map(len, groups)) == len(TRAIN_FLAGS)


@pytest.mark.parametrize("flag", TRAIN_FLAGS, ids=lambda flag: flag.name)
def test_a_flag_of_agents_is_turned_for_every_agent_that_uses_it(flag: Any) -> None:
    turned = {knob.algo for knob in (*LEARNING, *ACTING) if knob.flag == flag.name}
    if flag.algorithms or turned:
        assert turned == set(flag.algorithms or ALGORITHMS)


@pytest.mark.parametrize("test", ELSEWHERE.values())
def test_the_tests_elsewhere_are_there(test: str) -> None:
    path, name = test.split("::")
    assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.MULTILINE)
