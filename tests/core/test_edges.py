"""Who calls whom."""

from mesh.core.catalogue import Health
from mesh.core.context import NodeOptions
from mesh.core.directory import DirectoryOptions
from mesh.core.edges import EDGES_MAX, Caller, callers, edges
from mesh.core.health import HealthOptions
from mesh.core.records import Goodbye
from mesh.core.seats import SeatOptions
from mesh.sim.world import World
from tests.core.fabric import App, fleet

SEATS = SeatOptions(user_connections_max=2 * EDGES_MAX)
SHORT = NodeOptions(directory=DirectoryOptions(watch_idle_s=30.0), seats=SEATS)


def seen(world: World, node: str = "a") -> list[tuple[str, bool, str]]:
    found = edges(world.agents[node].node.state)
    return [(edge.caller.name, edge.caller.is_app, edge.topic) for edge in found]


def shop() -> tuple[World, App, App]:
    """An app ``web`` that calls orders, whose app calls stock."""
    world = fleet("ab", SHORT)
    web, orders, stock = (
        App(world, node, n, name=name) for node, n, name in (("a", 1, "web"), ("a", 2, "o"), ("b", 3, "s"))
    )
    orders.serve("orders")
    stock.serve("stock")
    world.run(1.0)
    web.call("orders")
    orders.call("stock")
    world.run(2.0)
    return world, web, orders


def test_an_edge_leads_from_an_apps_name_or_from_what_it_serves_to_what_it_calls() -> None:
    world, _, _ = shop()
    assert [("orders", False, "stock"), ("web", True, "orders")] == seen(world)
    assert [] == seen(world, "b")


def test_an_edge_goes_with_its_caller_with_whom_it_called_and_with_time() -> None:
    world, web, orders = shop()
    orders.say(Goodbye())
    world.run(4.0)
    assert [] == [edge for edge in seen(world) if edge[0] == "orders"]
    world, web, orders = shop()
    world.run(25.0)
    web.call("orders")
    world.run(45.0)
    assert [("web", True, "orders")] == seen(world)
    world.run(70.0)
    assert [] == seen(world)


def test_what_nobody_serves_has_no_edge() -> None:
    world = fleet("a")
    App(world, "a", 1).call("nobody")
    world.run(2.0)
    assert [] == seen(world)


def test_no_more_edges_are_told_than_one_agent_may() -> None:
    world, _, _ = shop()
    state = world.agents["a"].node.state
    app = next(app for app in state.apps.values() if app.name == "web")
    for number in range(EDGES_MAX + 5):
        topic = f"t{number}"
        app.calls[topic] = world.now
        App(world, "a", 100 + number).serve(topic)
    world.run(world.now + 0.2)
    assert EDGES_MAX == len(edges(state))


def test_apps_that_only_call_are_callers_as_well_as_the_worst_of_their_name() -> None:
    world, _, _ = shop()
    again = App(world, "a", 4, name="web")
    again.call("orders")
    App(world, "a", 5, name="silent")
    world.run(3.0)
    state = world.agents["a"].node.state
    assert {Caller("", "web", True): (Health.PASSING, "")} == callers(state, HealthOptions(), world.now)
    next(iter(state.apps.values())).heard_at = world.now - 100
    assert [Health.CRITICAL] == [verdict.health for verdict in callers(state, HealthOptions(), world.now).values()]
