"""The serving agent: queues, workers, copies, fan-outs' parts, services that come and go."""

import pytest

from mesh.core.catalogue import Health
from mesh.core.context import NodeOptions
from mesh.core.effects import Note
from mesh.core.inbox import InboxOptions, Stage
from mesh.core.link import LinkOptions
from mesh.core.outbox import OutboxOptions
from mesh.core.policy import Rule
from mesh.core.records import (
    Ask,
    Cancel,
    Chunk,
    Failure,
    Flag,
    Receipt,
    Reply,
    Request,
    Settled,
    Status,
    Unserve,
)
from mesh.core.serving import QUEUE_SLACK
from mesh.sim.world import World
from tests.core.fabric import (
    App,
    assert_mesh_quiescent,
    echo,
    fail,
    fleet,
    hold,
    link,
    listed,
    notes,
    obey,
    options,
    server,
    stamp,
)

# A request comes in, and is handed out


def test_a_traced_call_says_how_long_it_waited_for_a_worker() -> None:
    world = fleet("ab")
    app = server(world, workers=1)
    caller = App(world, "a", 1)
    caller.call("orders")
    seq = caller.trace("orders")
    world.run(2.0)
    began = world.now
    world.run(began + 0.5)
    app.release(stamp)
    world.run(began + 1.0)
    place, came, left, back = caller.stamps(seq)[2]
    assert ("b", True) == (place, came / 1e6 < began)
    assert began + 0.5 <= left / 1e6 <= back / 1e6 <= began + 0.51
    assert_mesh_quiescent(world)


def test_calls_are_handed_out_as_workers_are_free_oldest_first() -> None:
    world = fleet("ab")
    app = server(world, workers=2)
    caller = App(world, "a", 1)
    for number in range(5):
        caller.call("orders", b"%d" % number)
    world.run(2.0)
    assert [b"0", b"1"] == app.bodies
    app.say(echo(app.asked[1]))
    world.run(2.2)
    assert [b"0", b"1", b"2"] == app.bodies
    app.release()
    world.run(3.0)
    assert 5 == world.agents["b"].node.state.totals.served
    assert_mesh_quiescent(world)


def test_repeatable_work_is_handed_ahead_work_that_must_not_repeat_is_not() -> None:
    world = fleet("ab")
    app = server(world, workers=1, prefetch=3)
    caller = App(world, "a", 1)
    for flags in (0, 0, Flag.ONCE):
        caller.cast("orders", flags=flags)
    world.run(2.0)
    assert 2 == len(app.asked), "the third needs a worker that is free"
    app.say(Settled("a", 1, [(0, 1)]))
    world.run(2.5)
    assert 3 == len(app.asked)
    caller.cast("orders", flags=Flag.ONCE)
    caller.call("orders", flags=Flag.IDEMPOTENT)
    world.run(3.0)
    assert 3 == len(app.asked)
    app.release()
    assert_mesh_quiescent(world)


def test_what_is_left_of_its_time_is_told_at_each_hop() -> None:
    world = fleet("ab")
    app = server(world, workers=1)
    caller = App(world, "a", 1)
    caller.call("orders", timeout_s=9.0)
    caller.call("orders", timeout_s=9.0)
    world.run(3.0)
    app.say(echo(app.asked[0]))
    world.run(3.1)
    assert 8_900 <= app.asked[0].timeout_ms <= 9_000
    assert 7_400 <= app.asked[1].timeout_ms <= 7_600


def test_an_app_is_handed_no_more_bytes_than_it_may_hold_and_one_body_may_be_alone() -> None:
    world = fleet("ab", NodeOptions(inbox=InboxOptions(handed_bytes=1 << 20)))
    app = server(world, workers=8)
    caller = App(world, "a", 1)
    seqs = [caller.cast("orders", bytes(400_000)) for _ in range(4)] + [caller.cast("orders", bytes(3 << 20))]
    world.run(3.0)
    assert [400_000] * 2 == [len(body) for body in app.bodies]
    for done in range(4):
        app.say(Settled("a", 1, [(seqs[done], seqs[done])]))
        world.run(world.now + 0.5)
    assert [400_000] * 4 + [3 << 20] == [len(body) for body in app.bodies]
    app.release()
    assert_mesh_quiescent(world)


def test_a_queue_that_is_full_of_one_apps_work_is_in_nobody_elses_way() -> None:
    world = fleet("ab", options(link=LinkOptions(credit_records=16)))
    stuck = server(world, prefetch=1)
    other = App(world, "b", 11)
    other.serve("stock")
    caller, neighbour = App(world, "a", 1), App(world, "a", 2)
    seqs = [caller.cast("orders") for _ in range(500)]
    world.run(3.0)
    calls = [neighbour.call("stock") for _ in range(20)]
    world.run(3.5)
    assert [b""] * 20 == [neighbour.body(seq) for seq in calls]
    assert 1 == len(stuck.asked)
    assert [[]] * 500 == [caller.ends(seq) for seq in seqs]


