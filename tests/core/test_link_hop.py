"""The peer hop: a node and a peer that is spoken by hand."""

import pytest

from mesh.core.catalogue import AgentEntry, Instance, Snapshot
from mesh.core.codec import RECORDS_MAX, decode, encode
from mesh.core.effects import CloseLink, Confirm, Note, OpenLink, Stop
from mesh.core.link import LinkOptions, Phase
from mesh.core.node import Node
from mesh.core.pool import PoolOptions
from mesh.core.pool import State as SlotState
from mesh.core.records import (
    Answer,
    AppHello,
    Ask,
    Cancel,
    Chunk,
    ChunkAck,
    Credit,
    DialBack,
    DialledBack,
    Failure,
    Floor,
    FloorAsk,
    GiveBack,
    Goodbye,
    Hello,
    Keep,
    Ping,
    Pong,
    Query,
    Receipt,
    Record,
    Refuse,
    RefuseReason,
    Reply,
    Request,
    Serve,
    Settled,
    Status,
    Stay,
    Verdict,
    Welcome,
)
from mesh.core.session import Credentials
from mesh.sim.world import NetworkOptions
from mesh.types import Endpoint, TopicKey
from tests.core.fabric import (
    HELLO,
    App,
    Peer,
    assert_mesh_quiescent,
    fleet,
    hold,
    link,
    lone_node,
    noted,
    notes,
    options,
    told,
)

WELCOME = Welcome(0, "sim", "p", 50, 1, 1000, 5000, 64 << 20, 1024, 2, 8192, 16 << 20)


def serving(one: Node) -> None:
    """An app with session 10 that serves orders, on connection 1 of the node."""
    conn = one.app_connected(Credentials(), 1.0)
    one.app_data(conn, encode(0, [AppHello(0, 0, 10, 1, "shop"), Serve("orders", "srv", 4)]), 1.0)
    one.take(1.0)


def sent(one: Node, peer: Peer) -> list[Record]:
    """What a node tells a peer once its app's socket has taken word of it."""
    output = one.take(1.0)
    for effect in output.effects:
        if isinstance(effect, Confirm):
            one.app_took(effect.app, effect.number, 1.0)
    return told(output, peer.conn) + told(one.take(1.0), peer.conn)


def calling(one: Node) -> Peer:
    """An app with session 11 whose call, seq 0, has gone to the peer's app 77."""
    peer = Peer(one)
    conn = one.app_connected(Credentials(), 1.0)
    one.app_data(conn, encode(0, [AppHello(0, 0, 11, 1, "shell")]), 1.0)
    app = one.state.apps[11]
    one.calling.request(app, Request(0, 0, "orders", "", 9000, b"", 2), 1.0)
    there = Instance("", "orders", "srv", 77, AgentEntry("p", "p.example", 7700, 50))
    one.snapshot(Snapshot(TopicKey("", "orders"), 1, (there,)), 1.0)
    (request,) = sent(one, peer)
    assert isinstance(request, Request)
    return peer


# Before it is open


def test_a_peer_that_says_hello_is_welcomed() -> None:
    one = lone_node()
    peer = Peer(one, hello=None)
    output = peer.say(HELLO)
    (welcome,) = told(output, peer.conn)
    assert isinstance(welcome, Welcome)
    assert ("b", 9) == (welcome.node, welcome.incarnation)
    assert ["link_opened"] == noted(output)
    assert Phase.OPEN is peer.link.phase


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\xc1", "not a batch"),
        (encode(1, [HELLO]), "batch 1 came where 0 was due"),
        (encode(0, [Ping(1)]), "Ping came while the link was UNPROVEN"),
        (encode(0, [WELCOME]), "Welcome came while the link was UNPROVEN"),
        (encode(0, [Hello(0, 0, "sim", "a/b", 50, 1, "b", "h", 1, 1, 1, 1, 1, 1, 1, 1)]), "neither white space nor a"),
    ],
)
def test_a_connection_that_begins_wrong_is_closed_and_no_other(data: bytes, why: str) -> None:
    one = lone_node()
    good, bad = Peer(one), Peer(one, hello=None)
    one.link_data(bad.conn, data, 1.0)
    output = one.take(1.0)
    assert [CloseLink(bad.conn, 0.0)] == [e for e in output.effects if isinstance(e, CloseLink)]
    assert why in str([effect.facts for effect in output.effects if isinstance(effect, Note)])
    assert [good.conn] == list(one.state.peers.links)
    one.link_data(bad.conn, data, 1.0)
    assert ([], []) == (one.take(1.0).effects, one.take(1.0).link_data)


