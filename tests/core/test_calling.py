"""The caller's agent: what it takes, where it places it, how it ends."""

import pytest
from msgspec import structs

from mesh.core import calling
from mesh.core.context import NodeOptions
from mesh.core.directory import DirectoryOptions
from mesh.core.heat import HeatOptions
from mesh.core.inbox import InboxOptions
from mesh.core.link import LinkOptions
from mesh.core.outbox import OutboxOptions
from mesh.core.pool import PoolOptions
from mesh.core.records import (
    Accepted,
    Cancel,
    Failure,
    Flag,
    FloorAsk,
    Kind,
    Reach,
    Receipt,
    Reply,
    Request,
    Settled,
    Status,
    Targets,
)
from mesh.core.router import RouterOptions
from mesh.sim.world import NetworkOptions
from mesh.types import TopicKey
from tests.core.durables import Mail
from tests.core.fabric import App, assert_mesh_quiescent, echo, fail, fleet, hold, link, notes, options, served, stamp

# Calls, casts and fan-outs end


def test_a_call_goes_to_another_node_and_its_reply_comes_back() -> None:
    world = fleet("ab")
    (server,) = served(world, "b")
    app = App(world, "a", 1)
    seq = app.call("orders", b"one")
    world.run(2.0)
    assert b"one" == app.body(seq)
    assert [("a", 1, seq)] == [(r.node, r.session, r.seq) for r in server.asked]
    assert_mesh_quiescent(world)


def test_a_traced_call_says_when_it_came_went_on_and_was_answered() -> None:
    world = fleet("ab", network=NetworkOptions(link_delay_s=(0.1, 0.1)))
    served(world, "b")[0].handle = stamp
    app = App(world, "a", 1)
    began = world.now
    seq = app.trace("orders")
    world.run(began + 2.0)
    caller, near, far, server = app.stamps(seq)
    assert [("caller", 1, 2, 0), ("server", 1, 2, 3)] == [caller, server]
    assert ["a", "b"] == [near[0], far[0]]
    came, left, back = (micros / 1e6 - began for micros in near[1:])
    assert 0 <= came < 0.01
    assert 0.2 <= left, "it waited for the link"
    assert left + 0.2 <= back < left + 0.21
    assert_mesh_quiescent(world)


def test_a_call_to_an_app_of_the_same_node_needs_no_link() -> None:
    world = fleet("a")
    served(world, "a")
    app = App(world, "a", 1)
    seq = app.call("orders", b"one")
    world.run(2.0)
    assert b"one" == app.body(seq)
    assert {} == world.agents["a"].node.state.peers.links
    assert_mesh_quiescent(world)


def test_a_failure_of_the_handler_is_told_with_where_it_happened() -> None:
    world = fleet("ab")
    served(world, "b")[0].handle = fail
    app = App(world, "a", 1)
    seq = app.call("orders")
    world.run(2.0)
    assert (Status.REMOTE_ERROR, "b", "ValueError") == (
        app.status(seq),
        app.failure(seq).where,
        app.failure(seq).error_type,
    )
    assert {int(Status.REMOTE_ERROR): 1} == world.agents["a"].node.state.totals.outcomes


def test_three_consecutive_casts_reach_three_instances_wherever_they_are() -> None:
    world = fleet("ab")
    apps = served(world, "a", "b", "b")
    caller = App(world, "a", 1)
    caller.call("orders")
    world.run(2.0)
    for app in apps:
        app.asked.clear()
    seqs = [caller.cast("orders") for _ in range(3)]
    world.run(3.0)
    assert [1, 1, 1] == [len(app.asked) for app in apps]
    assert [None, None, None] == [caller.end(seq) for seq in seqs]
    assert [(seq, seq) for seq in seqs] == [part for record in caller.of(Accepted) for part in record.ranges]
    assert_mesh_quiescent(world)


def test_who_is_suspect_is_passed_over_while_there_is_another() -> None:
    world = fleet("abc")
    apps = served(world, "b", "c")
    caller = App(world, "a", 1)
    caller.call("orders")
    world.run(2.0)
    for app in apps:
        app.asked.clear()
    world.agents["a"].node.state.peers.suspect("b", world.now)
    seqs = [caller.call("orders") for _ in range(4)]
    world.run(world.now + 0.2)
    assert [0, 4] == [len(app.asked) for app in apps]
    assert all(isinstance(caller.end(seq), Reply) for seq in seqs)


def test_a_topic_that_is_served_here_too_is_still_looked_up_in_the_fleet() -> None:
    world = fleet("ab")
    here, there = served(world, "a", "b")
    app = App(world, "a", 1)
    app.call("orders")
    world.run(2.0)
    seqs = [app.call("orders") for _ in range(4)]
    world.run(3.0)
    assert 4 == sum(isinstance(app.end(seq), Reply) for seq in seqs)
    assert 2 <= len(here.asked) <= 3
    assert 2 <= len(there.asked) <= 3


def test_a_fan_out_reaches_every_instance_of_every_node_by_one_record_for_each_node() -> None:
    world = fleet("abc")
    apps = served(world, "a", "b", "b", "c")
    caller = App(world, "a", 1)
    seq = caller.fanout("orders", b"all")
    world.run(2.0)
    assert (4, 4, 0, 0) == caller.receipt(seq)
    assert [[b"all"]] * 4 == [app.bodies for app in apps]
    assert [("a", 1), ("b", 2), ("c", 1)] == caller.of(Targets)[0].nodes
    assert 1 == link(world, "a", "b").sent_records
    assert_mesh_quiescent(world)


