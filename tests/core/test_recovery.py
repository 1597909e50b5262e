"""The caller's agent when something is lost: what is placed again, what is asked about, what is given up."""

import pytest

from mesh.core.context import NodeOptions
from mesh.core.directory import DirectoryOptions
from mesh.core.inbox import InboxOptions
from mesh.core.link import LinkOptions
from mesh.core.outbox import OutboxOptions, TargetKey
from mesh.core.pool import PoolOptions
from mesh.core.records import (
    Answer,
    Ask,
    Cancel,
    Flag,
    GiveBack,
    Kind,
    Reach,
    Receipt,
    Reply,
    Request,
    Serve,
    Status,
    Targets,
    Unserve,
    Verdict,
)
from mesh.core.recovery import IDS_MAX
from mesh.sim.world import NetworkOptions, World
from mesh.types import Endpoint, TopicKey
from tests.core.fabric import App, assert_mesh_quiescent, echo, fleet, hold, link, notes, options


def servers(world: World, *nodes: str, workers: int = 4) -> list[App]:
    """One app on each of these nodes that serves orders and ends nothing, and time for everybody to hear of it."""
    apps = [App(world, node, 10 + number, hold) for number, node in enumerate(nodes)]
    for app in apps:
        app.serve("orders", workers=workers)
    world.run(world.now + 0.5)
    return apps


# The link is lost


def test_what_waits_for_the_next_link_to_a_peer_stays_with_it_when_the_idle_one_closes() -> None:
    world = fleet("abc", options(pool=PoolOptions(idle_close_s=60.0)))
    for server in servers(world, "b", "c"):
        server.handle = echo
    caller = App(world, "a", 1)
    for _ in range(2):
        caller.call("orders")
    world.run(2.0)
    node = world.agents["a"].node
    (last,) = node.state.directory.views[TopicKey("", "orders")].cursors.values()
    (first,) = {"b", "c"} - {last.node}
    node.state.peers.leave(link(world, "a", first), "idle", world.now)
    world.run(world.now + 0.01)
    seq = caller.call("orders")
    world.run(node.state.ticked_at + node.tick_s - 0.0005)
    node.state.peers.leave(link(world, "a", last.node), "idle", world.now)
    world.run(world.now + 0.1)
    assert node.state.peers.any_link(last.node) is not None, "the other link is still being closed"
    assert b"" == caller.body(seq)
    assert_mesh_quiescent(world)


def test_a_call_that_runs_when_its_link_is_lost_is_asked_about_and_its_reply_is_taken() -> None:
    world = fleet("ab")
    (server,) = servers(world, "b")
    caller = App(world, "a", 1)
    seq = caller.call("orders", b"one")
    world.run(2.0)
    world.cut("a", "b")
    world.run(3.0)
    assert [] == caller.ends(seq)
    assert 2 == len(notes(world, "link_opened", "a"))
    server.release()
    world.run(4.0)
    assert b"one" == caller.body(seq)
    assert_mesh_quiescent(world)


def test_a_call_that_ended_while_its_link_was_lost_is_answered_when_it_is_asked_about() -> None:
    world = fleet("ab")
    (server,) = servers(world, "b")
    caller = App(world, "a", 1)
    seq = caller.call("orders", b"one")
    world.run(2.0)
    world.silence("a", "b")
    server.release()
    world.run(3.0)
    world.heal("a", "b")
    world.run(4.0)
    assert b"one" == caller.body(seq)
    assert_mesh_quiescent(world)


def test_a_call_that_never_arrived_is_placed_again_and_runs_once() -> None:
    world = fleet("ab")
    (server,) = servers(world, "b")
    server.handle = echo
    caller = App(world, "a", 1)
    caller.call("orders")
    world.run(2.0)
    world.silence("a", "b")
    seq = caller.call("orders", b"two")
    world.run(2.1)
    world.heal("a", "b")
    world.run(3.0)
    assert b"two" == caller.body(seq)
    assert [b"", b"two"] == server.bodies
    assert_mesh_quiescent(world)


def test_a_loss_that_only_one_end_noticed_replaces_the_link_once() -> None:
    for one in "ab":
        world = fleet("ab")
        (server,) = servers(world, "b")
        caller = App(world, "a", 1)
        seq = caller.call("orders", b"one")
        world.run(2.0)
        world.cut("a", "b", only=one)
        back = App(world, "b", 2)
        App(world, "a", 20).serve("other")
        world.run(2.2)
        asked = back.call("other")
        world.run(3.0)
        server.release()
        world.run(4.0)
        assert b"one" == caller.body(seq)
        assert b"" == back.body(asked)
        assert 4 == len(notes(world, "link_opened"))
        assert_mesh_quiescent(world)


