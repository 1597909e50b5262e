"""The caller's agent sends: within windows and reach, by links that are opened for it."""

import pytest

from mesh.core.context import NodeOptions
from mesh.core.link import LinkOptions
from mesh.core.outbox import OutboxOptions
from mesh.core.records import Answer, Ask, Cancel, Flag, Reach, Reply, Request, Settled, Status, Targets, Verdict
from mesh.sim.world import World
from tests.core.durables import Mail
from tests.core.fabric import App, assert_mesh_quiescent, fleet, hold, link, options, served, stamp

# Local and remote, whole and in chunks


def test_a_call_goes_by_the_loop_inside_the_node_or_by_a_link() -> None:
    world = fleet("ab")
    served(world, "a", "b")
    caller = App(world, "a", 1)
    caller.call("orders")
    world.run(2.0)
    seqs = [caller.call("orders", b"%d" % number) for number in range(4)]
    world.run(3.0)
    assert [b"0", b"1", b"2", b"3"] == [caller.body(seq) for seq in seqs]
    assert 2 == link(world, "a", "b").sent_records
    assert_mesh_quiescent(world)


def test_a_traced_call_that_is_sent_again_leaves_anew_and_forgets_the_lost_attempt() -> None:
    world = fleet("abc")
    for app, handle in zip(served(world, "b", "c"), (hold, stamp), strict=True):
        app.handle = handle
    caller = App(world, "a", 1)
    seqs = [caller.trace("orders", flags=int(Flag.IDEMPOTENT)) for _ in range(2)]
    world.run(2.0)
    world.kill("b")
    world.run(9.0)
    at_once, again = sorted((caller.stamps(seq) for seq in seqs), key=lambda stamps: stamps[1][2])
    assert [["caller", "a", "c", "server"]] * 2 == [[stamp[0] for stamp in stamps] for stamps in (at_once, again)]
    assert at_once[1][1] == again[1][1], "they came together"
    assert at_once[1][2] < 2e6 <= again[1][2]


def test_a_fan_out_goes_to_the_own_node_without_a_link_and_to_another_in_chunks() -> None:
    world = fleet("ab")
    apps = served(world, "a", "b")
    caller = App(world, "a", 1)
    seq = caller.fanout("orders", b"x" * 700_000)
    world.run(3.0)
    assert (2, 2, 0, 0) == caller.receipt(seq)
    assert [700_000, 700_000] == [len(app.bodies[0]) for app in apps]
    assert_mesh_quiescent(world)


def test_what_was_asked_of_several_holds_a_lease_for_each_until_one_has_it() -> None:
    world = fleet("abc")
    apps = served(world, "b", "c")
    caller = App(world, "a", 1)
    for app in apps:
        app.handle = hold
    seqs = [caller.call("orders") for _ in range(2)]
    world.run(2.0)
    world.kill("a")
    world.start("a", NodeOptions())
    caller.come_back()
    caller.say(*caller.of(Reach), *[Request(0, seq, "orders", "", 9_000, b"", Flag.RESUMED) for seq in seqs])
    world.run(2.001)
    slots = world.agents["a"].node.state.pool.slots
    assert [2, 2] == [slots[node].leases for node in "bc"]
    world.run(3.0)
    assert [1, 1] == [slots[node].leases for node in "bc"]
    for app in apps:
        app.release()
    assert_mesh_quiescent(world)


# Whom an app has reached


def test_a_call_that_left_this_agent_for_an_app_of_its_own_is_known_to_have_left() -> None:
    world = fleet("a")
    served(world, "a")
    caller = App(world, "a", 1)
    caller.call("orders")
    world.run(2.0)
    assert [Reach("a", 1001, 10, "a", 7000)] == caller.of(Reach)


def test_an_app_is_told_of_a_node_before_its_first_record_goes_there_and_once() -> None:
    world = fleet("abc")
    served(world, "b", "c")
    caller = App(world, "a", 1)
    caller.fanout("orders")
    for _ in range(4):
        caller.call("orders")
    world.run(2.0)
    told = [("b", 1002, 0), ("b", 1002, 10), ("c", 1003, 0), ("c", 1003, 11)]
    assert told == sorted((r.node, r.incarnation, r.session) for r in caller.of(Reach))
    assert caller.got.index(caller.of(Targets)[0]) < caller.got.index(caller.of(Reach)[0])
    assert caller.got.index(caller.of(Reach)[1]) < caller.got.index(caller.of(Reply)[0])


