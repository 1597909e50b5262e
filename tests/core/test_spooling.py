"""The node and its spool: what is accepted is on disk, what is on disk is delivered, or becomes a dead letter."""

from collections.abc import Sequence

import pytest
from msgspec import json, structs

from mesh.core.context import NodeOptions
from mesh.core.directory import DirectoryOptions
from mesh.core.durable import DurableOptions, Phase
from mesh.core.effects import Spool
from mesh.core.ledger import Committed, Entry, Open, Opened, Put, Refused, Sent, Unread, Word
from mesh.core.outbox import OutboxOptions
from mesh.core.policy import Rule
from mesh.core.records import (
    BODY_INLINE_MAX,
    Answer,
    Ask,
    Flag,
    Query,
    Reach,
    Report,
    Request,
    Settled,
    Status,
    Verdict,
)
from mesh.spool.base import DeadOptions, SpoolError
from mesh.types import TopicKey
from tests.core.durables import Mail, accepted
from tests.core.fabric import App, assert_quiescent, echo, fail, fleet, hold, notes, obey

ORDERS = TopicKey("", "orders")


def assert_at_rest(mail: Mail) -> None:
    """Nothing durable is left, in memory or on disk, once floors are raised and swept."""
    for agent in mail.world.agents.values():
        for app in agent.speakers.values():
            if isinstance(app, App):
                app.settle()
    mail.run(90.0)
    assert not mail.stalled
    durable = mail.durable
    assert ({}, {}, {}, 0, 0, 0) == (
        durable.marks,
        durable.marking,
        durable.shelves,
        durable.held,
        durable.held_bytes,
        durable.left,
    )
    totals = mail.disk.totals()
    assert (0, 0, 0) == (totals.records, totals.bytes, totals.done)
    for agent in mail.world.agents.values():
        assert_quiescent(agent.node)


# Taken and delivered


def test_a_cast_is_accepted_when_it_is_on_disk_and_settled_when_its_end_is() -> None:
    mail = Mail()
    server = mail.serve()
    seq = mail.cast(b"one")
    mail.run(0.0003)
    assert [] == accepted(mail.caller)
    mail.run(0.5)
    assert ([seq], [b"one"], None) == (accepted(mail.caller), server.bodies, mail.caller.end(seq))
    assert (0, 1) == (mail.disk.totals().records, mail.disk.totals().done)
    assert_at_rest(mail)


def test_casts_of_a_turn_and_of_the_time_a_commit_takes_share_commits() -> None:
    mail = Mail()
    mail.serve()
    seqs = [mail.cast(b"%d" % number) for number in range(1_000)]
    commits: list[int] = []
    commit = mail.disk.commit

    def counted(entries: Sequence[Entry]) -> Committed:
        commits.append(len(entries))
        return commit(entries)

    mail.disk.commit = counted  # type: ignore[method-assign]
    mail.run(2.0)
    assert seqs == sorted(accepted(mail.caller))
    assert len(commits) < 50
    assert_at_rest(mail)


def test_an_app_of_the_same_node_is_served_too() -> None:
    mail = Mail()
    server = mail.serve("a")
    seqs = [mail.cast(b"x" * 300_000), mail.cast(b"y", flags=Flag.ONCE)]
    mail.run(1.0)
    assert [300_000, 1] == [len(body) for body in server.bodies]
    assert [None, None] == [mail.caller.end(seq) for seq in seqs]
    assert_at_rest(mail)


def test_a_handler_that_fails_ends_a_cast() -> None:
    mail = Mail()
    mail.serve(handle=fail)
    seq = mail.cast()
    mail.run(1.0)
    assert (None, []) == (mail.caller.end(seq), mail.dead())
    assert_at_rest(mail)


def test_what_is_no_cast_or_not_well_formed_is_rejected_and_without_a_spool_everything() -> None:
    mail = Mail()
    call = mail.caller.call("orders", flags=Flag.DURABLE)
    nameless = mail.cast(topic="no topic\n")
    mail.run(0.1)
    assert [Status.REJECTED] * 2 == [mail.caller.status(seq) for seq in (call, nameless)]
    world = fleet("a")
    caller = App(world, "a", 1)
    seq = caller.cast("orders", flags=Flag.DURABLE)
    world.run(2.0)
    assert "no spool" in caller.failure(seq).text


def test_what_comes_faster_than_its_apps_rate_or_against_a_rule_is_not_taken() -> None:
    mail = Mail(options=NodeOptions(outbox=OutboxOptions(rate_records_per_s=1.0, rate_burst_records=1)))
    obey(mail.world, "a", no=Rule("deny", verbs=("cast",), topics=("secret",)))
    mail.serve()
    seqs = [mail.cast(topic="secret"), mail.cast(), mail.cast()]
    mail.run(0.5)
    assert ("no", "rate_records_per_s") == (mail.caller.failure(seqs[0]).rule, mail.caller.failure(seqs[2]).limit)
    assert [seqs[1]] == accepted(mail.caller)