def test_a_fan_out_waits_until_the_topic_is_known() -> None:
    world = fleet("ab", network=NetworkOptions(catalogue_delay_s=(1.0, 1.0)))
    apps = served(world, "a", "b")
    caller = App(world, "a", 1)
    seq = caller.fanout("orders")
    world.run(2.0)
    assert [] == caller.ends(seq)
    assert [(seq, seq)] == caller.of(Accepted)[0].ranges
    world.run(4.0)
    assert (2, 2, 0, 0) == caller.receipt(seq)
    assert [1, 1] == [len(app.asked) for app in apps]


def test_a_fan_out_is_not_ended_by_an_app_that_settled_its_part_of_an_earlier_agent_s() -> None:
    world = fleet("ab", network=NetworkOptions(catalogue_delay_s=(1.0, 1.0)))
    apps = served(world, "a", "b")
    caller = App(world, "a", 1)
    seq = caller.fanout("orders")
    world.run(1.6)
    apps[0].say(Settled("a", 1, [(seq, seq)]))
    world.run(4.0)
    assert (2, 2, 0, 0) == caller.receipt(seq)


def test_a_fan_out_of_an_app_that_is_gone_before_the_topic_is_known_goes_out_all_the_same() -> None:
    world = fleet("ab", network=NetworkOptions(catalogue_delay_s=(1.0, 1.0)))
    apps = served(world, "b")
    caller = App(world, "a", 1)
    caller.fanout("orders")
    world.run(1.8)
    caller.close(dead=True)
    world.run(4.0)
    assert [1] == [len(app.asked) for app in apps]
    assert_mesh_quiescent(world)


def test_a_fan_out_counts_those_that_failed() -> None:
    world = fleet("abc")
    apps = served(world, "b", "c")
    apps[0].handle = fail
    caller = App(world, "a", 1)
    seq = caller.fanout("orders")
    world.run(2.0)
    assert (2, 1, 1, 0) == caller.receipt(seq)


def test_a_fan_out_that_is_not_answered_in_time_counts_as_unknown() -> None:
    world = fleet("abc")
    apps = served(world, "b", "c")
    apps[0].handle = hold
    caller = App(world, "a", 1)
    seq = caller.fanout("orders", timeout_s=1.0)
    world.run(2.3)
    assert [] == caller.ends(seq)
    world.run(2.6)
    assert (2, 1, 0, 1) == caller.receipt(seq)
    apps[0].release()
    assert_mesh_quiescent(world)
    assert 1 == len(caller.of(Receipt))


def test_a_fan_out_to_one_server_goes_only_there() -> None:
    world = fleet("abc")
    apps = served(world, "b", "c")
    caller = App(world, "a", 1)
    seq = caller.fanout("orders@c-11")
    world.run(2.0)
    assert (1, 1, 0, 0) == caller.receipt(seq)
    assert [0, 1] == [len(app.asked) for app in apps]


def test_a_cast_outlives_the_app_that_sent_it() -> None:
    world = fleet("ab")
    (server,) = served(world, "b")
    server.handle = hold
    caller = App(world, "a", 1)
    caller.cast("orders")
    world.run(2.0)
    caller.close(dead=True)
    world.run(3.0)
    assert 1 == len(server.asked)
    server.release()
    assert_mesh_quiescent(world)


def test_a_cast_whose_handler_failed_is_settled_and_noted() -> None:
    world = fleet("ab")
    served(world, "b")[0].handle = fail
    caller = App(world, "a", 1)
    seq = caller.cast("orders")
    world.run(2.0)
    assert None is caller.end(seq)
    (failed,) = notes(world, "cast_failed", "a")
    assert failed.endswith(" app=app session=1 failed=1")
    assert 1 == world.agents["a"].node.state.totals.casts_failed


# Whom it reaches


def test_a_server_that_is_named_gets_it_whoever_else_serves_the_topic() -> None:
    world = fleet("abc")
    apps = served(world, "b", "c")
    caller = App(world, "a", 1)
    for _ in range(3):
        caller.call("orders@c-11")
    world.run(2.0)
    assert [0, 3] == [len(app.asked) for app in apps]
    seq = caller.call("orders@c-99")
    world.run(3.0)
    assert (Status.UNROUTABLE, "nobody serves 'orders@c-99'") == (caller.status(seq), caller.failure(seq).text)


def test_namespaces_do_not_see_each_other() -> None:
    world = fleet("ab")
    other = App(world, "b", 50, namespace="two")
    other.serve("orders")
    served(world, "b")
    one, two, three = App(world, "a", 1), App(world, "a", 2, namespace="two"), App(world, "a", 3, namespace="three")
    seqs = [app.call("orders") for app in (one, two, three)]
    world.run(3.0)
    assert 1 == len(other.asked)
    assert [b"", b""] == [one.body(seqs[0]), two.body(seqs[1])]
    assert (Status.UNROUTABLE, "nobody serves 'orders' in namespace 'three'") == (
        three.status(seqs[2]),
        three.failure(seqs[2]).text,
    )


