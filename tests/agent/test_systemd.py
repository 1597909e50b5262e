"""What the service manager hears, over a path and over an abstract address."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.agent.exits import Exit
from mesh.agent.systemd import Systemd
from tests.agent.supervised import WITHIN_S, Agent

pytestmark = pytest.mark.io


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """Yield what NOTIFY_SOCKET says and the socket behind it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@heartmesh-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as behind:
        behind.bind(name.replace("@", "\0", 1))
        behind.settimeout(WITHIN_S)
        yield name, behind


def test_readiness_is_said_once_serving_and_stopping_before_the_end(
    tmp_path: Path, manager: tuple[str, socket.socket]
) -> None:
    name, behind = manager
    with Agent(tmp_path, env={"NOTIFY_SOCKET": name}) as agent:
        first = agent.ready()
        assert ["READY=1", f"STATUS=reactor {first['pid']} ready, incarnation {first['incarnation']}"] == heard(behind)
        os.kill(first["pid"], signal.SIGKILL)
        second = agent.ready()
        assert [f"STATUS=reactor {first['pid']} ended with SIGKILL, the next one starts in 0 s"] == heard(behind)
        assert f"STATUS=reactor {second['pid']} ready, incarnation {second['incarnation']}" == heard(behind)[-1]
        agent.send(signal.SIGTERM)
        assert ["STOPPING=1", "STATUS=draining"] == heard(behind)
        assert Exit.OK == agent.wait()


def test_the_watchdog_is_fed_by_the_supervisor_while_its_reactor_is_silent(
    tmp_path: Path, manager: tuple[str, socket.socket]
) -> None:
    name, behind = manager
    with Agent(tmp_path, "hang", env={"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "100000"}) as agent:
        agent.ready()
        said = [heard(behind) for _ in range(6)]
        assert said.count(["WATCHDOG=1"]) >= 4


def test_a_manager_that_is_gone_is_noted_and_ends_nothing(tmp_path: Path) -> None:
    with Agent(tmp_path, env={"NOTIFY_SOCKET": str(tmp_path / "gone")}) as agent:
        assert "READY=1" == agent.expect("systemd_unreachable")["unsaid"]
        agent.send(signal.SIGTERM)
        assert Exit.OK == agent.wait()


def test_variables_are_taken_out_of_the_environment() -> None:
    environ = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid()), "HOME": "/"}
    assert 1.5 == Systemd(environ).keep_alive_s
    assert {"HOME": "/"} == environ


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "3000000"},
        {"NOTIFY_SOCKET": "/nowhere"},
        {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "soon"},
        {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"},
    ],
)
def test_the_watchdog_is_off_unless_it_is_meant_for_this_process(environ: dict[str, str]) -> None:
    assert 0.0 == Systemd(environ).keep_alive_s


def test_no_manager_is_no_failure_and_one_that_is_gone_is() -> None:
    assert Systemd({}).say("READY=1")
    assert not Systemd({"NOTIFY_SOCKET": "/nowhere/notify"}).say("READY=1")


def heard(behind: socket.socket) -> list[str]:
    return behind.recv(4_096).decode().split("\n")