def test_what_nobody_serves_waits_for_its_time() -> None:
    mail = Mail()
    seqs = [mail.cast(b"%d" % number) for number in range(3)]
    mail.run(30.0)
    assert seqs == accepted(mail.caller)
    server = mail.serve()
    mail.run(1.0)
    assert [b"0", b"1", b"2"] == server.bodies
    assert_at_rest(mail)


def test_a_topic_beyond_what_may_be_watched_waits_for_room() -> None:
    mail = Mail()
    mail.kill()
    mail.options = NodeOptions(directory=DirectoryOptions(watches_max=1, watch_idle_s=1.0))
    mail.restart()
    mail.caller = App(mail.world, "a", 11)
    mail.caller.call("stock", flags=Flag.WAIT, timeout_s=2.0)
    seq = mail.cast(b"one")
    mail.run(1.0)
    assert ([seq], []) == (accepted(mail.caller), mail.caller.ends(seq))
    server = mail.serve()
    mail.run(10.0)
    assert [b"one"] == server.bodies


# Agent and app die


def test_what_was_accepted_is_delivered_though_agent_and_app_die_and_nothing_twice() -> None:
    mail = Mail()
    server = mail.serve(handle=hold)
    first = [mail.cast(b"%d" % number) for number in range(5)]
    mail.run(0.1)
    assert first == accepted(mail.caller)
    mail.kill()
    mail.run(1.0)
    server.release()
    mail.restart()
    mail.run(2.0)
    assert [] == server.asked, "handed before, known by its identity"
    assert_at_rest(mail)


def test_what_was_never_sent_is_delivered_after_the_restart() -> None:
    mail = Mail()
    for number in range(5):
        mail.cast(b"%d" % number)
    mail.run(0.1)
    mail.kill()
    server = mail.serve()
    mail.restart()
    mail.run(2.0)
    assert [b"0", b"1", b"2", b"3", b"4"] == server.bodies
    assert {("a", 10)} == {(request.node, request.session) for request in server.asked}
    assert_at_rest(mail)


def test_an_app_that_replays_to_the_next_agent_is_told_what_became_of_each() -> None:
    mail = Mail(dead=DeadOptions())
    server = mail.serve(handle=hold)
    waiting, ended, lost = mail.cast(b"0", topic="later"), mail.cast(b"1"), mail.cast(b"2", ttl_s=1.0, topic="never")
    mail.run(0.1)
    caller, told = mail.caller, len(mail.caller.got)
    caller.close()
    server.release()
    mail.run(2.5)
    mail.kill(caller=False)
    mail.restart()
    caller.got = caller.got[:told]
    caller.come_back()
    for seq, topic in ((waiting, "later"), (ended, "orders"), (lost, "never")):
        flags = Flag.DURABLE | Flag.RESUMED
        caller.say(Request(1, seq, topic, "", 50_000, b"", int(flags), 0))
    mail.run(1.0)
    assert [waiting] == accepted(caller)[-1:]
    assert None is caller.end(ended)
    assert Status.INDETERMINATE == caller.status(lost)
    assert "expired" in caller.failure(lost).text
    later = mail.serve(topic="later", session=21)
    mail.run(1.0)
    assert [b"0"] == later.bodies
    assert None is caller.end(waiting)
    assert_at_rest(mail)


def test_a_replay_to_the_same_agent_waits_for_the_disk_as_the_first_did() -> None:
    mail = Mail()
    mail.serve()
    seq = mail.cast(b"one")
    mail.caller.say(Request(1, seq, "orders", "", 50_000, b"one", int(Flag.DURABLE | Flag.RESUMED), 0))
    mail.run(1.0)
    assert [seq] == accepted(mail.caller)
    mail.caller.say(Request(1, seq, "orders", "", 50_000, b"one", int(Flag.DURABLE | Flag.RESUMED), 0))
    mail.run(1.0)
    assert [None, None] == mail.caller.ends(seq)
    mail.caller.settle()
    mail.caller.say(Request(1, seq, "orders", "", 50_000, b"one", int(Flag.DURABLE | Flag.RESUMED), 1))
    mail.run(1.0)
    assert 2 == len(mail.caller.ends(seq))


def test_a_commit_that_the_machine_lost_was_not_accepted() -> None:
    mail = Mail()
    mail.cast(b"one")
    mail.run(0.1)
    assert [0] == accepted(mail.caller)
    mail.cast(b"two")
    mail.run(0.0011)
    assert [0] == accepted(mail.caller)
    mail.kill()
    mail.disk.lose_last()
    server = mail.serve()
    mail.restart()
    mail.run(1.0)
    assert [b"one"] == server.bodies


def test_a_record_that_cannot_be_read_is_a_dead_letter() -> None:
    mail = Mail()
    mail.cast(b"one")
    mail.cast(b"two")
    mail.run(0.1)
    mail.kill()
    row = mail.disk.disk.rows[10, 0]
    row.put = Put(10, 0, ORDERS, "", 60.0, 3, b"\xc1")
    server = mail.serve()
    mail.restart()
    mail.run(2.0)
    assert ([b"two"], ["unreadable"]) == (server.bodies, [reason for reason, _ in mail.dead()])


