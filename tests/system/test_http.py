"""Health, metrics and the fleet over HTTP, from real agents."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mesh.agent.exits import Exit
from tests.system.agents import WITHIN_S, Agent, Fleet, until

pytestmark = pytest.mark.system

ANYWHERE = {"http_listen": "127.0.0.1:0"}
TOKEN = "a-token-of-some-length"


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Agents that listen for HTTP, on a free port each."""
    with Fleet(tmp_path, http=ANYWHERE, view={"view_s": 0.5}) as fleet:
        yield fleet


def nodes(agent: Agent) -> dict[str, Any]:
    return {node["node"]: node for node in json.loads(agent.get("/topology.json")[1])["nodes"]}


def test_an_agent_is_healthy_ready_and_measured(fleet: Fleet) -> None:
    a = fleet.start("a")
    assert (200, "ok\n") == a.get("/healthz")
    until(lambda: a.get("/readyz") == (200, "ok\n"), "a is ready")
    with a.echo(), a.traffic():
        status, text = a.get("/metrics")
    assert 200 == status
    assert 'heartmesh_requests_total{kind="call"}' in text
    assert 'heartmesh_limit_max{limit="http_connections_max"} 16.0' in text


def test_any_agent_shows_the_whole_fleet_who_calls_whom_and_who_died(fleet: Fleet) -> None:
    a, b, c = (fleet.start(name) for name in "abc")
    with b.echo(), a.traffic():

        def whole() -> bool:
            seen = nodes(c)
            return list("abc") == sorted(seen) and all(node["view"] for node in seen.values())

        until(whole, "c knows of all")
        seen = nodes(c)
        calls = [call["topic"] for app in seen["a"]["view"]["apps"] for call in app["calls"]]
        serves = [one["topic"] for app in seen["b"]["view"]["apps"] for one in app["serves"]]
        assert (["echo"], ["echo"]) == (calls, serves)
        assert ["b"] == [link["peer"] for link in seen["a"]["view"]["links"] if link["records_out"] > 10]
        b.kill()
        until(lambda: nodes(c)["b"]["age_s"] > 2, "b's part grows old")
        until(lambda: "b" not in [link["peer"] for link in nodes(c)["a"]["view"]["links"]], "a has no link to b")
        assert nodes(c)["a"]["age_s"] < 2


def test_the_command_line_shows_the_whole_fleet_too(fleet: Fleet) -> None:
    a, b, _ = (fleet.start(name) for name in "abc")
    with b.echo(), a.traffic():
        for command, texts in (
            (("topology",), ("a serving", "b serving", "c serving", "calls echo")),
            (("topology", "--dot"), ('"agent a" -- "agent b"', '"agent c"')),
            (("top", "--once"), ("a - b", "echo", "serving")),
        ):
            told = [sys.executable, "-m", "mesh.cli", *command, "--socket", str(a.socket_path)]
            done = subprocess.run(told, capture_output=True, text=True, timeout=WITHIN_S, check=False)
            assert 0 == done.returncode, done.stderr
            assert [] == [text for text in texts if text not in done.stdout], done.stdout


def test_the_page_is_there_again_after_the_reactor_was_killed(fleet: Fleet) -> None:
    a = fleet.start("a")
    before = a.http_address
    a.kill_reactor()
    assert (200, "ok\n") == a.get("/healthz")
    assert before == a.http_address


def test_slow_readers_cost_no_app_and_no_other_reader_anything(fleet: Fleet) -> None:
    a = fleet.start("a", http={"http_connections_max": 4, "http_request_s": 30})
    with a.echo(), a.traffic() as traffic:
        flood = [socket.create_connection(a.http_address, timeout=WITHIN_S) for _ in range(200)]
        for connection in flood:
            connection.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
        assert 200 == a.get("/healthz")[0]
        traffic.flows()
        assert [] == traffic.failures
        assert a.descriptors() < 100
        for connection in flood:
            connection.close()


def test_other_machines_need_the_token(fleet: Fleet, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    a = fleet.start("a", http={"http_listen": "0.0.0.0:0", "http_token_file": str(token)})
    assert 401 == a.get("/healthz")[0]
    assert 200 == a.get("/healthz", Authorization=f"Bearer {TOKEN}")[0]


def test_an_agent_without_its_token_or_port_says_so_and_does_not_start(fleet: Fleet, tmp_path: Path) -> None:
    a = fleet.start("a", ready=False, http={"http_token_file": str(tmp_path / "absent")})
    assert Exit.CONFIGURATION == a.wait()
    assert "absent" in a.noted("reactor_stops")[-1]["why"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        b = fleet.start("b", ready=False, http={"http_listen": f"127.0.0.1:{taken.getsockname()[1]}"})
        assert Exit.UNAVAILABLE == b.wait()
        assert "cannot listen for HTTP" in b.noted("supervisor_refused")[-1]["why"]


def test_a_draining_agent_is_not_ready(fleet: Fleet) -> None:
    a = fleet.start("a")
    until(lambda: a.get("/readyz")[0] == 200, "a is ready")
    a.query("drain")
    status, why = a.get("/readyz")
    assert (503, "draining: 0 unfinished") == (status, why.splitlines()[0])
