"""`run`: the program's status, and the signals on their way to it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mesh.cli.run import run_child
from tests.cli.conftest import Run

pytestmark = pytest.mark.system

FORWARD = """
import os, sys
from mesh.cli.run import run_child
sys.exit(run_child((sys.executable, "-I", "-S", "-c", sys.argv[1]), os.environ))
"""
TELL = """
import signal, sys, time
def tell(number, _):
    sys.exit(number + 40)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, tell)
print("ready", flush=True)
while True:  # pause() would miss a signal that comes just before it
    time.sleep(0.05)
"""
ROOT = Path(__file__).resolve().parents[2]


def test_the_childs_status_is_passed_on() -> None:
    assert 7 == run_child(("sh", "-c", "exit 7"), os.environ)


def test_a_signals_death_is_told_as_shells_do() -> None:
    assert 128 + signal.SIGKILL == run_child(("sh", "-c", "kill -9 $$"), os.environ)


def test_handlers_are_as_before_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    run_child(("true",), os.environ)
    assert before is signal.getsignal(signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_from_a_program_is_passed_on(number: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", FORWARD, TELL],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,  # without a terminal
    )
    assert parent.stdout is not None
    with parent.stdout as out:
        try:
            assert "ready\n" == out.readline()
            parent.send_signal(number)
            assert number + 40 == parent.wait(30)
        finally:
            parent.kill()
            parent.wait()


def test_a_program_that_is_not_there_is_a_usage_error_before_an_agent_starts(run: Run) -> None:
    ran = run("run", "--", "no-such-command-anywhere")
    assert 2 == ran.status
    assert "no-such-command-anywhere" in ran.err
