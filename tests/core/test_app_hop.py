"""The app hop: who is let in, what they may say, how sessions outlive connections."""

import pytest

from mesh.core import app_hop
from mesh.core.catalogue import Health
from mesh.core.codec import decode, encode
from mesh.core.context import NodeOptions
from mesh.core.effects import CloseApp, FindAgents, Inquire, Note, OpenLink
from mesh.core.identity import Identity
from mesh.core.link import LinkOptions
from mesh.core.node import Node, Output
from mesh.core.outbox import OutboxOptions
from mesh.core.policy import Subject
from mesh.core.records import (
    BODY_INLINE_MAX,
    Answer,
    AppHello,
    AppWelcome,
    Cancel,
    Chunk,
    ChunkAck,
    Credit,
    Failure,
    Flag,
    Floor,
    Goodbye,
    Keep,
    Ping,
    Pong,
    Query,
    Reach,
    Record,
    Refuse,
    RefuseReason,
    Reply,
    Report,
    Request,
    Serving,
    Settled,
    Status,
    Targets,
    Verdict,
)
from mesh.core.seats import SeatOptions
from mesh.core.session import Credentials, Named
from mesh.sim.world import World
from mesh.types import Endpoint, TopicKey
from tests.core.durables import Mail
from tests.core.fabric import App, assert_mesh_quiescent, echo, fleet, hold, notes, options

HELLO = AppHello(0, 0, 7, 1, "shell")
KNOWN = b"dead_list, dead_purge, dead_retry, dead_show, dial_back, drain, fleet, limits, links, recorder, "
KNOWN += b"recorder_dump, reload, resume, status, topics"


def node(node_options: NodeOptions | None = None) -> Node:
    identity = Identity("a", "sim", 1, Endpoint("a.example", 7700))
    return Node(identity, node_options or NodeOptions(), 1, 1.0)


def connect(one: Node, hello: AppHello = HELLO, now: float = 1.0) -> int:
    """Open a connection and say hello on it; what it was told has been taken."""
    conn = one.app_connected(Credentials(0, 42), now)
    one.app_data(conn, encode(0, [hello]), now)
    one.take(now)
    return conn


def told(output: Output, conn: int) -> list[Record]:
    return [record for to, data in output.app_data if to == conn for record in decode(data).records]


def refusal(one: Node, conn: int, now: float = 1.0) -> Refuse:
    """The one thing that a connection was told, which closes after it."""
    output = one.take(now)
    (refuse,) = told(output, conn)
    assert isinstance(refuse, Refuse)
    assert [CloseApp(conn, refuse.text)] == [e for e in output.effects if isinstance(e, CloseApp)]
    return refuse


# Who is let in


def test_an_app_that_says_hello_is_told_the_terms() -> None:
    one = node()
    conn = one.app_connected(Credentials(0, 42), 1.0)
    one.app_data(conn, encode(0, [HELLO]), 1.0)
    output = one.take(1.0)
    (welcome,) = told(output, conn)
    assert isinstance(welcome, AppWelcome)
    assert ("a", "sim", 1, 10_000, 65_536, 5_000) == (
        *(welcome.node, welcome.fleet, welcome.incarnation),
        *(welcome.outstanding_records, welcome.session_window, welcome.resume_grace_ms),
    )
    assert ["app_attached"] == [effect.name for effect in output.effects if isinstance(effect, Note)]
    assert (0, 42) == (one.state.apps[7].uid, one.state.apps[7].pid)


