"""The reactor in real agents: how it starts, is replaced, meets its namesake, goes without a matchmaker, and ends."""

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mesh.agent.exits import Exit
from mesh.core.records import AppHello, Flag, Goodbye, Reply
from tests.system.agents import Agent, Fleet, until
from tests.system.raw_app import RawApp

pytestmark = pytest.mark.system

IDLE_LOAD_MAX = 0.1
"""Part of a processor that an agent with nothing to do may use, on a busy machine."""


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """No agents yet; those that are started end with the test."""
    with Fleet(tmp_path) as fleet:
        yield fleet


# Two agents with one node id


def test_a_second_agent_with_a_node_id_ends_loudly_and_the_first_serves_on(fleet: Fleet) -> None:
    first, other = fleet.start("twin"), fleet.start("other")
    with first.echo(), other.echo("back"), other.traffic("echo") as traffic:
        second = fleet.start("twin", name="second", ready=False)
        assert Exit.CONFIGURATION == second.wait()
        assert second.noted("duplicate_node", level="error")
        assert first.noted("duplicate_node", level="error", peer="twin")
        assert 1 == len(second.noted("reactor_started"))
        traffic.flows()
        assert [] == traffic.failures
    for agent in (first, other):
        assert agent.process.poll() is None
        assert 1 == len(agent.noted("reactor_started"))
        assert 1 == len(agent.noted("link_opened"))


def test_a_second_agent_leaves_the_firsts_entries_with_the_matchmaker(fleet: Fleet) -> None:
    first, other = fleet.start("twin"), fleet.start("other")
    with first.echo(), other.echo("back"), other.traffic("echo"):
        fleet.start("twin", name="second", ready=False).wait()
        third = fleet.start("third")
        with third.traffic("echo") as traffic:
            traffic.flows()
            assert [] == traffic.failures


UNPACED = """
from gevent import monkey
monkey.patch_all(os=False, signal=False, subprocess=False)
import sys
from msgspec.structs import replace
from mesh.agent import start

paced = start.supervisor_options
start.supervisor_options = lambda config: replace(paced(config), young_s=0.0)
sys.exit(start.main(sys.argv[1:]))
"""
"""An agent whose supervisor replaces a reactor at once, however young it died."""


@pytest.mark.parametrize("how", ["reactor", "agent"])
def test_an_agent_that_is_killed_and_comes_back_is_not_taken_for_a_second_one(fleet: Fleet, how: str) -> None:
    soon = {"resume_grace_s": 0.2}
    a, b = fleet.start("a", delivery=soon), fleet.start("b", delivery=soon, program=("-c", UNPACED))
    for round_ in range(1, 21):
        with b.echo(server=str(round_)), a.traffic(timeout_s=1.0) as traffic:
            if how == "reactor":
                b.kill_reactor()
            else:
                b.kill()
                b.spawn()
            b.expect("reactor_ready")
            assert traffic.error is None
        with b.echo(server=f"{round_}-again"), a.traffic(timeout_s=5.0) as traffic:
            traffic.flows()
    for agent in (a, b):
        assert [] == agent.noted("duplicate_node")
        assert agent.process.poll() is None
    assert 21 == len(b.noted("reactor_ready"))
    assert 1 == len(a.noted("reactor_ready"))


# A defect

DEFECTIVE = """
from gevent import monkey
monkey.patch_all(os=False, signal=False, subprocess=False)
import sys
from mesh.agent.start import main
from mesh.core.node import Node

sound = Node.app_data

def app_data(node, conn, data, now):
    assert b"bomb" not in bytes(data), "a broken invariant"
    sound(node, conn, data, now)

Node.app_data = app_data
sys.exit(main(sys.argv[1:]))
"""


def test_a_defect_ends_the_reactor_with_its_traceback_and_another_takes_over(fleet: Fleet) -> None:
    a = fleet.start("a", program=("-c", DEFECTIVE))
    with a.app(name="other") as other:
        app = RawApp(a.socket_path, greet=False)
        app.send(AppHello(0, 0, 1, 1, "bomb"))
        note = a.expect("reactor_failed", level="error")
        assert "a broken invariant" in note["why"]
        assert "in app_data" in note["exception"]
        assert a.expect("reactor_ended")["how"] == f"status {Exit.FAILED:d}"
        assert app.ended()
        assert other.ended()
        app.socket.close()
    a.expect("reactor_ready")
    assert "a" == a.query("status")["node"]


# Addresses


def test_agents_meet_over_ipv6(fleet: Fleet) -> None:
    a, b = fleet.start("a", agent={"bind": ["::1"]}), fleet.start("b", agent={"bind": ["::1"]})
    assert a.query("status")["endpoint"].startswith("[::1]:")
    with b.echo(), a.traffic() as traffic:
        traffic.flows()


def test_an_agent_that_binds_twice_is_reached_over_ipv4_and_ipv6(fleet: Fleet) -> None:
    both = {"bind": ["127.0.0.1", "::1"]}
    four = fleet.start("four", agent={**both, "advertise": "127.0.0.1"})
    six = fleet.start("six", agent={**both, "advertise": "::1"})
    caller = fleet.start("caller")
    with four.echo("by4"), six.echo("by6"), caller.traffic("by4") as by4, caller.traffic("by6") as by6:
        by4.flows()
        by6.flows()
    assert 2 == len(four.links) == len({host for host, _ in four.links})


@pytest.mark.alone
def test_a_dial_that_is_refused_is_noticed_long_before_its_timeout(fleet: Fleet) -> None:
    a, b = fleet.start("a"), fleet.start("b")
    with b.echo():
        a_knows(a, "echo")
        b.kill()
        with a.app() as app:
            called_at = time.monotonic()
            app.request("echo", timeout_s=20)
            note = a.expect("dial_failed", peer="b")
            assert "nobody answers there" in note["why"]
            assert time.monotonic() - called_at < 1.0


