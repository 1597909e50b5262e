"""Agents of one's own, and what holds them to their starter."""

import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mesh.cli.private import PrivateAgent, StartFailed, free_port, leashed, private_directory, unwinding
from mesh.client.sync import connect

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[2]
LEASHING = """
import subprocess, sys, time
from mesh.cli.private import leashed
child = subprocess.Popen(leashed([sys.executable, "-c", "print('started', flush=True); import time; time.sleep(60)"]))
time.sleep(60)
"""


def test_an_agent_answers_from_its_own_directory_and_ends_with_its_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESH_SOCKET", "/nowhere")
    monkeypatch.setenv("MESH_NODE_ID", "somebody-else")
    with private_directory() as directory:
        with PrivateAgent(directory, "n1", {"heat": {"pin": {}}}) as agent:
            agent.wait_ready()
            with connect("test", socket=agent.socket) as client:
                assert "n1" == client.query("status")["node"]
            assert {"preset", "agent", "matchmaker", "heat"} == set(tomllib.loads((directory / "n1.toml").read_text()))
        assert not agent.socket.exists()
    assert not directory.exists()


def test_an_agent_that_cannot_start_says_why() -> None:
    wrong = {"links": {"links_max": -1}}
    with (
        private_directory() as directory,
        PrivateAgent(directory, "n1", wrong) as agent,
        pytest.raises(StartFailed, match=r"n1 exited with 78(.|\n)*links_max"),
    ):
        agent.wait_ready()


def test_what_is_leashed_ends_when_its_starter_is_killed() -> None:
    starter = subprocess.Popen([sys.executable, "-c", LEASHING], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert starter.stdout is not None
    with starter.stdout as out:
        assert "started\n" == out.readline()
        starter.kill()
        starter.wait()
        assert "" == out.read()  # the end of what both wrote to, and long before a minute


def test_what_is_leashed_to_a_process_that_is_gone_does_not_start() -> None:
    line = leashed(["/bin/echo", "started"])
    line[line.index(str(os.getpid()))] = "1"
    assert b"" == subprocess.run(line, stdout=subprocess.PIPE, check=True).stdout


def test_sigterm_unwinds_the_stack() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, unwinding():
        signal.raise_signal(signal.SIGTERM)
    assert 128 + signal.SIGTERM == ended.value.code
    assert before is signal.getsignal(signal.SIGTERM)


def test_a_free_port_can_be_had() -> None:
    assert 0 < free_port() < 65_536