def test_what_follows_a_refused_hello_is_not_looked_at() -> None:
    one = lone_node()
    peer = Peer(one, hello=None)
    stranger = Hello(0, 0, "other", "p", 50, 1, "b", "h", 1, 1, 1, 1, 1, 1, 1, 1)
    refuse, *rest = peer.hears(stranger, Ping(1), Query(1, ""))
    assert isinstance(refuse, Refuse)
    assert (RefuseReason.FLEET, []) == (refuse.reason, rest)


def test_a_peer_for_whom_there_is_no_room_is_told_so_and_room_is_made() -> None:
    one = lone_node(options(pool=PoolOptions(links_max=2)))
    for number, name in enumerate(("p", "q")):
        Peer(one, hello=Hello(0, 0, "sim", name, 50, 1, "b", name, 1, 1, 1, 1, 1, 1, 1, 1))
        assert number + 1 == one.state.pool.taken
    late = Peer(one, hello=None)
    output = late.say(Hello(0, 0, "sim", "r", 50, 1, "b", "r", 1, 1, 1, 1, 1, 1, 1, 1))
    (refuse,) = told(output, late.conn)
    assert isinstance(refuse, Refuse)
    assert RefuseReason.BUSY == refuse.reason
    assert [Goodbye("evicted: links_max")] == told(output, 1)


def dialled(one: Node) -> Peer:
    """A dial of the node to p that has reached it."""
    one.state.peers.peer("p").endpoint = Endpoint("p.example", 7700)
    one.state.pool.lease("p", 1.0)
    one._act(one.state.pool.want("p", one.options.pool, 1.0), 1.0)
    (dial,) = [effect for effect in one.take(1.0).effects if isinstance(effect, OpenLink)]
    peer = Peer.__new__(Peer)
    peer.node, peer.counter, peer.conn = one, 0, dial.conn
    one.link_connected(dial.conn, 1.0)
    (hello,) = told(one.take(1.0), dial.conn)
    assert isinstance(hello, Hello)
    return peer


def test_a_dial_that_is_welcomed_is_a_link() -> None:
    one = lone_node()
    peer = dialled(one)
    assert ["link_opened"] == noted(peer.say(WELCOME))
    assert 1 == one.state.pool.taken


def test_a_dial_that_is_refused_is_over_and_tried_again() -> None:
    one = lone_node()
    peer = dialled(one)
    output = peer.say(Refuse(int(RefuseReason.BUSY), "later"))
    assert ["link_refused"] == noted(output)
    # The first redial comes at once, for whatever had a lease on the link wants one still.
    assert "p" in one.state.pool.slots
    assert peer.conn not in one.state.peers.links


def test_a_dialled_link_on_which_something_else_comes_first_is_closed() -> None:
    one = lone_node()
    output = dialled(one).say(Ping(1))
    assert "Ping came while the link was GREETING" in str(output.effects)


def test_a_peer_that_finds_our_welcome_to_be_of_the_past_stops_us() -> None:
    one = lone_node()
    output = Peer(one).say(Refuse(int(RefuseReason.STALE_INCARNATION), "you are of the past", 99))
    assert [Stop(77, "you are of the past", 99)] == [e for e in output.effects if isinstance(e, Stop)]
    assert {} == one.state.peers.links