def test_nobody_serves_and_the_answer_comes_at_once() -> None:
    world = fleet("a")
    caller = App(world, "a", 1)
    seqs = [caller.call("orders", timeout_s=60.0), caller.cast("orders"), caller.fanout("orders")]
    world.run(1.1)
    assert [Status.UNROUTABLE] * 3 == [caller.status(seq) for seq in seqs]
    assert_mesh_quiescent(world)


def test_a_call_that_waits_is_placed_when_somebody_comes() -> None:
    world = fleet("ab")
    caller = App(world, "a", 1)
    seqs = [caller.call("orders", flags=Flag.WAIT), caller.fanout("orders", flags=Flag.WAIT)]
    world.run(3.0)
    assert [[], []] == [caller.ends(seq) for seq in seqs]
    served(world, "b")
    assert b"" == caller.body(seqs[0])
    assert (1, 1, 0, 0) == caller.receipt(seqs[1])


def test_a_call_that_waits_is_placed_with_an_app_of_this_node_that_comes() -> None:
    world = fleet("a")
    caller = App(world, "a", 1)
    seq = caller.call("orders", flags=Flag.WAIT)
    world.run(3.0)
    served(world, "a")
    assert b"" == caller.body(seq)


def test_a_call_that_waits_in_vain_has_certainly_not_run() -> None:
    world = fleet("a")
    caller = App(world, "a", 1)
    seqs = [caller.call("orders", timeout_s=1.0, flags=Flag.WAIT), caller.fanout("orders", timeout_s=1.0, flags=4 | 2)]
    world.run(2.5)
    assert [Status.EXPIRED, Status.EXPIRED] == [caller.status(seq) for seq in seqs]
    assert "nobody was ready for 'orders' within its time" == caller.failure(seqs[0]).text


def test_an_instance_that_vanished_is_waited_for_until_its_grace_is_over() -> None:
    world = fleet("ab", NodeOptions(directory=DirectoryOptions(absent_grace_s=20.0)))
    served(world, "b")
    caller = App(world, "a", 1)
    caller.call("orders")
    world.run(2.0)
    world.kill("b")
    world.run(20.0)
    assert [] == caller.ends(early := caller.call("orders", timeout_s=60.0))
    world.start("b", NodeOptions())
    back = App(world, "b", 20)
    back.serve("orders")
    world.run(21.0)
    assert b"" == caller.body(early)
    world.kill("b")
    world.run(22.0)
    late = caller.call("orders", timeout_s=120.0)
    world.run(55.0)
    assert [] == caller.ends(late)
    world.run(60.0)
    assert Status.UNROUTABLE == caller.status(late)


def test_the_policy_of_a_topic_decides_which_instance_gets_it() -> None:
    router = RouterOptions(topics={"near": "local_first", "even": "least_outstanding"})
    world = fleet("ab", NodeOptions(router=router))
    near = served(world, "a", "b", topic="near")
    even = [App(world, "b", 20 + n, hold if n else echo) for n in range(2)]
    for app in even:
        app.serve("even", workers=50)
    caller = App(world, "a", 1)
    caller.call("even")
    caller.call("near")
    world.run(2.0)
    for topic in ("near", "even") * 6:
        caller.call(topic)
        world.run(world.now + 0.1)
    assert [7, 0] == [len(app.asked) for app in near]
    assert len(even[0].asked) > len(even[1].asked) <= 2


# What it does not take


@pytest.mark.parametrize(
    ("topic", "text"),
    [("no way", "topic 'no way' may hold only"), ("orders@no way", "server 'no way' may hold only")],
)
def test_a_name_that_cannot_be_is_rejected(topic: str, text: str) -> None:
    world = fleet("a")
    caller = App(world, "a", 1)
    seq = caller.call(topic)
    world.run(2.0)
    assert Status.REJECTED == caller.status(seq)
    assert text in caller.failure(seq).text


def test_what_an_app_may_have_outstanding_is_bounded_in_records_and_in_bytes() -> None:
    world = fleet("ab", options(outbox=OutboxOptions(outstanding_records=5, outstanding_bytes=1 << 20)))
    (server,) = served(world, "b", workers=50)
    server.handle = hold
    caller = App(world, "a", 1)
    seqs = [caller.call("orders") for _ in range(6)]
    world.run(2.0)
    assert "outstanding_records" == caller.failure(seqs[5]).limit
    assert [[]] * 5 == [caller.ends(seq) for seq in seqs[:5]]
    server.release()
    world.run(3.0)
    server.handle = hold
    seqs = [caller.call("orders", b"x" * 250_000) for _ in range(5)]
    world.run(4.0)
    assert (Status.OVERLOADED, "outstanding_bytes") == (caller.status(seqs[4]), caller.failure(seqs[4]).limit)
    server.release()
    assert_mesh_quiescent(world)


def test_the_replies_that_an_app_has_not_said_it_has_are_bounded_and_it_is_asked_in_time() -> None:
    world = fleet("ab", options(outbox=OutboxOptions(outcomes_bytes=1 << 20)))
    served(world, "b")
    caller = App(world, "a", 1)
    seqs = []
    for _ in range(4):
        seqs.append(caller.call("orders", b"x" * 300_000))
        world.run(world.now + 1.0)
    refused = caller.call("orders")
    world.run(world.now + 1.0)
    assert (Status.OVERLOADED, "outcomes_bytes") == (caller.status(refused), caller.failure(refused).limit)
    assert 3 == len(caller.of(FloorAsk)), "each answer of the app allows one more question"
    caller.settle()
    again = caller.call("orders", b"room")
    world.run(world.now + 1.0)
    assert b"room" == caller.body(again)
    assert_mesh_quiescent(world)