def test_the_bytes_of_a_queue_are_bounded() -> None:
    world = fleet("ab", NodeOptions(inbox=InboxOptions(queue_bytes=1024)))
    app = server(world)
    caller = App(world, "a", 1)
    seqs = [caller.call("orders", b"x" * size) for size in (2000, 2000, 2000, 10)]
    world.run(2.0)
    assert [1, 1] == [len(caller.ends(seq)) for seq in seqs[2:]]
    assert "queue_bytes" == caller.failure(seqs[2]).limit
    app.release()
    assert_mesh_quiescent(world)


def test_a_request_for_an_app_that_is_not_here_comes_back() -> None:
    world = fleet("ab")
    app = server(world)
    other = App(world, "b", 11, namespace="two")
    other.serve("orders")
    caller = App(world, "a", 1)
    caller.call("orders")
    world.run(2.0)
    for target, topic in ((99, "orders"), (11, "orders"), (10, "stock")):
        node = world.agents["b"].node
        request = Request(0, 50, topic, "", 1000, b"", node="a", session=1, target=target, dispatch=1)
        node.serving.offer("a", request, link(world, "b", "a"), world.now)
    assert 3 == len(link(world, "b", "a").out)
    app.release()
    world.run(3.0)
    assert 1 == len(app.bodies) + len(caller.of(Reply))


def test_a_request_that_claims_to_be_of_another_node_is_dropped() -> None:
    world = fleet("ab")
    app = server(world)
    caller = App(world, "a", 1)
    caller.call("orders")
    world.run(2.0)
    node, one = world.agents["b"].node, link(world, "b", "a")
    taken = one.taken_records
    node.serving.offer("a", Request(0, 9, "orders", "", 1000, b"", node="c", session=1, target=10), one, world.now)
    assert (1, taken + 1) == (len(app.asked), one.taken_records)
    assert [] == one.out
    assert "foreign_record" in [effect.name for effect in node.context.effects if isinstance(effect, Note)]


def test_apps_of_one_node_call_each_other_through_the_same_queues() -> None:
    world = fleet("a")
    app = server(world, node="a")
    caller = App(world, "a", 1)
    seqs = [caller.call("orders"), caller.call("orders"), caller.call("orders", timeout_s=0.5)]
    world.run(2.0)
    assert 1 == len(app.asked)
    caller.cancel(seqs[1])
    world.run(4.0)
    app.release()
    world.run(5.0)
    assert [Reply, Failure, Failure] == [type(caller.end(seq)) for seq in seqs]
    assert [] == app.asked
    assert_mesh_quiescent(world)


def test_a_queue_does_not_keep_the_ids_of_what_has_left_it() -> None:
    world = fleet("ab")
    app = server(world)
    caller = App(world, "a", 1)
    stays = [caller.call("orders"), caller.call("orders")]
    for _ in range(300):
        seq = caller.call("orders")
        world.run(world.now + 0.01)
        caller.cancel(seq)
        world.run(world.now + 0.01)
    service = world.agents["b"].node.state.apps[10].services["orders"]
    assert len(service.queue.items) <= QUEUE_SLACK + 3
    app.release()
    world.run(8.5)
    assert [b"", b""] == [caller.body(seq) for seq in stays]


# Copies


def offer(world: World, seq: int, *, kind: int = 0, floor: int = 0, body: bytes = b"") -> None:
    """Have a copy of a request of app 1 at node a come to node b."""
    node = world.agents["b"].node
    request = Request(
        kind, seq, "orders", "", 9000, body, floor=floor, node="a", session=1, target=10 if kind < 2 else 0, dispatch=7
    )
    node.serving.offer("a", request, link(world, "b", "a"), world.now)


def out(world: World) -> list[object]:
    return list(link(world, "b", "a").out)


def test_a_copy_is_answered_as_the_first_was_and_never_run() -> None:
    world = fleet("ab")
    app = server(world)
    app.handle = echo
    caller = App(world, "a", 1)
    call, cast, fan = caller.call("orders", b"one"), caller.cast("orders"), caller.fanout("orders")
    world.run(2.0)
    for kind, seq in enumerate((call, cast, fan)):
        offer(world, seq, kind=kind)
    reply, settled, receipt = out(world)
    assert (Reply("a", 1, call, b"one"), Settled("a", 1, [(cast, cast)])) == (reply, settled)
    assert Receipt("a", 1, fan, 1, 1, 0, 0) == receipt
    assert 3 == len(app.asked)