# What breaks the protocol on an open link


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not a batch"),
        (encode(7, []), "batch 7 came where 1 was due"),
        (encode(1, [HELLO]), "a peer may not send Hello on an open link"),
        (encode(1, [AppHello(0, 0, 1, 1, "x")]), "a peer may not send AppHello on an open link"),
        (encode(1, [Request(0, 1, "t", "", 1, b"", size=9, stream=1)] * 2), "stream 1 is open already"),
        (encode(1, [Settled("b", 1, [(0, 1 << 40)])]), "the ranges hold more than 65536 numbers"),
        (encode(1, [Settled("b", 1, [(5, 1)])]), "is reversed"),
        (encode(1, [Ping(1)] * (RECORDS_MAX + 1)), "not a batch"),
    ],
)
def test_a_peer_that_breaks_the_protocol_loses_its_link(data: bytes, why: str) -> None:
    one = lone_node()
    peer = Peer(one)
    one.link_data(peer.conn, data, 1.0)
    output = one.take(1.0)
    assert {"link_malformed", "link_lost"} == set(noted(output))
    assert why in str(output.effects)
    assert ({}, 0) == (one.state.peers.links, one.state.pool.taken)


# What peers say


def test_a_request_goes_to_its_app_and_the_ends_come_back() -> None:
    one = lone_node()
    serving(one)
    peer = Peer(one)
    output = peer.say(Request(0, 1, "orders", "", 9000, b"hi", node="p", session=5, target=10, dispatch=1))
    ((_, frame),) = output.app_data
    (request,) = decode(frame).records
    assert isinstance(request, Request)
    assert ("p", 5, 1, b"hi") == (request.node, request.session, request.seq, request.body)
    assert 1 == one.state.pool.slots["p"].leases


def test_a_request_in_chunks_is_whole_before_it_goes_on() -> None:
    one = lone_node()
    serving(one)
    peer = Peer(one)
    announcement = Request(
        0, 1, "orders", "", 9000, b"", node="p", session=5, target=10, dispatch=1, size=1500, stream=1
    )
    assert [ChunkAck(1, 1)] == peer.hears(announcement, Chunk(1, 0, b"x" * 1024))
    assert {} == one.state.inbox.callers
    output = peer.say(Chunk(1, 1, b"y" * 476))
    assert [ChunkAck(1, 2)] == told(output, peer.conn)
    (request,) = decode(output.app_data[0][1]).records
    assert isinstance(request, Request)
    assert b"x" * 1024 + b"y" * 476 == request.body


def test_a_request_that_announces_too_much_is_given_back_and_its_chunks_are_refused() -> None:
    one = lone_node(options(link=LinkOptions(body_bytes_max=2000)))
    peer = Peer(one)
    announcement = Request(0, 1, "orders", "", 9000, b"", node="p", session=5, dispatch=3, size=2001, stream=1)
    give_back, ack = peer.hears(announcement, Chunk(1, 0, b"x" * 1024))
    assert isinstance(give_back, GiveBack)
    assert ("p", 5, 1, 3, Status.REJECTED, "body_bytes_max") == (
        *(give_back.node, give_back.session, give_back.seq, give_back.dispatch),
        *(give_back.status, give_back.limit),
    )
    assert ChunkAck(1, 1, abort=True) == ack
    assert (1, 1024 + 128) == (peer.link.taken_records, peer.link.taken_bytes)


def test_the_ends_of_a_call_of_ours_go_to_its_app() -> None:
    for end in (Reply("b", 11, 0, b"yes"), Failure("b", 11, 0, int(Status.REMOTE_ERROR), "no")):
        one = lone_node()
        output = calling(one).say(end)
        assert [end] == [record for _, data in output.app_data for record in decode(data).records]
        assert ({}, 0) == (one.state.outbox.entries, one.state.pool.slots["p"].leases)


def test_a_reply_in_chunks_is_whole_before_it_goes_on() -> None:
    one = lone_node()
    peer = calling(one)
    assert [] == peer.say(Reply("b", 11, 0, b"", size=1500, stream=1)).app_data
    peer.say(Chunk(1, 0, b"x" * 1024))
    assert 1 == len(peer.say(Chunk(1, 1, b"y" * 476)).app_data)
    assert {} == one.state.outbox.entries


def test_a_reply_that_announces_too_much_ends_the_call_as_a_failure() -> None:
    one = lone_node(options(link=LinkOptions(body_bytes_max=2000)))
    output = calling(one).say(Reply("b", 11, 0, b"", size=2001, stream=1))
    (failure,) = decode(output.app_data[0][1]).records
    assert isinstance(failure, Failure)
    assert (Status.REMOTE_ERROR, "ReplyTooLarge") == (failure.status, failure.error_type)