def test_a_session_may_not_run_ahead_of_its_oldest_unsettled_seq() -> None:
    world = fleet("ab", options(outbox=OutboxOptions(session_window=1024)))
    served(world, "b")
    caller = App(world, "a", 1)
    caller.seq = 1024
    seq = caller.call("orders")
    world.run(2.0)
    assert "session_window" == caller.failure(seq).limit
    assert {} == world.agents["a"].node.state.apps[1].outcomes
    caller.floor = 1
    seq = caller.call("orders")
    again = caller.seq = 1024
    caller.call("orders")
    world.run(3.0)
    assert "session_window" == caller.failure(seq).limit
    assert isinstance(caller.ends(again)[-1], Reply)


RATED = OutboxOptions(rate_records_per_s=1.0, rate_burst_records=3, outstanding_records=2)


def test_an_app_that_asks_faster_than_its_rate_is_told_when_there_is_room_and_others_are_not_held() -> None:
    world = fleet("ab", options(outbox=structs.replace(RATED, outstanding_records=100)))
    served(world, "b", workers=50)
    caller, other = App(world, "a", 1), App(world, "a", 2)
    seqs = [caller.call("orders") for _ in range(5)]
    others = [other.call("orders") for _ in range(3)]
    world.run(world.now + 1.0)
    assert [Reply] * 6 == [type(app.end(seq)) for app, asked in ((caller, seqs[:3]), (other, others)) for seq in asked]
    for seq in seqs[3:]:
        failure = caller.failure(seq)
        assert (Status.OVERLOADED, "rate_records_per_s") == (failure.status, failure.limit)
        assert 990 <= failure.retry_after_ms <= 1000
        assert "rate_records_per_s = 1 is reached" == failure.text
    again = caller.call("orders")
    world.run(world.now + 1.0)
    assert isinstance(caller.end(again), Reply)
    assert 2 == world.agents["a"].node.state.totals.limits["rate_records_per_s"]
    assert_mesh_quiescent(world)


def test_what_an_app_repeats_to_a_new_agent_is_let_through_and_counted_ahead() -> None:
    world = fleet("ab", options(outbox=RATED))
    served(world, "b")
    caller = App(world, "a", 1)
    ends = []
    for flags in [Flag.RESUMED] * 6 + [0]:
        ends.append(caller.call("orders", flags=flags))
        world.run(world.now + 0.05)
        caller.floor = caller.seq
    world.run(world.now + 0.5)
    assert [Reply] * 5 == [type(caller.end(seq)) for seq in ends[:5]]
    assert ["rate_records_per_s"] * 2 == [caller.failure(seq).limit for seq in ends[5:]]


def test_limits_are_counted_by_name_up_to_so_many_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calling, "LIMITS_MAX", 1)
    world = fleet("a", options(outbox=RATED, link=LinkOptions(body_bytes_max=1 << 16)))
    app = App(world, "a", 1)
    for _ in range(5):
        app.call("orders")
    app.call("orders", b"x" * (1 << 17))
    world.run(2.0)
    assert {"outstanding_records": 3} == world.agents["a"].node.state.totals.limits


def test_durable_casts_are_held_to_the_rate_too() -> None:
    mail = Mail(options=options(outbox=RATED))
    mail.serve()
    seqs = [mail.cast() for _ in range(4)]
    mail.run(1.0)
    assert ("rate_records_per_s", 3) == (mail.caller.failure(seqs[3]).limit, mail.disk.totals().done)


def test_what_waits_for_links_and_instances_is_bounded_over_all_apps() -> None:
    world = fleet("a", options(pool=PoolOptions(waiting_records_max=2)))
    caller = App(world, "a", 1)
    seqs = [caller.call("orders", flags=Flag.WAIT) for _ in range(3)]
    world.run(2.0)
    assert "waiting_records_max" == caller.failure(seqs[2]).limit
    assert [[], []] == [caller.ends(seq) for seq in seqs[:2]]


def test_topics_in_use_at_once_are_bounded() -> None:
    world = fleet("a", NodeOptions(directory=DirectoryOptions(watches_max=1)))
    caller = App(world, "a", 1)
    waits = caller.call("one", timeout_s=60.0, flags=Flag.WAIT)
    world.run(1.5)
    refused = caller.call("two")
    world.run(5.0)
    refused_later = caller.call("two")
    world.run(6.0)
    assert ["watches_max"] * 2 == [caller.failure(seq).limit for seq in (refused, refused_later)]
    caller.cancel(waits)
    world.run(8.0)
    taken = caller.call("two")
    world.run(9.0)
    assert Status.UNROUTABLE == caller.status(taken)
    assert ["two"] == [key.topic for key in world.agents["a"].node.state.directory.views]


def test_what_is_placed_again_finds_no_room_for_its_topic() -> None:
    world = fleet("ab", NodeOptions(directory=DirectoryOptions(watches_max=1)))
    (server,) = served(world, "b")
    server.handle = hold
    caller = App(world, "a", 1)
    cast = caller.cast("orders")
    world.run(3.0)
    caller.call("other", timeout_s=60.0, flags=Flag.WAIT)
    world.run(4.0)
    world.cut("a", "b")
    world.run(5.0)
    assert (Status.INDETERMINATE, "watches_max") == (caller.status(cast), caller.failure(cast).limit)