def unread(server: str, flags: int = 0) -> tuple[World, App, App, list[int]]:
    """An app of node a that does not read its socket, has three calls and a fan-out under way to an app of this node or
    another, and has never sent there before."""
    world = fleet("ab")
    (there,) = served(world, server)
    caller = App(world, "a", 1)
    world.run(world.now + 0.5)
    world.clog("a", caller)
    seqs = [caller.call("orders", b"%d" % number, flags=flags) for number in range(3)]
    seqs.append(caller.fanout("orders", b"all"))
    world.run(3.0)
    return world, caller, there, seqs


@pytest.mark.parametrize("server", ["a", "b"])
def test_nothing_that_may_not_repeat_goes_where_its_app_has_not_been_told_that_it_goes(server: str) -> None:
    world, caller, there, seqs = unread(server)
    assert [] == [body for body in there.bodies if body != b"all"]
    world.unclog("a", caller)
    world.run(4.0)
    assert [b"0", b"1", b"2"] == [caller.body(seq) for seq in seqs[:3]]
    assert (1, 1, 0, 0) == caller.receipt(seqs[3])
    assert [b"0", b"1", b"2"] == [body for body in there.bodies if body != b"all"]
    assert_mesh_quiescent(world)


@pytest.mark.parametrize("server", ["a", "b"])
def test_an_app_that_is_back_is_told_again_where_its_requests_are_to_go_and_then_they_go(server: str) -> None:
    world, caller, there, seqs = unread(server)
    caller.close()
    world.run(4.0)
    assert [] == [body for body in there.bodies if body != b"all"]
    caller.come_back()
    world.run(5.0)
    assert (server, 10) in [(reach.node, reach.session) for reach in caller.of(Reach)]
    assert sorted([b"0", b"1", b"2", b"all"]) == sorted(there.bodies)
    assert [b"0", b"1", b"2"] == [caller.body(seq) for seq in seqs[:3]]
    assert_mesh_quiescent(world)


def test_what_is_held_for_an_app_ends_with_its_time_is_given_up_and_is_freed() -> None:
    world, caller, there, seqs = unread("b")
    caller.say(Cancel("", 0, seqs[0]), Cancel("", 0, seqs[3]))
    world.run(12.5)
    world.unclog("a", caller)
    world.run(13.0)
    assert (Status.CANCELLED, Status.EXPIRED) == (caller.status(seqs[0]), caller.status(seqs[1]))
    assert "did not read within its time" in caller.failure(seqs[1]).text
    assert [] == there.asked
    assert_mesh_quiescent(world)


def test_casts_of_an_app_that_died_unread_go_all_the_same_and_its_calls_do_not() -> None:
    world, caller, there, _ = unread("b")
    cast = caller.cast("orders", b"mail")
    world.run(4.0)
    caller.close(dead=True)
    world.run(5.0)
    assert sorted([b"all", b"mail"]) == sorted(there.bodies)
    assert [] == caller.ends(cast)
    assert_mesh_quiescent(world)


def test_a_link_that_is_lost_meanwhile_takes_what_is_held_with_it_to_the_next() -> None:
    world, caller, there, seqs = unread("b")
    world.cut("a", "b")
    world.run(4.0)
    world.unclog("a", caller)
    world.run(5.0)
    assert [b"0", b"1", b"2"] == [caller.body(seq) for seq in seqs[:3]]
    assert (1, 1, 0, 0) == caller.receipt(seqs[3])
    assert 4 == len(there.asked)
    assert_mesh_quiescent(world)


def killed_by(node: str, flags: int = 0) -> tuple[World, App, App, int]:
    """A cast, of an app that reads nothing any more, of which a process died; another that serves is there."""
    world = fleet("ab")
    apps = [App(world, node, 20), App(world, node, 21, hold)]
    apps[0].serve("orders")
    caller = App(world, "a", 1)
    warm = caller.cast("orders", b"warm")
    world.run(2.0)
    apps[0].asked.clear()
    apps[0].handle = hold
    seq = caller.cast("orders", b"one", flags=Flag.WAIT | flags)
    world.run(3.0)
    assert (None, 1) == (caller.end(warm), len(apps[0].asked))
    world.clog("a", caller)
    apps[0].close(dead=True)
    world.run(4.0)
    apps[1].serve("orders")
    world.run(6.0)
    return world, caller, apps[1], seq


