"""The commands as processes, against real agents."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from mesh.cli.private import PrivateAgent, private_directory
from mesh.client.sync import Client, connect

pytestmark = pytest.mark.system

WITHIN_S = 60.0

Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def agents() -> Iterator[tuple[PrivateAgent, PrivateAgent]]:
    with private_directory() as directory, PrivateAgent(directory, "n1") as near, PrivateAgent(directory, "n2") as far:
        near.wait_ready()
        far.wait_ready()
        yield near, far


@pytest.fixture
def far_app(agents: tuple[PrivateAgent, PrivateAgent]) -> Iterator[Client]:
    with connect("far", socket=agents[1].socket) as client:
        yield client


def command(*arguments: str, socket: Path | None = None) -> tuple[list[str], dict[str, str]]:
    environment = {**os.environ, "NO_COLOR": "1"}
    environment.pop("MESH_SOCKET", None)
    if socket:
        environment["MESH_SOCKET"] = str(socket)
    return [sys.executable, "-m", "mesh.cli", *arguments], environment


def mesh(*arguments: str, socket: Path | None = None, given: str = "") -> Done:
    line, environment = command(*arguments, socket=socket)
    return subprocess.run(
        line, env=environment, input=given, capture_output=True, text=True, timeout=WITHIN_S, check=False, cwd="/"
    )


def test_a_call_crosses_two_agents(agents: tuple[PrivateAgent, PrivateAgent], far_app: Client) -> None:
    far_app.serve("upper", lambda message: message.body.upper())
    done = mesh("call", "upper", "--wait", socket=agents[0].socket, given="from a pipe")
    assert (0, "FROM A PIPE", "") == (done.returncode, done.stdout, done.stderr)
    links = json.loads(mesh("links", "--json", socket=agents[0].socket).stdout)
    assert ["n2"] == [link["peer"] for link in links]
    assert "upper" in mesh("links", socket=agents[0].socket).stdout
    assert "n2/" in mesh("topics", socket=agents[0].socket).stdout


def test_a_call_is_followed_over_two_agents(agents: tuple[PrivateAgent, PrivateAgent], far_app: Client) -> None:
    far_app.serve("traced", lambda message: message.body)
    mesh("call", "traced", "--wait", socket=agents[0].socket)
    done = mesh("trace", "traced", socket=agents[0].socket)
    assert (0, "") == (done.returncode, done.stderr)
    assert "no handler ran" in done.stdout
    assert [True] * 3 == [place in done.stdout for place in ("n1 ↔ n2", "n2 ↔ far", "mesh-cli ↔ n1")]
    told = json.loads(mesh("trace", "traced", "--run", "--json", socket=agents[0].socket, given="x").stdout)
    assert (True, 8) == (told["ran"], len(told["legs"]))
    assert told["took_ms"] == pytest.approx(sum(leg["took_ms"] for leg in told["legs"]), abs=0.01)
    assert 3 == mesh("trace", "nobody-serves-this", socket=agents[0].socket).returncode


def test_cast_and_fanout_end_when_their_handlers_have(
    agents: tuple[PrivateAgent, PrivateAgent], far_app: Client
) -> None:
    heard: list[bytes] = []
    far_app.serve("notes", lambda message: heard.append(message.body))
    assert 0 == mesh("cast", "notes", "one", "--wait", socket=agents[0].socket).returncode
    assert [b"one"] == heard
    done = mesh("fanout", "notes", "two", socket=agents[0].socket)
    assert (0, "asked 1 · finished 1 · failed 0 · unknown 0\n") == (done.returncode, done.stdout)
    assert [b"one", b"two"] == heard


def test_outcomes_are_told_by_the_exit_status(agents: tuple[PrivateAgent, PrivateAgent], far_app: Client) -> None:
    far_app.serve("broken", lambda message: bytes(message.body[999]))
    socket = agents[0].socket
    assert 1 == mesh("call", "broken", "x", "--wait", socket=socket).returncode
    assert 3 == mesh("call", "nobody", "x", socket=socket).returncode
    assert 5 == mesh("call", "nobody", "x", "--wait", "--timeout-s", "0.2", socket=socket).returncode
    assert 7 == mesh("call", "no name", "x", socket=socket).returncode
    away = mesh("call", "x", "x", "--timeout-s", "0.2", socket=Path("/nowhere/agent.sock"))
    assert 8 == away.returncode
    assert "/nowhere/agent.sock" in away.stderr
    assert 1 == len(away.stderr.splitlines())


def test_a_service_made_of_a_command_answers_until_it_is_ended(agents: tuple[PrivateAgent, PrivateAgent]) -> None:
    line, environment = command("serve", "shout", "--server", "s1", "--", "tr", "a-z", "A-Z", socket=agents[1].socket)
    service = subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, text=True)
    errors: IO[str] = service.stderr  # type: ignore[assignment]
    with errors:
        try:
            assert "serving shout on n2 with tr; Ctrl-C ends it\n" == errors.readline()
            done = mesh("call", "shout@s1", "hello", "--wait", socket=agents[0].socket)
            assert (0, "HELLO") == (done.returncode, done.stdout)
            service.send_signal(signal.SIGTERM)
            assert 0 == service.wait(WITHIN_S)
        finally:
            service.kill()
            service.wait()


def test_the_agent_is_inspected(agents: tuple[PrivateAgent, PrivateAgent]) -> None:
    socket = agents[0].socket
    assert "n1" == json.loads(mesh("status", "--json", socket=socket).stdout)["node"]
    assert "n1 of fleet default" in mesh("status", socket=socket).stdout
    assert mesh("ping", socket=socket).stdout.startswith("n1: ")


def test_the_doctor_finds_a_running_agent_well(agents: tuple[PrivateAgent, PrivateAgent]) -> None:
    done = mesh("doctor", "--config", str(agents[0].directory / "n1.toml"), "--json", socket=agents[0].socket)
    findings = json.loads(done.stdout)
    assert 0 == done.returncode, findings
    whats = ["configuration", "socket", "agent", "clock", "open files", "matchmaker", "port", "dial back"]
    assert whats == [finding["what"] for finding in findings]


def test_the_doctor_says_what_is_missing() -> None:
    done = mesh("doctor", "--timeout-s", "0.2", socket=Path("/nowhere/agent.sock"))
    assert 1 == done.returncode
    assert "fail  socket: nothing at /nowhere/agent.sock" in done.stdout


def test_a_watch_ends_with_ctrl_c(agents: tuple[PrivateAgent, PrivateAgent]) -> None:
    line, environment = command("status", "--watch", "--json", socket=agents[0].socket)
    watching = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, text=True)
    out: IO[str] = watching.stdout  # type: ignore[assignment]
    with out:
        try:
            assert ["n1", "n1"] == [json.loads(out.readline())["node"] for _ in range(2)]
            watching.send_signal(signal.SIGINT)
            assert 130 == watching.wait(WITHIN_S)
        finally:
            watching.kill()
            watching.wait()


def test_a_reader_that_leaves_is_no_disaster() -> None:
    line, environment = command("config", "reference")
    piped = ["sh", "-c", f"{' '.join(line)} | head -1"]
    done = subprocess.run(piped, env=environment, capture_output=True, text=True, timeout=WITHIN_S, check=True)
    assert ("# Options\n", "") == (done.stdout, done.stderr)


def test_a_program_has_an_agent_of_its_own_and_its_status_is_ours() -> None:
    code = """