def test_a_copy_of_what_has_not_ended_waits_with_the_first() -> None:
    world = fleet("ab")
    app = server(world)
    caller = App(world, "a", 1)
    seqs = [caller.call("orders"), caller.call("orders")]
    world.run(2.0)
    for seq in seqs:
        offer(world, seq)
    assert [] == out(world)
    app.close(dead=True)
    world.run(2.1)
    # What is given back is the copy, for that is what the caller's agent sent last.
    assert 1 == len(app.asked)


def test_a_reply_that_was_too_much_to_keep_leaves_its_id() -> None:
    world = fleet("ab", NodeOptions(inbox=InboxOptions(answers_bytes=10)))
    app = server(world)
    app.handle = echo
    caller = App(world, "a", 1)
    small, large = caller.call("orders", b"x"), caller.call("orders", b"x" * 20)
    world.run(2.0)
    offer(world, small)
    offer(world, large)
    reply, failure = out(world)
    assert isinstance(reply, Reply)
    assert isinstance(failure, Failure)
    assert (Status.INDETERMINATE, "answers_bytes") == (failure.status, failure.limit)


def test_a_floor_frees_what_is_below_it_and_what_comes_from_below_is_not_looked_at() -> None:
    world = fleet("ab")
    app = server(world)
    app.handle = echo
    caller = App(world, "a", 1)
    for _ in range(10):
        caller.call("orders", b"x")
        world.run(world.now + 0.1)
    inbox = world.agents["b"].node.state.inbox
    assert (10, 10) == (len(inbox.callers["a", 1].handed), inbox.answers_bytes)
    caller.floor = 10
    caller.call("orders", b"x")
    world.run(4.0)
    assert ([10], 1) == (list(inbox.callers["a", 1].handed), inbox.answers_bytes)
    offer(world, 3)
    assert [] == out(world)
    assert 11 == len(app.asked)


def test_an_id_is_forgotten_a_little_after_its_time() -> None:
    world = fleet("ab")
    app = server(world)
    app.handle = echo
    caller = App(world, "a", 1)
    caller.call("orders", timeout_s=2.0)
    world.run(4.2)
    callers = world.agents["b"].node.state.inbox.callers
    assert [Stage.ENDED] == [handed.stage for handed in callers["a", 1].handed.values()]
    world.run(5.5)
    assert {} == callers["a", 1].handed
    world.run(75.0)
    assert {} == callers


# It runs beyond its time


@pytest.mark.parametrize("kind", ["call", "cast", "fanout"])
def test_a_handler_that_runs_beyond_its_time_keeps_its_worker_until_it_ends_and_not_longer(kind: str) -> None:
    world = fleet("ab")
    app = server(world, workers=1, prefetch=1)
    caller = App(world, "a", 1)
    seq = getattr(caller, kind)("orders", timeout_s=1.0)
    world.run(5.0)
    assert 1 == len(caller.ends(seq))
    late = caller.call("orders", b"late")
    world.run(6.0)
    assert [] == caller.ends(late) or kind != "call"
    app.release()
    world.run(7.0)
    assert b"late" == caller.body(late)
    assert_mesh_quiescent(world)


def test_what_waited_beyond_its_time_leaves_the_queue() -> None:
    world = fleet("ab")
    app = server(world, workers=1)
    other = server(world, 11, node="a")
    caller = App(world, "a", 1)
    caller.call("orders@b-10")
    world.run(2.0)
    late = [caller.call("orders@b-10", timeout_s=1.0), caller.fanout("orders@b-10", timeout_s=1.0)]
    world.run(2.1)
    app.close()
    world.silence("a", "b")
    world.run(5.0)
    assert [1, 1] == [len(caller.ends(seq)) for seq in late]
    world.heal("a", "b")
    app.come_back()
    world.run(6.0)
    app.release()
    other.release()
    world.run(7.0)
    assert_mesh_quiescent(world)


# It ends, and is given up


def test_an_app_may_not_end_what_another_was_handed() -> None:
    world = fleet("ab")
    app, thief = server(world), server(world, 11)
    caller = App(world, "a", 1)
    call, cast = caller.call("orders@b-10"), caller.cast("orders@b-10")
    world.run(2.5)
    thief.say(Reply("a", 1, call, b"stolen"), Failure("a", 1, call, 1, "stolen"), Settled("a", 1, [(cast, cast)]))
    world.run(3.0)
    assert [[], []] == [caller.ends(call), caller.ends(cast)]
    assert 3 == len(notes(world, "foreign_record", "b"))
    app.release()
    world.run(4.0)
    assert b"" == caller.body(call)


def test_what_an_app_ends_that_is_still_in_its_queue_leaves_the_queue() -> None:
    # A new agent was sent a copy of what the app has been running since before the old one was killed.
    world = fleet("ab")
    app = server(world, workers=1, prefetch=1)
    caller = App(world, "a", 1)
    running, call, cast = caller.call("orders"), caller.call("orders"), caller.cast("orders")
    world.run(2.0)
    assert 1 == len(app.asked)
    app.say(Reply("a", 1, call, b"old"), Settled("a", 1, [(cast, cast)]))
    world.run(3.0)
    assert b"old" == caller.body(call)
    assert None is caller.end(cast)
    app.release()
    world.run(4.0)
    assert b"" == caller.body(running)
    assert_mesh_quiescent(world)


