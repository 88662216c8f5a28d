"""`--compile`: the same training to rounding, compiled for real, and only while it trains."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from common import checkpoints
from common.compiling import compile_encoders, compiles, require_compiler, uncompiled
from common.errors import UsageError
from common.run_logger import RunFolder
from offline import train_offline_agent
from offline.agents import KIND
from online import trainer
from online.arguments import parse_ppo
from online.training import Trainer
from tests.command_runs import the_error
from tests.offline_commands import CPU, GAME, TINY, TRAIN, flags, run, run_folder
from tests.value_agents import make_transitions, make_value_agent

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")


def graphs() -> int:
    """How many have been compiled so far."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


@pytest.mark.slow
@needs_compiler
def test_an_agent_learns_the_same_and_acts_uncompiled() -> None:
    plain, compiled = make_value_agent("bcq"), make_value_agent("bcq")
    compiled.load_state_dict(plain.state_dict())
    names = list(compiled.state_dict())
    compile_encoders(compiled)
    assert list(compiled.state_dict()) == names
    batch = make_transitions(8)
    before = graphs()
    for _ in range(3):
        for agent in (plain, compiled):
            agent.update(batch)
    assert graphs() > before
    for name, weights in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], weights, rtol=0, atol=1e-5)

    before = graphs()
    frames = batch.observations.numpy()
    actions = []
    for agent in (plain, compiled):
        agent.reset(8, seed=1)
        with uncompiled(agent):
            # Of sizes that compiled code has not met.
            actions.append([agent.act(frames[:n], np.arange(n)).tolist() for n in (7, 5, 3)])
    assert actions[0] == actions[1]
    assert graphs() == before


@pytest.mark.slow
@needs_compiler
def test_a_run_trains_the_same_to_rounding(tmp_path: Path, dataset: Path) -> None:
    weights = {}
    for choice in ("on", "off"):
        command = flags(
            TINY, dataset=dataset, save_path=tmp_path / choice, xpid="run", compile=choice
        )
        compiled = tmp_path / f"compiled-{choice}"
        done = run(TRAIN, *command, TORCHINDUCTOR_CACHE_DIR=str(compiled))
        assert done.returncode == 0, done.stderr
        assert bool(list(compiled.rglob("*.so"))) == (choice == "on")
        contents = checkpoints.load(run_folder(tmp_path / choice) / "final_model.pt", KIND, CPU)
        assert "compile" not in contents["settings"]
        weights[choice] = contents["agent"]["weights"]
    apart = [float((weights["on"][n] - weights["off"][n]).abs().max()) for n in weights["on"]]
    assert max(apart) < 1e-4


@pytest.mark.parametrize("choice", ["on", "off"])
def test_ppo_compiles_its_encoder_if_asked_for(tmp_path: Path, choice: str) -> None:
    settings = parse_ppo([f"--compile={choice}", "--num_processes=2", "--no_cuda=True"], "")
    made = Trainer(settings, RunFolder(tmp_path, GAME, "run"))
    assert (made.ppo.network.encoder._compiled_call_impl is not None) == (choice == "on")
    made.env.close()


@pytest.mark.parametrize("choice", ["auto", "off"])
def test_nothing_is_compiled_unless_asked_for(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    require_compiler(choice, CPU)
    assert not compiles(choice)


def test_acting_is_compiled_again_after_an_evaluation_that_failed() -> None:
    agent = make_value_agent("bcq")
    compile_encoders(agent)
    calls = [module._compiled_call_impl for module in agent.modules()]
    with pytest.raises(KeyError), uncompiled(agent):
        assert not any(module._compiled_call_impl for module in agent.modules())
        raise KeyError
    assert [module._compiled_call_impl for module in agent.modules()] == calls
    assert sum(call is not None for call in calls) == 2  # the online network's and the target's


@pytest.mark.parametrize("train", [train_offline_agent.main, trainer.main])
def test_a_missing_compiler_is_one_line_before_anything_is_read_or_made(
    train: Callable[[list[str]], int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    places = (
        [f"--model_saving_dir={tmp_path}"]
        if train is trainer.main
        else [f"--save_path={tmp_path}", f"--dataset={tmp_path / 'none'}"]
    )
    assert train([*places, "--no_cuda=True", "--compile=on"]) == 2
    error = the_error(capsys.readouterr().err)
    assert "--compile on needs a compiler (no-such-compiler)" in error
    assert not list(tmp_path.iterdir())


def test_a_card_needs_triton_and_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    card = torch.device("cuda")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="triton"):
        require_compiler("on", card)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(UsageError, match="gcc or clang"):
        require_compiler("on", card)
