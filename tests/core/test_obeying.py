"""The policy changes while all goes on."""

from mesh.core.policy import PolicyOptions, Rule
from mesh.core.records import Reply, Serving, Status, Unserve
from tests.core.fabric import (
    App,
    assert_mesh_quiescent,
    echo,
    fleet,
    hold,
    link,
    listed,
    notes,
    obey,
    served,
    server,
)

NO_ORDERS = Rule("deny", verbs=("serve",), topics=("orders",), nodes=("b",))
TEXT = "an app of 'b' may not serve 'orders': policy rule 'no' is against it"


def test_a_service_that_a_rule_comes_to_be_against_is_revoked_and_what_runs_is_finished() -> None:
    world = fleet("ab")
    (app,) = served(world, "b", workers=1)
    app.handle = hold
    caller = App(world, "a", 1)
    runs, waits = caller.call("orders", b"runs"), caller.call("orders", b"waits")
    world.run(world.now + 0.5)
    before = link(world, "a", "b").conn
    obey(world, "ab", no=NO_ORDERS)
    assert Serving("orders", "b-10", False, TEXT, "no") == app.of(Serving)[-1]
    assert [1] == [len(notes(world, "service_revoked"))]
    assert Status.UNROUTABLE == caller.status(waits)
    app.release()
    world.run(world.now + 2.0)
    assert b"runs" == caller.body(runs)
    assert [] == listed(world)
    assert before == link(world, "a", "b").conn
    late = caller.call("orders")
    world.run(world.now + 1.0)
    assert Status.UNROUTABLE == caller.status(late)
    assert_mesh_quiescent(world)


def test_a_service_is_granted_again_when_no_rule_is_against_it_any_more() -> None:
    world = fleet("ab")
    app = server(world)
    obey(world, "ab", no=NO_ORDERS)
    caller = App(world, "a", 1)
    app.handle = echo
    obey(world, "ab")
    assert Serving("orders", "b-10", True) == app.of(Serving)[-1]
    seq = caller.call("orders")
    world.run(world.now + 1.0)
    assert isinstance(caller.end(seq), Reply)


def test_a_call_that_waits_here_is_placed_with_what_is_granted_again() -> None:
    world = fleet("b")
    obey(world, "b", no=Rule("deny", verbs=("serve",), topics=("stock",)))
    app = server(world)
    obey(world, "b", no=NO_ORDERS)
    app.handle = echo
    caller = App(world, "b", 1)
    seq = caller.cast("orders")
    world.run(world.now + 0.5)
    assert [] == caller.ends(seq)
    obey(world, "b")
    assert caller.end(seq) is None


def test_what_its_app_has_given_up_meanwhile_is_not_granted_again() -> None:
    world = fleet("b")
    app = server(world)
    obey(world, "b", no=NO_ORDERS)
    app.say(Unserve("orders", "b-10"))
    world.run(world.now + 0.1)
    obey(world, "b")
    assert Serving("orders", "b-10", False, "not served") == app.of(Serving)[-1]
    assert {} == world.agents["b"].node.state.apps[10].revoked


def test_an_agent_that_drains_grants_nothing_again() -> None:
    world = fleet("b")
    app = server(world)
    obey(world, "b", no=NO_ORDERS)
    agent = world.agents["b"]
    world.turn(agent, lambda: agent.node.draining.begin(agent.time(), stop=False))
    obey(world, "b")
    assert not app.of(Serving)[-1].ok


def test_a_service_that_leaves_already_is_left_to_leave() -> None:
    world = fleet("ab")
    app = server(world)
    App(world, "a", 1).call("orders")
    world.run(world.now + 0.5)
    app.say(Unserve("orders", "b-10"))
    world.run(world.now + 0.5)
    obey(world, "b", no=NO_ORDERS)
    assert ({}, []) == (world.agents["b"].node.state.apps[10].revoked, notes(world, "service_revoked"))


def test_instances_of_nodes_that_may_serve_no_more_are_sent_nothing_and_come_back_when_they_may() -> None:
    """The agent of b keeps no rules."""
    world = fleet("abc")
    one, other = served(world, "b", "c")
    caller = App(world, "a", 1)
    first = [caller.call("orders") for _ in range(2)]
    world.run(world.now + 0.5)
    obey(world, "a", no=NO_ORDERS)
    more = [caller.call("orders") for _ in range(4)]
    world.run(world.now + 0.5)
    assert (1, 5) == (len(one.asked), len(other.asked))
    obey(world, "a")
    last = [caller.call("orders") for _ in range(2)]
    world.run(world.now + 0.5)
    assert (2, 6) == (len(one.asked), len(other.asked))
    assert [Reply] * 8 == [type(caller.end(seq)) for seq in (*first, *more, *last)]


def test_whoever_calls_in_the_moment_that_somebody_is_let_serve_again_waits_for_the_news() -> None:
    world = fleet("ab")
    served(world, "b")
    caller = App(world, "a", 1)
    caller.call("orders")
    obey(world, "a", no=NO_ORDERS)
    agent = world.agents["a"]
    world.turn(agent, lambda: agent.node.obey(PolicyOptions(), agent.time()))
    seq = caller.call("orders")
    world.run(world.now + 0.5)
    assert isinstance(caller.end(seq), Reply)


def test_the_same_rules_again_change_nothing() -> None:
    world = fleet("b")
    obey(world, "b", no=NO_ORDERS)
    app = server(world)
    law = world.agents["b"].node.context.law
    obey(world, "b", no=NO_ORDERS)
    assert law is world.agents["b"].node.context.law
    assert 1 == len(app.of(Serving))