@pytest.mark.parametrize("node", ["a", "b"])
def test_what_a_process_died_of_goes_on_when_its_app_has_been_told_of_it(node: str) -> None:
    world, caller, other, seq = killed_by(node)
    assert [] == other.asked
    world.unclog("a", caller)
    world.run(7.0)
    assert ([Targets(seq, [], 1)], [b"one"]) == (caller.of(Targets), other.bodies)
    other.release()
    world.run(8.0)
    assert None is caller.end(seq)
    assert_mesh_quiescent(world)


def test_an_app_that_is_back_is_told_again_what_processes_died_of_if_that_has_not_ended() -> None:
    world, caller, other, seq = killed_by("b")
    caller.close()
    world.run(6.5)
    caller.come_back()
    world.run(7.0)
    assert ([Targets(seq, [], 1)], [b"one"]) == (caller.of(Targets), other.bodies)
    other.release()
    world.run(8.0)
    assert_mesh_quiescent(world)


def test_what_has_ended_meanwhile_is_not_told_again() -> None:
    world, caller, other, seq = killed_by("b")
    caller.cancel(seq)
    world.run(6.5)
    caller.close()
    world.run(7.0)
    caller.come_back()
    world.run(8.0)
    assert ([], []) == (caller.of(Targets), other.asked)
    assert not world.agents["a"].node.state.apps[1].telling
    caller.settle()
    assert_mesh_quiescent(world)


def test_a_cast_whose_app_has_gone_is_placed_again_though_nobody_keeps_the_count() -> None:
    world, caller, other, _ = killed_by("b")
    caller.close(dead=True)
    world.run(8.0)
    assert [b"one"] == other.bodies
    other.close(dead=True)
    late = App(world, "b", 30)
    late.serve("orders")
    world.run(20.0)
    assert [b"one"] == late.bodies
    assert_mesh_quiescent(world)


@pytest.mark.parametrize("node", ["a", "b"])
def test_a_durable_cast_of_which_a_process_died_leaves_when_that_is_on_disk(node: str) -> None:
    mail = Mail()
    server = mail.serve(node, handle=hold)
    mail.cast(b"one", flags=Flag.WAIT)
    mail.run(1.0)
    other = mail.serve(node, session=21)
    server.close(dead=True)
    mail.run(3.0)
    assert [b"one"] == other.bodies
    assert [("", 1, 0)] == [row.sent for row in mail.disk.disk.rows.values()]


def test_of_several_that_an_app_is_told_of_each_is_confirmed_by_its_own_batch() -> None:
    world, caller, _, seqs = unread("b")
    (other,) = served(world, "a", topic="stock")
    node = world.agents["a"].node
    late = caller.call("stock", b"late")
    world.run(3.9)
    app = node.state.apps[1]
    first = min(app.telling.values())
    node.app_took(app.conn or 0, first, 3.9)
    assert [("a", 10)] == list(app.telling)
    assert 1 == len(node.state.outbox.held[1])
    node.app_took(999, first, 3.9)
    world.run(4.0)
    assert [] == other.asked
    world.unclog("a", caller)
    world.run(5.0)
    assert b"late" == caller.body(late)
    assert [b"0", b"1", b"2"] == [caller.body(seq) for seq in seqs[:3]]
    assert_mesh_quiescent(world)


def test_of_those_that_an_app_may_reach_only_what_it_was_told_of_is_told_to_be_over() -> None:
    world = fleet("a", options(outbox=OutboxOptions(reach_max=16)))
    App(world, "a", 1)
    world.run(2.0)
    node = world.agents["a"].node
    app, sending = node.state.apps[1], node.calling.sending
    assert sending.may_reach(99, ("b", 1)), "an app that is gone has no limit"
    assert sending.may_reach(1, *(("b", number) for number in range(16)))
    app.reached["b", 3] = 7
    assert not sending.may_reach(1, *(("c", number) for number in range(17)))
    assert [Reach("b", 7, 3, over=True)] == app.out
    assert {} == app.reached
    assert sending.may_reach(1, *(("c", number) for number in range(16)))
    assert sending.may_reach(1, ("c", 4))