def test_a_cast_of_ours_is_settled_and_a_fan_out_counted() -> None:
    one = lone_node()
    peer = calling(one)
    app = one.state.apps[11]
    for kind, seq in ((1, 1), (2, 2)):
        one.calling.request(app, Request(kind, seq, "orders", "", 9000, b""), 1.0)
    assert [1, 2] == [record.seq for record in sent(one, peer) if isinstance(record, Request)]
    peer.say(Settled("b", 11, [(1, 1)]), Receipt("b", 11, 2, 1, 1, 0, 0))
    assert [(11, 0)] == list(one.state.outbox.entries)
    assert {} == one.state.fans


def test_what_is_given_back_is_placed_elsewhere_or_waits() -> None:
    one = lone_node()
    peer = calling(one)
    peer.say(GiveBack("b", 11, 0, 1, int(Status.UNROUTABLE), "gone", "", 1000))
    assert (0, 1) == (one.state.pool.slots["p"].leases, one.state.outbox.queued)


def test_a_question_is_answered_and_an_answer_is_taken() -> None:
    one = lone_node()
    peer = calling(one)
    (answer,) = peer.hears(Ask("p", 50, 3, 10, 9, [(5, 1)]))
    assert Answer("p", 50, 3, 10, [(5, 1)], [int(Verdict.NEVER)]) == answer
    assert [] == peer.hears(Answer("b", 9, 1, 77, [(11, 0)], [int(Verdict.NEVER)])), "nobody had asked"


def test_a_cancel_forgets_what_waits() -> None:
    one = lone_node()
    serving(one)
    peer = Peer(one)
    for seq in range(5):
        peer.say(Request(0, seq, "orders", "", 9000, b"", node="p", session=5, target=10, dispatch=1))
    peer.say(Cancel("p", 5, 4))
    assert [0, 1, 2, 3] == list(one.state.inbox.callers["p", 5].handed)


def test_floors_are_asked_for_and_told_between_agents() -> None:
    one = lone_node()
    serving(one)
    app, peer = one.state.apps[10], Peer(one)
    peer.say(Request(0, 4, "orders", "", 9000, b"", node="p", session=5, target=10, dispatch=1))
    one.serving.reply(app, Reply("p", 5, 4, b""), 1.0)
    asks = [record for to, data in peer.say(FloorAsk("b", 10)).app_data for record in decode(data).records]
    assert [FloorAsk("p", 10)] == asks
    peer.say(Floor("p", 5, 5, []))
    assert ({}, 5) == (one.state.inbox.callers["p", 5].handed, one.state.inbox.callers["p", 5].floor)


def test_a_wider_window_is_used_at_once_and_a_narrower_one_means_nothing() -> None:
    one = lone_node()
    peer = calling(one)
    peer.link.credit_records = 1
    one.calling.request(one.state.apps[11], Request(0, 1, "orders", "", 9000, b""), 1.0)
    assert [] == told(one.take(1.0), peer.conn)
    (request,) = peer.hears(Credit(3, 1 << 30))
    assert isinstance(request, Request)
    peer.say(Credit(2, 5))
    assert (3, 1 << 30) == (peer.link.credit_records, peer.link.credit_bytes)


def test_a_link_is_persistent_while_either_end_wants_it() -> None:
    one = lone_node()
    peer = Peer(one)
    peer.say(Keep(True))
    assert (True, True) == (peer.link.persistent, one.state.pool.slots["p"].persistent)
    peer.say(Keep(False))
    assert (False, False) == (peer.link.persistent, one.state.pool.slots["p"].persistent)


def test_a_ping_is_answered_with_its_stamp_and_a_pong_measures_the_way() -> None:
    one = lone_node()
    peer = Peer(one)
    assert [Pong(77)] == peer.hears(Ping(77))
    peer.say(Pong(1_000_000), now=1.25)
    assert 0.25 == peer.link.rtt_s


