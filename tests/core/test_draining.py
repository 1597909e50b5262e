"""An agent drains: what is given back, what is finished, and how it stops or takes work again."""

import pytest

from mesh.core.effects import Stop
from mesh.core.link import LinkOptions
from mesh.core.records import AppWelcome, Flag, GiveBack, Goodbye, Reply
from mesh.sim.world import World
from tests.core.fabric import App, assert_mesh_quiescent, fleet, hold, notes, options


def serve(world: World, node: str, session: int, topic: str = "orders", workers: int = 1) -> App:
    app = App(world, node, session, hold)
    app.serve(topic, workers=workers)
    world.run(world.now + 0.5)
    return app


def test_an_agent_that_drains_stays_up_and_takes_work_again_when_told() -> None:
    world = fleet("ab")
    app, caller = serve(world, "b", 10), App(world, "a", 1)
    boss = App(world, "b", 99)
    running = caller.call("orders", b"runs")
    world.run(2.0)
    boss.query("drain")
    boss.query("drain")
    assert [Goodbye("draining")] == app.of(Goodbye) == boss.of(Goodbye)
    later = caller.call("orders", b"later")
    app.release()
    world.run(5.0)
    assert b"runs" == caller.body(running)
    assert [] == caller.ends(later)
    assert "b" in world.agents
    late = App(world, "b", 98)
    world.run(5.1)
    assert [True] == [welcome.draining for welcome in late.of(AppWelcome)]
    late.close()
    world.run(5.2)
    assert boss.query("resume").ok
    assert not app.is_up, "it is told by a new connection"
    assert boss.is_up
    assert boss.query("resume").ok
    app.come_back()
    app.serve("orders")
    world.run(6.0)
    assert b"later" == caller.body(later)
    assert (1, 1) == (len(notes(world, "draining", "b")), len(notes(world, "drain_ended", "b")))
    assert_mesh_quiescent(world)


def test_an_agent_that_stops_does_not_take_work_again() -> None:
    world = fleet("ab")
    app, caller = serve(world, "b", 10), App(world, "a", 1)
    caller.call("orders")
    world.run(2.0)
    assert app.query("drain").ok
    world.agents["b"].node.drain(world.now)
    refused = app.query("resume")
    assert (False, b"this agent is stopping: start it again") == (refused.ok, refused.body)
    app.release()
    world.run(8.0)
    assert Stop(0, "drained") == world.stopped["b"]


def test_what_an_agent_that_stops_has_not_sent_its_apps_have_again() -> None:
    world = fleet("ab", options(link=LinkOptions(credit_records=16)))
    server, caller, away = serve(world, "b", 10, workers=64), App(world, "a", 1), App(world, "a", 2)
    first = caller.call("orders")
    world.run(2.0)
    world.pause("b", 1.0)
    calls = [first] + [caller.call("orders") for _ in range(20)]
    waiting = [caller.call("nobody", flags=Flag.WAIT), caller.cast("nobody", flags=Flag.WAIT)]
    away.call("nobody", flags=Flag.WAIT)
    world.run(2.1)
    away.close()
    world.run(2.2)
    world.agents["a"].node.drain(world.now)
    world.run(2.6)
    back = sorted(record.seq for record in caller.of(GiveBack))
    assert calls[16:] + waiting == back, "those that wait for room, and those for whom nobody is there"
    server.release()
    world.run(8.0)
    assert [Reply] * 16 == [type(caller.end(seq)) for seq in calls[:16]]
    assert "a" not in world.agents


def test_what_may_have_run_is_not_given_back_to_its_app() -> None:
    world = fleet("ab")
    server, caller = serve(world, "b", 10), App(world, "a", 1)
    seq = caller.cast("orders")
    world.run(2.0)
    server.close(dead=True)
    world.run(2.5)
    world.agents["a"].node.drain(world.now)
    world.run(8.0)
    assert "a" not in world.agents
    assert ([], []) == (caller.of(GiveBack), caller.ends(seq))


@pytest.mark.parametrize("uid", [0, 1000, 1001, -1])
def test_only_root_and_the_agents_own_user_give_orders(uid: int) -> None:
    world = fleet("b")
    world.agents["b"].node.state.owner_uid = 1000
    app = App(world, "b", 1)
    world.run(1.1)
    world.agents["b"].node.state.apps[1].uid = uid
    report = app.query("drain")
    assert (uid in (0, 1000)) == report.ok == world.agents["b"].node.state.draining
    assert report.ok or b"may give it orders" in report.body


def test_a_stop_has_its_time_and_not_more() -> None:
    world = fleet("ab", options(link=LinkOptions(drain_s=3.0)))
    serve(world, "b", 10)
    caller = App(world, "a", 1)
    caller.call("orders", timeout_s=60.0)
    world.run(2.0)
    world.agents["b"].node.drain(world.now)
    world.agents["b"].node.drain(world.now)
    world.run(4.9)
    assert "b" in world.agents
    world.run(7.0)
    assert "b" not in world.agents