import mesh, sys
client = mesh.connect("both")
client.serve("twice", lambda message: message.body * 2)
print(client.call("twice", b"ab").body)
sys.exit(7)
"""
    done = mesh("run", "--", sys.executable, "-c", code)
    assert (7, "b'abab'\n") == (done.returncode, done.stdout)


def test_an_agent_is_started_with_its_file(tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text("nonsense = 1\n")
    done = mesh("agent", "--config", str(bad))
    assert 78 == done.returncode
    assert "nonsense" in done.stderr


@pytest.mark.alone
@pytest.mark.parametrize("curve", [[], ["--curve"]])
def test_the_bench_measures(curve: list[str]) -> None:
    done = mesh("bench", "--seconds", "2", "--rounds", "1", "--json", *curve)
    assert 0 == done.returncode, done.stderr
    report = json.loads(done.stdout)
    beside = ("plain_call_p50_us", "plain_calls_per_s", "curve_calls_over_plain") if curve else ()
    assert all(report[name] > 0 for name in ("floor_p50_us", "call_p50_us", "calls_per_s", "casts_per_s", *beside))


def test_the_demo_loses_no_word(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("to be or not to be\n" * 1000)
    done = mesh("demo", str(text))
    assert 0 == done.returncode, done.stdout + done.stderr
    assert "6,000 words   equal" in done.stdout
    assert "its supervisor has replaced it" in done.stdout
    assert "persistent and heartbeated" in done.stdout
    assert "What to try next" in done.stdout