# Sent once


def test_what_may_not_be_sent_twice_leaves_when_that_is_on_disk() -> None:
    mail = Mail()
    server = mail.serve(handle=hold)
    seq = mail.cast(b"one", flags=Flag.ONCE)
    mail.run(0.5)
    assert [("b", 20)] == [row.sent[:2] for row in mail.disk.disk.rows.values()]
    assert [b"one"] == server.bodies
    server.release()
    mail.run(0.5)
    assert None is mail.caller.end(seq)
    assert_at_rest(mail)


@pytest.mark.parametrize("node", ["a", "b"])
def test_after_a_restart_it_is_asked_about_and_waited_for(node: str) -> None:
    mail = Mail()
    server = mail.serve(node, handle=hold)
    mail.cast(b"one", flags=Flag.ONCE)
    mail.run(0.5)
    mail.kill()
    mail.run(0.5)
    mail.restart()
    if node == "a":
        server.come_back()
        mail.run(0.1)
        (ask,) = server.of(Ask)
        server.say(Answer(ask.node, ask.incarnation, ask.number, ask.target, ask.ids, [int(Verdict.RUNNING)]))
    mail.run(1.0)
    assert [b"one"] == server.bodies
    server.release()
    mail.run(1.0)
    assert ([], 0, []) == (server.bodies, mail.disk.totals().records, mail.dead())


def test_what_nobody_can_tell_of_is_a_dead_letter_and_not_sent_again() -> None:
    mail = Mail()
    server = mail.serve(handle=hold)
    mail.cast(b"one", flags=Flag.ONCE)
    mail.run(0.5)
    mail.kill()
    server.close(dead=True)
    mail.world.kill("b")
    mail.world.start("b", mail.options)
    late = mail.serve(session=21)
    mail.restart()
    mail.run(20.0)
    assert ([], ["indeterminate"]) == (late.bodies, [reason for reason, _ in mail.dead()])


def test_how_many_died_of_a_cast_is_on_disk_and_the_next_agent_goes_on_with_the_count() -> None:
    mail = Mail(options=NodeOptions(outbox=OutboxOptions(attempts_max=2)))
    mail.cast(b"one")
    for number in range(2):
        server = mail.serve(session=20 + number, handle=hold)
        mail.run(3.0)
        assert [b"one"] == server.bodies
        server.close(dead=True)
        mail.run(1.0)
        if number == 0:
            late = mail.serve(session=30, handle=hold)
            mail.run(2.0)
            assert [("", 1, 0)] == [row.sent for row in mail.disk.disk.rows.values()]
            mail.kill()
            late.release(hold)
            late.close(dead=True)
            mail.restart()
            mail.run(1.0)
    assert ["poison"] == [reason for reason, _ in mail.dead()]


def test_a_cast_that_has_killed_as_many_as_it_may_is_a_dead_letter_at_the_next_agent() -> None:
    mail = Mail(options=NodeOptions(outbox=OutboxOptions(attempts_max=2)))
    mail.cast(b"one")
    mail.run(1.0)
    mail.kill()
    mail.disk.open()
    mail.disk.commit([Sent(10, 0, "", 2, 0)])
    server = mail.serve()
    mail.restart()
    mail.run(3.0)
    assert ([], ["poison"]) == (server.bodies, [reason for reason, _ in mail.dead()])


def test_a_cast_that_is_sent_once_and_never_left_goes_out_with_the_next_agent() -> None:
    mail = Mail()
    mail.cast(b"one", flags=Flag.ONCE)
    mail.run(1.0)
    mail.kill()
    mail.restart()
    server = mail.serve()
    mail.run(3.0)
    assert [b"one"] == server.bodies


def test_a_new_file_has_the_marks_of_what_is_held_too() -> None:
    mail = Mail()
    mail.serve(handle=hold)
    mail.cast(b"one", flags=Flag.ONCE)
    mail.run(0.5)
    (mark,) = [row.sent for row in mail.disk.disk.rows.values()]
    mail.disk.disk.rows.clear()
    node = mail.world.agents["a"].node
    mail.world.turn(mail.world.agents["a"], lambda: node.use_spool(mail.world.now))
    mail.run(1.0)
    assert [mark] == [row.sent for row in mail.disk.disk.rows.values()]


def test_what_was_marked_and_never_left_is_placed_again() -> None:
    mail = Mail()
    mail.serve(handle=hold)
    mail.cast(b"one", flags=Flag.ONCE)
    mail.run(0.5)
    mail.kill()
    incarnation = mail.world.agents["b"].node.state.peers.identity.incarnation
    mail.disk.open()
    mail.disk.commit([Put(10, 5, ORDERS, "", 60.0, 1, mail.disk.disk.rows[10, 0].put.record)])
    mail.disk.commit([Sent(10, 5, "b", 20, incarnation)])
    server = next(app for app in mail.world.agents["b"].speakers.values() if isinstance(app, App))
    server.release()
    mail.restart()
    mail.run(2.0)
    assert [5] == [request.seq for request in server.asked]
    assert_at_rest(mail)


