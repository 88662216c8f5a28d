"""The whole path once, in minutes: collect episodes, train BC, evaluate it, table and figure.

Runs the commands a user would type, one after the other, and prints each. Nothing is downloaded:
the episodes come from the bundled policy on real Procgen.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from common.errors import ToolkitError
from common.flags import Flag, parse_flags, run_command
from common.games import GAMES
from offline import evaluate_offline_agent, train_offline_agent

_FLAGS = (
    Flag("env_name", str, "coinrun", "Procgen game with a bundled policy.", choices=GAMES),
    Flag("save_path", str, "demo", "Folder for the run, the table and the figure."),
    Flag("epochs", int, 8, "Passes over the data.", minimum=1),
    Flag("num_episodes", int, 100, "Episodes per split.", minimum=1),
)
_BEHAVIOUR = "behaviour policy"
_ROOT = Path(__file__).resolve().parents[1]


def _demo(argv: Sequence[str] | None) -> None:
    settings = parse_flags(_FLAGS, argv, __doc__ or "")
    start = time.monotonic()
    out = Path(settings.save_path).resolve()
    run_flags = [
        f"--env_name={settings.env_name}",
        *("--algo=bc", "--agent_model=dqn", "--lr=0.0005", "--batch_size=128"),
        *(f"--epochs={settings.epochs}", f"--eval_freq={settings.epochs}", "--xpid=bc"),
        *("--resume=True", f"--save_path={settings.save_path}"),
    ]
    _run(train_offline_agent, [*run_flags, "--num_final_episodes=0"])
    episodes = f"--num_final_episodes={settings.num_episodes}"
    _run(evaluate_offline_agent, [*run_flags, episodes])
    behaviour = out / settings.env_name / "behaviour_policy"
    _run_online(
        "online.evaluate_policy",
        [
            f"--env_name={settings.env_name}",
            f"--num_episodes={settings.num_episodes}",
            f"--out={behaviour}",
        ],
    )
    _summarise(out, settings.env_name, behaviour)
    print(f"\n{(time.monotonic() - start) / 60:.1f} minutes in all")


def _run(command: ModuleType, flags: list[str]) -> None:
    """Run one offline command; ToolkitError if it fails."""
    print(f"\n$ python -m {command.__name__} {' '.join(flags)}", flush=True)
    if command.main(flags) != 0:
        raise ToolkitError(
            f"{command.__name__} failed; see above (where a run is in the way: --save_path names "
            "another place)"
        )


def _run_online(module: str, flags: list[str]) -> None:
    """Run one online command in a process of its own: the packages stay apart."""
    print(f"\n$ python -m {module} {' '.join(flags)}", flush=True)
    done = subprocess.run([sys.executable, "-m", module, *flags], cwd=_ROOT, check=False)
    if done.returncode != 0:
        raise ToolkitError(f"{module} failed (exit code {done.returncode}); see above")


def _summarise(out: Path, env_name: str, behaviour: Path) -> None:
    """Print BC's row beside the behaviour policy's, and draw both."""
    from common.evaluation import read_episodes, returns_by_split
    from offline.results.figures import evaluation_figure
    from offline.results.statistics import summarise
    from offline.results.tables import results_table

    folders = {"BC": out / env_name / "bc", _BEHAVIOUR: behaviour}
    rows = {}
    for name, folder in folders.items():
        returns = returns_by_split(read_episodes(folder / "evaluate_episodes.csv"))
        rows[name] = summarise(returns, env_name)
    table = results_table(rows, f"{env_name} (easy, 200 training levels)")
    print(f"\n{table}")
    (out / "table.txt").write_text(table + "\n", encoding="utf-8")
    figures = evaluation_figure(
        rows,
        f"{env_name}: BC beside the policy that made its data",
        out / env_name,
        env_name=env_name,
        behaviour_policy=_BEHAVIOUR,
    )
    made_the_data = rows[_BEHAVIOUR]["train"].mean
    share = rows["BC"]["train"].mean / made_the_data if made_the_data else float("nan")
    print(f"\nBC reaches {share:.0%} of the behaviour policy's return on training levels")
    print(f"figure: {', '.join(str(path) for path in figures)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0 done, 1 failed, 2 bad arguments."""
    return run_command(_demo, argv)


if __name__ == "__main__":
    sys.exit(main())
