"""The first signal is noted, so that a loop can finish its step; the second acts at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from common.errors import ToolkitError
from common.interrupts import Stopped, StopRequest
from tests.command_runs import ROOT


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_the_loop_goes_on(number: signal.Signals) -> None:
    with StopRequest() as stop:
        assert stop.signal_number is None
        os.kill(os.getpid(), number)
        assert stop.signal_number == number


def test_the_handlers_from_before_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with StopRequest():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_the_handlers_are_put_back_after_an_error_too() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), StopRequest():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGTERM) == before


def test_outside_the_main_thread_no_signal_is_noted_and_no_handler_changed() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def enter() -> tuple[object, int | None]:
        with StopRequest() as stop:
            return signal.getsignal(signal.SIGTERM), stop.signal_number

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(enter).result() == (before, None)


SECOND_SIGNAL = """
import os, signal, sys
from common.interrupts import StopRequest
with StopRequest() as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    print("noted", stop.signal_number, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("still here", flush=True)
"""


def test_a_second_signal_acts_at_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SECOND_SIGNAL], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == f"noted {signal.SIGTERM.value}\n"
    assert done.returncode == -signal.SIGTERM


def test_a_second_ctrl_c_is_a_keyboard_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt), StopRequest():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_a_stopped_run_exits_as_shells_expect() -> None:
    stopped = Stopped("stopped", signal.SIGTERM)
    assert isinstance(stopped, ToolkitError)
    assert stopped.exit_code == 143
    assert Stopped("stopped", signal.SIGINT).exit_code == 130