def test_what_may_run_twice_is_placed_elsewhere_when_its_link_is_lost() -> None:
    world = fleet("abc")
    apps = servers(world, "b", "c")
    caller = App(world, "a", 1)
    seqs = [caller.call("orders", flags=Flag.IDEMPOTENT), caller.cast("orders")]
    world.run(2.0)
    for app in apps:
        app.handle = echo
    world.silence("a", "b")
    world.silence("a", "c")
    world.heal("a", "b")
    world.heal("a", "c")
    world.run(4.0)
    assert [Reply, type(None)] == [type(caller.end(seq)) for seq in seqs]
    for app in apps:
        app.release()
    assert_mesh_quiescent(world)


def test_a_fan_out_is_sent_again_to_a_node_whose_link_was_lost() -> None:
    world = fleet("abc")
    apps = servers(world, "b", "c")
    caller = App(world, "a", 1)
    seq = caller.fanout("orders", b"one")
    world.run(2.0)
    world.silence("a", "b")
    apps[0].release()
    world.run(2.5)
    world.heal("a", "b")
    world.run(3.0)
    assert [] == caller.ends(seq)
    apps[1].release()
    world.run(4.0)
    assert (2, 2, 0, 0) == caller.receipt(seq)
    assert_mesh_quiescent(world)


def test_a_fan_out_that_a_node_has_answered_is_not_sent_there_again() -> None:
    world = fleet("abc")
    apps = servers(world, "b", "c")
    apps[0].handle = echo
    caller = App(world, "a", 1)
    seq = caller.fanout("orders")
    world.run(2.0)
    world.cut("a", "b")
    world.run(3.0)
    assert {} == world.agents["a"].node.state.outbox.queues
    apps[1].release()
    world.run(4.0)
    assert (2, 2, 0, 0) == caller.receipt(seq)


def test_what_waited_for_a_link_that_is_lost_goes_on_with_the_next() -> None:
    world = fleet("ab", options(link=LinkOptions(credit_records=16)))
    (server,) = servers(world, "b", workers=8)
    caller = App(world, "a", 1)
    seqs = [caller.call("orders")]
    world.run(2.0)
    world.pause("b", 0.5)
    seqs += [caller.call("orders") for _ in range(39)]
    world.run(2.2)
    assert 24 == world.agents["a"].node.state.outbox.queued
    world.cut("a", "b")
    world.run(3.0)
    server.release()
    world.run(4.0)
    assert 40 == sum(isinstance(caller.end(seq), Reply) for seq in seqs)
    assert_mesh_quiescent(world)


def test_many_lost_calls_are_asked_about_in_more_than_one_question() -> None:
    world = fleet("ab", options(outbox=OutboxOptions(outstanding_records=9000)))
    (server,) = servers(world, "b", workers=9000)
    caller = App(world, "a", 1)
    count = IDS_MAX + 5
    seqs = [caller.send(Kind.CALL, "orders", timeout_s=30.0) for _ in range(count)]
    world.run(2.0)
    assert count == len(server.asked)
    world.cut("a", "b")
    world.run(3.0)
    assert {} == world.agents["a"].node.state.outbox.inquiries
    server.release()
    world.run(8.0)
    assert count == sum(isinstance(caller.ends(seq)[0], Reply) for seq in (seqs[0], seqs[-1])) + count - 2
    assert_mesh_quiescent(world)


# An agent is killed


def test_a_call_at_an_agent_that_was_killed_is_answered_by_the_app_that_resumed() -> None:
    world = fleet("ab")
    (server,) = servers(world, "b")
    caller = App(world, "a", 1)
    seq = caller.call("orders", b"one")
    world.run(2.0)
    world.kill("b")
    world.run(2.3)
    world.start("b", NodeOptions())
    world.run(3.0)
    asks_at_once = len(server.of(Ask))
    server.come_back()
    server.say(Serve("orders", "b-10"))
    world.run(3.5)
    asks = server.of(Ask)
    assert (0, 1) == (asks_at_once, len(asks))
    assert [(1, seq)] == asks[0].ids
    server.say(Answer("a", asks[0].incarnation, asks[0].number, 0, asks[0].ids, [int(Verdict.RUNNING)]))
    world.run(9.0)
    assert [] == caller.ends(seq)
    server.release()
    world.run(10.0)
    assert b"one" == caller.body(seq)
    assert_mesh_quiescent(world)


def test_an_app_that_never_got_the_call_says_so_and_it_is_placed_again() -> None:
    world = fleet("abc")
    (server,) = servers(world, "b")
    caller = App(world, "a", 1)
    seq = caller.call("orders", b"one")
    world.run(2.0)
    world.kill("b")
    world.run(2.3)
    world.start("b", NodeOptions())
    server.come_back()
    server.serve("orders")
    world.run(3.0)
    (ask,) = server.of(Ask)
    server.handle = echo
    server.say(Answer("a", ask.incarnation, ask.number, 0, ask.ids, [int(Verdict.NEVER)]))
    world.run(4.0)
    assert b"one" == caller.body(seq)
    assert_mesh_quiescent(world)