def test_who_has_something_open_stays_and_answers_the_goodbye_that_comes_later() -> None:
    one = lone_node()
    peer = calling(one)
    assert [Stay()] == peer.hears(Goodbye("idle"))
    assert Phase.OPEN is peer.link.phase
    assert [] == peer.hears(Reply("b", 11, 0, b""), now=1.1)
    assert [Goodbye("answer")] == peer.hears(Goodbye("idle"), now=1.2)


def test_what_came_while_a_goodbye_was_out_goes_when_the_other_end_stays() -> None:
    one = lone_node()
    peer = calling(one)
    peer.say(Reply("b", 11, 0, b""))
    one.tick(100.0)
    assert Goodbye("idle") in told(one.take(100.0), peer.conn)
    app = one.state.apps[11]
    one.calling.request(app, Request(1, 1, "orders", "", 9000, b""), 100.0)
    assert [] == told(one.take(100.0), peer.conn)
    (again,) = peer.hears(Stay(), now=100.1)
    assert isinstance(again, Request)
    assert (SlotState.OPEN, False) == (one.state.pool.slots["p"].state, one.state.pool.slots["p"].wanted)
    assert [] == peer.hears(Stay(), now=100.2)


def test_a_final_goodbye_is_answered_and_the_link_closes_when_nothing_is_open_on_it() -> None:
    one = lone_node()
    peer = calling(one)
    assert [Goodbye("answer")] == peer.hears(Goodbye("drained", final=True))
    one.tick(1.5)
    assert Phase.LEAVING is peer.link.phase, "a call is out"
    assert peer.link.draining_there, "the next link may not be had"
    peer.say(Reply("b", 11, 0, b""), now=1.6)
    one.tick(1.7)
    assert {} == one.state.peers.links
    assert [CloseLink(peer.conn, 1.0)] == [e for e in one.take(1.7).effects if isinstance(e, CloseLink)]


def test_what_comes_for_a_connection_that_is_gone_is_dropped() -> None:
    one = lone_node()
    peer = Peer(one)
    one.link_lost(peer.conn, "reset", 1.0)
    one.take(1.0)
    one.link_data(peer.conn, encode(1, [Ping(1)]), 1.0)
    one.link_connected(peer.conn, 1.0)
    assert ([], []) == one.take(1.0)[1:]


def test_a_body_in_chunks_never_holds_up_a_ping_by_more_than_the_chunks_in_flight() -> None:
    world = fleet("ab", options(link=LinkOptions(chunk_bytes=64 << 10, chunks_in_flight=2)))
    server = App(world, "b", 10, hold)
    server.serve("orders", workers=9)
    caller = App(world, "a", 1)
    world.run(1.5)
    caller.chunker.chunk_bytes = 64 << 10
    for _ in range(3):
        caller.call("orders", b"x" * 2_000_000)
    seen = 0
    while len(server.asked) < 3:
        world.run(world.now + 0.001)
        links = world.agents["a"].node.state.peers
        out = links.open_link("b")
        if out is not None:
            seen = max(seen, out.chunker.in_flight)
            assert out.chunker.in_flight <= 2
        assert world.now < 3.0
    assert 2 == seen
    server.release()
    assert_mesh_quiescent(world)
    assert [] == notes(world, "link_malformed")
    assert 0 == link(world, "a", "b").chunker.in_flight


def test_a_dial_back_is_asked_for_and_answered_on_a_link() -> None:
    one = lone_node()
    peer = Peer(one, hello=HELLO)
    peer.say(DialBack(), DialledBack("b.example:7700", True))
    assert {"p": None} == one.state.probes.to_dial


def test_a_request_that_is_given_up_while_its_body_comes_is_never_taken_and_its_room_is_free() -> None:
    world = fleet("ab", network=NetworkOptions(link_delay_s=(0.05, 0.05)))
    server, caller = App(world, "b", 10), App(world, "a", 1)
    server.serve("orders")
    world.run(1.5)
    caller.call("orders")
    world.run(2.5)
    seq = caller.call("orders", bytes(4 << 20))
    world.run(2.8)
    caller.cancel(seq)
    world.run(6.0)
    assert 1 == len(server.asked)
    assert Status.CANCELLED == caller.status(seq)
    assert_mesh_quiescent(world)
