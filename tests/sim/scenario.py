"""Eight agents, services with several instances, every kind of message, cuts, a kill and a restart: the same for ever.

Run as a program with a seed it prints the trace.
"""

import sys

from mesh.core.context import NodeOptions
from mesh.core.heat import HeatOptions
from mesh.core.records import Flag, Kind
from mesh.core.rng import Rng
from mesh.sim.world import World
from tests.sim.apps import Client, Ledger

__all__ = ["run"]

NODES = ("ash", "beech", "cedar", "dogwood", "elm", "fir", "gorse", "hazel")
TOPICS = ("orders", "stock", "mail")


def run(seed: int, frames: bool = True) -> tuple[World, Ledger]:
    """Play the scenario; return the world after 40 s, and the ledger of its apps."""
    world, ledger, rng = World(seed, frames=frames), Ledger(), Rng(seed)
    options = NodeOptions(heat=HeatOptions(hot_at_per_s=1.0))
    for name in NODES:
        world.start(name, options)
    for number in range(12):
        server = Client(world, NODES[number % 8], 100 + number, ledger, work_s=(0.0, 0.1))
        server.serve(TOPICS[number % 3], 2)
    callers = [Client(world, name, 1 + number, ledger, work_s=(0.0, 0.0)) for number, name in enumerate(NODES[:4])]
    for number in range(240):
        kind = (Kind.CALL, Kind.CALL, Kind.CAST, Kind.FANOUT)[rng.below(4)]
        flags = int(Flag.IDEMPOTENT) if kind == Kind.CALL and number % 5 == 0 else 0
        body = bytes(300_000 if number % 40 == 0 else rng.below(200))
        send = (kind, TOPICS[rng.below(3)], body, rng.uniform(2.0, 8.0), flags)
        world.at(2.0 + number * 0.03, lambda caller=callers[number % 4], send=send: caller.send(*send))  # type: ignore[misc]
    world.at(4.0, lambda: world.cut("ash", "elm"))
    world.at(5.0, lambda: world.cut("beech", "fir", only="fir"))
    world.at(6.0, lambda: world.kill("cedar"))
    world.at(6.3, lambda: world.start("cedar", options))
    world.run(40.0)
    return world, ledger


if __name__ == "__main__":
    print("\n".join(run(int(sys.argv[1]))[0].trace))
