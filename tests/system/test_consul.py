"""Real agents that find each other through a real Consul."""

import os
import resource
import signal
import threading
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


# The agent's own check


def own_check(consul: ConsulServer, node: str) -> tuple[str, str]:
    """Return the status and the text of an agent's own check, empty ones if there is none."""
    for row in consul.get("/v1/health/service/heartmesh-agent"):
        if row["Service"]["Meta"]["node"] == node:
            for check in row["Checks"]:
                if check["ServiceID"]:
                    return check["Status"], check["Output"]
    return "", ""


def warns(consul: ConsulServer, node: str, reason: str) -> None:
    def seen() -> bool:
        status, text = own_check(consul, node)
        return status != "passing" and reason in text

    until(seen, f"{node}'s check says: {reason}")


def passes(consul: ConsulServer, node: str) -> None:
    until(lambda: own_check(consul, node)[0] == "passing", f"{node}'s check passes")


def test_an_agents_own_check_says_what_it_lacks_and_passes_again(fleet: Fleet, consul: ConsulServer) -> None:
    a, b = fleet.start("a", links={"waiting_records_max": 20}), fleet.start("b")
    with ExitStack() as apps:
        caller, server = connect(apps, a, "caller"), connect(apps, b, "server")
        passes(consul, "a")

        before = resource.prlimit(a.reactor_pid, resource.RLIMIT_NOFILE)
        used = len(os.listdir(f"/proc/{a.reactor_pid}/fd"))
        resource.prlimit(a.reactor_pid, resource.RLIMIT_NOFILE, (used + 2, before[1]))
        warns(consul, "a", "open files are in use")
        resource.prlimit(a.reactor_pid, resource.RLIMIT_NOFILE, before)
        passes(consul, "a")

        waiting = [caller.call_async("nobody", b"", wait=True, timeout_s=60) for _ in range(19)]
        warns(consul, "a", "19 of waiting_records_max = 20 are taken")
        for future in waiting:
            future.cancel()
        passes(consul, "a")

        server.serve("kept", lambda message: b"")
        caller.call("kept", b"", wait=True)
        b.send(signal.SIGSTOP)
        os.kill(b.reactor_pid, signal.SIGSTOP)
        lost = caller.call_async("kept", b"", idempotent=True, timeout_s=60)
        warns(consul, "a", "no link to b")
        os.kill(b.reactor_pid, signal.SIGCONT)
        b.send(signal.SIGCONT)
        assert b"" == lost.result(60).body
        passes(consul, "a")


def test_an_agents_own_check_tells_of_a_clock_that_was_set_back(fleet: Fleet, consul: ConsulServer) -> None:
    a = fleet.start("a")
    passes(consul, "a")
    a.kill()
    ahead_ms = round((time.time() + 600) * 1000)
    (a.data_dir / "incarnation").write_text(f"{ahead_ms}\n")
    a.spawn()
    a.expect("reactor_ready")
    warns(consul, "a", "before the agent's own start: set it right")


def test_an_agents_own_check_tells_of_a_loop_that_lags(fleet: Fleet, consul: ConsulServer) -> None:
    a = fleet.start("a", agent={"watchdog_s": 30.0})
    passes(consul, "a")
    over = threading.Event()

    def starve() -> None:
        while not over.is_set():
            os.kill(a.reactor_pid, signal.SIGSTOP)
            over.wait(2.5)
            os.kill(a.reactor_pid, signal.SIGCONT)
            over.wait(0.2)

    starving = threading.Thread(target=starve)
    starving.start()
    try:
        warns(consul, "a", "its loop lags")
    finally:
        over.set()
        starving.join()
    passes(consul, "a")