def test_an_end_of_what_this_agent_never_saw_goes_on_to_its_caller() -> None:
    world = fleet("ab")
    app = server(world)
    caller = App(world, "a", 1)
    seq = caller.call("orders")
    world.run(2.0)
    app.say(Reply("a", 7, 7, b""), Settled("a", 7, [(1, 3)]), Reply("z", 7, 7, b""))
    app.release()
    world.run(3.0)
    assert b"" == caller.body(seq)


def test_what_a_handler_raised_is_told_with_the_node_it_ran_on() -> None:
    world = fleet("ab")
    app = server(world)
    app.handle = fail
    caller = App(world, "a", 1)
    call, cast = caller.call("orders"), caller.cast("orders")
    world.run(2.0)
    assert ("b", "ValueError") == (caller.failure(call).where, caller.failure(call).error_type)
    assert None is caller.end(cast)


def test_casts_settle_in_as_many_records_as_their_ranges_need() -> None:
    world = fleet("ab", options(outbox=OutboxOptions(outstanding_records=20_000)))
    app = server(world, prefetch=20_000)
    caller = App(world, "a", 1)
    casts = [caller.cast("orders") for _ in range(9_001)]
    world.run(4.0)
    assert 9_001 == len(app.asked)
    app.say(*(Settled("a", 1, [(seq, seq) for seq in part]) for part in (casts[:8_000:2], casts[8_000::2])))
    world.run(5.0)
    app.say(Settled("a", 1, [(casts[1], casts[-1])]))
    world.run(6.0)
    assert 9_001 == sum(len(range(a, b + 1)) for record in caller.of(Settled) for a, b in record.ranges)
    assert max(len(record.ranges) for record in caller.of(Settled)) <= 4_096


def test_a_settled_of_too_many_closes_the_connection_that_it_came_by() -> None:
    world = fleet("ab")
    app = server(world)
    app.say(Settled("a", 1, [(0, 1 << 40)]))
    world.run(3.0)
    assert not app.is_up
    assert 1 == len(notes(world, "app_malformed"))


def test_a_cancel_of_another_nodes_request_or_of_none_means_nothing() -> None:
    world = fleet("ab")
    app = server(world)
    caller = App(world, "a", 1)
    seq = caller.call("orders")
    world.run(2.0)
    serving = world.agents["b"].node.serving
    serving.cancel("c", Cancel("a", 1, seq), 2.0)
    serving.cancel("a", Cancel("a", 1, 99), 2.0)
    app.release()
    world.run(3.0)
    assert b"" == caller.body(seq)
    serving.cancel("a", Cancel("a", 1, seq), 3.0)
    assert [] == app.of(Cancel)


def test_a_cancel_finds_an_app_that_is_away_and_a_fan_out_at_every_app() -> None:
    world = fleet("ab")
    apps = [server(world), server(world, 11), server(world, 12)]
    caller = App(world, "a", 1)
    fan, call = caller.fanout("orders"), caller.call("orders@b-11")
    world.run(3.0)
    apps[1].close()
    apps[2].close(dead=True)
    world.run(3.1)
    serving = world.agents["b"].node.serving
    serving.cancel("a", Cancel("a", 1, fan), world.now)
    serving.cancel("a", Cancel("a", 1, call), world.now)
    world.run(3.5)
    assert [fan] == [record.seq for record in apps[0].of(Cancel)]
    assert [] == apps[1].of(Cancel)


def test_an_app_that_comes_back_is_told_what_was_given_up_meanwhile() -> None:
    world = fleet("ab")
    app = server(world)
    caller = App(world, "a", 1)
    seq = caller.call("orders")
    world.run(2.0)
    app.close()
    world.run(2.1)
    caller.cancel(seq)
    world.run(2.2)
    app.come_back()
    world.run(2.5)
    assert [Cancel("a", 1, seq)] == app.of(Cancel)


def test_an_app_that_comes_back_is_handed_first_what_its_old_socket_may_have_lost() -> None:
    world = fleet("ab")
    app = server(world, workers=2, prefetch=2)
    caller = App(world, "a", 1)
    overrun = caller.call("orders", timeout_s=1.0)
    second, third = caller.call("orders", timeout_s=30.0), caller.call("orders", timeout_s=30.0)
    world.run(2.0)
    assert [overrun, second] == [request.seq for request in app.asked]
    app.close()
    world.run(5.0)
    app.asked.clear()
    app.come_back()
    world.run(5.5)
    assert [second, third] == [request.seq for request in app.asked]