def test_an_app_that_knows_nothing_any_more_loses_the_call() -> None:
    world = fleet("ab")
    (server,) = servers(world, "b")
    caller = App(world, "a", 1)
    seq = caller.call("orders")
    world.run(2.0)
    world.kill("b")
    world.run(2.3)
    world.start("b", NodeOptions())
    server.come_back()
    world.run(3.0)
    (ask,) = server.of(Ask)
    server.say(Answer("a", ask.incarnation, ask.number, 0, ask.ids, [int(Verdict.LOST)]))
    world.run(4.0)
    assert (Status.INDETERMINATE, "b was lost after it had been sent there") == (
        caller.status(seq),
        caller.failure(seq).text,
    )


def test_nobody_resumes_within_the_grace_and_the_call_is_indeterminate() -> None:
    world = fleet("ab", options(outbox=OutboxOptions(resume_grace_s=2.0)))
    servers(world, "b")
    caller = App(world, "a", 1)
    seq = caller.call("orders", timeout_s=60.0)
    world.run(2.0)
    world.kill("b")
    world.run(3.9)
    assert [] == caller.ends(seq)
    world.run(4.5)
    assert Status.INDETERMINATE == caller.status(seq)


def test_the_grace_begins_again_when_the_agent_is_back() -> None:
    world = fleet("ab", options(outbox=OutboxOptions(resume_grace_s=2.0)))
    (server,) = servers(world, "b")
    caller = App(world, "a", 1)
    seq = caller.call("orders", b"one", timeout_s=60.0)
    world.run(2.0)
    world.kill("b")
    world.run(3.0)
    world.start("b", NodeOptions())
    world.run(4.5)
    server.come_back()
    world.run(4.8)
    (ask,) = server.of(Ask)
    server.say(Answer("a", ask.incarnation, ask.number, 0, ask.ids, [int(Verdict.RUNNING)]))
    server.release()
    world.run(6.0)
    assert b"one" == caller.body(seq)


def test_only_the_latest_question_counts() -> None:
    world = fleet("ab")
    (server,) = servers(world, "b")
    caller = App(world, "a", 1)
    seq = caller.call("orders")
    world.run(2.0)
    world.kill("b")
    world.run(2.3)
    world.start("b", NodeOptions())
    server.come_back()
    world.run(3.0)
    (first,) = server.of(Ask)
    world.cut("a", "b")
    world.run(3.2)
    second = server.of(Ask)[1]
    server.say(Answer("a", first.incarnation, first.number, 0, first.ids, [int(Verdict.NEVER)]))
    server.say(Answer("a", first.incarnation - 1, second.number, 0, second.ids, [int(Verdict.NEVER)]))
    server.say(Answer("a", second.incarnation, second.number, 0, [(1, 99)], [int(Verdict.NEVER)]))
    world.run(3.4)
    assert 1 == len(server.asked)
    assert [("b", 10)] == list(world.agents["a"].node.state.outbox.inquiries)
    server.say(Answer("a", second.incarnation, second.number, 0, second.ids, [int(Verdict.RUNNING)]))
    server.release()
    world.run(4.0)
    assert b"" == caller.body(seq)


def test_calls_sent_to_two_incarnations_of_one_agent_are_both_asked_about() -> None:
    # One runs since before the kill, one since after it; then the link is lost: one question, two incarnations in it.
    world = fleet("ab")
    (server,) = servers(world, "b")
    caller = App(world, "a", 1)
    before = caller.call("orders", b"before", timeout_s=60.0)
    world.run(2.0)
    world.kill("b")
    world.run(2.3)
    world.start("b", NodeOptions())
    server.come_back()
    server.serve("orders")
    world.run(3.0)
    (ask,) = server.of(Ask)
    server.say(Answer("a", ask.incarnation, ask.number, 0, ask.ids, [int(Verdict.RUNNING)]))
    after = caller.call("orders", b"after", timeout_s=60.0)
    world.run(4.0)
    world.cut("a", "b")
    world.run(4.5)
    ask = server.of(Ask)[1]
    assert [(1, before)] == ask.ids
    server.say(Answer("a", ask.incarnation, ask.number, 0, ask.ids, [int(Verdict.RUNNING)]))
    world.run(12.0)
    assert [[], []] == [caller.ends(before), caller.ends(after)]
    server.release()
    world.run(13.0)
    assert [b"before", b"after"] == [caller.body(before), caller.body(after)]


# Our own agent was killed


def resumed(world: World, caller: App, *kept: int, flags: int = 0, reached: list[Reach] | None = None) -> None:
    """The agent of a is killed and succeeded; its app says again whom it had reached, and what has not ended."""
    world.kill("a")
    world.start("a", NodeOptions())
    caller.come_back()
    caller.seq = max(kept) + 1
    requests = [Request(0, seq, "orders", "", 10_000, b"kept", flags | Flag.RESUMED) for seq in kept]
    caller.say(*(caller.of(Reach) if reached is None else reached), *requests)


def asked_by(world: World, node: str) -> list[TargetKey]:
    return sorted(world.agents[node].node.state.outbox.inquiries)


