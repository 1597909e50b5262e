"""Real nodes and real client sessions under random faults: nothing runs twice, nothing is left behind, all heals."""

from collections.abc import Callable

import pytest

from mesh.core.context import NodeOptions
from mesh.core.records import Flag, Kind, Reply
from mesh.core.rng import Rng
from mesh.sim.world import World
from tests.core.fabric import assert_quiescent
from tests.sim.apps import Client, Ledger

NODES = "abcd"
FAULTS = ("cut", "half a cut", "silence", "kill", "hang up", "die", "pause")


class Trouble:
    """Four agents with five servers and three callers, and what goes wrong among them."""

    def __init__(self, seed: int) -> None:
        self.rng = Rng(seed * 7919 + 1)
        self.world, self.ledger = World(seed), Ledger()
        for name in NODES:
            self.world.start(name, NodeOptions())
        self.servers = [self.server(name, 100 + number) for number, name in enumerate("abbcd")]
        self.callers = [Client(self.world, n, 1 + i, self.ledger, work_s=(0.0, 0.0)) for i, n in enumerate("abc")]
        self.faults: dict[str, Callable[[str, str], None]] = {
            "cut": lambda one, other: self.world.cut(one, other),
            "half a cut": lambda one, other: self.world.cut(one, other, only=one),
            "silence": self.silence,
            "kill": self.kill,
            "hang up": lambda one, other: self.anybody().hang_up(),
            "die": self.die,
            "pause": lambda one, other: self.world.pause(one, self.rng.uniform(0.2, 7.0)),
        }

    def server(self, node: str, id: int) -> Client:
        server = Client(self.world, node, id, self.ledger, work_s=(0.0, 0.2))
        server.serve("orders", 2)
        return server

    def anybody(self) -> Client:
        everybody = self.servers + self.callers
        return everybody[self.rng.below(len(everybody))]

    def silence(self, one: str, other: str) -> None:
        if (one, other) not in self.world.silent:
            self.world.silence(one, other)
            self.world.at(self.world.now + self.rng.uniform(0.1, 8.0), lambda: self.world.heal(one, other))

    def kill(self, one: str, other: str) -> None:
        self.world.kill(one)
        back_at = self.world.now + self.rng.uniform(0.05, 1.0)
        self.world.at(back_at, lambda: self.world.start(one, NodeOptions()))

    def die(self, one: str, other: str) -> None:
        """A serving app dies, and another takes its place."""
        number = self.rng.below(len(self.servers))
        old = self.servers[number]
        old.die()
        self.servers[number] = self.server(old.node, old.session.id + 100)

    def fault(self) -> None:
        name = FAULTS[self.rng.below(len(FAULTS))]
        first = self.rng.below(len(NODES))
        one, other = NODES[first], NODES[(first + 1 + self.rng.below(3)) % len(NODES)]
        if one in self.world.agents:
            self.world.say(f"fault: {name} {one} {other}")
            self.faults[name](one, other)

    def send(self) -> None:
        kind = (Kind.CALL, Kind.CALL, Kind.CAST, Kind.FANOUT)[self.rng.below(4)]
        flags = int(Flag.IDEMPOTENT) if kind == Kind.CALL and self.rng.below(4) == 0 else 0
        body = bytes(400_000 if self.rng.below(20) == 0 else self.rng.below(100))
        self.callers[self.rng.below(3)].send(kind, "orders", body, self.rng.uniform(2.0, 8.0), flags)


@pytest.mark.parametrize("seed", range(30))
def test_under_any_faults_every_promise_is_kept_and_then_all_is_well_again(seed: int) -> None:
    trouble = Trouble(seed)
    world, ledger = trouble.world, trouble.ledger
    for number in range(300):
        world.at(2.0 + number * 0.05, trouble.send)
    for _ in range(1 + trouble.rng.below(6)):
        world.at(trouble.rng.uniform(2.5, 15.0), trouble.fault)
    world.run(45.0)
    assert [] == ledger.problems()
    before = len(ledger.ended)
    for caller in trouble.callers:
        for _ in range(4):
            caller.send(Kind.CALL, "orders", b"", 5.0)
    world.run(60.0)
    after = list(ledger.ended.values())[before:]
    assert [Reply] * 12 == [type(outcome) for outcomes in after for outcome in outcomes]
    world.run(85.0)
    for agent in world.agents.values():
        assert_quiescent(agent.node)