@pytest.mark.parametrize(
    ("hello", "reason", "text"),
    [
        (AppHello(1, 9, 7, 1, "shell"), RefuseReason.PROTOCOL, "this agent speaks protocol 1.0 to 1.0"),
        (AppHello(0, 0, 7, 1, "no way"), RefuseReason.MALFORMED, "name of an app 'no way' may hold only"),
        (AppHello(0, 0, 7, 1, "shell", "no way"), RefuseReason.MALFORMED, "namespace 'no way' may hold only"),
        (AppHello(0, 0, 0, 1, "shell"), RefuseReason.MALFORMED, "session 0 is nobody's"),
        (AppHello(0, 0, 7, 1, "shell", "", "other"), RefuseReason.FLEET, "of fleet 'sim', the app wants 'other'"),
    ],
)
def test_an_app_that_cannot_be_let_in_is_told_why(hello: AppHello, reason: RefuseReason, text: str) -> None:
    one = node()
    conn = one.app_connected(Credentials(), 1.0)
    one.app_data(conn, encode(0, [hello]), 1.0)
    refuse = refusal(one, conn)
    assert reason == refuse.reason
    assert text in refuse.text
    assert {} == one.state.apps


def test_a_session_moves_to_a_newer_connection_never_to_an_older_one() -> None:
    one = node()
    first = connect(one)
    second = one.app_connected(Credentials(), 1.0)
    one.app_data(second, encode(0, [AppHello(0, 0, 7, 2, "shell")]), 1.0)
    output = one.take(1.0)
    assert [CloseApp(first, "the session moved to a newer connection")] == output.effects
    assert [AppWelcome] == [type(record) for record in told(output, second)]
    for number in (1, 2):
        late = one.app_connected(Credentials(), 1.0)
        one.app_data(late, encode(0, [AppHello(0, 0, 7, number, "shell")]), 1.0)
        assert RefuseReason.STALE_CONNECTION == refusal(one, late).reason
    one.app_closed(first, 1.0, dead=True)
    assert second == one.state.apps[7].conn


def test_a_session_stays_in_its_namespace() -> None:
    one = node()
    connect(one)
    conn = one.app_connected(Credentials(), 1.0)
    one.app_data(conn, encode(0, [AppHello(0, 0, 7, 2, "shell", "two")]), 1.0)
    assert "this session is of namespace ''" == refusal(one, conn).text


def test_sessions_are_bounded_and_those_that_are_here_may_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_hop, "APPS_MAX", 1)
    one = node()
    conn = connect(one)
    other = one.app_connected(Credentials(), 1.0)
    one.app_data(other, encode(0, [AppHello(0, 0, 8, 1, "shell")]), 1.0)
    assert RefuseReason.BUSY == refusal(one, other).reason
    one.app_closed(conn, 1.0, dead=False)
    connect(one, AppHello(0, 0, 7, 2, "shell"))
    assert one.state.apps[7].conn is not None


def test_an_agent_that_drains_lets_nobody_in() -> None:
    one = node()
    one.drain(1.0)
    one.take(1.0)
    conn = one.app_connected(Credentials(), 1.0)
    one.app_data(conn, encode(0, [HELLO]), 1.0)
    assert (RefuseReason.DRAINING, 200) == ((refuse := refusal(one, conn)).reason, refuse.retry_after_ms)


def test_a_connection_that_does_not_say_hello_in_time_is_closed_and_may_come_again() -> None:
    one = node(options(link=LinkOptions(hello_timeout_s=1.0)))
    conn = one.app_connected(Credentials(), 1.0)
    one.tick(1.9)
    assert [] == one.take(1.9).app_data
    one.tick(2.0)
    output = one.take(2.0)
    assert ([], [CloseApp(conn, "no HELLO within hello_timeout_s")]) == (output.app_data, output.effects)
    one.app_data(conn, encode(0, [HELLO]), 2.1)
    one.app_closed(conn, 2.1, dead=True)
    assert ({}, []) == (one.state.apps, one.take(2.1).app_data)


def test_an_app_is_whom_the_kernel_names_or_whom_its_token_does() -> None:
    one = node()
    ada = Credentials(1000, 42, "ada", ("staff",))
    for session, named in ((7, None), (8, Named("web", ("apps",)))):
        conn = one.app_connected(ada, 1.0)
        if named is not None:
            one.app_named(conn, named, 1.0)
        one.app_data(conn, encode(0, [AppHello(0, 0, session, 1, "shell")]), 1.0)
    assert Subject("a", "ada", ("staff",)) == one.state.apps[7].who
    assert Subject("a", "web", ("apps",)) == one.state.apps[8].who
    assert (1000, 42) == (one.state.apps[8].uid, one.state.apps[8].pid)


