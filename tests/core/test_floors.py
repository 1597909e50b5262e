"""Settled floors: in a mesh where nobody asks for anything more, everybody forgets what they need not remember."""

import pytest

from mesh.core.context import NodeOptions
from mesh.core.node import Node
from mesh.core.outbox import OutboxOptions
from mesh.core.records import Floor, FloorAsk, Reply
from mesh.sim.world import World
from tests.core.fabric import App, fleet, options

SOON = options(outbox=OutboxOptions(floor_pull_s=3.0))


def called(world: World, server_at: str, count: int = 5) -> tuple[App, App]:
    """An app at this node that has answered calls of an app at a, which has not said that it has the replies."""
    server = App(world, server_at, 10)
    server.serve("orders")
    caller = App(world, "a", 1)
    world.run(1.5)
    for _ in range(count):
        caller.call("orders", timeout_s=600.0)
    world.run(2.0)
    assert count == len(caller.of(Reply))
    return server, caller


def kept(node: Node) -> tuple[list[int], list[int]]:
    """The seqs of app 1 of which a node keeps outcomes, and ids."""
    app, caller = node.state.apps.get(1), node.state.inbox.callers.get(("a", 1))
    return sorted(app.outcomes) if app else [], sorted(caller.handed) if caller else []


@pytest.mark.parametrize("server_at", ["a", "b"])
def test_a_session_that_is_silent_is_asked_how_far_it_has_settled_and_everybody_forgets(server_at: str) -> None:
    world = fleet("ab", SOON)
    _, caller = called(world, server_at)
    caller_node, server_node = world.agents["a"].node, world.agents[server_at].node
    caller.floor = 5
    world.run(3.5)
    assert ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4]) == (kept(caller_node)[0], kept(server_node)[1])
    world.run(8.0)
    assert ([], []) == (kept(caller_node)[0], kept(server_node)[1])
    assert 0 == server_node.state.inbox.ids == caller_node.state.apps[1].outcomes_bytes
    asked = len(caller.of(FloorAsk))
    world.run(60.0)
    assert asked == len(caller.of(FloorAsk)), "there is nothing more to be freed"


def test_what_is_settled_above_the_floor_is_forgotten_too() -> None:
    world = fleet("ab", SOON)
    _, caller = called(world, "b")
    caller.say(Floor("b", 1, 1, [(2, 3), (9, 9)]))
    world.run(3.0)
    assert ([1, 4], [1, 4]) == (kept(world.agents["a"].node)[0], kept(world.agents["b"].node)[1])


def test_an_app_that_serves_may_ask_for_the_floor_of_a_caller_and_is_told_once() -> None:
    world = fleet("ab")
    server, caller = called(world, "b")
    caller.floor = 3
    server.say(FloorAsk("a", 1), FloorAsk("a", 1))
    world.run(3.0)
    assert [Floor("a", 1, 3, [])] == server.of(Floor)
    assert 1 == len(caller.of(FloorAsk))
    server.say(FloorAsk("a", 1))
    server.close(dead=True)
    world.run(4.0)
    assert {} == world.agents["b"].node.state.floors_wanted


def test_nobody_is_asked_for_the_floor_of_a_session_that_is_not_theirs() -> None:
    world = fleet("ab")
    _, caller = called(world, "b")
    node = world.agents["a"].node
    node.floors.ask("b", FloorAsk("b", 1))
    node.floors.ask("b", FloorAsk("a", 99))
    node.floors.heard("b", Floor("b", 77, 3, []))
    world.run(3.0)
    assert [] == caller.of(FloorAsk)


def test_the_sessions_whose_floors_are_wanted_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.core.floors.WANTED_MAX", 2)
    world = fleet("b", NodeOptions())
    server = App(world, "b", 10)
    server.say(*[FloorAsk("a", session) for session in (1, 2, 3)])
    world.run(2.0)
    node = world.agents["b"].node
    assert [("a", 1), ("a", 2)] == list(node.state.floors_wanted)
    world.run(12.0)
    assert {} == node.state.floors_wanted
