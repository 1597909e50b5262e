"""The simulated world: it is the same for ever, and its faults are what they say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mesh.core.catalogue import Health
from mesh.core.context import NodeOptions
from mesh.core.records import Failure, Kind, Reply, Unserve
from mesh.sim.disk import Disk
from mesh.sim.world import NetworkOptions, World
from mesh.spool.base import DeadOptions
from mesh.spool.memory import MemorySpool
from mesh.types import TopicKey
from tests.core.fabric import App, assert_quiescent, fleet, hold, link, notes
from tests.sim.scenario import run

ROOT = Path(__file__).resolve().parent.parent.parent
ORDERS = TopicKey("", "orders")


def trace_of(seed: int, hash_seed: str) -> str:
    """Play the scenario in a process of its own, under this PYTHONHASHSEED; return its trace."""
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.sim.scenario", str(seed)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


@pytest.mark.system
def test_a_seed_has_one_trace_whatever_the_hash_seed() -> None:
    first, second = trace_of(1, "1"), trace_of(1, "4242")
    assert 2_000 < len(first.splitlines())
    assert first == second


def test_a_seed_has_one_trace_and_another_seed_another() -> None:
    assert run(1)[0].trace == run(1)[0].trace != run(2)[0].trace


def test_the_scenario_keeps_every_promise_and_leaves_nothing_behind() -> None:
    world, ledger = run(3, frames=False)
    assert [] == ledger.problems()
    assert 240 == len(ledger.ended)
    assert "Reply" in (calls := ledger.outcomes(Kind.CALL))
    assert calls["Reply"] > 0.9 * sum(calls.values())
    for agent in world.agents.values():
        assert_quiescent(agent.node)


# The clock


def test_events_happen_in_order_of_time_and_then_of_making() -> None:
    world, seen = World(1), list[str]()
    for when, name in ((3.0, "c"), (2.0, "a"), (2.0, "b"), (0.0, "now")):
        world.at(when, lambda name=name: seen.append(f"{name} {world.now}"))  # type: ignore[misc]
    world.run(2.5)
    assert (["now 1.0", "a 2.0", "b 2.0"], 2.5) == (seen, world.now)


def test_a_node_is_ticked_when_it_wants_to_be() -> None:
    world = fleet("a")
    app = App(world, "a", 1)
    seq = app.call("orders", timeout_s=0.1, flags=2)
    world.run(1.09)
    assert [] == app.ends(seq)
    world.run(1.13)
    assert 1 == len(app.ends(seq))


# Disks


def test_while_the_matchmaker_is_away_an_agent_knows_what_the_one_before_did() -> None:
    world = World(1)
    for name in "ab":
        world.disks[name] = Disk(MemorySpool(DeadOptions(), lambda: world.now))
        world.start(name, NodeOptions())
    App(world, "b", 10).serve("orders")
    caller = App(world, "a", 1)
    world.run(1.5)
    assert b"one" == answered(world, caller, b"one")
    world.kill("a")
    world.matchmaker.is_away = True
    world.start("a", NodeOptions())
    caller.come_back()
    assert b"two" == answered(world, caller, b"two")
    world.kill("a")
    world.disks["a"].lose(world.now)
    world.start("a", NodeOptions())
    caller.come_back()
    assert isinstance(answered(world, caller, b"three"), Failure)


def test_what_the_matchmaker_says_is_kept_and_that_nobody_serves_is_not() -> None:
    world = World(1)
    disk = world.disks["a"] = Disk(MemorySpool(DeadOptions(), lambda: world.now))
    for name in "ab":
        world.start(name, NodeOptions())
    server, caller = App(world, "b", 10), App(world, "a", 1)
    server.serve("orders")
    world.run(1.5)
    caller.call("orders")
    world.run(2.0)
    assert [ORDERS] == list(disk.directory)
    server.say(Unserve("orders", "b-10"))
    world.run(10.0)
    assert {} == disk.directory


def answered(world: World, caller: App, body: bytes) -> bytes | object:
    """Call, and return the reply's body or whatever it ended as."""
    seq = caller.call("orders", body, timeout_s=5.0)
    world.run(world.now + 6.0)
    end = caller.end(seq)
    return end.body if isinstance(end, Reply) else end


# Faults


def joined(seed: int = 1) -> tuple[World, App, App]:
    """Agents a and b with a link on which a call is out."""
    world = fleet("ab", seed=seed)
    server = App(world, "b", 10, hold)
    server.serve("orders")
    caller = App(world, "a", 1)
    world.run(1.5)
    caller.call("orders", timeout_s=60.0)
    world.run(2.0)
    return world, caller, server


def test_a_cut_is_noticed_by_both_ends_at_once() -> None:
    world, *_ = joined()
    world.cut("a", "b")
    world.run(2.01)
    assert [1, 1] == [len(notes(world, "link_lost", name)) for name in "ab"]