def test_a_cancel_of_a_fan_out_that_waits_everywhere_forgets_it() -> None:
    world = fleet("ab")
    app = server(world)
    app.close()
    caller = App(world, "a", 1)
    fan = caller.fanout("orders")
    world.run(2.5)
    world.agents["b"].node.serving.cancel("a", Cancel("a", 1, fan), world.now)
    app.come_back()
    world.run(3.0)
    assert [] == app.asked
    assert [] == [h for c in world.agents["b"].node.state.inbox.callers.values() for h in c.handed.values()]


# Fan-outs


def test_a_fan_out_that_finds_full_queues_counts_them_as_failed_and_takes_no_room() -> None:
    world = fleet("ab", NodeOptions(inbox=InboxOptions(queue_records=1), link=LinkOptions(credit_records=16)))
    apps = [server(world, 10 + number, prefetch=1) for number in range(2)]
    caller = App(world, "a", 1)
    for app in apps:
        app.handle = hold
    first = [caller.fanout("orders") for _ in range(2)]
    world.run(3.0)
    full = [caller.fanout("orders") for _ in range(40)]
    world.run(4.0)
    assert [(2, 0, 2, 0)] * 40 == [caller.receipt(seq) for seq in full]
    apps[0].release()
    world.run(4.5)
    half = caller.fanout("orders")
    world.run(5.0)
    apps[1].release()
    world.run(6.0)
    assert (2, 1, 1, 0) == caller.receipt(half)
    assert [(2, 2, 0, 0)] * 2 == [caller.receipt(seq) for seq in first]
    assert_mesh_quiescent(world)


def test_a_part_of_a_fan_out_that_waits_for_an_app_that_ended_it_before_needs_no_place() -> None:
    world = fleet("ab")
    app = server(world, prefetch=1)
    caller = App(world, "a", 1)
    app.handle = hold
    first, second = caller.fanout("orders"), caller.fanout("orders")
    world.run(2.0)
    app.say(Settled("a", 1, [(second, second)]))
    world.run(3.0)
    assert (1, 1, 0, 0) == caller.receipt(second)
    app.release()
    world.run(4.0)
    assert (1, 1, 0, 0) == caller.receipt(first)
    assert_mesh_quiescent(world)


def test_a_fan_out_gives_its_room_in_the_window_back() -> None:
    world = fleet("ab", options(link=LinkOptions(credit_records=16)))
    app = server(world)
    app.handle = echo
    caller = App(world, "a", 1)
    seqs = [caller.fanout("orders") for _ in range(200)]
    world.run(5.0)
    assert [(1, 1, 0, 0)] * 200 == [caller.receipt(seq) for seq in seqs]
    assert_mesh_quiescent(world)


def test_parts_of_a_fan_out_at_an_app_that_goes_have_failed_or_if_they_had_begun_are_unknown() -> None:
    for how in ("unserve", "die", "die away"):
        world = fleet("ab", options(outbox=OutboxOptions(resume_grace_s=1.0)))
        app, other = server(world, prefetch=1), server(world, 11)
        other.handle = echo
        caller = App(world, "a", 1)
        seqs = [caller.fanout("orders") for _ in range(3)]
        world.run(3.0)
        if how == "unserve":
            app.say(Unserve("orders", "b-10"))
            world.run(3.5)
            assert [1, 2] == [seq for seq in seqs if caller.ends(seq)]
            app.release()
        else:
            app.close(dead=how == "die")
        world.run(6.0)
        first = (2, 2, 0, 0) if how == "unserve" else (2, 1, 0, 1)
        assert [first, (2, 1, 1, 0), (2, 1, 1, 0)] == [caller.receipt(seq) for seq in seqs]
        assert_mesh_quiescent(world)


def test_a_fan_out_passes_over_apps_of_other_namespaces_and_servers_and_those_that_leave() -> None:
    world = fleet("ab")
    app, leaving = server(world, workers=4), server(world, 11)
    other = App(world, "b", 12, namespace="two")
    other.serve("orders")
    App(world, "b", 13).serve("stock")
    caller = App(world, "a", 1)
    leaving_has = caller.call("orders@b-11", timeout_s=30.0)
    world.run(6.0)
    leaving.say(Unserve("orders", "b-11"))
    world.run(6.0002)
    seqs = [caller.fanout("orders"), caller.fanout("orders@b-10")]
    world.run(6.5)
    app.release()
    leaving.release()
    world.run(7.0)
    assert [1, 1] == [caller.receipt(seq)[1] for seq in seqs]
    assert [] == other.asked
    assert isinstance(caller.end(leaving_has), Reply)
    assert_mesh_quiescent(world)