def test_what_goes_elsewhere_while_it_is_marked_is_marked_again() -> None:
    mail = Mail()
    mail.serve()
    mail.cast(b"warm")
    mail.run(0.5)
    mail.world.options = type(mail.world.options)(disk_delay_s=(0.5, 0.5))
    mail.cast(b"one", flags=Flag.ONCE)
    mail.run(0.7)
    assert 1 == len(mail.durable.marking)
    mail.world.cut("a", "b")
    mail.run(5.0)
    assert None is mail.caller.end(1)
    assert_at_rest(mail)


def test_the_catalogue_says_where_to_ask_whether_it_spoke_before_or_after() -> None:
    mail = Mail()
    server = mail.serve(handle=hold)
    mail.cast(b"one", flags=Flag.ONCE)
    mail.run(0.5)
    mail.kill()
    mail.world.options = type(mail.world.options)(disk_delay_s=(0.5, 0.5))
    mail.world.start("a", mail.options, mail.disk)
    App(mail.world, "a", 11).call("orders@elsewhere", flags=Flag.WAIT, timeout_s=60.0)
    server.release()
    mail.run(5.0)
    assert (0, []) == (mail.disk.totals().records, mail.dead())


# Time


def test_a_cast_whose_time_is_over_is_a_dead_letter_and_its_app_knows() -> None:
    mail = Mail()
    seq = mail.cast(b"one", ttl_s=2.0)
    mail.run(5.0)
    assert Status.EXPIRED == mail.caller.status(seq)
    assert [("expired", "nobody was ready for 'orders' within its time")] == mail.dead()
    assert 1 == mail.durable.totals.dead


def test_a_cast_whose_time_is_over_while_it_is_only_on_disk_is_one_too() -> None:
    mail = Mail(DurableOptions(window_records=64))
    seqs = [mail.cast(b"%d" % number, ttl_s=5.0) for number in range(200)]
    mail.run(0.5)
    assert (64, 136) == (mail.durable.held, mail.durable.left)
    mail.run(10.0)
    assert [Status.EXPIRED] * 200 == [mail.caller.status(seq) for seq in seqs]
    assert 200 == len(mail.disk.dead(0, 500))
    assert_at_rest(mail)


def test_what_an_earlier_agent_may_have_sent_is_not_said_to_be_expired() -> None:
    mail = Mail(DurableOptions(window_records=64))
    for number in range(200):
        mail.cast(b"%d" % number, ttl_s=5.0)
    mail.run(0.5)
    caller = mail.caller
    mail.kill(caller=False)
    mail.restart()
    caller.come_back()
    mail.run(10.0)
    assert 200 == sum(caller.status(seq) == Status.INDETERMINATE for seq in range(200))


def test_a_machine_that_slept_ends_what_the_spool_says_is_over() -> None:
    mail = Mail()
    seq = mail.cast(b"one", ttl_s=10.0)
    mail.run(0.5)
    mail.disk.clock = lambda: mail.world.now + 3_600.0
    mail.run(3.0)
    assert Status.EXPIRED == mail.caller.status(seq)
    assert_at_rest(mail)


def test_a_poisonous_cast_is_a_dead_letter() -> None:
    mail = Mail()
    for session in range(20, 23):
        server = mail.serve(session=session, handle=hold)
        if session == 20:
            mail.cast(b"one")
        mail.run(1.5)
        assert [b"one"] == server.bodies
        server.close(dead=True)
    mail.run(3.0)
    assert ["poison"] == [reason for reason, _ in mail.dead()]


# The disk is lost with the agent, and the app repeats


def lost(mail: Mail, *seqs: int, flags: int = int(Flag.ONCE), ttl_s: float = 60.0) -> None:
    """Have the agent die with its disk; its app says to the next whom it had reached, and repeats these."""
    caller, reached = mail.caller, mail.caller.of(Reach)
    mail.kill(caller=False)
    mail.disk.lose_all()
    mail.restart()
    caller.come_back()
    again = int(Flag.DURABLE | Flag.RESUMED) | flags
    caller.say(*reached, *(Request(1, seq, "orders", "", round(ttl_s * 1000), b"%d" % seq, again) for seq in seqs))
    mail.run(0.5)


def both(mail: Mail) -> list[App]:
    """Two that serve, at b and at c, and do not end what they begin."""
    mail.world.start("c", mail.options)
    return [mail.serve(node, session, hold) for node, session in (("b", 20), ("c", 30))]


