"""Real agents that find each other through a real Consul."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import mesh
from tests.consul_server import ConsulServer
from tests.system.agents import Agent, Fleet, over_consul, until

pytestmark = pytest.mark.system

ROUTABLE_S = 0.5
"""What the design promises of an idle fleet: registered means routable from every agent within this."""


@pytest.fixture
def consul(tmp_path: Path) -> Iterator[ConsulServer]:
    directory = tmp_path / "consul"
    directory.mkdir()
    with ConsulServer(directory) as server:
        yield server


@pytest.fixture
def fleet(tmp_path: Path, consul: ConsulServer) -> Iterator[Fleet]:
    with Fleet(tmp_path, **over_consul(consul.address)) as fleet:
        yield fleet


def connect(apps: ExitStack, agent: Agent, app: str) -> mesh.Client:
    return apps.enter_context(mesh.connect(app=app, socket=agent.socket_path))


def routable_after_s(caller: mesh.Client, server: mesh.Client, topic: str) -> float:
    """Return how long it takes from ``serve`` until a call that does not wait gets through."""
    with pytest.raises(mesh.Unroutable):
        caller.call(topic, b"")
    begun = time.monotonic()
    server.serve(topic, lambda message: b"here")

    def routed() -> bool:
        try:
            return caller.call(topic, b"").body == b"here"
        except mesh.Unroutable:
            return False

    until(routed, f"{topic} is routable")
    return time.monotonic() - begun


def test_registered_means_routable(fleet: Fleet) -> None:
    a, b = fleet.start("a"), fleet.start("b")
    with ExitStack() as apps:
        caller, server = connect(apps, a, "caller"), connect(apps, b, "server")
        times = sorted(routable_after_s(caller, server, f"topic-{number}") for number in range(9))
        best, median, worst = (round(times[at] * 1000) for at in (0, 4, 8))
        print(f"routable after {best} ms at best, {median} as a median, {worst} at worst")
        assert times[4] < ROUTABLE_S


def test_traffic_goes_on_without_consul_and_all_is_registered_again_when_it_is_back_and_empty(
    fleet: Fleet, consul: ConsulServer
) -> None:
    a, b = fleet.start("a"), fleet.start("b")
    with ExitStack() as apps:
        caller, server = connect(apps, a, "caller"), connect(apps, b, "server")
        server.serve("known", lambda message: message.body)
        assert b"1" == caller.call("known", b"1", wait=True).body
        kept = a.data_dir / "directory.msgpack"
        until(lambda: kept.exists() and b"known" in kept.read_bytes(), "the topic's directory is on disk")
        consul.stop()
        until(lambda: a.query("status")["matchmaker"]["reachable"] is False, "the agent noticed")
        assert b"2" == caller.call("known", b"2").body

        a.kill()
        a.spawn()
        a.expect("reactor_ready")
        assert b"3" == caller.call("known", b"3", timeout_s=30, idempotent=True).body
        until(lambda: a.query("status")["matchmaker"]["reachable"] is False, "it had dialled whom it remembered")

        consul.wipe()
        consul.start()
        until(lambda: "heartmesh-topic-known" in consul.get("/v1/catalog/services"), "it is registered again")
        assert b"4" == caller.call("known", b"4").body
        until(lambda: a.query("status")["matchmaker"]["reachable"], "the other agent found it too")


def test_consul_shows_the_checks_of_agents_and_instances(fleet: Fleet, consul: ConsulServer) -> None:
    a = fleet.start("a")
    with ExitStack() as apps:
        server = connect(apps, a, "server")
        server.serve("shown", lambda message: b"")
        until(lambda: consul.get("/v1/health/service/heartmesh-topic-shown?passing=true"), "the instance passes")
        (agent,) = consul.get("/v1/health/service/heartmesh-agent?passing=true")
        assert "a" == agent["Service"]["Meta"]["node"]
    until(lambda: not consul.get("/v1/health/service/heartmesh-topic-shown"), "it is gone when its app has left")