def test_a_body_over_the_limit_is_rejected_inline_and_in_chunks() -> None:
    world = fleet("ab", options(link=LinkOptions(body_bytes_max=400_000)))
    (server,) = served(world, "b")
    caller = App(world, "a", 1)
    caller.chunker.chunk_bytes = 1 << 20
    inline = caller.call("orders", b"x" * 400_001)
    caller.chunker.chunk_bytes = 256 << 10
    chunked = caller.call("orders", b"x" * 400_001)
    fits = caller.call("orders", b"x" * 400_000)
    world.run(3.0)
    assert [(Status.REJECTED, "body_bytes_max")] * 2 == [
        (caller.status(seq), caller.failure(seq).limit) for seq in (inline, chunked)
    ]
    assert 400_000 == len(caller.body(fits)) == len(server.bodies[0])
    assert_mesh_quiescent(world)


def test_the_longest_timeout_of_a_call_is_the_agents() -> None:
    world = fleet("ab", options(outbox=OutboxOptions(call_timeout_max_s=1.0)))
    (server,) = served(world, "b")
    server.handle = hold
    caller = App(world, "a", 1)
    call, cast = caller.call("orders", timeout_s=60.0), caller.cast("orders", timeout_s=60.0)
    world.run(4.0)
    assert Status.INDETERMINATE == caller.status(call)
    assert [] == caller.ends(cast)


def test_the_limit_of_a_queue_is_named_when_every_instance_is_full() -> None:
    world = fleet("abc", NodeOptions(inbox=InboxOptions(queue_records=2)))
    apps = served(world, "b", "c", workers=1)
    for app in apps:
        app.handle = hold
    caller = App(world, "a", 1)
    seqs = [caller.call("orders") for _ in range(10)]
    world.run(2.0)
    refused = [caller.failure(seq) for seq in seqs if caller.ends(seq)]
    assert [(Status.OVERLOADED, "queue_records")] * 4 == [(f.status, f.limit) for f in refused]
    assert all(100 <= failure.retry_after_ms <= 126 for failure in refused), "a moment, and not the same for all"
    assert [1, 1] == [len(app.asked) for app in apps]
    for app in apps:
        app.release()
    world.run(3.0)
    assert 6 == sum(isinstance(end, Reply) for seq in seqs for end in caller.ends(seq))
    assert_mesh_quiescent(world)


def test_while_all_are_full_calls_are_refused_at_once_those_that_want_room_and_casts_wait_for_it() -> None:
    world = fleet("ab", NodeOptions(inbox=InboxOptions(queue_records=1)))
    (server,) = served(world, "b", workers=1)
    server.handle = hold
    caller = App(world, "a", 1)
    held = [caller.call("orders") for _ in range(3)]
    world.run(1.6)
    assert Status.OVERLOADED == caller.status(held[2])
    sent = link(world, "a", "b").sent_records
    now = [caller.call("orders"), caller.call("orders", flags=Flag.IDEMPOTENT)]
    room, cast = caller.call("orders", flags=Flag.ROOM), caller.cast("orders")
    world.run(1.601)
    assert [Status.OVERLOADED] * 2 == [caller.status(seq) for seq in now]
    assert all(0 < caller.failure(seq).retry_after_ms <= 126 for seq in now)
    assert sent == link(world, "a", "b").sent_records, "nobody was asked again"
    world.run(3.0)
    assert [[], []] == [caller.ends(room), caller.ends(cast)]
    server.release()
    world.run(6.0)
    assert (b"", None) == (caller.body(room), caller.end(cast))
    assert_mesh_quiescent(world)


def test_a_fan_out_counts_those_that_are_full() -> None:
    world = fleet("abc", NodeOptions(inbox=InboxOptions(queue_records=1)))
    apps = served(world, "b", "c", workers=1)
    apps[0].handle = hold
    caller = App(world, "a", 1)
    for _ in range(3):
        caller.call("orders@b-10")
    world.run(1.6)
    seq = caller.fanout("orders")
    world.run(2.0)
    assert (2, 1, 1, 0) == caller.receipt(seq)


def test_a_cast_to_who_served_lately_waits_all_its_time_and_arrives_once() -> None:
    world = fleet("ab", NodeOptions(directory=DirectoryOptions(absent_grace_s=2.0)))
    (server,) = served(world, "b")
    caller = App(world, "a", 1)
    caller.call("orders")
    world.run(2.0)
    server.close(dead=True)
    world.run(2.5)
    seq, call = caller.cast("orders", timeout_s=60.0), caller.call("orders", timeout_s=60.0)
    world.run(20.0)
    assert (Status.UNROUTABLE, []) == (caller.status(call), caller.ends(seq))
    late = caller.cast("orders", timeout_s=60.0)
    world.run(20.5)
    assert Status.UNROUTABLE == caller.status(late), "nobody served lately any more"
    again = App(world, "b", 11)
    again.serve("orders")
    world.run(22.0)
    assert [seq] == [request.seq for request in again.asked]
    assert caller.end(seq) is None


def test_a_cast_that_an_earlier_agent_had_accepted_waits_for_whoever_serves_it() -> None:
    world = fleet("a")
    caller = App(world, "a", 1)
    caller.say(Request(int(Kind.CAST), 0, "orders", "", 60_000, b"", Flag.RESUMED))
    world.run(3.0)
    assert [] == caller.ends(0)
    served(world, "a")
    world.run(4.0)
    assert caller.end(0) is None