def test_what_is_sent_once_is_sought_before_it_is_sent_if_the_disk_is_another_one() -> None:
    mail = Mail()
    servers = both(mail)
    seqs = [mail.cast(b"%d" % number, flags=Flag.ONCE) for number in range(8)]
    mail.run(0.5)
    lost(mail, *seqs)
    assert sorted(b"%d" % seq for seq in seqs) == sorted(body for server in servers for body in server.bodies)
    for server in servers:
        server.say(Settled("a", 10, [(request.seq, request.seq) for request in server.asked]))
    mail.run(0.5)
    assert [None] * 8 == [mail.caller.end(seq) for seq in seqs]
    assert_at_rest(mail)


def test_what_is_sent_once_and_was_found_is_sought_there_by_the_next_agent_too() -> None:
    mail = Mail()
    servers = both(mail)
    seqs = [mail.cast(b"%d" % number, flags=Flag.ONCE) for number in range(8)]
    mail.run(0.5)
    lost(mail, *seqs)
    mail.kill()
    mail.restart()
    mail.run(1.0)
    assert sorted(b"%d" % seq for seq in seqs) == sorted(body for server in servers for body in server.bodies)
    for server in servers:
        server.say(Settled("a", 10, [(request.seq, request.seq) for request in server.asked]))
    mail.run(0.5)
    assert (0, 8) == (mail.disk.totals().records, mail.disk.totals().done)


def test_what_is_sent_once_and_never_came_anywhere_is_sent() -> None:
    mail = Mail()
    server = mail.serve()
    mail.cast(b"0", flags=Flag.ONCE)
    mail.run(0.5)
    lost(mail, 1)
    assert ([b"0", b"1"], None) == (server.bodies, mail.caller.end(1))


def test_what_is_sent_once_by_an_app_that_reached_only_fan_outs_is_sent() -> None:
    mail = Mail()
    server = mail.serve()
    mail.caller.fanout("orders", b"all")
    mail.run(0.5)
    lost(mail, 1)
    assert ([b"all", b"1"], None) == (server.bodies, mail.caller.end(1))


def test_what_may_have_run_before_the_disk_was_lost_is_not_said_to_be_expired() -> None:
    mail = Mail()
    server = mail.serve(handle=hold)
    seq = mail.cast(b"0")
    mail.run(0.5)
    server.close(dead=True)
    mail.run(0.1)
    lost(mail, seq, flags=0, ttl_s=5.0)
    mail.run(10.0)
    assert Status.INDETERMINATE == mail.caller.status(seq)


def test_what_is_left_on_the_new_disk_is_sought_when_it_is_read() -> None:
    mail = Mail(DurableOptions(window_records=64))
    server = mail.serve(handle=hold)
    for number in range(64):
        mail.cast(b"%d" % number, flags=Flag.ONCE)
    mail.run(0.5)
    held = [request.seq for request in server.asked]
    lost(mail, *range(70, 170), *held[:3], 200)
    assert {(10, held[0]), (10, 200)} <= set(mail.durable.unsure)
    mail.caller.cancel(200)
    server.release()
    mail.run(3.0)
    assert {} == mail.durable.unsure
    assert len(server.bodies) == len(set(server.bodies)), "nothing ran twice"
    assert [None] * 3 == [mail.caller.end(seq) for seq in held[:3]]
    assert [] == mail.caller.ends(200)


def test_what_is_left_on_the_new_disk_when_its_time_is_over_may_have_run() -> None:
    mail = Mail(DurableOptions(window_records=64))
    mail.serve(handle=hold)
    mail.cast(b"0")
    mail.run(0.5)
    lost(mail, *range(100), flags=0, ttl_s=5.0)
    mail.run(10.0)
    assert {Status.INDETERMINATE} == {mail.caller.status(seq) for seq in range(100)}
    assert {} == mail.durable.unsure


def test_what_nobody_can_seek_any_more_ends_as_a_dead_letter() -> None:
    mail = Mail(DurableOptions(window_records=64))
    server = mail.serve(handle=hold)
    mail.cast(b"0", flags=Flag.ONCE)
    mail.run(0.5)
    lost(mail, *range(1, 101), 0)
    assert (10, 0) in mail.durable.unsure
    mail.caller.close(dead=True)
    mail.run(0.1)
    server.release()
    mail.run(3.0)
    assert {"indeterminate"} == {reason for reason, _ in mail.dead()}
    assert "its app is gone" in mail.dead()[0][1]


# The caller gives up, or goes


def test_what_its_caller_gives_up_is_not_delivered_and_no_dead_letter() -> None:
    mail = Mail(DurableOptions(window_records=64))
    for number in range(100):
        mail.cast(b"%d" % number)
    mail.run(0.5)
    mail.caller.cancel(0)
    mail.caller.cancel(99)
    mail.run(0.5)
    server = mail.serve()
    mail.run(1.0)
    assert [b"%d" % number for number in range(1, 99)] == server.bodies
    assert [] == mail.dead()
    mail.caller.cancel(0)
    assert_at_rest(mail)