def test_a_call_that_runs_when_our_agent_is_killed_is_found_again_by_the_next() -> None:
    world = fleet("abc")
    apps = servers(world, "b", "c")
    caller = App(world, "a", 1)
    seqs = [caller.call("orders", b"%d" % number) for number in range(4)]
    world.run(2.0)
    resumed(world, caller, *seqs)
    world.run(3.0)
    assert ([], [2, 2]) == (asked_by(world, "a"), [len(app.asked) for app in apps])
    assert [("b", 10), ("c", 11)] == sorted(world.agents["a"].node.state.outbox.by_target)
    for app in apps:
        app.release()
    world.run(4.0)
    assert [b"0", b"1", b"2", b"3"] == sorted(caller.body(seq) for seq in seqs)
    assert_mesh_quiescent(world)


def test_a_call_that_left_our_killed_agent_for_nobody_is_placed_when_all_have_said_so() -> None:
    world = fleet("abc")
    apps = servers(world, "b", "c")
    for app in apps:
        app.handle = echo
    caller = App(world, "a", 1)
    for _ in range(2):
        caller.call("orders")
    world.run(2.0)
    world.silence("a", "c")
    resumed(world, caller, 5)
    world.run(3.0)
    assert ([("c", 11)], [1, 1]) == (asked_by(world, "a"), [len(app.asked) for app in apps])
    world.heal("a", "c")
    world.run(6.0)
    assert b"kept" == caller.body(5)
    assert 3 == sum(len(app.asked) for app in apps)
    assert_mesh_quiescent(world)


def test_a_call_that_one_who_was_reached_cannot_say_anything_of_is_indeterminate() -> None:
    world = fleet("ab", options(outbox=OutboxOptions(resume_grace_s=2.0)))
    (server,) = servers(world, "b")
    caller = App(world, "a", 1)
    caller.say(Reach("z", 7, 70), Reach("b", 1002, 10))
    caller.say(Request(0, 0, "orders", "", 60_000, b"", Flag.RESUMED))
    caller.seq = 1
    world.run(3.4)
    assert ([("z", 70)], []) == (asked_by(world, "a"), caller.ends(0))
    world.run(4.0)
    text = "its agent was lost, and z cannot say whether it was sent there"
    assert (Status.INDETERMINATE, text) == (caller.status(0), caller.failure(0).text)
    assert [] == server.asked
    assert_mesh_quiescent(world)


def test_a_reply_that_comes_while_others_are_asked_is_taken() -> None:
    world = fleet("ab")
    (server,) = servers(world, "b")
    caller = App(world, "a", 1)
    seq = caller.call("orders", b"one")
    world.run(2.0)
    server.release()
    world.run(2.1)
    resumed(world, caller, seq, reached=[Reach("z", 7, 70), *caller.of(Reach)])
    world.run(3.0)
    assert [b"one", b"one"] == [end.body for end in caller.ends(seq) if isinstance(end, Reply)]
    assert [] == asked_by(world, "a")
    assert_mesh_quiescent(world)


def test_a_serving_agent_that_was_killed_as_well_leaves_the_answer_to_its_apps() -> None:
    world = fleet("ab")
    (server,) = servers(world, "b")
    caller = App(world, "a", 1)
    seq = caller.call("orders", b"one")
    world.run(2.0)
    world.kill("b")
    world.start("b", NodeOptions())
    resumed(world, caller, seq)
    world.run(3.0)
    assert [("b", 10)] == asked_by(world, "a")
    server.come_back()
    world.run(3.5)
    (ask,) = server.of(Ask)
    server.say(Answer("a", ask.incarnation, ask.number, 0, ask.ids, [int(Verdict.RUNNING)]))
    server.release()
    world.run(4.0)
    assert b"one" == caller.body(seq)
    assert_mesh_quiescent(world)


def test_the_apps_of_its_own_node_are_asked_when_they_are_back() -> None:
    world = fleet("a")
    (server,) = servers(world, "a")
    caller = App(world, "a", 1)
    ran, never = caller.call("orders", b"one"), 7
    world.run(2.0)
    resumed(world, caller, ran, never)
    world.run(3.0)
    assert ([("a", 10)], [], []) == (asked_by(world, "a"), caller.ends(ran), caller.ends(never))
    server.come_back()
    server.serve("orders")
    world.run(3.5)
    (ask,) = server.of(Ask)
    server.handle = echo
    verdicts = [int(Verdict.RUNNING), int(Verdict.NEVER)]
    server.say(Answer("a", ask.incarnation, ask.number, 0, ask.ids, verdicts), echo(server.asked[0]))
    world.run(4.0)
    assert [b"one", b"kept"] == [caller.body(ran), caller.body(never)]
    assert_mesh_quiescent(world)