def test_a_fan_out_that_is_given_up_is_cancelled_wherever_it_went() -> None:
    world = fleet("abc")
    apps = served(world, "b", "c")
    for app in apps:
        app.handle = hold
    caller = App(world, "a", 1)
    caller.call("orders", timeout_s=60.0)
    world.run(1.6)
    seq = caller.fanout("orders")
    world.run(2.0)
    caller.cancel(seq)
    world.run(2.5)
    assert (2, 0, 0, 2) == caller.receipt(seq)
    assert [[seq], [seq]] == [[record.seq for record in app.of(Cancel)] for app in apps]


def test_a_fan_out_that_is_given_up_before_it_has_left_goes_nowhere() -> None:
    world = fleet("ab")
    (server,) = served(world, "b")
    world.run(1.6)
    caller = App(world, "a", 1)
    caller.call("other")
    world.agents["a"].node.calling.view(TopicKey("", "orders"), world.now)
    world.silence("a", "b")
    world.run(2.0)
    seq = caller.fanout("orders", timeout_s=60.0)
    world.run(2.5)
    caller.cancel(seq)
    world.run(3.0)
    assert (1, 0, 0, 1) == caller.receipt(seq)
    assert [] == server.asked
    assert {} == world.agents["a"].node.state.outbox.queues


def test_what_may_have_run_is_never_said_to_be_unroutable() -> None:
    world = fleet("ab", NodeOptions(directory=DirectoryOptions(absent_grace_s=1.0)))
    served(world, "b")[0].handle = hold
    caller = App(world, "a", 1)
    seq = caller.call("orders", timeout_s=60.0, flags=Flag.IDEMPOTENT)
    world.run(2.0)
    world.kill("b")
    world.run(16.0)
    assert [] == caller.ends(seq)
    world.run(20.0)
    assert Status.INDETERMINATE == caller.status(seq)


def test_what_may_have_run_is_not_said_to_have_had_no_time_by_the_next_that_has_it() -> None:
    world = fleet("abc")
    for app in served(world, "b", "c"):
        app.handle = hold
    caller = App(world, "a", 1)
    seq = caller.call("orders", timeout_s=9.0, flags=Flag.IDEMPOTENT)
    world.run(2.0)
    entry = world.agents["a"].node.state.outbox.entries[1, seq]
    first = entry.target[0]
    world.kill(first)
    world.run(4.0)
    assert first != entry.target[0]
    late = Failure("a", 1, seq, int(Status.EXPIRED), "its time was over before a worker was free")
    world.agents["a"].node.calling.reply(late, 4.0)
    assert Status.INDETERMINATE == late.status


def test_news_of_a_topic_that_was_forgotten_in_the_same_turn_means_nothing() -> None:
    world = fleet("a")
    assert [] == world.agents["a"].node.calling.topic_changed(TopicKey("", "orders"), 2.0)


# Replays


def test_a_replay_is_accepted_again_or_told_its_end_again_and_is_not_run_twice() -> None:
    world = fleet("ab")
    (server,) = served(world, "b")
    caller = App(world, "a", 1)
    ended = [caller.call("orders"), caller.cast("orders"), caller.fanout("orders")]
    world.run(2.0)
    server.handle = hold
    open_ = [caller.call("orders"), caller.cast("orders"), caller.fanout("orders")]
    world.run(3.0)
    assert 6 == len(server.asked)
    caller.got.clear()
    for kind, seq in zip((0, 1, 2) * 2, ended + open_, strict=True):
        caller.say(Request(kind, seq, "orders", "", 10_000, b"", Flag.RESUMED))
    world.run(4.0)
    assert 6 == len(server.asked)
    assert [Reply, type(None), Receipt] == [type(caller.end(seq)) for seq in ended]
    assert [[]] * 3 == [caller.ends(seq) for seq in open_]
    assert [(open_[1], open_[1]), (open_[2], open_[2])] == [r for a in caller.of(Accepted) for r in a.ranges]
    server.release()
    assert_mesh_quiescent(world)


def test_what_is_below_the_floor_is_not_looked_at() -> None:
    world = fleet("ab")
    (server,) = served(world, "b")
    caller = App(world, "a", 1)
    caller.call("orders")
    world.run(2.0)
    caller.settle()
    caller.say(Request(0, 0, "orders", "", 10_000, b""))
    world.run(3.0)
    assert 1 == len(server.asked) == len(caller.of(Reply))


def test_a_call_that_an_earlier_agent_may_have_sent_is_asked_about_what_may_run_twice_is_sent_again() -> None:
    world = fleet("ab")
    (server,) = served(world, "b")
    caller = App(world, "a", 1)
    caller.say(Reach("z", 1, 5))
    for seq, (kind, flags) in enumerate([(0, 0), (0, Flag.IDEMPOTENT), (1, 0), (2, 0)]):
        caller.say(Request(kind, seq, "orders", "", 10_000, b"", flags | Flag.RESUMED))
    world.run(2.0)
    assert [("z", 5)] == list(world.agents["a"].node.state.outbox.inquiries)
    assert [Reply, type(None), Receipt] == [type(caller.end(seq)) for seq in (1, 2, 3)]
    assert 3 == len(server.asked)