def test_what_is_given_up_when_its_time_is_over_is_a_dead_letter() -> None:
    mail = Mail()
    mail.cast(b"one", ttl_s=2.0)
    mail.run(0.5)
    mail.world.agents["a"].paused_until = mail.world.now + 3.0
    mail.caller.cancel(0)
    mail.run(2.0)
    mail.caller.cancel(0)
    mail.run(2.0)
    assert 1 >= len(mail.dead())


def test_the_casts_of_an_app_that_left_go_on_and_their_ends_are_forgotten() -> None:
    mail = Mail()
    server = mail.serve(handle=hold)
    mail.cast(b"one")
    mail.cast(b"two")
    mail.run(0.5)
    server.handle = echo
    server.say(Settled("a", 10, [(0, 0)]))
    mail.run(0.5)
    mail.caller.close(dead=True)
    mail.run(0.5)
    server.say(Settled("a", 10, [(1, 1)]))
    mail.run(90.0)
    assert (0, 0) == (mail.disk.totals().records, mail.disk.totals().done)


def test_of_sessions_that_are_gone_nothing_stays_in_memory_and_who_repeats_what_is_done_is_known_again() -> None:
    mail = Mail()
    mail.serve()
    seq = mail.cast(b"one")
    mail.run(0.5)
    assert {10: 0} == mail.durable.ended
    caller = mail.caller
    mail.kill(caller=False)
    mail.restart()
    mail.run(3.0)
    assert {10: 0} == mail.durable.ended, "its app may still come back"
    mail.run(10.0)
    assert {} == mail.durable.ended
    caller.come_back()
    caller.say(Request(1, seq, "orders", "", 50_000, b"one", Flag.DURABLE | Flag.RESUMED))
    mail.run(0.5)
    assert {10: 0} == mail.durable.ended
    mail.caller = caller
    assert_at_rest(mail)


# More than memory


def test_a_spool_larger_than_memory_is_read_in_windows_in_order() -> None:
    mail = Mail(DurableOptions(window_records=100))
    count = 1_000
    for number in range(count):
        mail.cast(b"%d" % number)
    mail.run(1.0)
    mail.kill()
    server = mail.serve()
    mail.restart()
    most = 0
    for _ in range(200):
        mail.run(0.05)
        most = max(most, mail.durable.held)
    assert [b"%d" % number for number in range(count)] == server.bodies
    assert most <= 100
    assert_at_rest(mail)


def test_topics_that_nobody_serves_do_not_keep_others_waiting() -> None:
    mail = Mail(DurableOptions(window_records=100, window_bytes=1 << 20))
    for number in range(300):
        mail.cast(b"%d" % number, topic="nobody")
    mail.run(0.5)
    server = mail.serve()
    for number in range(300):
        mail.cast(b"%d" % number)
    mail.run(5.0)
    assert [b"%d" % number for number in range(300)] == server.bodies
    assert 300 == mail.disk.totals().records


# The disk


def test_a_full_disk_refuses_durable_casts_and_nothing_else() -> None:
    mail = Mail()
    server = mail.serve()
    mail.disk.room = 1_000
    large = mail.cast(b"x" * 10_000)
    plain = mail.caller.call("orders", b"plain")
    mail.run(1.0)
    failure = mail.caller.failure(large)
    assert (Status.OVERLOADED, "spool_disk", "the disk is full") == (failure.status, failure.limit, failure.text)
    assert b"plain" == mail.caller.body(plain)
    fits = mail.cast(b"x" * 100)
    mail.run(1.0)
    assert None is mail.caller.end(fits)
    assert (1, 1) == (len(notes(mail.world, "spool_refuses", "a")), len(notes(mail.world, "spool_back", "a")))
    assert 2 == len(server.bodies)
    assert_at_rest(mail)


def test_a_replay_that_the_disk_refuses_may_have_been_taken_before() -> None:
    mail = Mail()
    mail.disk.room = 0
    mail.caller.say(Request(1, 0, "orders", "", 50_000, b"one", int(Flag.DURABLE | Flag.RESUMED), 0))
    mail.run(1.0)
    assert Status.INDETERMINATE == mail.caller.status(0)


def test_ends_that_the_disk_refuses_are_told_and_written_when_it_is_well_but_not_of_what_is_sent_once() -> None:
    mail = Mail()
    server = mail.serve(handle=hold)
    plain, once = mail.cast(b"one"), mail.cast(b"two", flags=Flag.ONCE)
    mail.run(0.5)
    mail.disk.fault = "input/output error"
    server.release()
    mail.run(3.0)
    assert (None, []) == (mail.caller.end(plain), mail.caller.ends(once))
    refused = mail.cast(b"three")
    mail.run(0.5)
    assert Status.OVERLOADED == mail.caller.status(refused)
    mail.disk.fault = ""
    mail.run(3.0)
    assert [None] == mail.caller.ends(plain) == mail.caller.ends(once)
    assert_at_rest(mail)


def test_a_floor_that_the_disk_refused_is_swept_later() -> None:
    mail = Mail()
    mail.serve()
    mail.cast(b"one")
    mail.run(0.5)
    mail.disk.fault = "input/output error"
    mail.caller.settle()
    mail.run(3.0)
    assert 1 == mail.disk.totals().done
    mail.disk.fault = ""
    mail.run(3.0)
    assert 0 == mail.disk.totals().done