def test_where_one_that_was_reached_is_the_app_tells_unless_the_catalogue_does() -> None:
    world = fleet("abc")
    servers(world, "c")
    caller = App(world, "a", 1)
    caller.call("orders")
    world.run(2.0)
    node = world.agents["a"].node
    node.recovery.locate("c", Endpoint("old", 1))
    node.recovery.locate("b", Endpoint("b", 7000))
    node.recovery.locate("b", Endpoint("old", 1))
    node.state.peers.peers.pop("c")
    node.recovery.locate("c", Endpoint("old", 1))
    assert [Endpoint("b", 7000), Endpoint("c", 7000)] == [node.state.peers.peers[name].endpoint for name in "bc"]
    caller.say(Reach("b", 1002, 10, "b", 7000), Request(0, 9, "orders", "", 10_000, b"", Flag.RESUMED))
    world.run(2.5)
    assert ([], True) == (asked_by(world, "a"), link(world, "a", "b").dialled)


def test_what_an_earlier_agent_had_sent_may_be_given_back_to_this_one() -> None:
    world = fleet("abc")
    (server,) = servers(world, "b", workers=1)
    caller = App(world, "a", 1)
    seqs = [caller.call("orders", b"%d" % number) for number in range(2)]
    world.run(2.0)
    resumed(world, caller, *seqs)
    world.run(3.0)
    assert 1 == len(server.asked)
    other = App(world, "c", 30)
    other.serve("orders")
    world.run(4.0)
    server.say(Unserve("orders", "b-10"))
    world.run(5.0)
    assert [b"kept"] == other.bodies
    server.release()
    world.run(6.0)
    assert [b"0", b"kept"] == [caller.body(seq) for seq in seqs]
    assert_mesh_quiescent(world)


def test_a_cast_that_is_to_run_once_is_asked_about_like_a_call() -> None:
    world = fleet("ab")
    (server,) = servers(world, "b")
    caller = App(world, "a", 1)
    seq = caller.cast("orders", flags=Flag.ONCE)
    world.run(2.0)
    world.kill("a")
    world.start("a", NodeOptions())
    caller.come_back()
    caller.say(*caller.of(Reach), Request(1, seq, "orders", "", 9000, b"", Flag.ONCE | Flag.RESUMED))
    world.run(3.0)
    assert 1 == len(server.asked)
    server.release()
    world.run(4.0)
    assert None is caller.end(seq)
    assert_mesh_quiescent(world)


def test_a_fan_out_goes_to_the_same_nodes_after_our_agent_was_killed() -> None:
    world = fleet("abcd")
    apps = servers(world, "b", "c")
    caller = App(world, "a", 1)
    seq = caller.fanout("orders", b"one")
    world.run(2.0)
    late = App(world, "d", 30)
    late.serve("orders")
    world.run(3.0)
    world.kill("a")
    world.start("a", NodeOptions())
    caller.come_back()
    caller.say(*caller.of(Reach), *caller.of(Targets), Request(2, seq, "orders", "", 9000, b"one", Flag.RESUMED))
    world.run(4.0)
    for app in apps:
        app.release()
    world.run(5.0)
    assert ((2, 2, 0, 0), []) == (caller.receipt(seq), late.asked)
    assert_mesh_quiescent(world)


def test_a_sign_of_life_is_no_answer_to_a_question() -> None:
    world = fleet("ab")
    servers(world, "b")
    caller = App(world, "a", 1)
    caller.say(Reach("b", 7, 10), Request(0, 0, "orders", "", 10_000, b"", Flag.RESUMED))
    node = world.agents["a"].node
    world.silence("a", "b")
    world.run(2.0)
    assert [] == node.recovery.answer("b", Answer("a", 1001, 0, 10, [(1, 0)], [int(Verdict.NEVER)]), 2.0)
    assert [("b", 10)] == asked_by(world, "a")


# It comes back


def test_what_one_instance_gives_back_another_gets() -> None:
    world = fleet("abc", NodeOptions(inbox=InboxOptions(queue_records=1)))
    apps = servers(world, "b", "c", workers=1)
    apps[1].handle = echo
    caller = App(world, "a", 1)
    seqs = []
    for _ in range(12):
        seqs.append(caller.call("orders"))
        world.run(world.now + 0.2)
    assert 10 == sum(bool(caller.ends(seq)) for seq in seqs)
    assert 10 == len(apps[1].asked)
    apps[0].release()
    assert_mesh_quiescent(world)


def test_an_instance_that_leaves_gives_its_queue_back() -> None:
    world = fleet("abc")
    apps = servers(world, "b", "c", workers=1)
    caller = App(world, "a", 1)
    seqs = [caller.call("orders") for _ in range(6)]
    world.run(2.0)
    apps[0].close(dead=True)
    world.run(2.1)
    apps[1].release()
    world.run(4.0)
    statuses = [caller.end(seq) for seq in seqs]
    assert 5 == sum(isinstance(end, Reply) for end in statuses)
    assert [Status.INDETERMINATE] == [caller.status(seq) for seq in seqs if not isinstance(caller.end(seq), Reply)]
    assert_mesh_quiescent(world)


