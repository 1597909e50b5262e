"""Durable casts through whole worlds: agents and apps die together, and what was accepted is delivered."""

from functools import partial

import pytest

from mesh.core.context import NodeOptions
from mesh.core.durable import DurableOptions
from mesh.core.records import Flag, Record, Request
from mesh.core.rng import Rng
from mesh.sim.world import World
from mesh.spool.base import DeadOptions
from mesh.spool.memory import MemorySpool
from tests.core.durables import accepted
from tests.core.fabric import App, echo

OPTIONS = NodeOptions(durable=DurableOptions(window_records=64))


def run(seed: int) -> tuple[World, set[int], dict[int, int], MemorySpool]:
    """Cast a hundred and fifty from an agent that is killed three times with its app, now and then with the last
    commit lost and its disk failing for a while; return what was accepted, and how often each was run."""
    world, rng = World(seed), Rng(seed)
    disk = MemorySpool(DeadOptions(), lambda: world.now)
    ran: dict[int, int] = {}
    taken: set[int] = set()

    def counting(request: Request) -> Record | None:
        ran[int(request.body)] = ran.get(int(request.body), 0) + 1
        return echo(request)

    world.start("b", OPTIONS)
    server = App(world, "b", 20)
    server.handle = counting
    server.serve("mail")
    for life in range(3):
        world.start("a", OPTIONS, disk)
        caller, numbers = App(world, "a", 30 + life), dict[int, int]()

        def cast(number: int, flags: int, app: App = caller, numbers: dict[int, int] = numbers) -> None:
            if app.is_up:
                numbers[app.cast("mail", b"%d" % number, flags=flags, timeout_s=300.0)] = number

        for number in range(50):
            flags = int(Flag.DURABLE | (Flag.ONCE if number % 5 == 0 else 0))
            at = world.now + rng.uniform(0.0, 0.4)
            world.at(at, partial(cast, life * 50 + number, flags))
        if life == 1:
            world.at(world.now + 0.1, lambda: setattr(disk, "fault", "input/output error"))
            world.at(world.now + 0.2, lambda: setattr(disk, "fault", ""))
        world.run(world.now + rng.uniform(0.1, 0.5))
        taken |= {numbers[seq] for seq in accepted(caller)}
        disk.close()
        world.kill("a")
    world.start("a", OPTIONS, disk)
    world.run(world.now + 60.0)
    return world, taken, ran, disk


@pytest.mark.parametrize("seed", range(8))
def test_what_was_accepted_is_run_once_each_though_agent_and_app_die_together(seed: int) -> None:
    world, taken, ran, disk = run(seed)
    assert len(taken) > 20
    assert taken <= set(ran)
    assert {1} == set(ran.values())
    assert (0, 0) == (disk.totals().records, disk.totals().dead)
    assert [] == [line for line in world.trace if "malformed" in line]


def test_the_same_seed_gives_the_same_trace() -> None:
    assert run(3)[0].trace == run(3)[0].trace