def test_while_the_disk_cannot_be_read_nothing_more_is_fetched() -> None:
    mail = Mail(DurableOptions(window_records=64))
    for number in range(200):
        mail.cast(b"%d" % number)
    mail.run(0.5)
    fetch = mail.disk.fetch
    mail.disk.fetch = lambda job: fail_to_read()  # type: ignore[assignment, return-value]
    server = mail.serve()
    mail.run(0.5)
    assert 64 == len(server.bodies)
    mail.disk.fetch = fetch  # type: ignore[method-assign]
    mail.run(5.0)
    assert 200 == len(server.bodies)
    assert_at_rest(mail)


def fail_to_read() -> None:
    raise SpoolError("input/output error")


def test_a_spool_that_cannot_be_opened_is_tried_again() -> None:
    mail = Mail()
    mail.kill()
    mail.disk.fault = "read-only file system"
    mail.world.start("a", mail.options, mail.disk)
    mail.caller = App(mail.world, "a", 11)
    early = mail.cast(b"one")
    mail.run(0.5)
    late = mail.cast(b"two")
    mail.run(3.0)
    assert [(Status.OVERLOADED, "spool_disk", "read-only file system")] * 2 == [
        (mail.caller.status(seq), mail.caller.failure(seq).limit, mail.caller.failure(seq).text)
        for seq in (early, late)
    ]
    assert 1 == len(notes(mail.world, "spool_away", "a"))
    mail.disk.fault = ""
    mail.run(2.0)
    server = mail.serve()
    again = mail.cast(b"three")
    mail.run(1.0)
    assert (None, [b"three"]) == (mail.caller.end(again), server.bodies)


def test_casts_that_come_before_the_spool_is_open_are_written_when_it_is() -> None:
    mail = Mail()
    mail.kill()
    server = mail.serve()
    mail.world.options = type(mail.world.options)(disk_delay_s=(0.5, 0.5))
    mail.world.start("a", mail.options, mail.disk)
    mail.caller = App(mail.world, "a", 11)
    seq = mail.cast(b"one")
    mail.run(0.3)
    assert (Phase.OPENING, []) == (mail.durable.phase, accepted(mail.caller))
    mail.run(5.0)
    assert (None, [b"one"]) == (mail.caller.end(seq), server.bodies)


def test_what_is_in_memory_is_written_to_a_new_file_when_the_old_one_is_lost() -> None:
    mail = Mail(DurableOptions(window_records=64))
    for number in range(100):
        mail.cast(b"%d" % number)
    mail.run(0.5)
    mail.disk.lose_all()
    refused = mail.cast(b"refused")
    mail.run(3.0)
    assert Status.OVERLOADED == mail.caller.status(refused)
    assert 64 == mail.disk.totals().records
    server = mail.serve()
    mail.cast(b"new")
    mail.run(2.0)
    assert [*(b"%d" % number for number in range(64)), b"new"] == server.bodies
    assert 0 == mail.disk.totals().records


def test_a_file_that_is_lost_while_it_is_read_is_opened_once() -> None:
    mail = Mail(DurableOptions(window_records=64))
    for number in range(200):
        mail.cast(b"%d" % number)
    mail.run(0.5)
    opens = len(notes(mail.world, "spool_opened", "a"))
    mail.disk.is_open = False
    server = mail.serve()
    mail.run(5.0)
    assert opens + 1 == len(notes(mail.world, "spool_opened", "a"))
    assert 200 == len(set(server.bodies))


# Limits


def test_the_limits_of_the_spool_are_named() -> None:
    mail = Mail(DurableOptions(spool_records_max=3, spool_bytes_max=1 << 20, window_bytes=1 << 20))
    seqs = [mail.cast(b"%d" % number) for number in range(5)]
    mail.run(1.0)
    assert [(Status.OVERLOADED, "spool_records_max")] * 2 == [
        (mail.caller.status(seq), mail.caller.failure(seq).limit) for seq in seqs[3:]
    ]


# People ask


def test_dead_letters_are_listed_shown_sent_again_and_purged() -> None:
    mail = Mail()
    for number in range(3):
        mail.cast(b"%d" % number, ttl_s=1.0)
    mail.run(5.0)
    listed = json.decode(mail.caller.query("dead_list", limit="2").body)
    assert ([1, 2], True) == ([letter["number"] for letter in listed["dead"]], listed["more"])
    shown = json.decode(mail.caller.query("dead_show", number="1").body)
    assert ("orders", "MA==") == (shown["topic"], shown["body_base64"])
    assert {"purged": 1} == json.decode(mail.caller.query("dead_purge", numbers="1").body)
    server = mail.serve()
    assert {"retried": 2} == json.decode(mail.caller.query("dead_retry", numbers="2,3").body)
    mail.run(1.0)
    assert [b"1", b"2"] == server.bodies
    assert ([], 0) == (mail.dead(), mail.durable.totals.dead)