def test_work_whose_apps_die_of_it_is_placed_so_often_and_not_more() -> None:
    world = fleet("ab", options(outbox=OutboxOptions(attempts_max=3)))
    caller = App(world, "a", 1)
    cast = caller.cast("orders", timeout_s=100.0, flags=Flag.WAIT)
    for number in range(3):
        app = App(world, "b", 20 + number, hold)
        app.serve("orders")
        world.run(world.now + 3.0)
        assert 1 == len(app.asked)
        app.close(dead=True)
        world.run(world.now + 1.0)
    assert (Status.INDETERMINATE, "attempts_max") == (caller.status(cast), caller.failure(cast).limit)
    (poisoned,) = notes(world, "poisoned", "a")
    assert 1 == world.agents["a"].node.state.totals.poisoned
    assert f" message=a/1/{cast} topic=orders server= " in poisoned
    assert_mesh_quiescent(world)


def test_the_count_of_who_died_of_work_goes_on_at_the_next_agent() -> None:
    limits = options(outbox=OutboxOptions(attempts_max=3))
    world = fleet("ab", limits)
    caller = App(world, "a", 1)
    cast = caller.cast("orders", timeout_s=100.0, flags=Flag.WAIT)
    for number in range(3):
        app = App(world, "b", 20 + number, hold)
        app.serve("orders")
        world.run(world.now + 3.0)
        assert 1 == len(app.asked)
        app.close(dead=True)
        world.run(world.now + 1.0)
        if number < 2:
            world.kill("a")
            world.start("a", limits)
            told, again = caller.of(Targets)[-1], Request(1, cast, "orders", "", 90_000, b"", Flag.WAIT | Flag.RESUMED)
            assert (cast, [], number + 1) == (told.seq, told.nodes, told.attempts)
            caller.come_back()
            caller.say(*caller.of(Reach), told, again)
    assert (Status.INDETERMINATE, "attempts_max") == (caller.status(cast), caller.failure(cast).limit)
    assert_mesh_quiescent(world)


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("kind", [Kind.CAST, Kind.FANOUT])
def test_what_outlives_its_session_is_charged_again_only_when_that_is_back_and_repeats_it(
    kind: Kind, repeated: bool
) -> None:
    world = fleet("ab", options(outbox=OutboxOptions(resume_grace_s=0.5)))
    server = App(world, "b", 20, hold)
    server.serve("orders")
    caller = App(world, "a", 1)
    world.run(2.0)
    seq = caller.send(kind, "orders", b"one", timeout_s=60.0)
    other = App(world, "a", 2)
    others = other.fanout("orders", b"two")
    world.run(3.0)
    caller.close()
    world.run(5.0)
    caller.come_back()
    if repeated:
        caller.say(Request(int(kind), seq, "orders", "", 50_000, b"one", Flag.RESUMED))
    world.run(6.0)
    app = world.agents["a"].node.state.apps[1]
    assert (repeated, 131 * repeated) == (app.records, app.bytes)
    server.release()
    world.run(7.0)
    assert 1 == len(caller.ends(seq))
    assert (0, 0, (1, 1, 0, 0)) == (app.records, app.bytes, other.receipt(others))
    assert_mesh_quiescent(world)


def test_work_that_was_only_handed_ahead_to_apps_that_die_is_not_charged_for_it() -> None:
    world = fleet("ab", options(outbox=OutboxOptions(attempts_max=1)))
    caller = App(world, "a", 1)
    casts = [caller.cast("orders", timeout_s=100.0, flags=Flag.WAIT) for _ in range(4)]
    app = App(world, "b", 20, hold)
    app.serve("orders", workers=1)
    world.run(3.0)
    assert 4 == len(app.asked)
    app.close(dead=True)
    world.run(4.0)
    other = App(world, "b", 21)
    other.serve("orders")
    world.run(6.0)
    assert [Status.INDETERMINATE, None, None, None] == [
        caller.status(casts[0]),
        *(caller.end(seq) for seq in casts[1:]),
    ]
    assert_mesh_quiescent(world, 120.0)


def test_a_node_where_nobody_serves_any_more_counts_as_failed_in_a_fan_out() -> None:
    world = fleet("abc", network=NetworkOptions(catalogue_delay_s=(0.5, 0.5)))
    apps = servers(world, "b", "c")
    apps[0].handle = echo
    caller = App(world, "a", 1)
    world.run(6.0)
    caller.fanout("orders")
    world.run(7.0)
    apps[1].close(dead=True)
    world.run(7.2)
    seq = caller.fanout("orders")
    world.run(8.0)
    assert (2, 1, 1, 0) == caller.receipt(seq)
    assert_mesh_quiescent(world)


def test_a_give_back_of_another_dispatch_or_from_elsewhere_means_nothing() -> None:
    world = fleet("abc")
    (server,) = servers(world, "b")
    caller = App(world, "a", 1)
    seq = caller.call("orders")
    world.run(2.0)
    recovery = world.agents["a"].node.recovery
    for node, dispatch, number in (("b", 2, seq), ("c", 1, seq), ("b", 1, 99)):
        record = GiveBack("a", 1, number, dispatch, int(Status.UNROUTABLE), "")
        assert [] == recovery.give_back(node, record, 2.0)
    server.release()
    world.run(3.0)
    assert b"" == caller.body(seq)


