"""The topology in Consul's UI, drawn by real agents at a real Consul: right in time, and under ACLs."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import mesh
from tests.consul_server import ConsulServer
from tests.system.agents import Agent, Fleet, until

pytestmark = pytest.mark.system

CHANGE_S = 15.0
"""What is promised of a first call, and of an app that left in order."""

DEATH_S = 30.0
"""What is promised of an agent that was killed, the keeper too."""

POLICIES = Path(__file__).resolve().parents[2] / "consul" / "acl"
KEEPER: dict[str, Any] = {"agent": {"roles": ["topology_keeper"]}}
WEB, ORDERS, STOCK = "heartmesh-app-web", "heartmesh-topic-orders", "heartmesh-topic-stock"

APP = """
import sys, time, mesh
app = mesh.connect(app=sys.argv[2], socket=sys.argv[1])
for topic in sys.argv[3].split():
    app.serve(topic, lambda message: time.sleep(float(message.body or 0)) or b"")
for topic in sys.argv[4].split():
    app.call(topic, b"", wait=True, timeout_s=60)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture(params=[False, True], ids=["open", "acl"])
def consul(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ConsulServer]:
    with ConsulServer(tmp_path / "consul", acl=request.param) as server:
        yield server


def rights(consul: ConsulServer, directory: Path, *policies: str) -> dict[str, Any]:
    """Return the options of an agent with these policies' rights, where Consul has ACLs."""
    options: dict[str, Any] = {"address": consul.address}
    if consul.token:
        file = directory / f"token-{'-'.join(policies)}"
        file.write_text(consul.new_token("\n".join((POLICIES / f"{name}.hcl").read_text() for name in policies)))
        options["token_file"] = str(file)
    return options


class Stage:
    """A fleet at a Consul, and programs at its agents."""

    def __init__(self, consul: ConsulServer, directory: Path) -> None:
        self.consul = consul
        self.directory = directory
        self.fleet = Fleet(directory, matchmaker={"kind": "consul"})
        self.programs: list[subprocess.Popen[bytes]] = []

    def agent(self, node: str, *, keeper: bool = False, **sections: Mapping[str, Any]) -> Agent:
        policies = ("agent", "topology-keeper") if keeper else ("agent",)
        told: dict[str, Any] = {"matchmaker__consul": rights(self.consul, self.directory, *policies), **sections}
        return self.fleet.start(node, **told | (KEEPER if keeper else {}))

    def program(self, agent: Agent, name: str, serves: str = "", calls: str = "") -> subprocess.Popen[bytes]:
        """Start an app as a process of its own; returns when it has served and called."""
        command = [sys.executable, "-c", APP, str(agent.socket_path), name, serves, calls]
        program = subprocess.Popen(command, stdout=subprocess.PIPE)
        self.programs.append(program)
        assert program.stdout is not None
        assert b"ready\n" == program.stdout.readline()
        return program

    def ends(self, service: str) -> tuple[set[str], set[str]]:
        """Return who calls a service and whom it calls, as the UI is told, if each is allowed by name."""
        told = self.consul.get(f"/v1/internal/ui/service-topology/{service}?kind=")
        sides = [told[side] or [] for side in ("Downstreams", "Upstreams")]
        for row in sides[0] + sides[1]:
            if row["Source"] != "proxy-registration" or not row["Intention"]["HasExact"]:
                return set(), set()
        return {row["Name"] for row in sides[0]}, {row["Name"] for row in sides[1]}

    def shows(self, expected: Mapping[str, tuple[set[str], set[str]]]) -> bool:
        return all(self.ends(service) == ends for service, ends in expected.items())

    def checks(self, service: str) -> list[tuple[str, str]]:
        """Return the statuses and texts of a service's checks."""
        rows = self.consul.get(f"/v1/health/service/{service}")
        return [(c["Status"], c["Output"]) for row in rows for c in row["Checks"] if c["CheckID"].endswith(":ttl")]

    def close(self) -> None:
        for program in self.programs:
            program.kill()
            program.wait()
            assert program.stdout is not None
            program.stdout.close()
        self.fleet.__exit__()


@pytest.fixture
def stage(consul: ConsulServer, tmp_path: Path) -> Iterator[Stage]:
    made = Stage(consul, tmp_path)
    yield made
    made.close()


def took_s(condition: Callable[[], object], what: str, within_s: float) -> float:
    """Wait for a condition and say how long that took."""
    begun = time.monotonic()
    until(condition, what, within_s)
    seconds = time.monotonic() - begun
    print(f"{what}: {seconds:.1f} s")
    return seconds


CHAIN: dict[str, tuple[set[str], set[str]]] = {
    WEB: (set(), {ORDERS}),
    ORDERS: ({WEB}, {STOCK}),
    STOCK: ({ORDERS}, set()),
}


