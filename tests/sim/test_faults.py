"""Every kind of fault strikes, is what it says, and is over in its time."""

from collections import Counter

import pytest

from mesh.core.catalogue import Snapshot
from mesh.core.context import NodeOptions
from mesh.core.ledger import Put
from mesh.core.records import Flag, Kind, Request
from mesh.core.rng import Rng
from mesh.sim.apps import App, Manner, ServicePlan
from mesh.sim.disk import Disk
from mesh.sim.faults import KINDS, Fault, draw_fault, strike
from mesh.sim.ledger import Ledger, name_of
from mesh.sim.plan import draw
from mesh.sim.run import play
from mesh.sim.world import World
from mesh.spool.base import DeadOptions
from mesh.spool.memory import MemorySpool
from mesh.types import TopicKey
from tests.core.fabric import notes


class Stage:
    """Agents a and b, and one serving app at b."""

    def __init__(self) -> None:
        self.nodes: tuple[str, ...] = ("a", "b")
        self.world = World(1)
        for name in self.nodes:
            self.world.disks[name] = Disk(MemorySpool(DeadOptions(), lambda: self.world.now))
            self.world.start(name, NodeOptions())
        self.ledger = Ledger(lambda text: None)
        self.one = App(self.world, self.ledger, "b", 1, Manner())
        self.caller = App(self.world, self.ledger, "a", 2, Manner())
        self.one.serve(ServicePlan("orders"))
        self.replaced = 0
        self.world.run(2.0)

    def app(self, number: int) -> App:
        return self.one

    def until(self, fault: Fault, undo: object) -> None:
        assert callable(undo)
        self.world.at(self.world.now + fault.for_s, undo)

    def restart(self, name: str) -> None:
        if name not in self.world.agents:
            self.world.start(name, NodeOptions())

    def replace(self, number: int) -> None:
        self.replaced += 1

    def strike(self, kind: str, for_s: float = 1.0, one: str = "b", other: str = "a") -> bool:
        return strike(self, Fault(kind, self.world.now, for_s, one, other, 0, 0.5))

    def send(self, kind: Kind, flags: int = 0) -> None:
        self.caller.send(Request(int(kind), 0, "orders", "", 9_000, b"", flags), 9.0)

    def ends(self) -> list[str]:
        """How what was sent has ended, oldest first."""
        return [name_of(outcome) for message in self.ledger.messages.values() for outcome in message.outcomes]

    def pass_s(self, duration_s: float) -> None:
        self.world.run(self.world.now + duration_s)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_of_this_kind_alone_strikes_and_breaks_no_promise(kind: str) -> None:
    struck: Counter[str] = Counter()
    for seed in range(3):
        result = play(draw(seed, (kind,)))
        assert [] == result.findings
        struck.update(result.faults)
    assert [kind] == list(struck)


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_it_changed_is_as_before_when_its_time_is_over(kind: str) -> None:
    stage = Stage()
    assert stage.strike(kind)
    stage.pass_s(3.0)
    world, network = stage.world, stage.world.network
    assert ["a", "b"] == sorted(world.agents) or kind == "drain"
    assert ({}, {}, {}, {}) == (network.silent, network.slow, network.noisy, network.deaf)
    assert (False, {}, {}) == (world.matchmaker.is_away, world.matchmaker.misled, world.matchmaker.frozen)
    assert ["", ""] == [disk.spool.fault for disk in world.disks.values()]
    assert [] == [conn for agent in world.agents.values() for conn in agent.clogged]
    assert all(until <= world.now for until in network.stalled.values())


def test_a_fault_that_finds_nobody_does_not_strike() -> None:
    stage = Stage()
    stage.world.kill("b")
    stage.one.die()
    assert [False, False, False] == [stage.strike("kill"), stage.strike("die"), stage.strike("cut", one="a", other="a")]


def test_an_app_that_dies_or_leaves_is_replaced() -> None:
    for kind in ("die", "leave"):
        stage = Stage()
        stage.strike(kind, for_s=2.0)
        assert stage.one.is_alive is (kind == "leave")
        stage.pass_s(2.1)
        assert (1, False) == (stage.replaced, stage.one.is_alive)


def test_an_agent_that_is_stopped_for_longer_than_the_ttl_is_forgotten_and_registers_again() -> None:
    stage = Stage()
    stage.strike("pause", for_s=20.0)
    stage.pass_s(16.0)
    assert [0] == [len(entries) for entries in stage.world.catalogue.values()]
    stage.pass_s(5.0)
    assert [1] == [len(entries) for entries in stage.world.catalogue.values()]


def test_an_agent_that_drains_says_so_and_stops() -> None:
    stage = Stage()
    stage.strike("drain")
    stage.pass_s(5.0)
    assert (1, 0) == (len(notes(stage.world, "drained", "b")), stage.world.stopped["b"].status)


def test_a_disk_that_is_lost_is_lost_whole_and_only_that_one() -> None:
    stage = Stage()
    snapshot = Snapshot(TopicKey("", "orders"), 1, tuple(*map(dict.values, stage.world.catalogue.values())))
    for disk in stage.world.disks.values():
        disk.spool.commit([Put(1, 0, snapshot.topic, "", 60.0, 1, b"")])
        disk.remember(snapshot)
    at = stage.world.now
    assert stage.strike("lose-disk", for_s=0.5)
    assert {"a": (1, 1, 0.0), "b": (0, 0, at)} == {
        name: (len(disk.directory), len(disk.spool.disk.rows), disk.lost_at) for name, disk in stage.world.disks.items()
    }


def test_faults_of_disks_strike_where_there_is_none_too() -> None:
    stage = Stage()
    stage.world.disks.clear()
    assert [True, True] == [stage.strike("bad-disk"), stage.strike("lose-disk", for_s=0.5)]


def test_a_bad_disk_refuses_what_is_to_be_written_until_it_is_well() -> None:
    stage = Stage()
    stage.strike("bad-disk", one="a")
    stage.send(Kind.CAST, int(Flag.DURABLE))
    stage.pass_s(0.9)
    stage.send(Kind.CAST, int(Flag.DURABLE))
    assert ["OVERLOADED"] == stage.ends()
    stage.pass_s(0.3)
    stage.send(Kind.CAST, int(Flag.DURABLE))
    stage.pass_s(2.0)
    assert ["OVERLOADED", "OVERLOADED", "Settled"] == stage.ends()


def test_an_app_that_is_clogged_is_told_later_and_read_all_the_time() -> None:
    stage = Stage()
    stage.one.manner = Manner((0.1, 0.1))
    stage.send(Kind.CALL)
    stage.pass_s(0.05)
    assert stage.strike("clog")
    stage.send(Kind.CALL)
    stage.pass_s(0.9)
    assert ["Reply"] == stage.ends()
    stage.pass_s(0.3)
    assert ["Reply", "Reply"] == stage.ends()


def test_an_app_that_is_not_there_cannot_be_clogged_and_one_whose_agent_is_killed_is_not_any_more() -> None:
    stage = Stage()
    stage.strike("clog")
    stage.world.kill("b")
    stage.pass_s(0.01)
    assert stage.strike("clog")
    stage.pass_s(2.0)
    assert "b" not in stage.world.agents


def test_drawn_faults_are_over_before_the_end_of_their_span() -> None:
    rng = Rng(1)
    for kind in KINDS:
        fault = draw_fault(kind, rng, ("a", "b", "c"), 4, (2.0, 9.0), 5.0)
        assert 2.0 <= fault.at <= fault.at + fault.for_s <= 9.0
        assert fault.one != fault.other
        assert kind in str(fault)