def test_questions_that_make_no_sense_are_answered_so() -> None:
    mail = Mail()
    for verb, arguments, why in (
        ("dead_show", {"number": "7"}, b"there is no dead letter 7"),
        ("dead_purge", {"numbers": ",".join(["1"] * 501)}, b"501 numbers at once"),
        ("dead_retry", {}, b"numbers"),
    ):
        report = mail.caller.query(verb, **arguments)
        assert not report.ok
        assert why in report.body


def test_an_answer_that_is_too_long_is_not_given() -> None:
    mail = Mail()
    mail.cast(b"x", ttl_s=1.0)
    mail.run(5.0)
    mail.disk.disk.rows[10, 0].text = "x" * (BODY_INLINE_MAX + 1)
    report = mail.caller.query("dead_list")
    assert not report.ok
    assert b"over the 1048576" in report.body


def test_without_a_spool_or_while_its_disk_fails_the_answer_says_so() -> None:
    mail = Mail()
    mail.disk.fault = "input/output error"
    assert b"input/output error" == mail.caller.query("dead_list").body
    mail.durable.phase = Phase.OPENING
    assert b"ask again" in mail.caller.query("dead_list").body
    world = fleet("a")
    assert b"no spool" in App(world, "a", 1).query("dead_list").body


def test_an_answer_for_an_app_that_has_gone_is_dropped() -> None:
    mail = Mail()
    asked = App(mail.world, "a", 11)
    mail.run(0.1)
    asked.say(Query(1, "dead_list"))
    mail.run(0.00025)
    asked.close(dead=True)
    mail.run(1.0)
    assert [] == asked.of(Report)


# What comes too late


def test_the_disk_answers_for_an_app_that_has_gone() -> None:
    mail = Mail()
    mail.world.options = type(mail.world.options)(disk_delay_s=(0.5, 0.5))
    mail.cast(b"one")
    mail.run(0.1)
    mail.caller.close(dead=True)
    mail.run(3.0)
    assert 1 == mail.disk.totals().records
    refused = App(mail.world, "a", 11)
    mail.disk.fault = "input/output error"
    refused.cast("orders", flags=Flag.DURABLE)
    mail.run(0.1)
    refused.close(dead=True)
    mail.run(3.0)
    assert [] == accepted(refused)


def test_a_mark_of_what_has_ended_meanwhile_or_of_where_it_goes_no_more_means_nothing() -> None:
    mail = Mail()
    mail.serve()
    mail.cast(b"warm")
    mail.run(0.5)
    mail.world.options = type(mail.world.options)(disk_delay_s=(0.5, 0.5))
    given_up = mail.cast(b"one", flags=Flag.ONCE)
    mail.run(0.7)
    assert 1 == len(mail.durable.marking)
    mail.caller.cancel(given_up)
    mail.cast(b"two", flags=Flag.ONCE)
    mail.run(1.0)
    entry = next(entry for entry in mail.world.agents["a"].node.state.outbox.entries.values())
    mail.world.agents["a"].node.calling.sending.unplace(entry, mail.world.now)
    mail.run(3.0)
    assert {} == mail.durable.marking


def test_a_file_that_was_set_aside_is_noted_and_what_is_not_durable_is_not_written_to_the_next() -> None:
    mail = Mail()
    mail.caller.call("later", flags=Flag.WAIT, timeout_s=60.0)
    mail.run(0.5)
    opened = mail.disk.open

    def damaged() -> Opened:
        return structs.replace(opened(), aside="spool.sqlite is now elsewhere")

    mail.disk.open = damaged  # type: ignore[method-assign]
    mail.disk.is_open = False
    mail.cast(b"one")
    mail.run(3.0)
    assert 1 == len(notes(mail.world, "spool_set_aside", "a"))
    assert 0 == mail.disk.totals().records


def test_a_row_that_is_only_on_disk_ends_in_its_time_though_older_ones_wait_longer() -> None:
    mail = Mail(DurableOptions(window_records=64))
    for number in range(64):
        mail.cast(b"%d" % number)
    short = mail.cast(b"short", ttl_s=1.0)
    mail.run(5.0)
    assert Status.EXPIRED == mail.caller.status(short)
    assert (64, 1) == (mail.disk.totals().records, mail.disk.totals().dead)


@pytest.mark.parametrize(
    ("word", "opens"), [(Unread("gone", lost=True), 1), (Unread("gone"), 0), (Refused("gone", lost=True), 1)]
)
def test_a_file_that_is_lost_is_opened_again_by_whichever_job_says_so_first(word: Word, opens: int) -> None:
    mail = Mail()
    node = mail.world.agents["a"].node
    node.spooled(word, mail.world.now)
    if word.lost:  # type: ignore[union-attr]
        node.spooled(word, mail.world.now)
    assert opens == sum(effect == Spool(Open()) for effect in node.take(mail.world.now).effects)