def test_the_picture_follows_first_calls_orderly_ends_kills_and_a_dead_keeper(stage: Stage) -> None:
    keepers = [stage.agent(node, keeper=True) for node in ("k1", "k2")]
    a, b = stage.agent("a"), stage.agent("b")
    first = until(lambda: [agent for agent in keepers if agent.noted("topology_keeper")], "there is a keeper")[0]
    other = keepers[1 - keepers.index(first)]
    stage.program(b, "s", serves="stock")
    stage.program(a, "o", serves="orders", calls="stock")
    web = stage.program(a, "web", calls="orders")
    took_s(lambda: stage.shows(CHAIN), "a first call shows", CHANGE_S)
    assert ["passing"] == [status for status, _ in stage.checks(WEB)]
    assert [] == [note for agent in (*keepers, a, b) for note in agent.noted("topology_away")]

    web.kill()
    gone = {WEB: (set[str](), set[str]()), ORDERS: (set[str](), {STOCK})}
    took_s(lambda: stage.shows(gone), "an app that was killed is gone", CHANGE_S)

    first.kill()
    web = stage.program(b, "web", calls="orders")
    took_s(lambda: stage.shows(CHAIN), "a first call shows after the keeper was killed", DEATH_S)
    assert other.noted("topology_keeper")

    b.kill()
    cut = {WEB: (set[str](), set[str]())}
    took_s(lambda: stage.shows(cut), "a node that was killed is gone", DEATH_S)
    node = stage.consul.get("/v1/catalog/node-services/heartmesh-topology")
    print([service["ID"] for service in node["Services"]])


def test_an_operators_deny_stays_and_is_drawn(stage: Stage) -> None:
    keeper = stage.agent("k", keeper=True)
    stage.program(keeper, "o", serves="orders")
    stage.program(keeper, "web", calls="orders")
    until(lambda: stage.ends(ORDERS) == ({WEB}, set()), "the edge is drawn")
    entry = stage.consul.get(f"/v1/config/service-intentions/{ORDERS}")
    entry["Sources"][0]["Action"] = "deny"
    stage.consul.put("/v1/config", {name: entry[name] for name in ("Kind", "Name", "Sources", "Meta")})
    stage.program(keeper, "shop", calls="orders")
    until(lambda: stage.ends(ORDERS)[0] == {WEB, "heartmesh-app-shop"}, "another edge is drawn")
    rows = stage.consul.get(f"/v1/internal/ui/service-topology/{ORDERS}?kind=")["Downstreams"]
    assert {WEB: False, "heartmesh-app-shop": True} == {row["Name"]: row["Intention"]["Allowed"] for row in rows}


def test_checks_turn_red_with_the_reason_and_green_again(stage: Stage) -> None:
    a = stage.agent("a", health={"app_silent_s": 2.0, "hung_after_s": 1.0})
    stopped = stage.program(a, "s", serves="stock")
    stage.program(a, "o", serves="orders")
    with ExitStack() as apps:
        caller = apps.enter_context(mesh.connect(app="web", socket=a.socket_path))
        caller.call("orders", b"0", wait=True)
        stopped.send_signal(signal.SIGSTOP)
        took_s(lambda: stage.checks(STOCK)[0][0] == "critical", "an app that is stopped is critical", CHANGE_S)
        assert "its app is silent" in stage.checks(STOCK)[0][1]
        stopped.send_signal(signal.SIGCONT)
        took_s(lambda: stage.checks(STOCK)[0][0] == "passing", "it passes again", CHANGE_S)
        hangs = [caller.call_async("orders", b"12", timeout_s=1) for _ in range(os.cpu_count() or 1)]
        hangs += [caller.call_async("orders", b"12", timeout_s=1) for _ in range(40)]
        took_s(lambda: stage.checks(ORDERS)[0][0] == "critical", "an app whose handlers hang is critical", CHANGE_S)
        assert "workers hang" in stage.checks(ORDERS)[0][1]
        for future in hangs:
            future.exception()
        until(lambda: stage.checks(ORDERS)[0][0] == "passing", "it passes again", 60.0)


def test_a_drain_shows_and_switched_off_nothing_is_told(stage: Stage) -> None:
    a = stage.agent("a", topology={"topology_on": False})
    stage.program(a, "o", serves="orders")
    stage.program(a, "web", calls="orders")
    assert ["passing"] == [status for status, _ in stage.checks("heartmesh-agent")]
    with mesh.connect(app="operator", socket=a.socket_path) as operator:
        busy = operator.call_async("orders", b"5", timeout_s=30)
        until(lambda: a.query("status")["unfinished"], "there is something to wait for")
        a.send(signal.SIGTERM)
        until(lambda: "draining" in stage.checks("heartmesh-agent")[0][1], "the drain shows")
        assert "warning" == stage.checks("heartmesh-agent")[0][0]
        busy.result(30)
    a.wait()
    assert [] == stage.checks(WEB)
    services = stage.consul.get("/v1/catalog/services")
    assert [] == [name for name in services if name.startswith("heartmesh-proxy-")]