def test_a_token_that_names_nobody_is_a_refusal_for_good_and_a_word_about_nobody_means_nothing() -> None:
    one = node()
    conn = one.app_connected(Credentials(), 1.0)
    one.app_named(conn, Named(problem="this agent knows no such token"), 1.0)
    one.app_data(conn, encode(0, [HELLO]), 1.0)
    refuse = refusal(one, conn)
    assert (RefuseReason.SECURITY, "this agent knows no such token") == (refuse.reason, refuse.text)
    one.app_named(conn, Named("ada"), 1.0)
    assert {} == one.state.apps


def test_a_user_has_so_many_connections_and_one_more_is_refused_at_once_and_may_come_again() -> None:
    one = node(NodeOptions(seats=SeatOptions(user_connections_max=2)))
    ada, bob = Credentials(1000, 42, "ada"), Credentials(-1, 0)
    first, _ = one.app_connected(ada, 1.0), one.app_connected(ada, 1.0)
    refuse = refusal(one, one.app_connected(ada, 1.0))
    assert (RefuseReason.BUSY, "user_connections_max", 1000) == (refuse.reason, refuse.limit, refuse.retry_after_ms)
    assert "user_connections_max = 2: ada has so many connections already" == refuse.text
    assert 1 == one.state.totals.limits["user_connections_max"]
    token = one.app_connected(bob, 1.0)
    one.app_named(token, Named("ada"), 1.0)
    assert RefuseReason.BUSY == refusal(one, token).reason
    one.app_closed(token, 1.0, dead=False)
    one.app_closed(first, 1.0, dead=False)
    assert {"ada": 1} == one.state.seats.counts
    connect(one)
    assert {"ada": 1, "uid 0": 1} == one.state.seats.counts


# What breaks the protocol


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\xc1", "not a batch"),
        (encode(0, []), "the first record of an app is not its HELLO"),
        (encode(0, [Ping(1)]), "the first record of an app is not its HELLO"),
        (encode(1, [HELLO]), "batch 1 came where 0 was due"),
    ],
)
def test_a_connection_that_begins_wrong_is_closed_with_the_reason(data: bytes, text: str) -> None:
    one = node()
    conn = one.app_connected(Credentials(), 1.0)
    one.app_data(conn, data, 1.0)
    assert text in refusal(one, conn).text


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "not a batch"),
        (encode(1, [])[:-1], "not a batch"),
        (encode(3, []), "batch 3 came where 1 was due"),
        (encode(1, [HELLO]), "an app may not send AppHello"),
        (encode(1, [Keep(True)]), "an app may not send Keep"),
        (encode(1, [Chunk(1, 0, b"x"), ChunkAck(1, 1), Credit(1, 1)]), "an app may not send Credit"),
        (encode(1, [Request(0, 1, "orders", "", 1, b"", size=9, stream=1)] * 2), "stream 1 is open already"),
        (encode(1, [Floor("", 7, 0, [(0, 1 << 40)])]), "the ranges hold more than 65536 numbers"),
    ],
)
def test_an_app_that_breaks_the_protocol_loses_its_connection_and_nobody_else_anything(data: bytes, text: str) -> None:
    one = node()
    other = connect(one, AppHello(0, 0, 8, 1, "other"))
    conn = connect(one)
    one.app_data(conn, data, 1.0)
    output = one.take(1.0)
    ((to, frame),) = [(to, frame) for to, frame in output.app_data if to == conn]
    batch = decode(frame)
    # It is the batch that was due after the welcome, so the app understands it.
    assert (conn, 1) == (to, batch.counter)
    assert text in batch.records[-1].text  # type: ignore[union-attr]
    assert ["app_malformed"] == [e.name for e in output.effects if isinstance(e, Note) and e.name == "app_malformed"]
    assert (None, other) == (one.state.apps[7].conn, one.state.apps[8].conn)