def test_a_fan_out_to_one_server_passes_over_the_others_of_its_node() -> None:
    world = fleet("ab")
    apps = [server(world), server(world, 11)]
    caller = App(world, "a", 1)
    seq = caller.fanout("orders@b-11")
    world.run(3.0)
    assert [0, 1] == [len(app.asked) for app in apps]
    apps[1].release()
    world.run(4.0)
    assert (1, 1, 0, 0) == caller.receipt(seq)


def test_a_fan_out_to_a_node_where_nobody_serves_is_given_back() -> None:
    world = fleet("ab")
    app = server(world)
    caller = App(world, "a", 1)
    world.run(6.0)
    caller.call("orders")
    world.run(7.0)
    app.say(Unserve("orders", "b-10"))
    world.run(7.0002)
    seq = caller.fanout("orders")
    world.run(8.0)
    assert (1, 0, 1, 0) == caller.receipt(seq)


@pytest.mark.parametrize("is_back", [True, False])
def test_a_fan_out_to_a_young_agent_is_kept_for_the_apps_of_the_one_before(is_back: bool) -> None:
    world = fleet("ab", options(outbox=OutboxOptions(resume_grace_s=2.0)))
    apps = [server(world), server(world, 11), server(world, 12)]
    caller = App(world, "a", 1)
    world.run(6.0)
    first = caller.fanout("orders", timeout_s=30.0)
    world.run(6.5)
    apps[0].handle = apps[1].handle = echo
    world.kill("b")
    world.start("b", options(outbox=OutboxOptions(resume_grace_s=2.0)))
    second = caller.fanout("orders", timeout_s=30.0)
    world.run(7.0)
    App(world, "b", 20).serve("stock")
    apps[0].come_back()
    apps[0].serve("orders")
    apps[0].serve("orders", workers=2)
    world.run(7.5)
    assert [] == caller.ends(first)
    assert [] == caller.ends(second)
    for app in apps[1:] if is_back else apps[1:2]:
        app.come_back()
        app.serve("orders")
    world.run(7.8)
    if is_back:
        apps[2].release()
        world.run(8.0)
        assert [(3, 3, 0, 0)] * 2 == [caller.receipt(seq) for seq in (first, second)]
    world.run(10.0)
    assert [(3, 3, 0, 0) if is_back else (3, 2, 0, 1)] * 2 == [caller.receipt(seq) for seq in (first, second)]
    assert {} == world.agents["b"].node.state.gathering


def test_of_apps_that_do_not_come_back_to_a_young_agent_nobody_knows_what_became_of_a_fan_out() -> None:
    world = fleet("ab", options(outbox=OutboxOptions(resume_grace_s=1.0)))
    server(world)
    caller = App(world, "a", 1)
    world.run(6.0)
    seqs = [caller.fanout("orders", timeout_s=30.0), caller.fanout("orders", timeout_s=1.2)]
    world.run(6.5)
    world.kill("b")
    world.start("b", options(outbox=OutboxOptions(resume_grace_s=1.0)))
    world.run(9.0)
    assert [(1, 0, 0, 1)] * 2 == [caller.receipt(seq) for seq in seqs]
    assert {} == world.agents["b"].node.state.gathering


def test_what_was_kept_for_an_app_finds_its_queue_full_like_all_else() -> None:
    young = NodeOptions(outbox=OutboxOptions(resume_grace_s=3.0), inbox=InboxOptions(queue_records=1))
    world = fleet("ab", young)
    app = server(world, prefetch=1)
    caller = App(world, "a", 1)
    world.run(6.0)
    world.kill("b")
    world.start("b", young)
    seqs = [caller.fanout("orders", timeout_s=30.0) for _ in range(3)]
    world.run(6.5)
    app.come_back()
    app.serve("orders", workers=1, prefetch=1)
    world.run(7.0)
    assert [[], [], [(1, 0, 1, 0)]] == [[caller.receipt(seq)] if caller.ends(seq) else [] for seq in seqs]
    app.release()
    world.run(8.0)
    assert [(1, 1, 0, 0)] * 2 == [caller.receipt(seq) for seq in seqs[:2]]


def test_a_fan_out_that_was_given_up_is_not_kept_for_those_that_come_back_to_a_young_agent() -> None:
    world = fleet("ab", options(outbox=OutboxOptions(resume_grace_s=3.0)))
    apps = [server(world), server(world, 11)]
    caller = App(world, "a", 1)
    world.run(6.0)
    seqs = [caller.fanout("orders", timeout_s=30.0), caller.fanout("orders@b-10", timeout_s=30.0)]
    world.run(6.5)
    world.kill("b")
    world.start("b", options(outbox=OutboxOptions(resume_grace_s=3.0)))
    world.run(7.0)
    caller.cancel(seqs[0])
    world.run(7.5)
    for app in apps:
        app.asked.clear()
        app.handle = echo
        app.come_back()
        app.serve("orders")
    world.run(8.0)
    assert [[seqs[1]], []] == [[request.seq for request in app.asked] for app in apps]
    assert (1, 1, 0, 0) == caller.receipt(seqs[1])
    world.run(12.0)
    assert {} == world.agents["b"].node.state.gathering