def a_knows(agent: Agent, topic: str) -> None:
    """Return when an agent knows an instance of a topic: a fan-out to nobody's list would do, a waiting call does."""
    with agent.traffic(topic) as traffic:
        traffic.flows()
    until(lambda: agent.link_to("b") is None, "the link is closed as idle")


# Without a matchmaker


def test_traffic_flows_on_while_the_matchmaker_is_away_and_all_is_registered_when_it_is_back(fleet: Fleet) -> None:
    a, b = fleet.start("a"), fleet.start("b")
    with b.echo(), a.traffic() as traffic:
        path = fleet.matchmaker_path
        aside = path.with_suffix(".aside")
        path.rename(aside)
        path.mkdir()
        a.expect("matchmaker_away")
        b.expect("matchmaker_away")
        until(lambda: a.query("status")["matchmaker"]["reachable"] is False, "the status says so too")
        status = a.query("status")["matchmaker"]
        assert not status["reachable"], status
        assert str(path) in status["problem"]
        traffic.flows()
        path.rmdir()
        a.expect("matchmaker_back")
        b.expect("entry_repaired")
        traffic.flows()
        assert [] == traffic.failures
        until(lambda: a.query("status")["matchmaker"]["reachable"], "the status says so too")
        newcomer = fleet.start("newcomer")
        with newcomer.traffic() as more:
            more.flows()


def test_an_agent_that_starts_while_the_matchmaker_is_away_dials_whom_it_knew(fleet: Fleet) -> None:
    a, b = fleet.start("a"), fleet.start("b")
    with b.echo():
        with a.traffic() as traffic:
            traffic.flows()
        until(lambda: (a.data_dir / "directory.msgpack").exists(), "the directory is kept")
        assert Exit.OK == a.stop()
        fleet.matchmaker_path.unlink()
        fleet.matchmaker_path.mkdir()
        a.spawn()
        a.expect("reactor_ready")
        with a.traffic() as traffic:
            traffic.flows()
        assert a.noted("matchmaker_away")


def test_a_corrupt_directory_is_set_aside_with_a_note(fleet: Fleet) -> None:
    a = fleet.start("a")
    assert Exit.OK == a.stop()
    (a.data_dir / "directory.msgpack").write_bytes(b"\xc1 not msgpack")
    a.spawn()
    a.expect("directory_corrupt")
    a.expect("reactor_ready")
    assert b"\xc1 not msgpack" == (a.data_dir / "directory.corrupt").read_bytes()


# Idle


@pytest.mark.alone
def test_an_idle_agent_costs_next_to_nothing_with_and_without_links(fleet: Fleet) -> None:
    a = fleet.start("a")
    alone = a.load_over(2.0)
    peers = [fleet.start(f"p{n}", ready=False) for n in range(6)]
    for peer in peers:
        peer.expect("reactor_ready")
    with ExitStack() as stack:
        for peer in peers:
            stack.enter_context(peer.echo(f"topic-{peer.node}"))
            with a.traffic(f"topic-{peer.node}") as traffic:
                traffic.flows()
        linked = a.load_over(2.0)
        for peer in peers:
            peer.kill()
        abandoned = a.load_over(2.0)
    assert max(alone, linked, abandoned) < IDLE_LOAD_MAX, (alone, linked, abandoned)


# The end


def test_sigterm_ends_an_idle_agent_at_once_with_0(fleet: Fleet) -> None:
    a, b = fleet.start("a"), fleet.start("b")
    with b.echo(), a.traffic() as traffic:
        traffic.flows()
    with b.app(name="bystander") as app:
        asked_at = time.monotonic()
        b.send(signal.SIGTERM)
        app.expect(Goodbye)
        assert app.ended()
        assert Exit.OK == b.wait()
        assert time.monotonic() - asked_at < 5.0
    a.expect("link_closed", peer="b", why="goodbye")
    assert [] == a.noted("link_lost")


def test_a_second_sigterm_ends_an_agent_that_has_work_at_once(fleet: Fleet) -> None:
    a = fleet.start("a")
    with a.app() as server, a.app() as caller:
        server.serve("slow", "s")
        caller.request("slow", timeout_s=60)
        server.receive()
        a.send(signal.SIGTERM)
        a.expect("draining")
        time.sleep(1.0)  # one that comes within half a second is the same one, sent twice
        a.send(signal.SIGTERM)
        assert 128 + signal.SIGTERM == a.wait()


def test_work_in_hand_is_finished_while_an_agent_drains(fleet: Fleet) -> None:
    a, b = fleet.start("a"), fleet.start("b")
    with b.app() as server, a.app() as caller:
        server.serve("slow", "s")
        seq = caller.request("slow", b"body", flags=int(Flag.WAIT))
        request = server.receive()
        b.send(signal.SIGTERM)
        b.expect("draining")
        server.answer(request)  # type: ignore[arg-type]
        assert seq == caller.expect(Reply).seq
        assert Exit.OK == b.wait()


# What is left behind


def test_connections_that_come_and_go_leave_no_descriptor_behind(fleet: Fleet) -> None:
    a, b = fleet.start("a"), fleet.start("b", links={"idle_close_s": 0.1})
    with b.echo():
        for agent in (a, b):
            with agent.traffic() as traffic:
                traffic.flows()
        before = [agent.settled_descriptors() for agent in (a, b)]
        for round_ in range(200):
            with a.app(name=f"app-{round_}") as app:
                assert isinstance(app.call("echo"), Reply)
        until(lambda: a.descriptors() <= before[0], "a gives them back")
        until(lambda: b.descriptors() <= before[1], "b gives them back")
