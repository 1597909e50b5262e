"""Order is kept: what one session sends to one instance is begun in that order, where nothing was sent again, or
waited for somebody to serve its topic."""

import pytest

from mesh.client.events import Id
from mesh.core.context import NodeOptions
from mesh.core.inbox import InboxOptions
from mesh.core.link import LinkOptions
from mesh.core.records import Flag, Kind
from mesh.core.rng import Rng
from mesh.sim.world import NetworkOptions, World
from tests.core.fabric import assert_quiescent
from tests.sim.apps import Client, Ledger

NODES = "abc"


class Begun(dict[Id, list[int]]):
    """What a ledger knows of what was begun; each beginning is logged too: who sent it, who began it, and its seq."""

    def __init__(self, log: list[tuple[tuple[int, int], int]]) -> None:
        self.log = log

    def setdefault(self, id: Id, default: list[int] | None = None, /) -> list[int]:
        return super().setdefault(id, Servers(self.log, id))


class Servers(list[int]):
    """The servers that began one request."""

    def __init__(self, log: list[tuple[tuple[int, int], int]], id: Id) -> None:
        self.log, self.id = log, id

    def append(self, server: int, /) -> None:
        self.log.append(((self.id[1], server), self.id[2]))
        super().append(server)


def mixed(rng: Rng) -> tuple[Kind, int, int]:
    """A kind, flags and the size of a body; none is so large that it would travel in pieces."""
    kind = (Kind.CALL, Kind.CAST, Kind.CAST, Kind.FANOUT)[rng.below(4)]
    flags = {Kind.CALL: int(Flag.IDEMPOTENT), Kind.CAST: int(Flag.ONCE), Kind.FANOUT: 0}[kind]
    return kind, flags * (rng.below(3) == 0), (0, 100, 60_000, 256 << 10)[rng.below(4)]


@pytest.mark.parametrize("seed", range(40))
def test_what_a_session_sends_to_an_instance_is_begun_in_that_order(seed: int) -> None:
    rng, ledger = Rng(seed + 1), Ledger()
    log: list[tuple[tuple[int, int], int]] = []
    ledger.begun = Begun(log)
    world = World(seed, NetworkOptions(link_delay_s=(0.0002, rng.uniform(0.001, 0.1))))
    options = NodeOptions(
        link=LinkOptions(credit_records=16 << rng.below(4), credit_bytes=1 << 20),
        inbox=InboxOptions(handed_bytes=1 << (16 + rng.below(8))),
    )
    for name in NODES:
        world.start(name, options)
    servers = [Client(world, node, 100 + n, ledger, work_s=(0.0, 0.02)) for n, node in enumerate("abbc")]
    for server in servers:
        server.serve("orders", 1 + rng.below(4))
    callers = [Client(world, node, 1 + n, ledger, work_s=(0.0, 0.0)) for n, node in enumerate("abc")]
    for caller in callers:
        caller.send(Kind.CALL, "orders", b"", 30.0)
    world.run(2.0)
    for number in range(240):
        kind, flags, size = mixed(rng)
        caller, at = callers[rng.below(3)], 2.0 + number * rng.uniform(0.0, 0.02)
        world.at(at, lambda c=caller, k=kind, f=flags, s=size: c.send(k, "orders", bytes(s), 30.0, f))  # type: ignore[misc]
    world.run(60.0)
    assert [] == ledger.problems()
    begun = {who: [seq for them, seq in log if them == who] for who in dict(log)}
    assert len(log) >= 240
    assert [] == [(who, seqs) for who, seqs in begun.items() if seqs != sorted(set(seqs))]
    for agent in world.agents.values():
        assert_quiescent(agent.node)