def test_an_app_of_the_own_node_is_asked_without_a_link() -> None:
    world = fleet("a")
    (server,) = served(world, "a")
    server.handle = hold
    caller = App(world, "a", 1)
    seq = caller.call("orders")
    world.run(2.0)
    caller.close(dead=True)
    world.run(3.0)
    caller.come_back()
    caller.say(*caller.of(Reach), Request(0, seq + 1, "orders", "", 9_000, b"", Flag.RESUMED))
    world.run(4.0)
    assert 2 == len(server.asked)
    world.kill("a")
    world.start("a", NodeOptions())
    server.come_back()
    caller.come_back()
    caller.say(*caller.of(Reach), Request(0, seq + 1, "orders", "", 9_000, b"two", Flag.RESUMED))
    world.run(5.0)
    (ask,) = server.of(Ask)
    server.say(Answer("a", ask.incarnation, ask.number, 0, ask.ids, [int(Verdict.RUNNING)]))
    world.run(5.1)
    assert {("a", 10): {(1, seq + 1): None}} == world.agents["a"].node.state.outbox.by_target
    server.release()
    world.run(6.0)
    caller.seq = seq + 2
    assert b"" == caller.body(seq + 1)
    assert_mesh_quiescent(world)


# Windows and queues


def test_a_sender_never_exceeds_the_window_and_goes_on_when_it_is_widened() -> None:
    world = fleet("ab", options(link=LinkOptions(credit_records=16)))
    (server,) = served(world, "b", workers=8)
    server.handle = hold
    caller = App(world, "a", 1)
    first = caller.call("orders")
    world.run(2.0)
    world.pause("b", 1.0)
    seqs = [first] + [caller.call("orders") for _ in range(99)]
    world.run(2.5)
    # One has arrived, which is not worth a word yet; of what the other end has not read there are as many as may be.
    assert (16, 16) == (link(world, "a", "b").sent_records, link(world, "a", "b").credit_records)
    assert 84 == world.agents["a"].node.state.outbox.queued
    world.run(3.5)
    assert (8, 0) == (len(server.asked), world.agents["a"].node.state.outbox.queued)
    server.release()
    world.run(4.0)
    assert [b""] * 100 == [caller.body(seq) for seq in seqs]
    assert link(world, "a", "b").sent_records <= link(world, "a", "b").credit_records
    assert_mesh_quiescent(world)


def test_the_window_in_bytes_is_overshot_by_one_body_at_most() -> None:
    world = fleet("ab", options(link=LinkOptions(credit_bytes=1 << 20)))
    (server,) = served(world, "b", workers=1)
    server.handle = hold
    caller = App(world, "a", 1)
    seqs = [caller.call("orders", b"x" * 200_000)]
    world.run(2.0)
    world.pause("b", 2.0)
    seqs += [caller.call("orders", b"x" * 200_000) for _ in range(29)]
    world.run(3.0)
    assert link(world, "a", "b").sent_bytes - link(world, "a", "b").credit_bytes < 200_128
    assert link(world, "a", "b").sent_records < 10
    server.release()
    world.run(6.0)
    assert [200_000] * 30 == [len(caller.body(seq)) for seq in seqs]
    assert_mesh_quiescent(world)


def test_two_ends_with_chunks_of_different_sizes_charge_the_same() -> None:
    world = World(1)
    world.start("a", options(link=LinkOptions(chunk_bytes=512 << 10, credit_bytes=1 << 20)))
    world.start("b", options(link=LinkOptions(chunk_bytes=16 << 10, credit_bytes=1 << 20)))
    served(world, "b")
    caller = App(world, "a", 1)
    seqs = [caller.call("orders", b"x" * 300_000) for _ in range(20)] + [caller.fanout("orders", b"x" * 300_000)]
    world.run(5.0)
    assert [300_000] * 20 == [len(caller.body(seq)) for seq in seqs[:20]]
    assert (1, 1, 0, 0) == caller.receipt(seqs[20])
    assert_mesh_quiescent(world)