def test_a_cut_that_one_end_noticed_is_noticed_by_the_other_when_it_next_sends() -> None:
    world, _, server = joined()
    world.cut("a", "b", only="a")
    world.agents["a"].node.state.pool.slots["b"].retry_at = 99.0
    world.run(2.001)
    assert [1, 0] == [len(notes(world, "link_lost", name)) for name in "ab"]
    server.release()
    world.run(2.01)
    assert [1, 1] == [len(notes(world, "link_lost", name)) for name in "ab"]


def test_a_silence_is_noticed_by_nobody_until_it_is_taken_for_death() -> None:
    world, *_ = joined()
    world.silence("a", "b")
    world.run(6.5)
    assert [] == notes(world, "link_lost")
    world.run(8.0)
    assert ["dead", "dead"] == [line.split()[-1] for line in notes(world, "link_lost")]
    world.heal("a", "b")
    world.run(9.0)
    assert link(world, "a", "b").bytes_in > 0


def test_a_silence_of_an_agent_that_was_killed_may_end() -> None:
    world, *_ = joined()
    world.silence("a", "b")
    world.kill("a")
    world.heal("a", "b")
    world.run(20.0)
    assert {} == world.silent
    assert 1 == len(notes(world, "link_lost", "b"))


def test_an_agent_that_is_killed_flushes_nothing_and_its_entries_run_out() -> None:
    world, _, server = joined()
    world.kill("b")
    assert [Health.PASSING] == [i.health for i in world.catalogue[ORDERS].values()]
    world.run(2.1)
    assert not server.is_up
    assert ["why=connection reset"] == [" ".join(line.split()[-2:]) for line in notes(world, "link_lost", "a")]
    world.run(17.5)
    assert {} == world.catalogue[ORDERS]


def test_an_agent_that_is_back_keeps_what_it_registered_anew() -> None:
    world, _, server = joined()
    world.kill("b")
    world.run(3.0)
    world.start("b", NodeOptions())
    server.come_back()
    server.serve("orders")
    world.run(30.0)
    assert [1003] == [i.agent.incarnation for i in world.catalogue[ORDERS].values()]
    world.forget("b")
    assert {} == world.catalogue[ORDERS]


def test_what_comes_for_an_agent_that_is_stopped_waits_in_order() -> None:
    world, caller, server = joined()
    world.pause("b", 2.0)
    world.pause("b", 1.0)
    for number in range(3):
        caller.call("orders", b"%d" % number)
    world.run(3.9)
    assert 1 == len(server.asked)
    world.run(4.1)
    assert [b"", b"0", b"1", b"2"] == server.bodies


def test_an_agent_that_is_killed_while_it_is_stopped_takes_in_nothing_more() -> None:
    world, caller, server = joined()
    world.pause("b", 2.0)
    caller.call("orders")
    world.run(3.0)
    world.kill("b")
    world.run(5.0)
    assert 1 == len(server.asked)


def test_what_was_written_to_an_app_before_its_agent_was_killed_is_read() -> None:
    world, caller, server = joined()
    server.release()
    while not world.agents["a"].node.state.apps[1].outcomes:
        world.run(world.now + 0.00001)
    world.kill("a")
    world.run(4.0)
    assert b"" == caller.body(0)
    assert not caller.is_up


def test_what_an_app_did_not_read_before_it_closed_its_socket_is_lost_to_it() -> None:
    world, caller, server = joined()
    server.release()
    while not world.agents["a"].node.state.apps[1].outcomes:
        world.run(world.now + 0.00001)
    caller.close()
    world.run(4.0)
    assert [] == caller.ends(0)


def test_an_app_that_is_not_connected_is_not_heard() -> None:
    world, caller, _ = joined()
    caller.close()
    world.run(3.0)
    caller.call("orders")
    world.kill("a")
    caller.call("orders")
    world.run(4.0)
    assert not caller.is_up


# The matchmaker


def test_a_watcher_learns_late_and_in_order_what_was_true_when_it_was_said() -> None:
    network = NetworkOptions(catalogue_delay_s=(0.2, 0.4))
    for seed in range(10):
        world = fleet("ab", seed=seed, network=network)
        caller = App(world, "a", 1)
        caller.call("orders")
        world.run(2.0)
        apps = [App(world, "b", 10 + number) for number in range(3)]
        for app in apps:
            app.serve("orders")
        view = world.agents["a"].node.state.directory.views[ORDERS]
        world.run(2.19)
        assert {} == view.listed
        counts = []
        while world.now < 2.8:
            world.run(world.now + 0.001)
            counts.append(len(view.listed))
        assert counts == sorted(counts)
        assert 3 == counts[-1]


def test_a_topic_that_nobody_watches_any_more_tells_nobody() -> None:
    world = fleet("ab")
    App(world, "a", 1).call("orders")
    world.run(2.0)
    world.kill("a")
    App(world, "b", 10).serve("orders")
    world.run(3.0)
    assert {} == world.watchers[ORDERS]