def test_what_is_no_frame_at_all_closes_the_connection_too() -> None:
    one = node()
    conn = connect(one)
    one.app_malformed(conn, "a frame of 4 GiB", 1.0)
    assert "a frame of 4 GiB" == refusal(one, conn).text
    fresh = one.app_connected(Credentials(), 1.0)
    one.app_malformed(fresh, "a frame of 4 GiB", 1.0)
    assert "a frame of 4 GiB" == refusal(one, fresh).text


# A session outlives its connection, within the grace


def test_what_the_socket_of_an_app_that_left_has_taken_means_nothing() -> None:
    world = fleet("a")
    app = App(world, "a", 1)
    world.run(2.0)
    node = world.agents["a"].node
    conn = node.state.apps[1].conn
    app.close()
    world.run(2.1)
    assert conn
    node.app_took(conn, 1, 2.1)
    assert {} == node.state.outbox.held


def test_an_app_that_comes_back_finds_what_it_had() -> None:
    world = fleet("ab")
    server = App(world, "b", 10, hold)
    server.serve("orders")
    caller = App(world, "a", 1)
    world.run(1.5)
    seqs = [caller.call("orders", b"one"), caller.call("nobody"), caller.cast("orders")]
    world.run(2.0)
    caller.close()
    server.close()
    world.run(4.0)
    assert 2 == len(notes(world, "app_detached"))
    server.come_back()
    server.release()
    caller.come_back()
    caller.got.clear()
    for seq, kind in zip(seqs, (0, 0, 1), strict=True):
        caller.say(Request(kind, seq, "nobody" if seq == 1 else "orders", "", 9000, b"", 32))
    world.run(5.0)
    assert b"one" == caller.body(seqs[0])
    assert Status.UNROUTABLE == caller.status(seqs[1])
    assert None is caller.end(seqs[2])
    assert [Health.PASSING] == [i.health for i in world.catalogue[TopicKey("", "orders")].values()]
    assert_mesh_quiescent(world)


def test_an_app_that_does_not_come_back_is_gone_after_the_grace() -> None:
    world = fleet("a", options(outbox=OutboxOptions(resume_grace_s=2.0)))
    server = App(world, "a", 10)
    server.serve("orders")
    world.run(2.0)
    server.close()
    world.run(3.9)
    assert [10] == list(world.agents["a"].node.state.apps)
    world.run(4.5)
    assert {} == world.agents["a"].node.state.apps
    assert {} == world.catalogue[TopicKey("", "orders")]
    assert ["orderly=0"] == [line.split()[-1] for line in notes(world, "app_session_ended")]


def test_an_app_whose_process_is_gone_is_gone_at_once() -> None:
    one = node()
    connect(one)
    conn = connect(one, AppHello(0, 0, 8, 1, "other"))
    one.app_closed(conn, 1.0, dead=True)
    assert [7] == list(one.state.apps)
    one.app_died(7, 1.0)
    assert [7] == list(one.state.apps), "it is connected: its process lives"
    one.app_closed(1, 1.0, dead=False)
    one.app_died(7, 1.0)
    one.app_died(7, 1.0)
    assert {} == one.state.apps


def test_what_waits_for_a_topic_learns_that_its_last_app_is_gone() -> None:
    world = fleet("a")
    server = App(world, "a", 10, hold)
    server.serve("orders", workers=1)
    caller = App(world, "a", 1)
    world.run(1.5)
    seqs = [caller.call("orders", timeout_s=2.0) for _ in range(2)]
    world.run(2.0)
    server.close(dead=True)
    world.run(2.1)
    assert Status.INDETERMINATE == caller.status(seqs[0])
    assert [] == caller.ends(seqs[1])
    world.run(4.0)
    assert Status.EXPIRED == caller.status(seqs[1])