def test_a_call_is_not_sought_where_only_fan_outs_went_for_nobody_there_could_say() -> None:
    world = fleet("ab")
    (server,) = served(world, "b")
    caller = App(world, "a", 1)
    caller.say(Reach("z", 1), Request(0, 0, "orders", "", 10_000, b"", Flag.RESUMED))
    caller.say(Reach("z", 1, 5), Request(0, 1, "orders", "", 10_000, b"", Flag.RESUMED))
    world.run(2.0)
    assert (Reply, 1) == (type(caller.end(0)), len(server.asked))
    assert [("z", 5)] == list(world.agents["a"].node.state.outbox.inquiries)


def test_what_an_earlier_agent_may_have_sent_is_never_said_not_to_have_run() -> None:
    world = fleet("a")
    caller = App(world, "a", 1)
    caller.say(Reach("b", 1))
    for seq, (kind, flags) in enumerate([(0, Flag.IDEMPOTENT), (1, 0), (2, 0), (2, Flag.WAIT)]):
        caller.say(Request(kind, seq, "orders", "", 1_000, b"", flags | Flag.RESUMED))
    world.run(3.0)
    assert [Status.INDETERMINATE] * 4 == [caller.status(seq) for seq in range(4)]
    caller.say(Request(1, 1 << 20, "orders", "", 1_000, b"", Flag.RESUMED))
    world.run(4.0)
    assert (Status.INDETERMINATE, "session_window") == (caller.status(1 << 20), caller.failure(1 << 20).limit)


# More than it may reach


def test_an_app_that_reached_as_many_as_it_may_is_kept_to_those_until_some_hold_nothing_of_it() -> None:
    world = fleet("abc", options(outbox=OutboxOptions(reach_max=16)))
    apps = served(world, *"b" * 16, "c", "c")
    for app in apps:
        app.handle = hold
    caller = App(world, "a", 1)
    seqs = [caller.call("orders") for _ in range(20)]
    world.run(2.0)
    assert 16 == len({(r.node, r.session) for r in caller.of(Reach)})
    reached = {app.session for app in apps if app.asked}
    assert (16, 20) == (len(reached), sum(len(app.asked) for app in apps))
    aside = next(app for app in apps if app.session not in reached)
    full = caller.call(f"orders@{aside.node}-{aside.session}")
    world.run(3.0)
    assert (Status.OVERLOADED, "reach_max") == (caller.status(full), caller.failure(full).limit)
    first = next(app for app in apps if app.session in reached)
    first.release()
    world.run(4.0)
    assert [] == [reach for reach in caller.of(Reach) if reach.over]
    aside.handle = echo
    seq = caller.call(f"orders@{aside.node}-{aside.session}", b"room")
    world.run(5.0)
    assert b"room" == caller.body(seq)
    assert [(first.node, first.session)] == [(r.node, r.session) for r in caller.of(Reach) if r.over]
    for app in apps:
        app.release()
    world.run(6.0)
    assert [Reply] * 20 == [type(caller.end(seq)) for seq in seqs]
    assert_mesh_quiescent(world)


def test_a_fan_out_to_more_than_an_app_may_reach_is_refused_and_one_to_those_it_has_reached_is_not() -> None:
    world = fleet("abc", options(outbox=OutboxOptions(reach_max=16)))
    apps = served(world, *"b" * 8, *"c" * 8)
    for app in apps:
        app.handle = hold
    caller = App(world, "a", 1)
    caller.fanout("orders")
    for _ in range(14):
        caller.call("orders", flags=Flag.IDEMPOTENT)
    world.run(2.0)
    assert 16 == len(world.agents["a"].node.state.apps[1].reached)
    other = App(world, "a", 90)
    other.serve("other")
    App(world, "c", 91).serve("other")
    world.run(2.5)
    again, refused, doubtful = caller.fanout("orders"), caller.fanout("other"), 50
    caller.say(Reach("z", 3), Request(2, doubtful, "other", "", 9000, b"", Flag.RESUMED))
    world.run(3.0)
    assert [] == caller.ends(again)
    assert (Status.OVERLOADED, "reach_max") == (caller.status(refused), caller.failure(refused).limit)
    assert (Status.INDETERMINATE, "reach_max") == (caller.status(doubtful), caller.failure(doubtful).limit)


# It is given up


def test_a_call_that_is_cancelled_in_a_queue_is_never_run() -> None:
    world = fleet("ab")
    (server,) = served(world, "b", workers=1)
    server.handle = hold
    caller = App(world, "a", 1)
    first, second = caller.call("orders"), caller.call("orders")
    world.run(2.0)
    caller.cancel(second)
    world.run(3.0)
    assert Status.CANCELLED == caller.status(second)
    server.release()
    world.run(4.0)
    assert b"" == caller.body(first)
    assert 0 == len(server.asked)
    assert_mesh_quiescent(world)


def test_a_call_that_is_cancelled_while_it_runs_ends_at_once_and_its_handler_is_told() -> None:
    world = fleet("ab")
    (server,) = served(world, "b", workers=1)
    server.handle = hold
    caller = App(world, "a", 1)
    seq = caller.call("orders")
    world.run(2.0)
    caller.cancel(seq)
    caller.cancel(seq)
    world.run(3.0)
    assert Status.CANCELLED == caller.status(seq)
    assert [Cancel("a", 1, seq)] == server.of(Cancel)
    server.release()
    assert_mesh_quiescent(world)
    assert 1 == len(caller.ends(seq))