def test_a_fan_out_that_runs_beyond_its_time_is_forgotten_wherever_its_parts_are() -> None:
    world = fleet("ab")
    apps = [server(world, 10 + number) for number in range(3)]
    apps[0].handle = echo
    caller = App(world, "a", 1)
    seq = caller.fanout("orders", timeout_s=1.0)
    world.run(3.0)
    apps[2].close(dead=True)
    world.run(6.0)
    # A node tells once, when all its parts have ended.
    assert (3, 0, 0, 3) == caller.receipt(seq)
    apps[1].release()
    assert_mesh_quiescent(world)


def test_a_part_ends_once() -> None:
    world = fleet("ab")
    apps = [server(world), server(world, 11)]
    caller = App(world, "a", 1)
    seq = caller.fanout("orders")
    world.run(3.0)
    apps[0].say(*[Settled("a", 1, [(seq, seq)])] * 3)
    server(world, 12).say(Settled("a", 1, [(seq, seq)]))
    world.run(4.0)
    assert [] == caller.ends(seq)
    apps[1].release()
    world.run(5.0)
    assert (2, 2, 0, 0) == caller.receipt(seq)


# An agent asks; an app is lost


def test_an_app_that_lost_its_socket_is_handed_again_what_it_may_have_missed() -> None:
    world = fleet("ab")
    app = server(world, workers=1)
    caller = App(world, "a", 1)
    body = b"x" * 300_000
    seqs = [caller.call("orders", body), caller.call("orders")]
    world.run(2.0)
    app.asked.clear()
    app.close()
    world.run(2.5)
    app.come_back()
    world.run(3.0)
    assert [body] == app.bodies
    assert isinstance(app.got[-1], Chunk)
    app.release()
    world.run(4.0)
    assert [body, b""] == [caller.body(seq) for seq in seqs]
    assert_mesh_quiescent(world)


def test_an_app_that_comes_back_is_not_handed_what_is_forgotten_and_has_its_worker_again() -> None:
    world = fleet("ab")
    app = server(world, workers=1)
    caller = App(world, "a", 1)
    caller.call("orders", timeout_s=1.0)
    world.run(5.0)
    app.asked.clear()
    app.close()
    world.run(5.5)
    app.come_back()
    world.run(6.0)
    assert [] == app.asked
    seq = caller.call("orders")
    world.run(6.5)
    app.release()
    world.run(7.0)
    assert b"" == caller.body(seq)
    assert_mesh_quiescent(world)


def test_what_an_app_had_when_it_died_is_indeterminate_if_it_must_not_repeat() -> None:
    world = fleet("ab")
    app = server(world, workers=4)
    caller = App(world, "a", 1)
    call, once = caller.call("orders"), caller.cast("orders", flags=Flag.ONCE)
    again = [caller.call("orders", flags=Flag.IDEMPOTENT), caller.cast("orders")]
    fan = caller.fanout("orders")
    world.run(2.0)
    app.close(dead=True)
    world.run(2.3)
    assert [Status.INDETERMINATE] * 2 == [caller.status(seq) for seq in (call, once)]
    assert "the app that ran it at b is gone" == caller.failure(call).text
    assert (1, 0, 0, 1) == caller.receipt(fan)
    other = server(world, 11)
    other.handle = echo
    other.release()
    world.run(8.0)
    assert [Reply, type(None)] == [type(caller.end(seq)) for seq in again]
    assert_mesh_quiescent(world)


def test_an_app_that_dies_with_what_was_forgotten_takes_nothing_with_it() -> None:
    world = fleet("ab")
    app = server(world, workers=1)
    caller = App(world, "a", 1)
    caller.call("orders", timeout_s=1.0)
    caller.call("orders")
    world.run(5.0)
    app.say(Settled("a", 1, [(1, 1)]))
    app.close(dead=True)
    world.run(6.0)
    assert_mesh_quiescent(world)


def test_an_app_that_was_leaving_when_it_died_is_withdrawn_once() -> None:
    world = fleet("ab")
    app = server(world)
    caller = App(world, "a", 1)
    caller.call("orders")
    world.run(2.0)
    app.say(Unserve("orders", "b-10"))
    world.run(2.1)
    app.close(dead=True)
    world.run(2.3)
    assert [Health.MAINTENANCE] == listed(world)
    world.run(4.0)
    assert [] == listed(world)


def test_a_body_over_this_ends_limit_is_given_back_and_its_room_in_the_window_too() -> None:
    world = World(1)
    world.start("a", NodeOptions())
    world.start("b", options(link=LinkOptions(body_bytes_max=400_000)))
    app = server(world)
    app.handle = echo
    caller = App(world, "a", 1)
    seqs = [caller.call("orders", b"x" * 500_000) for _ in range(3)]
    world.run(3.0)
    assert [Status.REJECTED] * 3 == [caller.status(seq) for seq in seqs]
    assert_mesh_quiescent(world)