def test_an_app_that_says_goodbye_is_answered_and_its_services_leave_in_order() -> None:
    world = fleet("ab")
    server = App(world, "b", 10, hold)
    server.serve("orders", workers=1)
    caller = App(world, "a", 1)
    world.run(1.5)
    seqs = [caller.call("orders", b"one"), caller.call("orders", b"two")]
    world.run(2.0)
    server.say(Goodbye())
    world.run(2.1)
    assert [Goodbye("answer")] == server.of(Goodbye)
    assert [Health.MAINTENANCE] == [i.health for i in world.catalogue[TopicKey("", "orders")].values()]
    server.release()
    world.run(2.2)
    assert b"one" == caller.body(seqs[0])
    assert not server.of(Serving)[-1].ok
    server.close()
    world.run(2.3)
    assert ["orderly=1"] == [line.split()[-1] for line in notes(world, "app_session_ended")]
    world.run(5.0)
    assert Status.UNROUTABLE == caller.status(seqs[1])
    assert_mesh_quiescent(world)


# What apps say


def test_large_bodies_go_both_ways_in_chunks_with_others_between_them() -> None:
    world = fleet("ab")
    server = App(world, "b", 10)
    server.serve("orders", workers=8)
    caller = App(world, "a", 1)
    world.run(1.5)
    bodies = [bytes([number]) * size for number, size in enumerate((700_000, 262_144, 262_145, 1_500_000, 5))]
    seqs = [caller.call("orders", body) for body in bodies]
    world.run(3.0)
    assert bodies == [caller.body(seq) for seq in seqs]
    assert [bodies[1], bodies[4]] == server.bodies[:2], "a small one does not wait for the large ones"
    assert_mesh_quiescent(world)


def test_a_reply_that_announces_too_much_becomes_a_failure() -> None:
    world = fleet("a", options(link=LinkOptions(body_bytes_max=1 << 20)))
    server = App(world, "a", 10, lambda request: Reply("a", 1, request.seq, b"x" * 2_000_000))
    server.serve("orders")
    caller = App(world, "a", 1)
    world.run(1.5)
    seq, too_large = caller.call("orders"), caller.call("orders", b"x" * 2_000_000)
    server.serve("orders", workers=2)
    world.run(3.0)
    assert (Status.REMOTE_ERROR, "ReplyTooLarge") == (caller.status(seq), caller.failure(seq).error_type)
    assert (Status.REJECTED, "body_bytes_max") == (caller.status(too_large), caller.failure(too_large).limit)
    assert_mesh_quiescent(world)


def test_a_chunk_of_nothing_is_refused() -> None:
    one = node()
    conn = connect(one)
    one.app_data(conn, encode(1, [Chunk(5, 0, b"x")]), 1.0)
    assert [ChunkAck(5, 1, abort=True)] == told(one.take(1.0), conn)


def test_an_app_tells_where_it_had_reached_before_unless_this_agent_told_it_so() -> None:
    one = node()
    conn = connect(one)
    one.state.apps[7].reached["b", 3] = 5
    one.app_data(conn, encode(1, [Reach("b", 5, 3), Reach("b", 5, 4), Reach("c", 6, 1, "c.example", 7)]), 1.0)
    assert {("b", 4): 5, ("c", 1): 6} == one.state.apps[7].reached_before
    assert Endpoint("c.example", 7) == one.state.peers.peer("c").endpoint


def test_what_an_earlier_agent_may_have_sent_is_asked_about_at_the_end_of_the_batch() -> None:
    one = node()
    conn = connect(one)
    requests = [Request(0, seq, "orders", "", 9000, b"", int(Flag.RESUMED)) for seq in range(3)]
    one.app_data(conn, encode(1, [Reach("b", 5, 3, "b.example", 7), *requests]), 1.0)
    assert [OpenLink(1, "b", "b.example", 7)] == [e for e in one.take(1.0).effects if isinstance(e, OpenLink)]
    assert ({}, 3) == (one.state.outbox.unasked, len(one.state.outbox.inquiries["b", 3].unasked))


def test_of_several_incarnations_that_were_reached_the_first_counts() -> None:
    one = node()
    conn = connect(one)
    one.app_data(conn, encode(1, [Reach("b", 5, 3), Reach("b", 7, 3), Reach("b", 4, 3)]), 1.0)
    assert {("b", 3): 4} == one.state.apps[7].reached_before