def test_an_instance_whose_link_is_full_is_passed_over_while_there_is_another() -> None:
    world = fleet("abc", options(link=LinkOptions(credit_records=16)))
    apps = served(world, "b", "c", workers=1)
    caller = App(world, "a", 1)
    caller.fanout("orders")
    world.run(2.0)
    world.pause("b", 3.0)
    for _ in range(100):
        caller.call("orders")
        world.run(world.now + 0.02)
    assert link(world, "a", "b").sent_records <= 16
    assert len(apps[1].asked) >= 80


def test_an_address_that_the_catalogue_corrects_is_dialled_next() -> None:
    world = fleet("ab")
    served(world, "b")
    caller = App(world, "a", 1)
    caller.call("orders")
    world.run(2.0)
    assert "b" == world.agents["a"].node.state.peers.peer("b").endpoint.host  # type: ignore[union-attr]


def test_a_receipt_that_comes_while_its_copy_waits_for_room_leaves_nothing_behind() -> None:
    # The link is lost with a fan-out running; the next one has no room for the copy; the first one's receipt comes.
    world = fleet("ab", options(link=LinkOptions(credit_records=16)))
    (server,) = served(world, "b", workers=1)
    server.handle = hold
    caller = App(world, "a", 1)
    seq = caller.fanout("orders")
    world.run(2.0)
    calls = [caller.call("orders") for _ in range(60)]
    world.run(3.0)
    world.pause("b", 0.5)
    world.cut("a", "b")
    world.run(3.2)
    assert (1, seq) in world.agents["a"].node.state.outbox.queues["b"]
    server.say(Settled("a", 1, [(seq, seq)]))
    world.run(4.0)
    assert (1, 1, 0, 0) == caller.receipt(seq)
    server.release()
    world.run(6.0)
    assert [b""] * 60 == [caller.body(call) for call in calls]
    assert_mesh_quiescent(world)


def test_what_waits_for_somebody_to_serve_it_holds_nothing_when_it_is_taken_away() -> None:
    world = fleet("a")
    caller = App(world, "a", 1)
    seq = caller.call("orders", timeout_s=1.0, flags=Flag.WAIT)
    world.run(3.0)
    assert Status.EXPIRED == caller.status(seq)
    assert_mesh_quiescent(world)


def test_what_is_watched_is_alive_when_it_leaves() -> None:
    world = fleet("a")
    (server,) = served(world, "a")
    server.handle = hold
    caller = App(world, "a", 1)
    caller.say(Request(0, 0, "orders", "", 9_000, b"", monitor_ms=3_000))
    world.run(2.0)
    assert 1.5 < world.agents["a"].node.state.outbox.entries[1, 0].seen_at < 1.6


# What must be on disk first


@pytest.mark.parametrize("node", ["a", "b"])
def test_what_is_sent_once_and_durable_leaves_when_that_is_on_disk(node: str) -> None:
    mail = Mail()
    server = mail.serve(node)
    mail.cast(b"one", flags=Flag.ONCE)
    mail.run(0.5)
    assert [(node, 20)] == [row.sent[:2] for row in mail.disk.disk.rows.values()]
    assert [b"one"] == server.bodies


def test_what_is_sent_once_and_was_found_is_marked_as_being_there() -> None:
    mail = Mail()
    server = mail.serve(handle=hold)
    seq = mail.cast(b"one", flags=Flag.ONCE)
    mail.run(0.5)
    caller, reached = mail.caller, mail.caller.of(Reach)
    mail.kill(caller=False)
    mail.disk.lose_all()
    mail.restart()
    caller.come_back()
    caller.say(*reached, Request(1, seq, "orders", "", 9_000, b"one", Flag.DURABLE | Flag.ONCE | Flag.RESUMED))
    mail.run(0.5)
    assert ({(10, seq): ("b", 20, 1002)}, [b"one"]) == (mail.durable.marks, server.bodies)
    server.say(Settled("a", 10, [(seq, seq)]))
    mail.run(0.5)
    assert ({}, None) == (mail.durable.marks, caller.end(seq))