def test_what_is_rejected_there_is_rejected() -> None:
    world = World(1)
    world.start("a", options(link=LinkOptions(body_bytes_max=1 << 20)))
    world.start("b", options(link=LinkOptions(body_bytes_max=300_000)))
    servers(world, "b")
    caller = App(world, "a", 1)
    seq = caller.call("orders", b"x" * 400_000)
    world.run(3.0)
    assert (Status.REJECTED, "body_bytes_max") == (caller.status(seq), caller.failure(seq).limit)
    assert "a body of 400000 bytes is over body_bytes_max = 300000" == caller.failure(seq).text
    assert_mesh_quiescent(world)


def test_a_topic_that_was_dropped_meanwhile_is_looked_up_again() -> None:
    world = fleet("abc", NodeOptions(directory=DirectoryOptions(watch_idle_s=2.0)))
    apps = servers(world, "b")
    caller = App(world, "a", 1)
    seq = caller.cast("orders", timeout_s=60.0)
    world.run(6.0)
    assert {} == world.agents["a"].node.state.directory.views
    other = App(world, "c", 30)
    other.serve("orders")
    world.run(7.0)
    apps[0].close(dead=True)
    world.run(10.0)
    assert None is caller.end(seq)
    assert_mesh_quiescent(world, 70.0)


def test_what_waits_keeps_its_topic_watched() -> None:
    world = fleet("ab", NodeOptions(directory=DirectoryOptions(watch_idle_s=2.0)))
    caller = App(world, "a", 1)
    seq = caller.call("orders", timeout_s=60.0, flags=Flag.WAIT)
    world.run(10.0)
    app = App(world, "b", 30)
    app.serve("orders")
    world.run(11.0)
    assert b"" == caller.body(seq)


# No link is to be had


def test_a_dial_that_fails_sends_the_work_elsewhere() -> None:
    world = fleet("abc")
    apps = servers(world, "b", "c")
    for app in apps:
        app.handle = echo
    caller = App(world, "a", 1)
    caller.call("nobody")
    world.run(2.0)
    world.kill("b")
    seqs = [caller.call("orders") for _ in range(4)]
    world.run(4.0)
    assert [b""] * 4 == [caller.body(seq) for seq in seqs]
    assert 4 == len(apps[1].asked)


def test_a_fan_out_keeps_trying_a_node_that_cannot_be_reached_until_its_time_is_over() -> None:
    world = fleet("abc")
    apps = servers(world, "b", "c")
    caller = App(world, "a", 1)
    caller.fanout("orders")
    world.run(2.0)
    for app in apps:
        app.release()
    world.kill("b")
    world.run(2.5)
    early, late = caller.fanout("orders", timeout_s=2.0), caller.fanout("orders", timeout_s=60.0)
    world.run(5.0)
    assert (2, 1, 0, 1) == caller.receipt(early)
    world.start("b", NodeOptions())
    apps[0].come_back()
    apps[0].serve("orders")
    world.run(12.0)
    assert (2, 2, 0, 0) == caller.receipt(late)
    assert_mesh_quiescent(world, 70.0)


def test_a_suspect_that_is_well_again_is_found_out_and_gets_its_share() -> None:
    world = fleet("abc")
    apps = servers(world, "b", "c")
    for app in apps:
        app.handle = echo
    caller = App(world, "a", 1)
    for _ in range(2):
        caller.cast("orders")
    world.run(2.0)
    world.cut("a", "b")
    world.run(2.1)
    for _ in range(2):
        caller.cast("orders")
    world.run(5.0)
    for app in apps:
        app.asked.clear()
    for _ in range(4):
        caller.cast("orders")
    world.run(6.0)
    assert [2, 2] == [len(app.asked) for app in apps]


def test_a_suspect_is_not_looked_after_when_nobody_lists_it_or_there_is_no_room() -> None:
    world = fleet("abc", options(pool=PoolOptions(links_max=2)), network=NetworkOptions(catalogue_ttl_s=1.0))
    apps = servers(world, "b", "c")
    for app in apps:
        app.handle = echo
    caller = App(world, "a", 1)
    caller.fanout("orders")
    world.run(2.0)
    world.kill("b")
    world.run(10.0)
    failed = len(notes(world, "dial_failed", "a"))
    assert failed > 0
    world.run(60.0)
    assert failed == len(notes(world, "dial_failed", "a"))
    node = world.agents["a"].node
    assert [] == node.recovery.probe(60.0)
    node.state.pool.taken, taken = 2, node.state.pool.taken
    node.state.peers.peer("c").condition = node.state.peers.peer("b").condition
    node.state.peers.peer("c").link, conn = None, node.state.peers.peer("c").link
    assert [] == node.recovery.probe(60.0)
    node.state.peers.peer("c").link, node.state.pool.taken = conn, taken


# Time is up


