"""Connections between agents: they keep their order, and what happens to them is what was said."""

from mesh.core.records import Kind, Reply
from mesh.sim.world import NetworkOptions, World
from tests.core.fabric import App, fleet, hold, link, notes


def joined(network: NetworkOptions | None = None) -> tuple[World, App, App]:
    """A caller at a, a server at b, and an open link between them."""
    world = fleet("ab", network=network)
    server = App(world, "b", 10)
    server.serve("orders")
    caller = App(world, "a", 1)
    world.run(1.5)
    caller.call("orders")
    world.run(2.0)
    server.got.clear()
    server.asked.clear()
    return world, caller, server


def test_what_is_silenced_one_way_still_goes_the_other_way() -> None:
    world, caller, server = joined()
    world.network.silence("b", "a")
    seq = caller.call("orders", timeout_s=60.0)
    world.run(3.0)
    assert (1, []) == (len(server.asked), caller.ends(seq))
    world.heal("a", "b")
    world.run(9.0)
    assert isinstance(caller.end(seq), Reply)
    assert 1 == len(server.asked)


def test_after_something_was_lost_on_a_connection_nothing_more_of_it_arrives() -> None:
    world, caller, server = joined()
    world.network.silence("a", "b")
    caller.call("orders", timeout_s=60.0)
    world.run(2.5)
    world.network.silent.clear()
    caller.call("orders", timeout_s=60.0)
    world.run(3.0)
    assert [] == server.asked


def test_what_is_stalled_arrives_late_and_in_order() -> None:
    world, caller, server = joined()
    world.network.stalled["a", "b"] = 3.0
    for body in (b"one", b"two"):
        caller.call("orders", body)
    world.run(2.999)
    assert [] == server.bodies
    world.run(3.1)
    assert [b"one", b"two"] == server.bodies


def test_a_slow_way_takes_many_times_as_long() -> None:
    world, caller, server = joined(NetworkOptions(link_delay_s=(0.001, 0.001)))
    world.network.slow["a", "b"] = 100.0
    caller.call("orders")
    world.run(2.09)
    assert [] == server.asked
    world.run(2.11)
    assert 1 == len(server.asked)


def test_a_wrong_bit_breaks_the_connection_and_is_not_read() -> None:
    world, caller, server = joined()
    server.handle = hold
    world.network.noisy["a", "b"] = 1.0
    caller.call("orders", timeout_s=60.0)
    world.run(2.004)
    assert [1, 1] == [len(notes(world, "link_lost", name)) for name in "ab"]
    assert [] == server.asked
    world.heal("a", "b")
    world.run(8.0)
    assert 1 == len(server.asked)


def test_a_deaf_node_refuses_dials() -> None:
    world = fleet("ab")
    App(world, "b", 10).serve("orders")
    world.network.deaf["b"] = None
    caller = App(world, "a", 1)
    world.run(1.5)
    seq = caller.send(Kind.CALL, "orders", timeout_s=60.0)
    world.run(2.5)
    assert notes(world, "dial_failed", "a")
    del world.network.deaf["b"]
    world.run(12.0)
    assert isinstance(caller.end(seq), Reply)
    assert link(world, "a", "b").bytes_in > 0
