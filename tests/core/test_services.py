"""Services come and go: granted, registered, withdrawn; goodbyes; agents that drain; apps that die."""

import pytest

from mesh.core.catalogue import Health
from mesh.core.context import NodeOptions
from mesh.core.effects import Renew
from mesh.core.health import HealthOptions
from mesh.core.inbox import InboxOptions
from mesh.core.policy import Rule
from mesh.core.records import Floor, FloorAsk, Goodbye, Kind, Reply, Serve, Serving, Settled, Status, Unserve
from mesh.types import TopicKey
from tests.core.fabric import App, assert_mesh_quiescent, echo, fleet, listed, notes, obey, server

# An app serves


def test_a_service_is_granted_registered_and_withdrawn_when_it_has_said_goodbye() -> None:
    world = fleet("b")
    app = server(world)
    assert [Serving("orders", "b-10", True)] == app.of(Serving)
    assert [Health.PASSING] == listed(world)
    app.say(Unserve("orders", "b-10"))
    world.run(world.now + 0.5)
    assert Serving("orders", "b-10", False) == app.of(Serving)[-1]
    assert [Health.MAINTENANCE] == listed(world)
    world.run(world.now + 1.0)
    assert [] == listed(world)
    assert (1, 1) == (len(notes(world, "service_started")), len(notes(world, "service_ended")))
    assert_mesh_quiescent(world)


def test_a_service_that_comes_back_while_its_farewell_is_listed_stays_listed() -> None:
    world = fleet("ab")
    app = server(world)
    app.say(Unserve("orders", "b-10"), Serve("orders", "b-10"))
    app.serve("stock")
    app.say(Unserve("stock", "b-10"))
    world.run(4.0)
    assert [Health.PASSING] == listed(world)
    assert {} == world.catalogue[TopicKey("", "stock")]
    caller = App(world, "a", 1)
    caller.call("orders")
    world.run(5.0)
    assert 1 == len(app.asked)


def test_a_service_that_is_leaving_may_come_back_before_its_work_has_ended() -> None:
    world = fleet("ab")
    app = server(world)
    caller = App(world, "a", 1)
    first = caller.call("orders")
    world.run(2.0)
    app.say(Unserve("orders", "b-10"), Unserve("orders", "b-10"))
    world.run(2.2)
    app.say(Serve("orders", "b-10", 1))
    world.run(4.0)
    second = caller.call("orders")
    app.release()
    world.run(5.0)
    assert [b"", b""] == [caller.body(first), caller.body(second)]
    assert [True, True] == [told.ok for told in app.of(Serving)]


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (Serve("no way", "x"), "topic 'no way' may hold only"),
        (Serve("stock", "no way"), "server 'no way' may hold only"),
        (Serve("orders", "other"), "this app serves 'orders' as 'b-10' already"),
        (Unserve("stock", "b-10"), "not served"),
        (Unserve("orders", "other"), "not served"),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_reason(record: Serve | Unserve, text: str) -> None:
    world = fleet("b")
    app = server(world)
    app.say(record)
    world.run(2.0)
    assert not app.of(Serving)[-1].ok
    assert text in app.of(Serving)[-1].text


def test_nobody_begins_to_serve_at_an_agent_that_drains_or_after_its_goodbye() -> None:
    world = fleet("b")
    app = server(world)
    leaving = server(world, 11)
    leaving.say(Goodbye(), Serve("stock", "x"))
    world.run(2.4)
    assert "this app is leaving" == leaving.of(Serving)[-1].text
    world.agents["b"].node.drain(world.now)
    app.say(Serve("stock", "x"))
    world.run(2.6)
    assert "this agent is draining" == app.of(Serving)[-1].text


def test_said_again_with_other_numbers_it_has_other_numbers() -> None:
    world = fleet("ab")
    app = server(world, workers=1)
    caller = App(world, "a", 1)
    for _ in range(5):
        caller.call("orders")
    world.run(2.0)
    assert 1 == len(app.asked)
    app.say(Serve("orders", "b-10", 3, 5))
    world.run(2.1)
    assert 3 == len(app.asked)
    assert 1 == len(notes(world, "service_started"))


# A goodbye


def parted(app: App) -> bool:
    return Goodbye("answer") in app.of(Goodbye)


def test_a_goodbye_is_answered_when_every_caller_has_settled_what_the_app_had_ended() -> None:
    world = fleet("ab")
    app = server(world)
    app.handle = echo
    caller, neighbour = App(world, "a", 1), App(world, "b", 2)
    seqs = [one.send(kind, "orders") for one in (caller, neighbour) for kind in Kind]
    world.run(2.0)
    assert [0, 1, 2, 0, 1, 2] == seqs
    caller.floor = caller.seq
    app.say(Goodbye())
    world.run(2.2)
    assert FloorAsk("b", 2) in neighbour.of(FloorAsk)
    assert not parted(app), "one of its callers has not settled"
    neighbour.say(Floor("b", 2, 0, [(0, 1)]))
    world.run(2.5)
    assert not parted(app), "not everything"
    neighbour.settle()
    world.run(3.0)
    assert parted(app)
    assert_mesh_quiescent(world)


def test_a_goodbye_does_not_wait_longer_than_its_grace_and_the_answers_are_kept() -> None:
    world = fleet("ab", NodeOptions(inbox=InboxOptions(close_grace_s=3.0)))
    app = server(world)
    app.handle = echo
    caller = App(world, "a", 1)
    seq = caller.call("orders", b"kept")
    world.run(2.0)
    app.say(Goodbye())
    app.say(Goodbye())
    world.run(4.9)
    assert not parted(app)
    world.run(5.4)
    assert 1 == len(app.of(Goodbye))
    app.close()
    world.run(5.6)
    handed = world.agents["b"].node.state.inbox.find(("a", 1, seq))
    assert handed is not None
    assert isinstance(handed.answer, Reply)
    assert_mesh_quiescent(world)