@pytest.mark.parametrize(("reach", "why"), [(Reach("b c", 5), "'b c'"), (Reach("c", 5), "more than 1 others")])
def test_what_an_app_says_it_reached_is_looked_at(reach: Reach, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.core.app_hop.REACHED_MAX", 1)
    one = node()
    conn = connect(one)
    one.app_data(conn, encode(1, [*([Reach("b", 5)] if reach.node == "c" else []), reach]), 1.0)
    (refuse,) = told(one.take(1.0), conn)
    assert isinstance(refuse, Refuse)
    assert why in refuse.text


def test_where_fan_outs_went_is_kept_within_the_limit_until_they_are_said_again() -> None:
    one = node(options(outbox=OutboxOptions(outstanding_records=1)))
    conn = connect(one)
    one.app_data(conn, encode(1, [Targets(5, [("b", 2)]), Targets(6, [("b", 2)])]), 1.0)
    assert {5: Targets(5, [("b", 2)])} == one.state.apps[7].targets_before
    one.app_data(conn, encode(2, [Request(2, 5, "orders", "", 9000, b"")]), 1.0)
    assert {} == one.state.apps[7].targets_before
    assert {"b": 2} == one.state.fans[7, 5].pending


def test_a_call_whose_bytes_were_lost_on_the_way_to_a_living_agent_is_sent() -> None:
    world = fleet("ab")
    server = App(world, "b", 10)
    server.serve("orders")
    caller = App(world, "a", 1)
    world.run(1.5)
    caller.call("orders")
    world.run(2.0)
    caller.close()
    caller.come_back()
    caller.say(*caller.of(Reach), Request(0, 5, "orders", "", 9000, b"lost", 32))
    world.run(3.0)
    assert b"lost" == caller.body(5)


def test_an_answer_of_an_app_bears_its_own_session() -> None:
    world = fleet("ab")
    server = App(world, "b", 10)
    server.serve("orders")
    caller = App(world, "a", 1)
    world.run(1.5)
    caller.call("orders")
    world.run(2.0)
    node_b = world.agents["b"].node
    link = node_b.state.peers.any_link("a")
    assert link is not None
    node_b.app_data(1, encode(server.counter, [Answer("a", 1, 2, 99, [(1, 0)], [int(Verdict.NEVER)])]), world.now)
    assert [Answer("a", 1, 2, 10, [(1, 0)], [0])] == link.out


def adopting(*seqs: int) -> tuple[World, App]:
    """An app at b that says it runs these calls of session 1 at a, of which its agent knows nothing."""
    world = fleet("ab")
    caller = App(world, "a", 1)
    server = App(world, "b", 10, hold)
    server.serve("orders")
    world.run(1.5)
    caller.call("orders")
    world.run(2.0)
    server.release()
    server.say(Answer("a", 1, 1, 0, [(1, seq) for seq in seqs], [int(Verdict.RUNNING)] * len(seqs)))
    world.run(2.1)
    world.agents["b"].node.take(world.now)
    return world, server


def ends_told(world: World, server: App) -> list[tuple[int, int]]:
    """What the link to a is told in the moment in which the app dies: failures by seq, and their status."""
    node_b = world.agents["b"].node
    node_b.app_closed(1, world.now, dead=True)
    link = node_b.state.peers.open_link("a")
    assert link is not None
    return [(r.seq, r.status) for r in link.out if isinstance(r, Failure)]


def test_what_an_earlier_agent_had_handed_to_an_app_is_unknown_when_that_dies() -> None:
    world, server = adopting(7, 8)
    assert [(7, Status.INDETERMINATE), (8, Status.INDETERMINATE)] == ends_told(world, server)


def test_what_an_app_says_that_it_runs_and_then_ends_is_not_told_again() -> None:
    world, server = adopting(7, 8, 9)
    server.say(Reply("a", 1, 7, b""), Settled("a", 1, [(8, 8)]))
    world.run(2.2)
    assert [(9, Status.INDETERMINATE)] == ends_told(world, server)


def test_what_is_known_to_run_is_not_adopted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_hop, "ADOPTED_MAX", 1)
    world, _ = adopting(0, 7, 8)
    assert {("a", 1, 7): None} == world.agents["b"].node.state.apps[10].adopted