def test_a_call_that_is_cancelled_before_it_was_placed_tells_nobody() -> None:
    world = fleet("ab")
    caller = App(world, "a", 1)
    waiting = caller.call("orders", flags=Flag.WAIT)
    world.run(2.0)
    caller.cancel(waiting)
    world.run(3.0)
    assert Status.CANCELLED == caller.status(waiting)
    assert_mesh_quiescent(world)


def test_a_fan_out_that_is_cancelled_is_told_what_is_known() -> None:
    world = fleet("abc")
    apps = served(world, "b", "c")
    apps[0].handle = hold
    caller = App(world, "a", 1)
    seq = caller.fanout("orders")
    world.run(2.0)
    caller.cancel(seq)
    world.run(3.0)
    assert (2, 1, 0, 1) == caller.receipt(seq)
    apps[0].release()
    assert_mesh_quiescent(world)


def test_an_end_for_what_has_ended_means_nothing() -> None:
    world = fleet("ab")
    (server,) = served(world, "b")
    caller = App(world, "a", 1)
    seq = caller.call("orders")
    world.run(2.0)
    server.say(Reply("a", 1, seq, b"again"), Settled("a", 1, [(seq, seq)]), Reply("a", 9, 9, b"to nobody"))
    world.run(3.0)
    assert b"" == caller.body(seq)


def test_what_is_sent_often_is_hot() -> None:
    world = fleet("ab", NodeOptions(heat=HeatOptions(hot_at_per_s=5.0)))
    served(world, "b")
    caller = App(world, "a", 1)
    for _ in range(100):
        caller.cast("orders")
    world.run(4.0)
    assert 1 == len(notes(world, "topic_hot", "a"))
    assert link(world, "b", "a").persistent


# Durable casts


def test_a_durable_cast_waits_for_whoever_may_serve_it_and_its_end_is_written() -> None:
    mail = Mail()
    seq = mail.cast(b"one")
    mail.run(0.5)
    assert [] == mail.caller.ends(seq)
    mail.serve()
    mail.run(1.0)
    assert (None, 1) == (mail.caller.end(seq), mail.disk.totals().done)


def test_a_durable_cast_waits_for_a_topic_to_have_room_to_be_watched() -> None:
    mail = Mail(options=NodeOptions(directory=DirectoryOptions(watches_max=1)))
    mail.caller.call("stock", flags=Flag.WAIT, timeout_s=60.0)
    seq = mail.cast(b"one")
    mail.run(3.0)
    assert [] == mail.caller.ends(seq)


def test_a_durable_cast_that_is_out_of_reach_waits() -> None:
    mail = Mail(options=NodeOptions(outbox=OutboxOptions(reach_max=1)))
    mail.serve(topic="stock", handle=hold)
    mail.serve(session=21)
    mail.caller.cast("stock")
    mail.run(0.5)
    seq = mail.cast(b"one")
    mail.run(1.0)
    assert [] == mail.caller.ends(seq)


def test_a_durable_cast_is_given_up_before_its_time_is_over_and_not_after() -> None:
    mail = Mail()
    given_up, late, node = mail.cast(b"one"), mail.cast(b"two", ttl_s=1.0), mail.world.agents["a"].node
    mail.run(0.5)
    mail.caller.cancel(given_up)
    mail.caller.cancel(99)
    node.calling.cancel(node.state.apps[10], Cancel("a", 10, late), mail.world.now + 1.0)
    mail.run(2.0)
    assert [Status.CANCELLED, Status.EXPIRED] == [mail.caller.status(seq) for seq in (given_up, late)]
    assert ["expired"] == [reason for reason, _ in mail.dead()]


def test_a_cast_that_is_repeated_by_a_session_that_had_been_given_up_is_charged_to_it_again() -> None:
    world = fleet("ab", options(outbox=OutboxOptions(resume_grace_s=0.5)))
    server = App(world, "b", 20, hold)
    server.serve("orders")
    caller = App(world, "a", 1)
    seq = caller.cast("orders", b"one")
    world.run(2.0)
    caller.close()
    world.run(4.0)
    caller.come_back()
    caller.say(Request(1, seq, "orders", "", 5_000, b"one", Flag.RESUMED))
    world.run(4.5)
    assert 1 == world.agents["a"].node.state.apps[1].records
    server.release()
    assert_mesh_quiescent(world)


@pytest.mark.parametrize(("died", "runs"), [(2, True), (3, False)])
def test_how_many_died_of_a_request_is_taken_over_from_the_agent_before(died: int, runs: bool) -> None:
    world = fleet("a", options(outbox=OutboxOptions(attempts_max=3)))
    (server,) = served(world, "a")
    caller = App(world, "a", 1)
    caller.say(Targets(0, [], died), Request(1, 0, "orders", "", 9_000, b"", Flag.RESUMED))
    world.run(3.0)
    assert runs == (len(server.asked) == 1)
    assert (None if runs else "attempts_max") == getattr(caller.end(0), "limit", None)
    caller.seq = 1
    assert_mesh_quiescent(world)


def test_a_durable_cast_that_is_told_again_and_refused_may_have_been_taken() -> None:
    mail = Mail()
    mail.disk.room = 0
    mail.cast(b"one")
    mail.cast(b"two", flags=Flag.RESUMED)
    mail.run(1.0)
    assert [Status.OVERLOADED, Status.INDETERMINATE] == [mail.caller.status(seq) for seq in (0, 1)]