def test_an_app_that_ended_nothing_parts_at_once() -> None:
    world = fleet("b")
    app = server(world)
    app.say(Goodbye())
    world.run(1.6)
    assert parted(app)
    assert [Health.MAINTENANCE] == listed(world)


# An agent that drains


def test_the_services_of_an_agent_that_drains_are_withdrawn_and_waited_for() -> None:
    world = fleet("ab")
    app = server(world)
    other = server(world, 11)
    caller = App(world, "a", 1)
    caller.call("orders@b-11")
    world.run(3.0)
    other.say(Unserve("orders", "b-11"))
    running = caller.call("orders", b"runs")
    world.run(3.5)
    waiting = caller.call("orders", b"waits")
    world.run(3.6)
    world.agents["b"].node.draining.begin(world.now, stop=False)
    world.run(5.0)
    assert [] == listed(world)
    assert [] == caller.ends(waiting)
    app.release()
    world.run(5.5)
    assert b"runs" == caller.body(running)
    assert Serving("orders", "b-10", False) == app.of(Serving)[-1]
    assert [] == caller.ends(waiting), "its service may be back soon"


# An app dies


def test_what_a_dead_app_had_begun_is_indeterminate_at_once_and_the_rest_goes_elsewhere() -> None:
    world = fleet("abc")
    app = server(world, prefetch=1)
    caller = App(world, "a", 1)
    calls = [caller.call("orders") for _ in range(3)]
    world.run(2.0)
    other = App(world, "c", 20)
    other.serve("orders")
    world.run(2.5)
    app.close(dead=True)
    world.run(2.6)
    assert Status.INDETERMINATE == caller.status(calls[0])
    world.run(4.0)
    assert [b"", b""] == [caller.body(seq) for seq in calls[1:]]
    assert 2 == len(other.asked)
    assert_mesh_quiescent(world)


def test_an_app_that_dies_while_it_leaves_is_withdrawn_once() -> None:
    world = fleet("ab")
    app = server(world)
    caller = App(world, "a", 1)
    seq = caller.cast("orders")
    world.run(2.0)
    app.say(Unserve("orders", "b-10"))
    world.run(2.1)
    app.close(dead=True)
    world.run(5.0)
    assert [] == listed(world)
    assert [] == caller.ends(seq), "a cast waits for whoever served lately"
    again = App(world, "b", 12)
    again.serve("orders")
    world.run(6.0)
    assert [seq] == [request.seq for request in again.asked]
    assert caller.end(seq) is None
    again.say(Settled("a", 1, [(seq, seq)]))
    assert_mesh_quiescent(world)


# How services are doing


def test_an_app_that_does_not_answer_is_critical_until_it_does() -> None:
    world = fleet("ab")
    app = server(world)
    caller = App(world, "b", 1)
    world.run(30.0)
    assert [Health.PASSING] == listed(world)
    deaf, app.received = app.received, lambda data, now: None  # type: ignore[method-assign]
    world.run(45.0)
    assert [Health.CRITICAL] == listed(world)
    assert "its app is silent for 1" in notes(world, "service_health")[0]
    call = caller.call("orders")
    world.run(46.0)
    assert [] == app.asked
    app.received, app.handle = deaf, echo  # type: ignore[method-assign]
    app.say(Floor("b", 10, 0, []))
    world.run(48.0)
    assert [Health.PASSING] == listed(world)
    assert b"" == caller.body(call)


def test_a_service_all_of_whose_handlers_hang_is_critical_until_one_ends() -> None:
    world = fleet("ab", NodeOptions(health=HealthOptions(hung_after_s=2.0)))
    app = server(world, workers=2)
    caller = App(world, "a", 1)
    for _ in range(2):
        caller.call("orders", timeout_s=1.0)
    world.run(4.0)
    assert [Health.PASSING] == listed(world)
    world.run(8.0)
    assert [Health.CRITICAL] == listed(world)
    assert "all 2 workers hang" in notes(world, "service_health")[0]
    app.release()
    world.run(10.0)
    assert [Health.PASSING] == listed(world)


def test_a_service_that_leaves_is_not_checked() -> None:
    world = fleet("ab")
    app = server(world)
    App(world, "a", 1).call("orders")
    world.run(2.0)
    app.say(Unserve("orders", "b-10"))
    app.received = lambda data, now: None  # type: ignore[method-assign]
    world.run(30.0)
    assert [] == notes(world, "service_health")


def test_the_silence_of_apps_is_not_held_against_them_by_a_node_that_was_stopped() -> None:
    world = fleet("b")
    server(world)
    node = world.agents["b"].node
    node.tick(world.now + 60.0)
    assert [] == [effect for effect in node.take(world.now + 60.0).effects if isinstance(effect, Renew)]


def test_a_policy_grants_refuses_revokes_and_grants_again() -> None:
    world = fleet("b")
    no = Rule("deny", verbs=("serve",), topics=("orders",))
    obey(world, "b", no=no)
    app = server(world)
    assert (False, "no") == (app.of(Serving)[-1].ok, app.of(Serving)[-1].rule)
    obey(world, "b")
    app.serve("orders")
    app.serve("stock")
    world.run(world.now + 0.5)
    assert [True, True] == [told.ok for told in app.of(Serving)[-2:]]
    obey(world, "b", no=no)
    assert [] == [health for health in listed(world) if health is Health.PASSING]
    obey(world, "b")
    assert [Health.PASSING] == listed(world)
    app.say(Unserve("orders", "b-10"))
    world.run(world.now + 0.1)
    obey(world, "b", no=no)
    assert {} == world.agents["b"].node.state.apps[10].revoked
