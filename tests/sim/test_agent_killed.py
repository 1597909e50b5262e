"""Real client sessions and an agent that is killed under load: no call fails, none runs twice, no cast is lost."""

from collections.abc import Callable

import pytest

from mesh.core.context import NodeOptions
from mesh.core.records import Flag, Kind
from mesh.core.rng import Rng
from mesh.sim.world import World
from tests.core.fabric import assert_quiescent
from tests.sim.apps import Client, Ledger

SENDS = 200
KILLS = 4


class Load:
    """Callers at ``callers`` and servers at ``servers``; agents that are killed, and started again soon."""

    def __init__(self, seed: int, servers: str, callers: str) -> None:
        self.rng = Rng(seed * 6007 + 1)
        self.world, self.ledger = World(seed), Ledger()
        for name in sorted({*servers, *callers}):
            self.world.start(name, NodeOptions())
        for number, name in enumerate(servers):
            Client(self.world, name, 100 + number, self.ledger, work_s=(0.0, 0.3)).serve("orders", 3)
        self.callers = [Client(self.world, n, 1 + i, self.ledger, work_s=(0.0, 0.0)) for i, n in enumerate(callers)]

    def send(self) -> None:
        kind, flags = ((Kind.CALL, 0), (Kind.CALL, 0), (Kind.CAST, 0), (Kind.CAST, int(Flag.ONCE)))[self.rng.below(4)]
        body = bytes(400_000 if self.rng.below(20) == 0 else self.rng.below(100))
        self.callers[self.rng.below(len(self.callers))].send(kind, "orders", body, 10.0, flags)

    def kill(self, name: str) -> Callable[[], None]:
        def kill() -> None:
            self.world.kill(name)
            back_at = self.world.now + self.rng.uniform(0.02, 0.5)
            self.world.at(back_at, lambda: self.world.start(name, NodeOptions()))

        return kill

    def run(self, name: str) -> None:
        """Send for ten seconds, kill this agent now and then, and let all end."""
        for number in range(SENDS):
            self.world.at(2.0 + number * 0.05, self.send)
        for number in range(KILLS):
            self.world.at(2.0 + self.rng.uniform(2.5 * number, 2.5 * number + 1.5), self.kill(name))
        self.world.run(60.0)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(
    ("servers", "callers", "killed"),
    [("bcb", "aa", "a"), ("bcb", "aa", "b"), ("aab", "aa", "a"), ("aa", "aab", "a")],
    ids=["of callers", "of servers", "of callers and servers", "of all servers"],
)
def test_an_agent_is_killed_and_no_call_fails_and_none_runs_twice(
    servers: str, callers: str, killed: str, seed: int
) -> None:
    load = Load(seed, servers, callers)
    load.run(killed)
    assert [] == load.ledger.problems()
    assert {"Reply"} == set(load.ledger.outcomes(Kind.CALL))
    assert {"NoneType"} == set(load.ledger.outcomes(Kind.CAST))
    once = [id for id, request in load.ledger.sent.items() if request.flags & Flag.ONCE]
    assert [1] * len(once) == [len(load.ledger.begun[id]) for id in once]
    for agent in load.world.agents.values():
        assert_quiescent(agent.node)