def test_a_ping_is_answered_and_a_pong_is_heard() -> None:
    one = node()
    conn = connect(one)
    one.app_data(conn, encode(1, [Ping(5), Pong(6)]), 3.0)
    assert [Pong(5)] == told(one.take(3.0), conn)
    assert 3.0 == one.state.apps[7].heard_at


def test_an_app_may_look_at_the_fleet() -> None:
    one = node()
    conn = connect(one)
    one.app_data(conn, encode(1, [Query(1, "fleet"), Query(2, "fleet", {"after": one.context.node})]), 1.5)
    first, second = told(one.take(1.5), conn)
    assert isinstance(first, Report)
    assert isinstance(second, Report)
    assert b'"view":{' in first.body
    assert b'"nodes":[]' in second.body
    assert 1.5 == one.state.views.looked_at


def test_a_question_that_the_agent_does_not_know_is_told_what_it_knows() -> None:
    one = node()
    conn = connect(one)
    one.app_data(conn, encode(1, [Query(1, "weather"), Query(2, "links", {"peer": "b"})]), 1.0)
    one.facts["notes"] = "x" * BODY_INLINE_MAX
    one.app_data(conn, encode(2, [Query(3, "status")]), 1.0)
    *reports, too_long = told(one.take(1.0), conn)
    assert isinstance(too_long, Report)
    assert b"over the 1048576 that a report may have" in too_long.body
    unknown = b"this agent does not know 'weather'; it knows " + KNOWN
    assert [Report(1, False, unknown), Report(2, True, b"[]")] == reports


def test_a_session_that_is_shut_out_is_refused_for_good() -> None:
    one = node()
    one.shut_out(7, 1.0)
    conn = one.app_connected(Credentials(), 1.0)
    one.app_data(conn, encode(0, [AppHello(0, 0, 7, 1, "app")]), 1.0)
    (refuse,) = told(one.take(1.0), conn)
    assert isinstance(refuse, Refuse)
    assert (RefuseReason.MALFORMED, True) == (refuse.reason, "broke the agent several times" in refuse.text)
    assert {} == one.state.apps


def test_what_only_the_shell_knows_is_asked_of_it_and_its_answer_is_told() -> None:
    one = node()
    conn = connect(one)
    one.app_data(conn, encode(1, [Query(4, "recorder_dump"), Query(5, "recorder", {"k": "v"})]), 1.0)
    assert [Inquire(7, 4, "recorder_dump", {}), Inquire(7, 5, "recorder", {"k": "v"})] == [
        effect for effect in one.take(1.0).effects if isinstance(effect, Inquire)
    ]
    one.answered(7, 5, True, b"{}", 1.1)
    one.answered(7, 4, True, bytes(BODY_INLINE_MAX + 1), 1.1)
    one.answered(404, 4, True, b"{}", 1.1)
    answer, too_long = told(one.take(1.1), conn)
    assert Report(5, True, b"{}") == answer
    assert isinstance(too_long, Report)
    assert (4, False) == (too_long.seq, too_long.ok)


def test_an_app_of_one_node_that_ends_its_own_nodes_question_means_nothing() -> None:
    one = node()
    conn = connect(one)
    one.app_data(conn, encode(1, [Answer("a", 1, 1, 7, [], []), echo(Request(0, 1, "", "", 1, b"", node="a"))]), 1.0)
    assert [] == one.context.loopback


def test_an_app_may_ask_for_a_dial_back() -> None:
    one = node()
    conn = connect(one)
    one.app_data(conn, encode(1, [Query(1, "dial_back")]), 1.0)
    assert FindAgents() in one.take(1.0).effects


