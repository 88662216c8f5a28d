"""`--compile`: the same training to rounding, compiled for real, and only while it trains."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from common import checkpoints
from common.compiling import compile_encoders, compiles, uncompiled
from common.errors import UsageError
from offline import train_offline_agent
from offline.agents import KIND
from tests.command_runs import the_error
from tests.offline_commands import CPU, TINY, TRAIN, flags, run, run_folder
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


@pytest.mark.parametrize("choice", ["auto", "off"])
def test_nothing_is_compiled_unless_asked_for(choice: str) -> None:
    assert not compiles(choice, CPU)


def test_a_missing_compiler_is_one_line_before_any_data_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    command = flags(TINY, dataset=tmp_path / "none", save_path=tmp_path, compile="on")
    assert train_offline_agent.main(command) == 2
    assert "--compile on needs a C++ compiler (no-such-compiler)" in the_error(
        capsys.readouterr().err
    )
    with pytest.raises(UsageError, match="triton"):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        compiles("on", torch.device("cuda"))
