"""Calls that are watched: a server that works is left alone, one that was stopped loses them."""

from mesh.core.monitor import IDS_MAX
from mesh.core.node import Node
from mesh.core.outbox import OutboxOptions
from mesh.core.records import Answer, Ask, Cancel, Flag, Reply, Request, Status, Verdict
from mesh.sim.world import World
from tests.core.fabric import App, assert_mesh_quiescent, fleet, hold, options


class Working(App):
    """An app that ends nothing, and says that it works when it is asked, while it is not ``stopped``."""

    stopped = False

    def received(self, data: bytes, now: float) -> None:
        told = len(self.got)
        super().received(data, now)
        for ask in [record for record in self.got[told:] if isinstance(record, Ask)]:
            if not self.stopped:
                verdicts = [int(Verdict.RUNNING)] * len(ask.ids)
                self.out.append(Answer(ask.node, ask.incarnation, ask.number, 0, ask.ids, verdicts))


def watched(world: World, servers: str, *, flags: int = 0, count: int = 1, monitor_s: float = 3.0) -> list[Working]:
    """Apps that serve orders, and so many calls to them from app 1 of node a, from seq 0 on."""
    apps = [Working(world, node, 10 + number, hold) for number, node in enumerate(servers)]
    for app in apps:
        app.serve("orders", workers=8192)
    caller = App(world, "a", 1)
    world.run(1.5)
    for seq in range(count):
        request = Request(0, seq, "orders", "", 60_000, b"%d" % seq, flags, monitor_ms=round(monitor_s * 1000))
        caller.say(request)
    caller.seq = count
    world.run(2.0)
    return apps


def caller_of(world: World) -> App:
    (app,) = (app for app in world.agents["a"].speakers.values() if isinstance(app, App) and app.session == 1)
    return app


def node_of(world: World) -> Node:
    return world.agents["a"].node


def test_a_call_whose_server_works_is_waited_for_however_long_it_takes() -> None:
    for server_at in "ab":
        world = fleet("ab")
        (app,) = watched(world, server_at)
        world.run(40.0)
        assert [] == caller_of(world).ends(0)
        assert 20 < len(app.of(Ask)) < 60
        app.release(lambda request: Reply(request.node, request.session, request.seq, request.body))
        world.run(41.0)
        assert b"0" == caller_of(world).body(0)
        assert {} == node_of(world).state.outbox.monitored
        assert_mesh_quiescent(world, 90.0)


def test_a_call_whose_server_was_stopped_is_given_up_in_its_time_and_cancelled() -> None:
    world = fleet("ab")
    (app,) = watched(world, "b")
    app.stopped = True
    world.run(4.4)
    assert [] == caller_of(world).ends(0)
    world.run(6.3)
    failure = caller_of(world).failure(0)
    assert (Status.INDETERMINATE, "its app at b showed no sign of life for 3 s") == (failure.status, failure.text)
    assert [0] == [cancel.seq for cancel in app.of(Cancel)]


def test_a_call_that_may_run_twice_goes_elsewhere_when_its_server_was_stopped() -> None:
    world = fleet("abc")
    apps = watched(world, "bc", flags=int(Flag.IDEMPOTENT))
    (first,) = [app for app in apps if app.asked]
    (other,) = [app for app in apps if not app.asked]
    first.stopped = True
    world.run(6.5)
    assert ([], [b"0"], []) == (caller_of(world).ends(0), other.bodies, first.of(Cancel))


def test_calls_that_wait_are_not_given_up_and_one_question_is_about_many() -> None:
    world = fleet("ab", options(outbox=OutboxOptions(outstanding_records=9000)))
    (app,) = watched(world, "b", count=IDS_MAX + 5)
    world.run(3.5)
    assert [IDS_MAX, 5] == [len(ask.ids) for ask in app.of(Ask)][:2]
    world.kill("b")
    node_of(world).state.pool.slots["b"].retry_at = 99.0
    entry = node_of(world).state.outbox.entries[1, 0]
    world.run(5.0)
    assert 4.5 < entry.seen_at


def test_the_own_lag_of_a_node_is_nobody_elses_silence_and_a_strangers_word_is_no_sign() -> None:
    world = fleet("ab")
    watched(world, "b")
    node = node_of(world)
    entry = node.state.outbox.entries[1, 0]
    before = entry.seen_at
    node.recovery.monitor.heard("b", Answer("a", 1001, 0, 99, [(1, 0)], [int(Verdict.RUNNING)]), 50.0)
    node.recovery.monitor.heard("b", Answer("a", 1001, 0, 10, [(1, 0)], [int(Verdict.NEVER)]), 50.0)
    node.recovery.monitor.heard("b", Answer("a", 1001, 0, 10, [(1, 7)], [int(Verdict.RUNNING)]), 50.0)
    assert before == entry.seen_at
    node.recovery.monitor.lagged(2.5)
    assert before + 2.5 == entry.seen_at