def test_a_reply_over_the_callers_limit_says_that_it_ran() -> None:
    world = World(1)
    world.start("a", options(link=LinkOptions(body_bytes_max=400_000)))
    world.start("b", NodeOptions())
    app = server(world)
    app.handle = lambda request: Reply(request.node, request.session, request.seq, b"x" * 500_000)
    caller = App(world, "a", 1)
    seq = caller.call("orders")
    world.run(3.0)
    assert (Status.REMOTE_ERROR, "body_bytes_max", "ReplyTooLarge") == (
        caller.status(seq),
        caller.failure(seq).limit,
        caller.failure(seq).error_type,
    )
    assert_mesh_quiescent(world)


def test_the_ids_that_are_remembered_are_bounded() -> None:
    world = fleet("ab", NodeOptions(inbox=InboxOptions(ids_max=1024)))
    server(world, workers=2000).handle = echo
    caller = App(world, "a", 1)
    seqs = [caller.call("orders", timeout_s=60.0) for _ in range(1025)]
    world.run(5.0)
    assert 1024 == sum(isinstance(caller.end(seq), Reply) for seq in seqs)
    assert (Status.OVERLOADED, "ids_max") == (caller.status(seqs[-1]), caller.failure(seqs[-1]).limit)
    assert_mesh_quiescent(world)


def test_a_fan_out_takes_an_id_too_and_is_refused_where_there_is_none_left() -> None:
    world = fleet("ab", NodeOptions(inbox=InboxOptions(ids_max=1024)))
    server(world, workers=2000)
    caller = App(world, "a", 1)
    for _ in range(1024):
        caller.call("orders", timeout_s=4.0)
    world.run(2.5)
    seq = caller.fanout("orders", timeout_s=60.0)
    world.run(3.0)
    assert (1, 0, 1, 0) == caller.receipt(seq)


@pytest.mark.parametrize("status", [Status.OVERLOADED, Status.UNROUTABLE])
def test_what_an_app_has_not_taken_goes_to_another(status: Status) -> None:
    world = fleet("ab")
    refusing, other = server(world), server(world, 11)
    refusing.handle = lambda request: Failure(request.node, request.session, request.seq, int(status), "no")
    other.handle = echo
    caller = App(world, "a", 1)
    seqs = [caller.call("orders", b"1"), caller.call("orders", b"2"), caller.cast("orders", b"3")]
    seqs.append(caller.cast("orders", b"4"))
    world.run(3.0)
    assert [b"1", b"2"] == sorted(caller.body(seq) for seq in seqs[:2])
    assert [None, None] == [caller.end(seq) for seq in seqs[2:]]
    assert 4 == len(other.asked)
    assert refusing.asked
    assert_mesh_quiescent(world)


def test_a_copy_of_a_call_whose_reply_could_not_be_kept_is_indeterminate() -> None:
    world = fleet("ab", NodeOptions(inbox=InboxOptions(answers_bytes=0)))
    server(world).handle = echo
    caller = App(world, "a", 1)
    seq = caller.call("orders", b"one")
    world.run(2.0)
    node = world.agents["b"].node
    known = node.state.inbox.find(("a", 1, seq))
    assert known is not None
    node.serving.again(known, known.request)
    (failure,) = out(world)
    assert isinstance(failure, Failure)
    assert (Status.INDETERMINATE, "answers_bytes") == (failure.status, failure.limit)


def test_an_app_that_is_back_is_asked_what_waited_for_it_and_one_that_stays_away_is_not_waited_for() -> None:
    world = fleet("ab")
    app = server(world)
    app.close()
    world.run(2.0)
    question = Ask("a", 1001, 5, 10, 7, [(1, 0)])
    questions = world.agents["b"].node.state.questions
    questions[10], questions[77] = [(2.0, question)], [(2.0, question)]
    app.come_back()
    world.run(3.0)
    assert ([question], [77]) == (app.of(Ask), list(questions))
    world.run(8.0)
    assert {} == questions


def test_a_request_that_the_policy_is_against_is_given_back_and_not_remembered() -> None:
    world = fleet("ab")
    obey(world, "b", no=Rule("deny", verbs=("call",), nodes=("a",)))
    app = server(world)
    caller = App(world, "a", 1)
    call, cast = caller.call("orders"), caller.cast("orders", b"cast")
    world.run(world.now + 0.5)
    assert ("no", [b"cast"]) == (caller.failure(call).rule, app.bodies)
    app.release()
    world.run(world.now + 0.5)
    assert caller.end(cast) is None
    assert_mesh_quiescent(world)