def test_a_request_that_is_given_up_while_its_body_comes_is_never_taken() -> None:
    one = node()
    conn = connect(one)
    announced = Request(0, 0, "orders", "", 10_000, b"", size=600_000, stream=1)
    one.app_data(conn, encode(1, [announced, Chunk(1, 0, bytes(1000)), Cancel("", 0, 0)]), 1.0)
    assert [ChunkAck(1, 1)] == told(one.take(1.0), conn)
    one.app_data(conn, encode(2, [Chunk(1, 1, bytes(1000)), Cancel("", 0, 0)]), 1.0)
    assert [ChunkAck(1, 2, abort=True)] == told(one.take(1.0), conn)
    assert {} == one.state.outbox.entries


def test_a_session_that_comes_back_to_an_agent_that_stops_is_welcome_a_new_one_is_not() -> None:
    one = node()
    conn = connect(one)
    one.take(1.0)
    one.drain(1.0)
    one.app_closed(conn, 1.0, dead=False)
    one.take(1.0)
    back, new = (one.app_connected(Credentials(0, 1), 1.0) for _ in range(2))
    session = next(iter(one.state.apps))
    one.app_data(back, encode(0, [AppHello(0, 0, session, 9, "app")]), 1.0)
    one.app_data(new, encode(0, [AppHello(0, 0, session + 1, 1, "app")]), 1.0)
    output = one.take(1.0)
    (welcome,) = told(output, back)
    assert isinstance(welcome, AppWelcome)
    assert welcome.draining
    (refused,) = told(output, new)
    assert isinstance(refused, Refuse)
    assert RefuseReason.DRAINING == refused.reason


def test_an_app_that_had_an_earlier_agent_says_that_there_was_one() -> None:
    one = node()
    assert 0.0 == one.state.returning_until
    for session, connection, expected in [(21, 1, 0.0), (22, 2, 6.0)]:
        conn = one.app_connected(Credentials(0, 1), 2.0)
        one.app_data(conn, encode(0, [AppHello(0, 0, session, connection, "app")]), 2.0)
        assert expected == one.state.returning_until
    one.state.returning_until = 0.0
    conn = one.app_connected(Credentials(0, 1), 7.0)
    one.app_data(conn, encode(0, [AppHello(0, 0, 23, 2, "app")]), 7.0)
    assert 0.0 == one.state.returning_until, "too late to be of that time"


def test_a_successor_waits_for_the_apps_of_the_agent_before_it() -> None:
    world = fleet("a")
    App(world, "a", 10, hold).serve("orders")
    world.run(1.0)
    world.kill("a")
    world.start("a", NodeOptions())
    new = App(world, "a", 11)
    early, lost = new.call("orders"), new.call("never-served")
    world.run(world.now + 1.0)
    assert [] == new.ends(early) == new.ends(lost)
    back = App(world, "a", 12)
    back.serve("orders")
    world.run(world.now + 1.0)
    assert b"" == new.body(early)
    world.run(world.now + 4.0)
    assert Status.UNROUTABLE == new.status(lost), "who has not come within resume_grace_s does not"


def test_orders_are_taken_from_root_and_the_agents_own_user() -> None:
    one = node()
    one.state.owner_uid = 1000
    conn = connect(one)
    (session,) = one.state.apps
    orders = [(7, "drain", 0), (-1, "drain", 0), (7, "reload", 0), (1000, "drain", 1), (0, "resume", 1)]
    for number, (uid, what, ok) in enumerate(orders):
        one.state.apps[session].uid = uid
        one.app_data(conn, encode(1 + number, [Query(number, what)]), 1.0)
        reports = [record for record in told(one.take(1.0), conn) if isinstance(record, Report)]
        assert [(number, bool(ok))] == [(report.seq, report.ok) for report in reports]
        assert ok or b"only root and the agent's own user (1000) may give it orders" in reports[0].body


def test_a_durable_cast_goes_by_the_spool_inline_and_in_chunks() -> None:
    mail = Mail()
    mail.cast(b"x" * 600_000)
    waiting = mail.cast(b"one")
    mail.run(0.5)
    assert (2, []) == (mail.disk.totals().records, mail.caller.ends(waiting))
    assert mail.caller.query("dead_list").ok
    node = mail.world.agents["a"].node
    node.drain(mail.world.now)
    mail.run(3.0)
    assert 0 == mail.world.stopped["a"].status