def test_a_call_that_is_not_answered_in_time_is_indeterminate_and_its_handler_is_told() -> None:
    world = fleet("ab")
    (server,) = servers(world, "b")
    caller = App(world, "a", 1)
    seq = caller.call("orders", timeout_s=1.0)
    world.run(4.0)
    assert (Status.INDETERMINATE, "no answer from b within its time") == (caller.status(seq), caller.failure(seq).text)
    assert [seq] == [cancel.seq for cancel in server.of(Cancel)]
    server.release()
    assert_mesh_quiescent(world)
    assert 1 == len(caller.ends(seq))


def test_a_call_that_waited_in_a_queue_there_is_not_run_after_its_time() -> None:
    world = fleet("ab")
    (server,) = servers(world, "b", workers=1)
    caller = App(world, "a", 1)
    caller.call("orders", timeout_s=20.0)
    late = caller.call("orders", timeout_s=1.0)
    world.run(4.0)
    assert Status.INDETERMINATE == caller.status(late)
    server.release()
    world.run(5.0)
    assert [] == server.asked
    assert_mesh_quiescent(world)


def test_what_no_link_could_be_had_for_has_certainly_not_run() -> None:
    world = fleet("ab")
    servers(world, "b")
    caller = App(world, "a", 1)
    caller.call("nobody")
    world.run(2.0)
    world.silence("a", "b")
    seq = caller.call("orders", timeout_s=1.0)
    world.run(4.0)
    assert (Status.EXPIRED, "no link to b within its time") == (caller.status(seq), caller.failure(seq).text)


def test_what_may_have_run_and_waits_for_another_place_in_vain_is_indeterminate() -> None:
    world = fleet("ab")
    servers(world, "b")
    caller = App(world, "a", 1)
    seq = caller.call("orders", timeout_s=4.0, flags=Flag.IDEMPOTENT)
    world.run(2.0)
    world.kill("b")
    world.run(6.5)
    assert (Status.INDETERMINATE, "sent, lost, and not placed again within its time") == (
        caller.status(seq),
        caller.failure(seq).text,
    )


def test_what_its_app_was_never_told_the_way_of_has_certainly_not_run() -> None:
    world = fleet("ab")
    servers(world, "b")
    caller = App(world, "a", 1)
    world.run(2.0)
    world.clog("a", caller)
    seq = caller.call("orders", timeout_s=1.0)
    world.run(4.0)
    world.unclog("a", caller)
    world.run(4.5)
    assert Status.EXPIRED == caller.status(seq)
    assert "its app did not read within its time that it would go to b" == caller.failure(seq).text


def test_what_nobody_came_for_has_certainly_not_run() -> None:
    world = fleet("a")
    caller = App(world, "a", 1)
    seq = caller.call("orders", timeout_s=1.0, flags=Flag.WAIT)
    world.run(3.0)
    assert (Status.EXPIRED, "nobody was ready for 'orders' within its time") == (
        caller.status(seq),
        caller.failure(seq).text,
    )


def test_a_window_that_stays_full_is_named() -> None:
    world = fleet("ab", options(link=LinkOptions(credit_records=16)))
    servers(world, "b", workers=1)
    caller = App(world, "a", 1)
    seqs = [caller.call("orders", timeout_s=2.0)]
    world.run(2.0)
    world.pause("b", 2.5)
    seqs += [caller.call("orders", timeout_s=2.0) for _ in range(29)]
    world.run(4.5)
    assert (Status.OVERLOADED, "credit_records") == (caller.status(seqs[-1]), caller.failure(seqs[-1]).limit)
    assert "the window of the link to b stayed full within its time" == caller.failure(seqs[-1]).text


def test_a_budget_that_stays_spent_is_named() -> None:
    world = fleet("abcd", options(pool=PoolOptions(links_max=2)))
    servers(world, "b", "c", "d")
    caller = App(world, "a", 1)
    seqs = [caller.call("orders", timeout_s=2.0) for _ in range(3)]
    world.run(4.5)
    failures = sorted((caller.failure(seq).status, caller.failure(seq).limit) for seq in seqs)
    assert [(3, "links_max"), (5, ""), (5, "")] == failures


# The app is gone


def test_the_calls_of_an_app_that_is_gone_are_given_up_its_casts_go_on() -> None:
    world = fleet("ab")
    (server,) = servers(world, "b")
    caller, other = App(world, "a", 1), App(world, "a", 2)
    call, cast, kept = caller.call("orders"), caller.cast("orders"), other.call("orders")
    caller.fanout("orders")
    world.run(2.0)
    caller.close(dead=True)
    world.run(3.0)
    assert [("a", 1, call)] == [(c.node, c.session, c.seq) for c in server.of(Cancel)]
    assert [(1, cast), (2, kept)] == sorted(world.agents["a"].node.state.outbox.entries)
    assert 1 == len(world.agents["a"].node.state.fans)
    server.release()
    assert_mesh_quiescent(world)
    assert [] == caller.of(Receipt)
    assert 0 == link(world, "a", "b").chunker.in_flight
